-- Who may link and who may call: agents, their join tokens, consumers' API keys.
-- Ids are 16 bytes, hashes and public keys 32, times are Unix milliseconds.

CREATE TABLE agents (
    id                      BLOB    NOT NULL PRIMARY KEY,
    name                    TEXT    NOT NULL,
    state                   TEXT    NOT NULL,
    public_key              BLOB,
    created_unix_ms         BIGINT  NOT NULL,
    first_linked_unix_ms    BIGINT,
    last_seen_unix_ms       BIGINT,
    suspended_until_unix_ms BIGINT,
    CONSTRAINT agents_name UNIQUE (name),
    CONSTRAINT agents_state CHECK (state IN ('invited', 'active', 'draining', 'revoked'))
);

CREATE TABLE join_tokens (
    id               BLOB   NOT NULL PRIMARY KEY,
    agent_id         BLOB   NOT NULL,
    secret_hash      BLOB   NOT NULL,
    created_unix_ms  BIGINT NOT NULL,
    expires_unix_ms  BIGINT NOT NULL,
    bound_public_key BLOB,
    state            TEXT   NOT NULL,
    CONSTRAINT join_tokens_agent FOREIGN KEY (agent_id) REFERENCES agents (id),
    CONSTRAINT join_tokens_state CHECK (state IN ('issued', 'bound', 'used'))
);

CREATE INDEX join_tokens_by_agent ON join_tokens (agent_id);

CREATE TABLE api_keys (
    id                BLOB   NOT NULL PRIMARY KEY,
    name              TEXT   NOT NULL,
    key_hash          BLOB   NOT NULL,
    masked            TEXT   NOT NULL,
    created_unix_ms   BIGINT NOT NULL,
    revoked_unix_ms   BIGINT,
    last_used_unix_ms BIGINT,
    CONSTRAINT api_keys_hash UNIQUE (key_hash)
);

-- Facts about this database, one row each.
CREATE TABLE meta (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);

-- One row, raised in the same transaction by every change of what is above:
-- a running hub polls it and so follows what the command line does.
CREATE TABLE revision (
    id    BIGINT NOT NULL PRIMARY KEY,
    value BIGINT NOT NULL
);

INSERT INTO revision (id, value) VALUES (1, 0);
