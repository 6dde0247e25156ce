-- Which call a consumer's idempotency key stands for; `boot_id` is the process that had the call.
CREATE TABLE idempotency (
    account_id BINARY(16) NOT NULL,
    key_hash   BINARY(32) NOT NULL,
    call_id    BINARY(16) NOT NULL,
    boot_id    BINARY(16) NOT NULL,
    at_unix_ms BIGINT     NOT NULL,
    PRIMARY KEY (account_id, key_hash)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE INDEX idempotency_by_time ON idempotency (at_unix_ms);
