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

-- dispatch; what is known of a user's mailbox, in one row: it is read and written with every event. version
-- orders the states of the user and counts up with each; folders is a JSON list, see dispatch.folder. What
-- earlier builds knew of folders is not taken over: a mail reported again across the upgrade is told again.
CREATE TABLE states (
    context_id BIGINT NOT NULL,
    user_id    BIGINT NOT NULL,
    version    BIGINT NOT NULL,
    folders    TEXT   NOT NULL,
    PRIMARY KEY (context_id, user_id),
    FOREIGN KEY (context_id, user_id) REFERENCES users (context_id, id) ON DELETE CASCADE
);
INSERT INTO states (context_id, user_id, version, folders) SELECT context_id, user_id, version, '[]' FROM versions;
DROP TABLE versions;
DROP TABLE mailboxes;

-- no query uses it, and every event had to keep it
DROP INDEX slots_dirty;

-- tenant, subscription; a row of each, the number of its last change: who has not heard of them all forgets
-- what it keeps in memory
CREATE TABLE changes (
    name TEXT   PRIMARY KEY,
    last BIGINT NOT NULL
);

-- push; the servers on this database: process is which one has the id now, beat counts signs of life
CREATE TABLE nodes (
    id      TEXT   PRIMARY KEY,
    process TEXT   NOT NULL,
    beat    BIGINT NOT NULL
);

-- push; who sends the slot while it is dirty
ALTER TABLE slots ADD COLUMN owner TEXT NOT NULL DEFAULT '';

-- subscription; the APNs environment that took the token when the configured one did not
ALTER TABLE subscriptions ADD COLUMN environment TEXT NOT NULL DEFAULT '';

-- push; the credentials of which no token is removed, because too many would go at once
CREATE TABLE freezes (
    transport  TEXT   NOT NULL,
    credential TEXT   NOT NULL,
    since_ms   BIGINT NOT NULL,
    PRIMARY KEY (transport, credential)
);

-- subscription; what the device wants to be told (JSON, '' is everything at once), and the sealed keys of its
-- app
ALTER TABLE subscriptions ADD COLUMN policy TEXT NOT NULL DEFAULT '';
ALTER TABLE subscriptions ADD COLUMN device_key TEXT NOT NULL DEFAULT '';

-- push; when the device was last shown or told something, and the message whose notification it shows, as far as
-- we know (JSON, '' is none)
ALTER TABLE slots ADD COLUMN told_ms BIGINT NOT NULL DEFAULT 0;
ALTER TABLE slots ADD COLUMN shown TEXT NOT NULL DEFAULT '';
