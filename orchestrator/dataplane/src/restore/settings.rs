//! The configuration of a restored server. It takes nothing from the source's own files, which may name paths,
//! libraries and hosts that do not exist here; they are kept beside ours with the ending `.source`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::config::{RestoreConfig, slot_name};

/// Settings that must not be lower on a standby than on its source, or replay stops.
const AT_LEAST_THE_SOURCE: [(&str, u64); 6] = [
    ("max_connections", 100),
    ("max_worker_processes", 8),
    ("max_wal_senders", 10),
    ("max_prepared_transactions", 0),
    ("max_locks_per_transaction", 64),
    ("max_replication_slots", 10),
];

/// Settings that change what applications see.
const AS_THE_SOURCE: [&str; 6] = [
    "TimeZone",
    "DateStyle",
    "IntervalStyle",
    "default_text_search_config",
    "bytea_output",
    "standard_conforming_strings",
];

/// What a base backup records of its source.
pub(crate) fn recorded() -> impl Iterator<Item = &'static str> {
    let for_people = [
        "server_version",
        "data_checksums",
        "wal_segment_size",
        "wal_level",
        "shared_preload_libraries",
        "lc_messages",
        "server_encoding",
    ];
    AT_LEAST_THE_SOURCE.iter().map(|(name, _)| *name).chain(AS_THE_SOURCE).chain(for_people)
}

pub(crate) const POSTGRESQL_CONF: &str = "# Written by holdfast restore. Own settings: ALTER SYSTEM, or holdfast.d/*.conf.\n\
    include 'holdfast.conf'\ninclude_dir 'holdfast.d'\n";

/// Local connections by the operating system's user (a person in the pod); everybody else by password.
pub(crate) const PG_HBA_CONF: &str = "# Written by holdfast restore.\n\
    local all all peer\n\
    host all all all scram-sha-256\n\
    host replication all all scram-sha-256\n";

/// `holdfast.conf`.
pub(crate) fn holdfast_conf(
    config: &RestoreConfig,
    password: Option<&str>,
    source: &BTreeMap<String, String>,
) -> String {
    let mut text = String::from("# Written by holdfast restore.\n");
    for (name, default) in AT_LEAST_THE_SOURCE {
        let value = source.get(name).and_then(|value| value.parse::<u64>().ok()).unwrap_or(default);
        line(&mut text, name, &value.max(default).to_string());
    }
    for name in AS_THE_SOURCE {
        if let Some(value) = source.get(name) {
            line(&mut text, name, value);
        }
    }
    let wal_level = source.get("wal_level").filter(|level| *level == "logical").map_or("replica", String::as_str);
    let ours = slot_name(&config.name);
    let password = password.map(|password| format!(" password='{}'", conninfo(password))).unwrap_or_default();
    // PostgreSQL's own limit does not hold for a standby: whoever connects at the moment at which a relay's pod goes would wait
    // two minutes for an address that nobody has. The kernel's does.
    let limits = "connect_timeout=5 tcp_user_timeout=5000";
    let primary = format!(
        "host='{}' port={} user=holdfast application_name={ours} {limits}{password}",
        conninfo(&config.primary.host),
        config.primary.port
    );
    let fixed: [(&str, &str); 21] = [
        ("listen_addresses", "*"),
        ("unix_socket_directories", &config.socket_directory.display().to_string()),
        ("wal_level", wal_level),
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("hot_standby", "on"),
        ("primary_conninfo", &primary),
        ("primary_slot_name", ""),
        ("recovery_target_timeline", "latest"),
        ("restore_command", ""),
        ("archive_mode", "off"),
        ("wal_keep_size", "256MB"),
        ("wal_retrieve_retry_interval", "500ms"),
        ("wal_receiver_status_interval", "1s"),
        ("max_standby_streaming_delay", "5s"),
        ("synchronous_commit", "on"),
        // On before the first client of a promoted server: nothing is acknowledged that is not in the vault.
        ("synchronous_standby_names", config.synchronous_standby.as_deref().unwrap_or("")),
        ("password_encryption", "scram-sha-256"),
        ("ssl", "off"),
        ("logging_collector", "off"),
        ("log_destination", "stderr"),
    ];
    for (name, value) in fixed {
        line(&mut text, name, value);
    }
    text
}

fn line(text: &mut String, name: &str, value: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{name} = '{}'", value.replace('\\', "\\\\").replace('\'', "''").replace(['\n', '\r'], " "));
}

fn conninfo(value: &str) -> String {
    value.replace('\\', "\\\\").replace('\'', "\\'")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PrimaryAddress;

    fn config() -> RestoreConfig {
        RestoreConfig {
            vault: serde_json::from_value(serde_json::json!({
                "endpoint": "http://127.0.0.1:1", "region": "r", "bucket": "b", "prefix": "p", "retentionDays": 1,
                "credentials": { "directory": "/none" }
            }))
            .expect("a vault configuration"),
            identity_file: "/none".into(),
            name: "lab-1".to_owned(),
            target: "/none".into(),
            backup: None,
            until: None,
            primary: PrimaryAddress { host: "o'relay".to_owned(), port: 5433, password_file: None },
            instance_id: "uid".to_owned(),
            synchronous_standby: Some("holdfast_lab_1".to_owned()),
            socket_directory: "/var/run/postgresql".into(),
        }
    }

    #[test]
    fn limits_are_never_below_the_source_and_quotes_are_escaped() {
        let source = BTreeMap::from([
            ("max_connections".to_owned(), "250".to_owned()),
            ("max_wal_senders".to_owned(), "3".to_owned()),
            ("TimeZone".to_owned(), "Europe/Prague".to_owned()),
        ]);
        let text = holdfast_conf(&config(), Some("s'"), &source);
        for expected in [
            "max_connections = '250'",
            "max_wal_senders = '10'",
            "TimeZone = 'Europe/Prague'",
            "synchronous_standby_names = 'holdfast_lab_1'",
            r"primary_conninfo = 'host=''o\\''relay'' port=5433 user=holdfast application_name=holdfast_lab_1 connect_timeout=5 tcp_user_timeout=5000 password=''s\\'''''",
        ] {
            assert!(text.contains(expected), "{expected} in\n{text}");
        }
    }

    #[test]
    fn a_drill_is_not_synchronous() {
        let drill = RestoreConfig { synchronous_standby: None, ..config() };
        assert!(holdfast_conf(&drill, None, &BTreeMap::new()).contains("synchronous_standby_names = ''\n"));
    }
}
