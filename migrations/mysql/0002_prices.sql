-- List prices. A published table is never changed: its bytes are what was hashed and signed.
-- Hashes are 32 bytes, signatures 64, times are Unix milliseconds.

CREATE TABLE price_tables (
    version           BIGINT     NOT NULL PRIMARY KEY,
    hash              BINARY(32) NOT NULL,
    table_bytes       LONGBLOB   NOT NULL,
    signature         BINARY(64) NOT NULL,
    published_unix_ms BIGINT     NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- What was imported and not yet published: at most one row.
CREATE TABLE price_draft (
    id               BIGINT   NOT NULL PRIMARY KEY,
    table_bytes      LONGBLOB NOT NULL,
    imported_unix_ms BIGINT   NOT NULL,
    CONSTRAINT price_draft_single CHECK (id = 1)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
