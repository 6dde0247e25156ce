//! The vault from outside: what it keeps, what it refuses, what it betrays.
//!
//! Invariant: every test works in a directory of its own.

use std::path::Path;
use std::process::Command;

use ed25519_dalek::SigningKey;
use keyhaven_protocol::ErrorCode;
use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::id::FleetId;
use keyhaven_protocol::id::VendorKeyId;
use keyhaven_protocol::pin::Pin;
use secrecy::ExposeSecret as _;
use secrecy::SecretString;
use tempfile::TempDir;

use crate::vault::Vault;
use crate::vault::error::VaultError;
use crate::vault::file_path;
use crate::vault::host::Account;
use crate::vault::host::AzureSuffix;
use crate::vault::identity::Identity;
use crate::vault::key::Attestation;
use crate::vault::key::KeyInfo;
use crate::vault::key::NewKey;
use crate::vault::unlock::Backend;
use crate::vault::unlock::Unlock;
use crate::vault::unlock::key_file_path;

const SECRET: &str = "sk-PLANTED0123456789-abcdefghwxyz";
const PASSPHRASE: &str = "correct horse PLANTED staple";
const CHILD_DIR: &str = "KEYHAVEN_VAULT_TEST_CHILD_DIR";
const KEYS_PER_PROCESS: usize = 8;

#[test]
fn a_key_comes_back_after_reopening_and_only_for_its_own_host() {
    for unlock in [Unlock::KeyFile, passphrase(PASSPHRASE)] {
        let home = TempDir::new().unwrap();
        let mut vault = Vault::create(home.path(), &unlock).unwrap();
        let openai = vault.add_key(new_key(Account::OpenAi)).unwrap();
        let azure = vault.add_key(new_key(acme())).unwrap();
        drop(vault);

        let vault = Vault::open(home.path(), &unlock).unwrap();

        assert_eq!(vault.backend(), unlock.backend());
        assert_eq!(vault.keys(), [openai.clone(), azure.clone()]);
        assert_eq!(vault.key_info(azure.id), Some(azure.clone()));
        assert_eq!(vault.key_info(VendorKeyId([0; 16])), None);
        let opened = vault.open_key(openai.id, "api.openai.com").unwrap();
        assert_eq!(opened.expose_secret(), SECRET);
        assert!(vault.open_key(azure.id, "acme.openai.azure.com").is_ok());
        for host in [
            "api.anthropic.com",
            "API.OPENAI.COM",
            "api.openai.com.",
            "api.openai.com:443",
            "xapi.openai.com",
            "other.openai.azure.com",
            "acme.services.ai.azure.com",
            "",
        ] {
            for id in [openai.id, azure.id] {
                let refused = vault.open_key(id, host);
                assert!(matches!(refused, Err(VaultError::HostRefused { .. })), "{host}");
            }
        }
    }
}

#[test]
fn a_removed_key_is_gone_for_a_running_agent_too() {
    let home = TempDir::new().unwrap();
    let mut running = Vault::create(home.path(), &Unlock::KeyFile).unwrap();
    let mut cli = Vault::open(home.path(), &Unlock::KeyFile).unwrap();
    let key = cli.add_key(new_key(Account::DeepSeek)).unwrap();
    assert!(running.reload_if_changed().unwrap());
    assert!(!running.reload_if_changed().unwrap());
    assert_eq!(running.keys(), cli.keys());

    cli.remove_key(key.id).unwrap();

    assert!(running.reload_if_changed().unwrap());
    assert!(matches!(running.open_key(key.id, "api.deepseek.com"), Err(VaultError::KeyUnknown { .. })));
    assert!(matches!(cli.remove_key(key.id), Err(VaultError::KeyUnknown { .. })));
}

#[test]
fn a_running_agent_keeps_its_keys_when_the_file_is_damaged_or_swapped() {
    let home = TempDir::new().unwrap();
    let other = TempDir::new().unwrap();
    let mut running = Vault::create(home.path(), &Unlock::KeyFile).unwrap();
    let key = running.add_key(new_key(Account::OpenAi)).unwrap();
    Vault::create(other.path(), &Unlock::KeyFile).unwrap();

    std::fs::copy(file_path(other.path()), file_path(home.path())).unwrap();

    assert!(matches!(running.reload_if_changed(), Err(VaultError::Damaged { .. })));
    assert!(running.open_key(key.id, "api.openai.com").is_ok());
    assert!(running.add_key(new_key(Account::OpenAi)).is_err(), "nothing is written over a file that is not ours");
}

