-- One role and one database of the same name. Runs at every start; a second run changes nothing but the password's salt.
-- Given: variable `role`, and `owner`: the role itself, or postgres where the role may only do what a file of ours grants.
-- The password is read from its file here, so that it never stands in a command line.
\set ON_ERROR_STOP on
\set QUIET on
\setenv ROLE :role
\set password `cat "/secrets/$ROLE.password"`
SELECT format('CREATE ROLE %I', :'role') WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'role') \gexec
ALTER ROLE :"role" WITH LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'password';
-- A role may change its own settings, and one that is read-only from the start could not work any more.
ALTER ROLE :"role" RESET ALL;
SELECT format('CREATE DATABASE %I OWNER %I', :'role', :'owner')
    WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'role') \gexec
ALTER DATABASE :"role" OWNER TO :"owner";
ALTER ROLE :"role" IN DATABASE :"role" RESET ALL;
REVOKE ALL ON DATABASE :"role" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"role" TO :"role";
