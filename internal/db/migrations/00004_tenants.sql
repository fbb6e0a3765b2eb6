-- +goose Up
-- tenant; who a context belongs to, and the tags that context sets ask for (JSON list)
ALTER TABLE contexts ADD COLUMN reseller TEXT NOT NULL DEFAULT '';
ALTER TABLE contexts ADD COLUMN tags TEXT NOT NULL DEFAULT '[]';

-- tenant
CREATE TABLE resellers (
    name       TEXT   PRIMARY KEY,
    title      TEXT   NOT NULL,
    contact    TEXT   NOT NULL,
    created_ms BIGINT NOT NULL
);

-- tenant; context sets made by command or API; those of files are not here
CREATE TABLE context_sets (
    name       TEXT   PRIMARY KEY,
    with_tags  TEXT   NOT NULL,
    priority   BIGINT NOT NULL,
    created_ms BIGINT NOT NULL
);

-- tenant; values of the configuration cascade, set by command or API. scope is "server", "contextset", "reseller",
-- "context" or "user"; subject is '', a name, "1" or "3@1"; a secret value is sealed
CREATE TABLE properties (
    scope   TEXT   NOT NULL,
    subject TEXT   NOT NULL,
    name    TEXT   NOT NULL,
    value   TEXT   NOT NULL,
    set_by  TEXT   NOT NULL,
    set_ms  BIGINT NOT NULL,
    PRIMARY KEY (scope, subject, name)
);
-- The app is off by default from this schema on: who could use it goes on.
INSERT INTO properties (scope, subject, name, value, set_by, set_ms)
    SELECT 'context', CAST(id AS TEXT), 'capability.mobile_mail_app', 'true', 'upgrade', created_ms FROM contexts;

-- tenant; document is what may be shown (JSON), logo the re-encoded picture as base64 after its media type,
-- secrets is sealed for "provider/<name>"
CREATE TABLE providers (
    name       TEXT   PRIMARY KEY,
    reseller   TEXT   NOT NULL,
    document   TEXT   NOT NULL,
    logo       TEXT   NOT NULL,
    secrets    TEXT   NOT NULL,
    created_ms BIGINT NOT NULL,
    updated_ms BIGINT NOT NULL
);

-- tenant; keys of the installation, made with the database and sealed: "directory" signs the provider list
CREATE TABLE installation_keys (
    name   TEXT PRIMARY KEY,
    sealed TEXT NOT NULL
);

-- account; keys of the admin API, as hashes. role is "operator", "reseller" or "brand", subject whose
CREATE TABLE admin_keys (
    id           TEXT   PRIMARY KEY,
    key_hash     TEXT   NOT NULL UNIQUE,
    role         TEXT   NOT NULL,
    subject      TEXT   NOT NULL,
    note         TEXT   NOT NULL,
    created_ms   BIGINT NOT NULL,
    expires_ms   BIGINT NOT NULL,
    last_used_ms BIGINT NOT NULL
);

-- audit; sign-ins and administrative acts; id sorts by time. context_id is 0 where none is concerned
CREATE TABLE audit (
    id         TEXT   PRIMARY KEY,
    at_ms      BIGINT NOT NULL,
    actor      TEXT   NOT NULL,
    act        TEXT   NOT NULL,
    subject    TEXT   NOT NULL,
    context_id BIGINT NOT NULL,
    address    TEXT   NOT NULL,
    outcome    TEXT   NOT NULL,
    detail     TEXT   NOT NULL
);
CREATE INDEX audit_at ON audit (at_ms);
CREATE INDEX audit_context ON audit (context_id, at_ms);

-- account; the token before the last rotation, when that was, when the new one was first used (0: not yet), and what all
-- tokens of the session have in common: who comes with another one of them has a stolen one, or the thief has the
-- newer. And what the device is called.
ALTER TABLE sessions ADD COLUMN family_hash TEXT NOT NULL DEFAULT '';
ALTER TABLE sessions ADD COLUMN old_hash TEXT NOT NULL DEFAULT '';
ALTER TABLE sessions ADD COLUMN rotated_ms BIGINT NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN confirmed_ms BIGINT NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN device_name TEXT NOT NULL DEFAULT '';
CREATE INDEX sessions_family ON sessions (family_hash);

-- account; sign-ins at an identity provider that are under way: state_hash finds one, sealed holds the PKCE
-- verifier, the nonce and what the app asked for
CREATE TABLE sign_ins (
    state_hash TEXT   PRIMARY KEY,
    sealed     TEXT   NOT NULL,
    expires_ms BIGINT NOT NULL
);
CREATE INDEX sign_ins_expires ON sign_ins (expires_ms);

-- account; where a user has signed in from before: his device secret's hash, or a network. Who comes from there is
-- not held up by the failures of others
CREATE TABLE known_places (
    login_hash   TEXT   NOT NULL,
    place_hash   TEXT   NOT NULL,
    last_used_ms BIGINT NOT NULL,
    PRIMARY KEY (login_hash, place_hash)
);
CREATE INDEX known_places_used ON known_places (last_used_ms);

-- subscription; the provider whose push credentials the device subscribed with, '' is the installation
ALTER TABLE subscriptions ADD COLUMN provider TEXT NOT NULL DEFAULT '';

-- certificate; what automatic certificates need kept: the account at the authority, keys, certificates, challenges;
-- each value is sealed for "acme/<name>"
CREATE TABLE acme_storage (
    name        TEXT   PRIMARY KEY,
    sealed      TEXT   NOT NULL,
    modified_ms BIGINT NOT NULL
);

-- certificate; which node is getting a certificate, and until when it may be thought alive
CREATE TABLE acme_locks (
    name     TEXT   PRIMARY KEY,
    owner    TEXT   NOT NULL,
    until_ms BIGINT NOT NULL
);