#[test]
fn a_wrong_passphrase_a_wrong_key_file_and_a_wrong_kind_open_nothing() {
    let by_passphrase = TempDir::new().unwrap();
    let by_file = TempDir::new().unwrap();
    Vault::create(by_passphrase.path(), &passphrase(PASSPHRASE)).unwrap();
    Vault::create(by_file.path(), &Unlock::KeyFile).unwrap();
    std::fs::write(key_file_path(by_file.path()), [7; 32]).unwrap();

    for (dir, unlock) in [
        (&by_passphrase, passphrase("correct horse PLANTED stapl")),
        (&by_passphrase, Unlock::KeyFile),
        (&by_file, Unlock::KeyFile),
        (&by_file, passphrase(PASSPHRASE)),
    ] {
        let error = Vault::open(dir.path(), &unlock).unwrap_err();
        assert_eq!(error.code(), ErrorCode::VaultLocked);
        assert!(!error.to_string().contains("PLANTED"), "{error}");
    }
    assert_eq!(Vault::backend_of(by_passphrase.path()).unwrap(), Backend::Passphrase);
}

#[test]
fn a_vault_is_never_made_over_another() {
    let home = TempDir::new().unwrap();
    Vault::create(home.path(), &Unlock::KeyFile).unwrap();

    assert!(matches!(Vault::create(home.path(), &passphrase(PASSPHRASE)), Err(VaultError::Exists { .. })));
    assert!(matches!(Vault::open(&home.path().join("nowhere"), &Unlock::KeyFile), Err(VaultError::Absent { .. })));
}

#[test]
fn keys_without_attestation_and_malformed_names_are_refused() {
    let home = TempDir::new().unwrap();
    let mut vault = Vault::create(home.path(), &Unlock::KeyFile).unwrap();
    let mut unattested = new_key(Account::OpenAi);
    unattested.attestation = None;
    let mut spaced = new_key(Account::OpenAi);
    spaced.secret = SecretString::from("sk-PLANTED with spaces");

    let refusals = [
        vault.add_key(unattested).unwrap_err(),
        vault.add_key(spaced).unwrap_err(),
        vault.add_key(new_key(azure("evil.example"))).unwrap_err(),
    ];

    let codes = refusals.each_ref().map(VaultError::code);
    assert_eq!(codes, [ErrorCode::AttestationMissing, ErrorCode::VendorKeyMalformed, ErrorCode::ResourceMalformed]);
    assert!(vault.keys().is_empty());
    assert!(refusals.iter().all(|error| !format!("{error} {error:?}").contains("PLANTED")));
}

#[test]
fn the_identity_and_its_signing_key_survive_a_repin() {
    let home = TempDir::new().unwrap();
    let mut vault = Vault::create(home.path(), &Unlock::KeyFile).unwrap();
    assert!(vault.identity().is_none());
    assert!(matches!(vault.signing_key(), Err(VaultError::NotJoined)));
    let (mut identity, signing_key) = identity();
    vault.set_identity(&identity, &signing_key).unwrap();
    identity.pins = vec![Pin(Hex([9; 32])), Pin(Hex([8; 32]))];
    let kept = vault.signing_key().unwrap();
    vault.set_identity(&identity, &kept).unwrap();

    let vault = Vault::open(home.path(), &Unlock::KeyFile).unwrap();

    assert_eq!(vault.identity(), Some(identity.clone()));
    assert_eq!(vault.signing_key().unwrap().to_bytes(), signing_key.to_bytes());
    let mut vault = vault;
    let stranger = SigningKey::from_bytes(&[5; 32]);
    assert!(matches!(vault.set_identity(&identity, &stranger), Err(VaultError::IdentityMismatch)));
}

