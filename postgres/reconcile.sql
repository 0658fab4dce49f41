-- One role and one database of the same name. Runs at every start; a second run changes nothing but the password's salt.
-- Given: variable `role`. The password is read from its file here, so that it never stands in a command line.
\set ON_ERROR_STOP on
\set QUIET on
\setenv ROLE :role
\set password `cat "/secrets/$ROLE.password"`
SELECT format('CREATE ROLE %I', :'role') WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'role') \gexec
ALTER ROLE :"role" WITH LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'password';
SELECT format('CREATE DATABASE %I OWNER %I', :'role', :'role')
    WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'role') \gexec
ALTER DATABASE :"role" OWNER TO :"role";
REVOKE ALL ON DATABASE :"role" FROM PUBLIC;
