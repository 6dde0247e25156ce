-- List prices. A published table is never changed: its bytes are what was hashed and signed.
-- Hashes are 32 bytes, signatures 64, times are Unix milliseconds.

CREATE TABLE price_tables (
    version           BIGINT NOT NULL PRIMARY KEY,
    hash              BLOB   NOT NULL,
    table_bytes       BLOB   NOT NULL,
    signature         BLOB   NOT NULL,
    published_unix_ms BIGINT NOT NULL
);

-- What was imported and not yet published: at most one row.
CREATE TABLE price_draft (
    id               BIGINT NOT NULL PRIMARY KEY,
    table_bytes      BLOB   NOT NULL,
    imported_unix_ms BIGINT NOT NULL,
    CONSTRAINT price_draft_single CHECK (id = 1)
);
