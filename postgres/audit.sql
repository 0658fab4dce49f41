-- The audit trail: rows that are only ever added, each bound to the one before by a hash. Runs at every start, as the
-- superuser, in the database `audit`; a second run changes nothing. docs/audit.md says how the chain is verified.
-- Given: role `audit`, which may insert the text of a record and do nothing else.
\set ON_ERROR_STOP on
\set QUIET on
SET client_min_messages = warning;
BEGIN;

CREATE SCHEMA IF NOT EXISTS audit AUTHORIZATION postgres;
REVOKE ALL ON SCHEMA audit, public FROM PUBLIC;

CREATE TABLE IF NOT EXISTS audit.trail (
    seq bigint PRIMARY KEY,
    -- One JSON object on one line, so that an export is the rows as they are.
    record text NOT NULL CHECK (
        octet_length(record) <= 16384 AND record !~ '[[:cntrl:]]' AND record LIKE '{%}' AND json_typeof(record::json) = 'object'),
    hash bytea NOT NULL CHECK (octet_length(hash) = 32)
);
ALTER TABLE audit.trail OWNER TO postgres;

-- Locked by each insert until its transaction ends: so numbers have no gaps and hashes follow each other, however many insert.
CREATE TABLE IF NOT EXISTS audit.turn ();
ALTER TABLE audit.turn OWNER TO postgres;

CREATE OR REPLACE FUNCTION audit.take_turn() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    LOCK TABLE audit.turn IN SHARE ROW EXCLUSIVE MODE;  -- one at a time; a backup, which only reads, waits for none of them
    RETURN NULL;
END $$;

-- Each of these queries sees what the same statement inserted before (PostgreSQL 17 manual, 39.2), so several rows at once work.
CREATE OR REPLACE FUNCTION audit.chain() RETURNS trigger
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    last record;
BEGIN
    SELECT seq, hash INTO last FROM audit.trail ORDER BY seq DESC LIMIT 1;
    NEW.seq := coalesce(last.seq, 0) + 1;
    NEW.hash := sha256(coalesce(last.hash, decode(repeat('00', 32), 'hex'))
        || convert_to(NEW.seq || ':' || NEW.record, 'UTF8'));
    RETURN NEW;
END $$;

CREATE OR REPLACE FUNCTION audit.refuse() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'the audit trail is only ever added to: % is refused', TG_OP USING ERRCODE = 'insufficient_privilege';
END $$;

CREATE OR REPLACE TRIGGER take_turn BEFORE INSERT ON audit.trail FOR EACH STATEMENT EXECUTE FUNCTION audit.take_turn();
CREATE OR REPLACE TRIGGER chain BEFORE INSERT ON audit.trail FOR EACH ROW EXECUTE FUNCTION audit.chain();
CREATE OR REPLACE TRIGGER refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON audit.trail
    FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse();
-- Also where session_replication_role switches ordinary triggers off.
ALTER TABLE audit.trail ENABLE ALWAYS TRIGGER take_turn;
ALTER TABLE audit.trail ENABLE ALWAYS TRIGGER chain;
ALTER TABLE audit.trail ENABLE ALWAYS TRIGGER refuse;

REVOKE ALL ON ALL TABLES IN SCHEMA audit FROM PUBLIC, audit;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA audit FROM PUBLIC, audit;
-- Everybody may make large objects otherwise, and fill the disk with them.
REVOKE EXECUTE ON FUNCTION pg_catalog.lo_creat(integer), pg_catalog.lo_create(oid), pg_catalog.lo_from_bytea(oid, bytea)
    FROM PUBLIC;
GRANT USAGE ON SCHEMA audit TO audit;
GRANT INSERT (record) ON audit.trail TO audit;

COMMIT;
