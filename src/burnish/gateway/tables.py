"""The gateway's tables, as SQL for SQLite and PostgreSQL."""

from __future__ import annotations

VERSION = 1
"""Of the tables; another one is not understood."""
IN_SQLITE = {"bytes": "BLOB", "clustered": " WITHOUT ROWID"}
"""Words of SQLite. Small rows that are found by their key lie in its tree: half the pages to read and write back. (A file
that was made before has both a tree and an index; the same statements work on it.)"""
IN_POSTGRES = {"bytes": "BYTEA", "clustered": ""}
TABLES = """
CREATE TABLE IF NOT EXISTS gateway_meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS gateway_keys (
  id TEXT PRIMARY KEY, account TEXT NOT NULL, hash {bytes} NOT NULL, name TEXT NOT NULL, scope TEXT NOT NULL,
  models TEXT, limits TEXT NOT NULL, created_us BIGINT NOT NULL, expires_us BIGINT, revoked_us BIGINT);
CREATE TABLE IF NOT EXISTS gateway_accounts (
  account TEXT PRIMARY KEY, latest_us BIGINT NOT NULL DEFAULT 0, requests BIGINT NOT NULL DEFAULT 0,
  tokens BIGINT NOT NULL DEFAULT 0, running BIGINT NOT NULL DEFAULT 0){clustered};
CREATE TABLE IF NOT EXISTS gateway_spent (
  account TEXT NOT NULL, at_us BIGINT NOT NULL, requests BIGINT NOT NULL, tokens BIGINT NOT NULL);
CREATE INDEX IF NOT EXISTS gateway_spent_by_time ON gateway_spent (account, at_us);
CREATE TABLE IF NOT EXISTS gateway_holds (
  id TEXT PRIMARY KEY, account TEXT NOT NULL, ends_us BIGINT NOT NULL, tokens BIGINT NOT NULL,
  nano_usd BIGINT NOT NULL, day TEXT NOT NULL){clustered};
CREATE INDEX IF NOT EXISTS gateway_holds_by_end ON gateway_holds (account, ends_us);
CREATE TABLE IF NOT EXISTS gateway_budgets (
  account TEXT NOT NULL, period TEXT NOT NULL, tokens BIGINT NOT NULL, nano_usd BIGINT NOT NULL,
  PRIMARY KEY (account, period)){clustered};
CREATE TABLE IF NOT EXISTS gateway_audit (
  number BIGINT PRIMARY KEY, at_us BIGINT NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL, subject TEXT NOT NULL,
  detail TEXT NOT NULL, hash TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS gateway_feedback (
  id TEXT PRIMARY KEY, at_us BIGINT NOT NULL, account TEXT NOT NULL, kind TEXT NOT NULL, model TEXT NOT NULL,
  prompt_hash TEXT NOT NULL, consent BIGINT NOT NULL, record TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS gateway_routes (alias TEXT PRIMARY KEY, route TEXT NOT NULL)
"""
SQLITE_APPEND_ONLY = """
CREATE TRIGGER IF NOT EXISTS gateway_audit_kept BEFORE UPDATE ON gateway_audit BEGIN
  SELECT RAISE(ABORT, 'the audit only grows'); END;
CREATE TRIGGER IF NOT EXISTS gateway_audit_whole BEFORE DELETE ON gateway_audit BEGIN
  SELECT RAISE(ABORT, 'the audit only grows'); END
"""
POSTGRES_APPEND_ONLY = """
CREATE OR REPLACE FUNCTION gateway_audit_grows() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN RAISE EXCEPTION 'the audit only grows'; END $$;
CREATE OR REPLACE TRIGGER gateway_audit_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON gateway_audit
  FOR EACH STATEMENT EXECUTE FUNCTION gateway_audit_grows()
"""


POSTGRES_ATTEMPTS = """
CREATE TABLE IF NOT EXISTS gateway_failed_keys (number TEXT PRIMARY KEY, address TEXT NOT NULL, at_us BIGINT NOT NULL);
CREATE INDEX IF NOT EXISTS gateway_failed_keys_by_time ON gateway_failed_keys (address, at_us);
CREATE TABLE IF NOT EXISTS gateway_accepted_keys (
  address TEXT NOT NULL, key_id TEXT NOT NULL, at_us BIGINT NOT NULL, PRIMARY KEY (address, key_id))
"""
"""What replicas tell each other about keys that come from an address; the replicas of a SQLite file count for themselves."""