#[test]
fn no_edit_of_a_field_goes_unseen() {
    let home = TempDir::new().unwrap();
    full_vault(home.path());
    let text = std::fs::read_to_string(file_path(home.path())).unwrap();
    let edits = [
        ("\"api.openai.com\"", "\"api.anthropic.com\""),
        ("acme.openai.azure.com", "evil.openai.azure.com"),
        ("\"gpt-4o\"", "\"gpt-4o-mini\""),
        ("\"openai\"", "\"deepseek\""),
        ("I may share it", "I may not share it"),
        ("\"at_unix_ms\": 1", "\"at_unix_ms\": 2"),
        ("\"added_unix_ms\": 1", "\"added_unix_ms\": 3"),
        ("\"label\": \"work\"", "\"label\": \"home\""),
        ("sk-…wxyz", "sk-…wxyy"),
        ("hub.example:9010", "hub.examplf:9010"),
    ];

    for (from, to) in edits {
        let edited = text.replacen(from, to, 1);
        assert_ne!(edited, text, "{from} is in the file");
        std::fs::write(file_path(home.path()), edited).unwrap();

        let error = Vault::open(home.path(), &Unlock::KeyFile).unwrap_err();
        assert_eq!(error.code(), ErrorCode::VaultDamaged, "{from}");
    }
}

#[test]
fn entries_cannot_be_dropped_doubled_swapped_or_brought_from_another_vault() {
    let home = TempDir::new().unwrap();
    let other = TempDir::new().unwrap();
    full_vault(home.path());
    full_vault(other.path());
    let read =
        |dir: &Path| -> serde_json::Value { serde_json::from_slice(&std::fs::read(file_path(dir)).unwrap()).unwrap() };
    let good = read(home.path());
    let foreign = read(other.path());
    let edit = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut document = good.clone();
        change(&mut document);
        document
    };
    let edits = [
        edit(&|d| drop(d["keys"].as_array_mut().unwrap().pop())),
        edit(&|d| d["keys"].as_array_mut().unwrap().swap(0, 1)),
        edit(&|d| {
            let first = d["keys"][0].clone();
            d["keys"].as_array_mut().unwrap().push(first);
        }),
        edit(&|d| {
            let secret = d["keys"][0]["secret"].clone();
            d["keys"][0]["secret"] = d["keys"][1]["secret"].clone();
            d["keys"][1]["secret"] = secret;
        }),
        edit(&|d| d["keys"][0] = foreign["keys"][0].clone()),
        edit(&|d| d["identity"] = foreign["identity"].clone()),
        edit(&|d| d["identity"] = serde_json::Value::Null),
        edit(&|d| d["identity"]["hub_key"] = "AAAA".into()),
        edit(&|d| d["seal"] = serde_json::Value::Null),
        edit(&|d| d["extra"] = true.into()),
    ];

    for (at, document) in edits.iter().enumerate() {
        std::fs::write(file_path(home.path()), serde_json::to_vec(document).unwrap()).unwrap();

        let error = Vault::open(home.path(), &Unlock::KeyFile).unwrap_err();
        assert_eq!(error.code(), ErrorCode::VaultDamaged, "edit {at}");
    }
}

#[test]
fn any_flipped_bit_fails_to_open_or_changes_nothing() {
    let home = TempDir::new().unwrap();
    let (keys, identity) = full_vault(home.path());
    let path = file_path(home.path());
    let good = std::fs::read(&path).unwrap();
    let mut opened = 0;

    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << bit;
            std::fs::write(&path, &bytes).unwrap();
            let Ok(vault) = Vault::open(home.path(), &Unlock::KeyFile) else {
                continue;
            };
            opened += 1;
            assert_eq!(vault.keys(), keys, "byte {at} bit {bit}");
            assert_eq!(vault.identity().as_ref(), Some(&identity));
            let secret = vault.open_key(keys[0].id, &keys[0].host).unwrap();
            assert_eq!(secret.expose_secret(), SECRET);
        }
    }

    // White space and the case of a pin's digits are all that may differ.
    assert!(opened < good.len(), "{opened} of {}", good.len() * 8);
}

#[test]
fn a_file_cut_short_anywhere_does_not_open() {
    let home = TempDir::new().unwrap();
    full_vault(home.path());
    let path = file_path(home.path());
    let good = std::fs::read(&path).unwrap();

    for bytes in 0..good.len() - 1 {
        std::fs::write(&path, &good[..bytes]).unwrap();
        assert!(Vault::open(home.path(), &Unlock::KeyFile).is_err());
    }
}

