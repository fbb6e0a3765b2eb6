-- +goose Up
-- subscription; until when a session alone wants the listener, when the user was last active, and how often
-- in a row the mail server rejected the login
ALTER TABLE listeners ADD COLUMN session_until_ms BIGINT NOT NULL DEFAULT 0;
ALTER TABLE listeners ADD COLUMN active_ms BIGINT NOT NULL DEFAULT 0;
ALTER TABLE listeners ADD COLUMN rejected BIGINT NOT NULL DEFAULT 0;

-- account; one value, made with the database: passphrases become keys with it
CREATE TABLE seal_salt (
    id   BIGINT PRIMARY KEY,
    salt TEXT   NOT NULL
);

-- account; refresh tokens, as credentials are passwords
CREATE TABLE refresh_tokens (
    context_id BIGINT NOT NULL,
    user_id    BIGINT NOT NULL,
    sealed     TEXT   NOT NULL,
    updated_ms BIGINT NOT NULL,
    PRIMARY KEY (context_id, user_id),
    FOREIGN KEY (context_id, user_id) REFERENCES users (context_id, id) ON DELETE CASCADE
);

-- tenant; how we hear of new mail at a mail host and what we sign in with; secrets is sealed for "mailhost/<name>"
ALTER TABLE mailhosts ADD COLUMN source TEXT NOT NULL DEFAULT 'auto';
ALTER TABLE mailhosts ADD COLUMN password_source TEXT NOT NULL DEFAULT 'session';
ALTER TABLE mailhosts ADD COLUMN master_login TEXT NOT NULL DEFAULT '';
ALTER TABLE mailhosts ADD COLUMN doveadm_url TEXT NOT NULL DEFAULT '';
ALTER TABLE mailhosts ADD COLUMN oauth_token_url TEXT NOT NULL DEFAULT '';
ALTER TABLE mailhosts ADD COLUMN oauth_client_id TEXT NOT NULL DEFAULT '';
ALTER TABLE mailhosts ADD COLUMN oauth_scope TEXT NOT NULL DEFAULT '';
ALTER TABLE mailhosts ADD COLUMN secrets TEXT NOT NULL DEFAULT '';
