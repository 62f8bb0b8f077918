-- Two roles: the hospital's services own the database `hospital`; Holdfast reads the WAL, watches,
-- promotes, and may set the two parameters by which a primary waits for the vault and is fenced.
\getenv hospital_user HOSPITAL_USER
\getenv hospital_password HOSPITAL_PASSWORD
\getenv holdfast_user HOLDFAST_USER
\getenv holdfast_password HOLDFAST_PASSWORD

-- A failing statement would be logged with its password.
SET log_min_error_statement TO panic;
CREATE ROLE :"hospital_user" LOGIN PASSWORD :'hospital_password';
CREATE ROLE :"holdfast_user" LOGIN REPLICATION PASSWORD :'holdfast_password';
GRANT pg_monitor TO :"holdfast_user";
GRANT SET, ALTER SYSTEM
    ON PARAMETER synchronous_standby_names, default_transaction_read_only
    TO :"holdfast_user";
GRANT EXECUTE ON FUNCTION pg_reload_conf(), pg_promote(boolean, integer) TO :"holdfast_user";

CREATE DATABASE hospital OWNER :"hospital_user";
