-- +goose Up
-- subscription; until when a session alone wants the listener, when the user was last active, and how often
-- in a row the mail server rejected the login
ALTER TABLE listeners ADD COLUMN session_until_ms BIGINT NOT NULL DEFAULT 0;
ALTER TABLE listeners ADD COLUMN active_ms BIGINT NOT NULL DEFAULT 0;
ALTER TABLE listeners ADD COLUMN rejected BIGINT NOT NULL DEFAULT 0;
