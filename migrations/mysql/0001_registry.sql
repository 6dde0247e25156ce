-- Who may link and who may call: agents, their join tokens, consumers' API keys.
-- Ids are 16 bytes, hashes and public keys 32, times are Unix milliseconds.

CREATE TABLE agents (
    id                      BINARY(16)   NOT NULL PRIMARY KEY,
    name                    VARCHAR(191) NOT NULL,
    state                   VARCHAR(16)  NOT NULL,
    public_key              BINARY(32),
    created_unix_ms         BIGINT       NOT NULL,
    first_linked_unix_ms    BIGINT,
    last_seen_unix_ms       BIGINT,
    suspended_until_unix_ms BIGINT,
    CONSTRAINT agents_name UNIQUE (name),
    CONSTRAINT agents_state CHECK (state IN ('invited', 'active', 'draining', 'revoked'))
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE join_tokens (
    id               BINARY(16)  NOT NULL PRIMARY KEY,
    agent_id         BINARY(16)  NOT NULL,
    secret_hash      BINARY(32)  NOT NULL,
    created_unix_ms  BIGINT      NOT NULL,
    expires_unix_ms  BIGINT      NOT NULL,
    bound_public_key BINARY(32),
    state            VARCHAR(16) NOT NULL,
    CONSTRAINT join_tokens_agent FOREIGN KEY (agent_id) REFERENCES agents (id),
    CONSTRAINT join_tokens_state CHECK (state IN ('issued', 'bound', 'used'))
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE INDEX join_tokens_by_agent ON join_tokens (agent_id);

CREATE TABLE api_keys (
    id                BINARY(16)   NOT NULL PRIMARY KEY,
    name              VARCHAR(191) NOT NULL,
    key_hash          BINARY(32)   NOT NULL,
    masked            VARCHAR(64)  NOT NULL,
    created_unix_ms   BIGINT       NOT NULL,
    revoked_unix_ms   BIGINT,
    last_used_unix_ms BIGINT,
    CONSTRAINT api_keys_hash UNIQUE (key_hash)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Facts about this database, one row each.
CREATE TABLE meta (
    name  VARCHAR(64) NOT NULL PRIMARY KEY,
    value TEXT        NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- One row, raised in the same transaction by every change of what is above:
-- a running hub polls it and so follows what the command line does.
CREATE TABLE revision (
    id    BIGINT NOT NULL PRIMARY KEY,
    value BIGINT NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

INSERT INTO revision (id, value) VALUES (1, 0);