#[cfg(unix)]
#[test]
fn a_key_file_that_others_could_read_is_refused() {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;
    let home = TempDir::new().unwrap();
    Vault::create(home.path(), &Unlock::KeyFile).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&key_file_path(home.path())), 0o600);
    assert_eq!(mode(&file_path(home.path())), 0o600);

    for exposed in [0o640, 0o604, 0o660, 0o644, 0o610] {
        std::fs::set_permissions(key_file_path(home.path()), Permissions::from_mode(exposed)).unwrap();
        assert!(
            matches!(Vault::open(home.path(), &Unlock::KeyFile), Err(VaultError::KeyFileExposed { .. })),
            "{exposed:o}"
        );
    }
    std::fs::set_permissions(key_file_path(home.path()), Permissions::from_mode(0o400)).unwrap();
    assert!(Vault::open(home.path(), &Unlock::KeyFile).is_ok());
}

#[test]
fn nothing_printed_or_stored_holds_a_secret() {
    let home = TempDir::new().unwrap();
    let unlock = passphrase(PASSPHRASE);
    let mut vault = Vault::create(home.path(), &unlock).unwrap();
    let key = new_key(Account::OpenAi);
    let mut printed = format!("{unlock:?} {key:?}");
    let info = vault.add_key(key).unwrap();
    let (identity, signing_key) = identity();
    vault.set_identity(&identity, &signing_key).unwrap();
    let opened = vault.open_key(info.id, "api.openai.com").unwrap();
    printed += &format!("{vault:?} {opened:?} {info:?} {identity:?}");
    printed += &format!("{:?}", vault.open_key(info.id, "api.anthropic.com"));

    for entry in std::fs::read_dir(home.path()).unwrap() {
        let path = entry.unwrap().path();
        printed += &String::from_utf8_lossy(&std::fs::read(path).unwrap());
    }

    assert!(!printed.contains("PLANTED"));
    assert!(!printed.contains(&SECRET[4..12]));
}

#[test]
fn two_processes_adding_keys_at_once_lose_nothing() {
    let home = TempDir::new().unwrap();
    Vault::create(home.path(), &Unlock::KeyFile).unwrap();
    let child = || {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "vault::tests::adds_keys_as_the_other_process"])
            .env(CHILD_DIR, home.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap()
    };

    let mut children = [child(), child()];

    for child in &mut children {
        assert!(child.wait().unwrap().success());
    }
    let vault = Vault::open(home.path(), &Unlock::KeyFile).unwrap();
    let mut ids: Vec<VendorKeyId> = vault.keys().iter().map(|key| key.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 2 * KEYS_PER_PROCESS);
}

/// The other half of the test above; alone it has nothing to do.
#[test]
fn adds_keys_as_the_other_process() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else {
        return;
    };
    let mut vault = Vault::open(Path::new(&dir), &Unlock::KeyFile).unwrap();
    for _ in 0..KEYS_PER_PROCESS {
        vault.add_key(new_key(Account::Anthropic)).unwrap();
    }
}

fn full_vault(dir: &Path) -> (Vec<KeyInfo>, Identity) {
    let mut vault = Vault::create(dir, &Unlock::KeyFile).unwrap();
    vault.add_key(new_key(Account::OpenAi)).unwrap();
    vault.add_key(new_key(acme())).unwrap();
    let (identity, signing_key) = identity();
    vault.set_identity(&identity, &signing_key).unwrap();
    (vault.keys(), identity)
}

fn new_key(account: Account) -> NewKey {
    NewKey {
        account,
        label: "work".to_owned(),
        secret: SecretString::from(SECRET),
        attestation: Some(Attestation { text: "I may share it".to_owned(), at_unix_ms: 1 }),
        added_unix_ms: 1,
    }
}

fn acme() -> Account {
    azure("acme")
}

fn azure(resource: &str) -> Account {
    Account::Azure {
        resource: resource.to_owned(),
        suffix: AzureSuffix::OpenAi,
        deployments: vec!["gpt-4o".parse().unwrap()],
    }
}

fn identity() -> (Identity, SigningKey) {
    let signing_key = SigningKey::from_bytes(&[3; 32]);
    let identity = Identity {
        agent: AgentId([1; 16]),
        fleet: FleetId([2; 16]),
        hub_address: "hub.example:9010".to_owned(),
        pins: vec![Pin(Hex([4; 32])), Pin(Hex([5; 32]))],
        hub_key: [6; 32],
        public_key: signing_key.verifying_key().to_bytes(),
    };
    (identity, signing_key)
}

fn passphrase(text: &str) -> Unlock {
    Unlock::Passphrase(SecretString::from(text))
}
