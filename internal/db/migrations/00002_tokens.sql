-- +goose Up
-- push; strikes counts the answers that made the token suspect, at least an hour apart, struck_ms is
-- when the last was; burst_ms is when the provider's allowance for this slot is whole again
ALTER TABLE slots ADD COLUMN strikes BIGINT NOT NULL DEFAULT 0;
ALTER TABLE slots ADD COLUMN struck_ms BIGINT NOT NULL DEFAULT 0;
ALTER TABLE slots ADD COLUMN burst_ms BIGINT NOT NULL DEFAULT 0;

-- push; why a subscription was removed, for some weeks after it
CREATE TABLE tombstones (
    subscription_id TEXT   PRIMARY KEY,
    version         BIGINT NOT NULL,
    attempt         BIGINT NOT NULL,
    outcome         TEXT   NOT NULL,
    status          BIGINT NOT NULL,
    reason          TEXT   NOT NULL,
    accepted_ms     BIGINT NOT NULL,
    sent_ms         BIGINT NOT NULL,
    gone_ms         BIGINT NOT NULL
);
CREATE INDEX tombstones_gone ON tombstones (gone_ms);

-- subscription; the APNs environment that took the token when the configured one did not
ALTER TABLE subscriptions ADD COLUMN environment TEXT NOT NULL DEFAULT '';

-- push; the credentials of which no token is removed, because too many would go at once
CREATE TABLE freezes (
    transport  TEXT   NOT NULL,
    credential TEXT   NOT NULL,
    since_ms   BIGINT NOT NULL,
    PRIMARY KEY (transport, credential)
);
