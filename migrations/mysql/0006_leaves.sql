-- Agents' ledgers as the books have them, what follows from them, and what the hub said of them.
-- Amounts are nano-USD, ids are 16 bytes, hashes and public keys 32, times are Unix milliseconds.

-- Where each chain of leaves stands, and the statements about it. Swapped as a whole, from what stands there.
CREATE TABLE agent_chains (
    agent_id        BINARY(16)     NOT NULL,
    epoch           BIGINT         NOT NULL,
    size            BIGINT         NOT NULL,
    head            BINARY(32)     NOT NULL,
    agent_key       BINARY(32)     NOT NULL,
    oldest_hub_key  BIGINT         NOT NULL,
    cosigned        VARBINARY(512) NOT NULL,
    statements      BIGINT         NOT NULL,
    statement_hash  BINARY(32)     NOT NULL,
    open_leaves     BIGINT         NOT NULL,
    written_unix_ms BIGINT         NOT NULL,
    batch           BIGINT         NOT NULL,
    PRIMARY KEY (agent_id, epoch)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Insert-only, as are groups, statements, credits, lowerings, disputes and their ends, amnesia, payouts and proofs.
CREATE TABLE leaves (
    agent_id BINARY(16)      NOT NULL,
    epoch    BIGINT          NOT NULL,
    number   BIGINT          NOT NULL,
    hash     BINARY(32)      NOT NULL,
    kind     BIGINT          NOT NULL,
    call_id  BINARY(16),
    attempt  BIGINT          NOT NULL,
    bytes    VARBINARY(2048) NOT NULL,
    batch    BIGINT          NOT NULL,
    PRIMARY KEY (agent_id, epoch, number)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE INDEX leaves_by_call ON leaves (call_id);

-- What the agent signed of the leaves that came together.
CREATE TABLE leaf_groups (
    agent_id   BINARY(16)     NOT NULL,
    epoch      BIGINT         NOT NULL,
    next_leaf  BIGINT         NOT NULL,
    first_leaf BIGINT         NOT NULL,
    record     VARBINARY(512) NOT NULL,
    batch      BIGINT         NOT NULL,
    PRIMARY KEY (agent_id, epoch, next_leaf)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE statements (
    agent_id   BINARY(16) NOT NULL,
    epoch      BIGINT     NOT NULL,
    number     BIGINT     NOT NULL,
    first_leaf BIGINT     NOT NULL,
    bytes      MEDIUMBLOB NOT NULL,
    at_unix_ms BIGINT     NOT NULL,
    batch      BIGINT     NOT NULL,
    PRIMARY KEY (agent_id, epoch, number)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- What a chain says of each attempt, folded from its leaves.
CREATE TABLE attempts (
    agent_id         BINARY(16) NOT NULL,
    epoch            BIGINT     NOT NULL,
    call_id          BINARY(16) NOT NULL,
    attempt          BIGINT     NOT NULL,
    ticket_hash      BINARY(32) NOT NULL,
    boot_id          BINARY(16) NOT NULL,
    hub_node         BINARY(16) NOT NULL,
    zone_ppm         BIGINT     NOT NULL,
    tier_ppm         BIGINT     NOT NULL,
    ceiling_nano_usd BIGINT     NOT NULL,
    open_leaf        BIGINT     NOT NULL,
    parts            BIGINT     NOT NULL,
    so_far_nano_usd  BIGINT     NOT NULL,
    closed_hash      BINARY(32),
    closed_nano_usd  BIGINT,
    has_figure       BIGINT     NOT NULL,
    response_bytes   BIGINT     NOT NULL,
    batch            BIGINT     NOT NULL,
    PRIMARY KEY (agent_id, epoch, call_id, attempt)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- CLOSE leaves whose calls have not ended; a row goes when the leaf gets its second line.
CREATE TABLE open_leaves (
    agent_id      BINARY(16) NOT NULL,
    epoch         BIGINT     NOT NULL,
    number        BIGINT     NOT NULL,
    leaf_hash     BINARY(32) NOT NULL,
    call_id       BINARY(16) NOT NULL,
    attempt       BIGINT     NOT NULL,
    since_unix_ms BIGINT     NOT NULL,
    PRIMARY KEY (agent_id, epoch, number)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE INDEX open_leaves_by_call ON open_leaves (call_id);

-- An attempt is credited once, by whichever leaf of whichever chain came first.
CREATE TABLE credits (
    call_id         BINARY(16)  NOT NULL,
    attempt         BIGINT      NOT NULL,
    agent_id        BINARY(16)  NOT NULL,
    epoch           BIGINT      NOT NULL,
    number          BIGINT      NOT NULL,
    reason          BIGINT      NOT NULL,
    paid_by         VARCHAR(16) NOT NULL,
    hub_nano_usd    BIGINT,
    agent_nano_usd  BIGINT,
    list_nano_usd   BIGINT      NOT NULL,
    credit_nano_usd BIGINT      NOT NULL,
    zone_ppm        BIGINT      NOT NULL,
    tier_ppm        BIGINT      NOT NULL,
    account_id      BINARY(16),
    at_unix_ms      BIGINT      NOT NULL,
    batch           BIGINT      NOT NULL,
    PRIMARY KEY (call_id, attempt)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE INDEX credits_by_agent ON credits (agent_id, at_unix_ms);

-- What an owner takes less for a credit, by its ADJUST leaf.
CREATE TABLE lowerings (
    agent_id       BINARY(16) NOT NULL,
    epoch          BIGINT     NOT NULL,
    number         BIGINT     NOT NULL,
    call_id        BINARY(16) NOT NULL,
    attempt        BIGINT     NOT NULL,
    list_nano_usd  BIGINT     NOT NULL,
    owner_nano_usd BIGINT     NOT NULL,
    at_unix_ms     BIGINT     NOT NULL,
    batch          BIGINT     NOT NULL,
    PRIMARY KEY (agent_id, epoch, number)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE INDEX lowerings_by_call ON lowerings (call_id);

-- What is in suspense, by the entry that put it there.
CREATE TABLE disputes (
    entry_id      BINARY(16) NOT NULL PRIMARY KEY,
    call_id       BINARY(16) NOT NULL,
    attempt       BIGINT     NOT NULL,
    agent_id      BINARY(16) NOT NULL,
    account_id    BINARY(16) NOT NULL,
    nano_usd      BIGINT     NOT NULL,
    since_unix_ms BIGINT     NOT NULL,
    batch         BIGINT     NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE INDEX disputes_by_time ON disputes (since_unix_ms);

CREATE TABLE dispute_ends (
    entry_id   BINARY(16)  NOT NULL PRIMARY KEY,
    ended_by   BINARY(16)  NOT NULL,
    outcome    VARCHAR(16) NOT NULL,
    note       TEXT        NOT NULL,
    at_unix_ms BIGINT      NOT NULL,
    batch      BIGINT      NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- When this hub may have forgotten calls that it sold.
CREATE TABLE amnesia (
    id            BINARY(16)  NOT NULL PRIMARY KEY,
    boot_id       BINARY(16),
    why           VARCHAR(16) NOT NULL,
    from_unix_ms  BIGINT      NOT NULL,
    to_unix_ms    BIGINT      NOT NULL,
    noted_unix_ms BIGINT      NOT NULL,
    CONSTRAINT amnesia_why CHECK (why IN ('unclean_stop', 'rollback', 'rebuild'))
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Two histories of one chain that the agent signed.
CREATE TABLE fork_proofs (
    agent_id      BINARY(16) NOT NULL,
    epoch         BIGINT     NOT NULL,
    at_leaf       BIGINT     NOT NULL,
    proof         MEDIUMTEXT NOT NULL,
    noted_unix_ms BIGINT     NOT NULL,
    PRIMARY KEY (agent_id, epoch, at_leaf)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Money that owners were paid. A batch of payouts is made once under its reference.
CREATE TABLE payouts (
    id         BINARY(16)   NOT NULL PRIMARY KEY,
    reference  VARCHAR(191) NOT NULL,
    agent_id   BINARY(16)   NOT NULL,
    epoch      BIGINT       NOT NULL,
    leaves     BIGINT       NOT NULL,
    nano_usd   BIGINT       NOT NULL,
    entry_id   BINARY(16)   NOT NULL,
    at_unix_ms BIGINT       NOT NULL,
    batch      BIGINT       NOT NULL,
    CONSTRAINT payouts_once UNIQUE (reference, agent_id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
