-- +goose Up
-- Conventions: *_ms is integer milliseconds since 1970 from Go's clock, 0 = never; booleans are 0/1;
-- lists are JSON. Each table names the package that owns it.

-- tenant
CREATE TABLE contexts (
    id         BIGINT PRIMARY KEY,
    name       TEXT   NOT NULL UNIQUE,
    created_ms BIGINT NOT NULL
);

-- tenant; the last id given, per kind ("context", "user/1"): an id is never given twice, because old
-- registrations at a mail server may still name it
CREATE TABLE sequences (
    name TEXT   PRIMARY KEY,
    last BIGINT NOT NULL
);

-- tenant
CREATE TABLE mailhosts (
    name         TEXT   PRIMARY KEY,
    imap_host    TEXT   NOT NULL,
    imap_port    BIGINT NOT NULL,
    security     TEXT   NOT NULL,
    insecure     BIGINT NOT NULL,
    ca           TEXT   NOT NULL,
    notify_login TEXT   UNIQUE,
    notify_hash  TEXT   NOT NULL,
    user_form    TEXT   NOT NULL,
    keyed_alias  BIGINT NOT NULL,
    allow_from   TEXT   NOT NULL,
    contexts     TEXT   NOT NULL,
    created_ms   BIGINT NOT NULL
);

-- tenant; login_key is the login in lower case: Dovecot folds logins before it names them to us
CREATE TABLE users (
    context_id BIGINT NOT NULL REFERENCES contexts (id),
    id         BIGINT NOT NULL,
    login      TEXT   NOT NULL,
    login_key  TEXT   NOT NULL,
    mailhost   TEXT   NOT NULL REFERENCES mailhosts (name),
    created_ms BIGINT NOT NULL,
    PRIMARY KEY (context_id, id),
    UNIQUE (login_key, mailhost)
);
CREATE INDEX users_mailhost ON users (mailhost);

-- account
CREATE TABLE sessions (
    id           TEXT   PRIMARY KEY,
    token_hash   TEXT   NOT NULL UNIQUE,
    context_id   BIGINT NOT NULL,
    user_id      BIGINT NOT NULL,
    client       TEXT   NOT NULL,
    device_hash  TEXT   NOT NULL,
    address      TEXT   NOT NULL,
    created_ms   BIGINT NOT NULL,
    last_used_ms BIGINT NOT NULL,
    expires_ms   BIGINT NOT NULL,
    FOREIGN KEY (context_id, user_id) REFERENCES users (context_id, id) ON DELETE CASCADE
);
CREATE INDEX sessions_user ON sessions (context_id, user_id);
CREATE INDEX sessions_expires ON sessions (expires_ms);

-- account
CREATE TABLE credentials (
    context_id BIGINT NOT NULL,
    user_id    BIGINT NOT NULL,
    sealed     TEXT   NOT NULL,
    updated_ms BIGINT NOT NULL,
    PRIMARY KEY (context_id, user_id),
    FOREIGN KEY (context_id, user_id) REFERENCES users (context_id, id) ON DELETE CASCADE
);

-- account; one value, sealed when the database was made, that tells the right seal key from another
CREATE TABLE seal_check (
    id     BIGINT PRIMARY KEY,
    sealed TEXT   NOT NULL
);

-- subscription; token is sealed, token_hash finds the other owners of the same device, target is
-- what may be shown of it
CREATE TABLE subscriptions (
    id          TEXT   PRIMARY KEY,
    context_id  BIGINT NOT NULL,
    user_id     BIGINT NOT NULL,
    client      TEXT   NOT NULL,
    transport   TEXT   NOT NULL,
    token_hash  TEXT   NOT NULL,
    token       TEXT   NOT NULL,
    target      TEXT   NOT NULL,
    device_hash TEXT   NOT NULL,
    topics      TEXT   NOT NULL,
    created_ms  BIGINT NOT NULL,
    renewed_ms  BIGINT NOT NULL,
    expires_ms  BIGINT NOT NULL,
    UNIQUE (transport, token_hash, context_id, user_id),
    FOREIGN KEY (context_id, user_id) REFERENCES users (context_id, id) ON DELETE CASCADE
);
CREATE INDEX subscriptions_user ON subscriptions (context_id, user_id);

-- subscription; the listener that a user's subscriptions want, and how far it is
CREATE TABLE listeners (
    context_id    BIGINT NOT NULL,
    user_id       BIGINT NOT NULL,
    wanted        BIGINT NOT NULL,
    state         TEXT   NOT NULL,
    reason        TEXT   NOT NULL,
    attempt       BIGINT NOT NULL,
    not_before_ms BIGINT NOT NULL,
    since_ms      BIGINT NOT NULL,
    PRIMARY KEY (context_id, user_id),
    FOREIGN KEY (context_id, user_id) REFERENCES users (context_id, id) ON DELETE CASCADE
);
CREATE INDEX listeners_due ON listeners (not_before_ms);

-- dispatch; seen is a bit for each of the 64 uids up to high_uid
CREATE TABLE mailboxes (
    context_id  BIGINT NOT NULL,
    user_id     BIGINT NOT NULL,
    folder      TEXT   NOT NULL,
    uidvalidity BIGINT NOT NULL,
    high_uid    BIGINT NOT NULL,
    seen        BIGINT NOT NULL,
    updated_ms  BIGINT NOT NULL,
    PRIMARY KEY (context_id, user_id, folder, uidvalidity),
    FOREIGN KEY (context_id, user_id) REFERENCES users (context_id, id) ON DELETE CASCADE
);

-- dispatch; the counter that orders the states of a user
CREATE TABLE versions (
    context_id BIGINT NOT NULL,
    user_id    BIGINT NOT NULL,
    version    BIGINT NOT NULL,
    PRIMARY KEY (context_id, user_id),
    FOREIGN KEY (context_id, user_id) REFERENCES users (context_id, id) ON DELETE CASCADE
);

-- push; a slot is dirty while version > sent_version
CREATE TABLE slots (
    subscription_id TEXT   NOT NULL REFERENCES subscriptions (id) ON DELETE CASCADE,
    collapse_key    TEXT   NOT NULL,
    version         BIGINT NOT NULL,
    sent_version    BIGINT NOT NULL,
    input           TEXT   NOT NULL,
    attempt         BIGINT NOT NULL,
    tries           BIGINT NOT NULL,
    first_dirty_ms  BIGINT NOT NULL,
    not_before_ms   BIGINT NOT NULL,
    expires_ms      BIGINT NOT NULL,
    PRIMARY KEY (subscription_id, collapse_key)
);
CREATE INDEX slots_dirty ON slots (not_before_ms) WHERE version > sent_version;

-- push; the last outcomes of a subscription, n = tries modulo their number
CREATE TABLE outcomes (
    subscription_id TEXT   NOT NULL REFERENCES subscriptions (id) ON DELETE CASCADE,
    n               BIGINT NOT NULL,
    version         BIGINT NOT NULL,
    attempt         BIGINT NOT NULL,
    outcome         TEXT   NOT NULL,
    status          BIGINT NOT NULL,
    reason          TEXT   NOT NULL,
    provider_id     TEXT   NOT NULL,
    accepted_ms     BIGINT NOT NULL,
    sent_ms         BIGINT NOT NULL,
    answered_ms     BIGINT NOT NULL,
    next_try_ms     BIGINT NOT NULL,
    PRIMARY KEY (subscription_id, n)
);
