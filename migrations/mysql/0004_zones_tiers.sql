-- What consumers pay and owners get, as parts per million of the list price: 1000000 is the list price.
-- A zone or tier without a row is not set, and nothing is sold by it.

CREATE TABLE zones (
    name       VARCHAR(16) NOT NULL PRIMARY KEY,
    factor_ppm BIGINT      NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE tiers (
    name      VARCHAR(16) NOT NULL PRIMARY KEY,
    ratio_ppm BIGINT      NOT NULL
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Agents whose owners do not have the standard tier.
CREATE TABLE agent_tiers (
    agent_id BINARY(16)  NOT NULL PRIMARY KEY,
    tier     VARCHAR(16) NOT NULL,
    CONSTRAINT agent_tiers_agent FOREIGN KEY (agent_id) REFERENCES agents (id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
