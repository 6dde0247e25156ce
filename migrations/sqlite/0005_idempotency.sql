-- Which call a consumer's idempotency key stands for; `boot_id` is the process that had the call.
CREATE TABLE idempotency (
    account_id BLOB   NOT NULL,
    key_hash   BLOB   NOT NULL,
    call_id    BLOB   NOT NULL,
    boot_id    BLOB   NOT NULL,
    at_unix_ms BIGINT NOT NULL,
    PRIMARY KEY (account_id, key_hash)
);

CREATE INDEX idempotency_by_time ON idempotency (at_unix_ms);
