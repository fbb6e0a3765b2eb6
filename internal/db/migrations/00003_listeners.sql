-- +goose Up
-- subscription; until when a session alone wants the listener, when the user was last active, and how often
-- in a row the mail server rejected the login
ALTER TABLE listeners ADD COLUMN session_until_ms BIGINT NOT NULL DEFAULT 0;
ALTER TABLE listeners ADD COLUMN active_ms BIGINT NOT NULL DEFAULT 0;
ALTER TABLE listeners ADD COLUMN rejected BIGINT NOT NULL DEFAULT 0;

-- tenant; how we hear of new mail at a mail host and what we sign in with; secrets is sealed for "mailhost/<name>"
ALTER TABLE mailhosts ADD COLUMN source TEXT NOT NULL DEFAULT 'auto';
ALTER TABLE mailhosts ADD COLUMN password_source TEXT NOT NULL DEFAULT 'session';
ALTER TABLE mailhosts ADD COLUMN master_login TEXT NOT NULL DEFAULT '';
ALTER TABLE mailhosts ADD COLUMN doveadm_url TEXT NOT NULL DEFAULT '';
ALTER TABLE mailhosts ADD COLUMN oauth_token_url TEXT NOT NULL DEFAULT '';
ALTER TABLE mailhosts ADD COLUMN oauth_client_id TEXT NOT NULL DEFAULT '';
ALTER TABLE mailhosts ADD COLUMN oauth_scope TEXT NOT NULL DEFAULT '';
ALTER TABLE mailhosts ADD COLUMN secrets TEXT NOT NULL DEFAULT '';
