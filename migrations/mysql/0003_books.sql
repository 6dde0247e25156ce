-- Money: consumers' accounts, the double-entry ledger, leases and holds, records of calls.
-- Amounts are nano-USD, ids are 16 bytes, times are Unix milliseconds.

CREATE TABLE accounts (
    id              BINARY(16)   NOT NULL PRIMARY KEY,
    name            VARCHAR(191) NOT NULL,
    zone            VARCHAR(16)  NOT NULL,
    created_unix_ms BIGINT       NOT NULL,
    blocked_unix_ms BIGINT,
    CONSTRAINT accounts_name UNIQUE (name),
    CONSTRAINT accounts_zone CHECK (zone IN ('standard', 'discount', 'premium'))
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- The account of keys that were made without one.
INSERT INTO accounts (id, name, zone, created_unix_ms)
VALUES (x'00000000000000000000000000000001', 'default', 'standard', 0);

ALTER TABLE api_keys ADD COLUMN account_id BINARY(16) NOT NULL DEFAULT x'00000000000000000000000000000001';
ALTER TABLE api_keys ADD COLUMN mode VARCHAR(16) NOT NULL DEFAULT 'assist';
ALTER TABLE api_keys ADD COLUMN budget_day_nano_usd BIGINT;
ALTER TABLE api_keys ADD COLUMN budget_month_nano_usd BIGINT;
ALTER TABLE api_keys ADD COLUMN budget_total_nano_usd BIGINT;
-- One model, or one network, per line; none means all.
ALTER TABLE api_keys ADD COLUMN models TEXT NOT NULL DEFAULT ('');
ALTER TABLE api_keys ADD COLUMN networks TEXT NOT NULL DEFAULT ('');
ALTER TABLE api_keys ADD COLUMN expires_unix_ms BIGINT;

-- One row. Every transaction that moves money raises it first: that puts all of them in one
-- order, and its value is the number of the batch.
CREATE TABLE ledger (
    id    BIGINT NOT NULL PRIMARY KEY,
    batch BIGINT NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

INSERT INTO ledger (id, batch) VALUES (1, 0);

-- One life of one hub process. Who is not seen for a while has died, and is ended by another.
CREATE TABLE boots (
    id              BINARY(16) NOT NULL PRIMARY KEY,
    started_unix_ms BIGINT     NOT NULL,
    seen_unix_ms    BIGINT     NOT NULL,
    ended_unix_ms   BIGINT
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Insert-only, as are entries, postings, deposits and calls: what was wrong is put right by a
-- new entry.
CREATE TABLE batches (
    number          BIGINT NOT NULL PRIMARY KEY,
    boot_id         BINARY(16),
    written_unix_ms BIGINT NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- A charge is there once per call, a credit once per attempt of a call.
CREATE TABLE entries (
    id         BINARY(16)  NOT NULL PRIMARY KEY,
    kind       VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    call_id    BINARY(16),
    attempt    BIGINT      NOT NULL,
    batch      BIGINT      NOT NULL,
    at_unix_ms BIGINT      NOT NULL,
    CONSTRAINT entries_once UNIQUE (call_id, kind, attempt),
    CONSTRAINT entries_kind CHECK
        (kind IN ('charge', 'credit', 'deposit', 'lowering', 'return', 'resolution', 'payout'))
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- The postings of an entry sum to zero.
CREATE TABLE postings (
    entry_id BINARY(16)  NOT NULL,
    leg      BIGINT      NOT NULL,
    side     VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    owner    BINARY(16)  NOT NULL,
    nano_usd BIGINT      NOT NULL,
    PRIMARY KEY (entry_id, leg)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- The sums of the postings, folded in the same transaction.
CREATE TABLE balances (
    side     VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    owner    BINARY(16)  NOT NULL,
    nano_usd BIGINT      NOT NULL,
    batch    BIGINT      NOT NULL,
    PRIMARY KEY (side, owner)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- What calls of a key were charged: in all ('total'), in a month ('2026-11'), on a day.
CREATE TABLE key_spending (
    api_key_id BINARY(16)  NOT NULL,
    period     VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    nano_usd   BIGINT      NOT NULL,
    batch      BIGINT      NOT NULL,
    PRIMARY KEY (api_key_id, period)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- What a boot may still spend of an account ('balance') or of a key's budget (its period). It
-- is debited here before it is spent there.
CREATE TABLE budget_leases (
    purse_id BINARY(16)  NOT NULL,
    period   VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    boot_id  BINARY(16)  NOT NULL,
    nano_usd BIGINT      NOT NULL,
    PRIMARY KEY (purse_id, period, boot_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE INDEX budget_leases_by_boot ON budget_leases (boot_id);

-- Calls under way that were sent to an agent and live longer than a moment.
CREATE TABLE holds (
    call_id           BINARY(16) NOT NULL PRIMARY KEY,
    boot_id           BINARY(16) NOT NULL,
    observed_nano_usd BIGINT     NOT NULL,
    seen_unix_ms      BIGINT     NOT NULL,
    `call`            MEDIUMTEXT NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE INDEX holds_by_boot ON holds (boot_id);

-- The same reference is never booked twice.
CREATE TABLE deposits (
    reference  VARCHAR(191) NOT NULL PRIMARY KEY,
    account_id BINARY(16)   NOT NULL,
    nano_usd   BIGINT       NOT NULL,
    entry_id   BINARY(16)   NOT NULL,
    at_unix_ms BIGINT       NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE INDEX deposits_by_account ON deposits (account_id);

-- What every call that was sold cost, and why; `record` is all of it as JSON.
CREATE TABLE calls (
    call_id        BINARY(16)   NOT NULL PRIMARY KEY,
    account_id     BINARY(16)   NOT NULL,
    api_key_id     BINARY(16)   NOT NULL,
    agent_id       BINARY(16),
    model          VARCHAR(512) NOT NULL,
    began_unix_ms  BIGINT       NOT NULL,
    input_tokens   BIGINT       NOT NULL,
    output_tokens  BIGINT       NOT NULL,
    list_nano_usd  BIGINT       NOT NULL,
    cost_nano_usd  BIGINT       NOT NULL,
    estimated      BIGINT       NOT NULL,
    batch          BIGINT       NOT NULL,
    record         MEDIUMTEXT   NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE INDEX calls_by_account ON calls (account_id, began_unix_ms);
CREATE INDEX calls_by_key ON calls (api_key_id, began_unix_ms);
