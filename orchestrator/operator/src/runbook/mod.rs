//! The runbook: the page that a tired person follows, made from the plan.

mod by_hand;
mod cluster;
mod text;

use std::collections::BTreeMap;

use holdfast_api::recovery_plan::LastDrill;
use holdfast_api::{RecoveryPlanSpec, VaultSpec};
use jiff::Timestamp;

pub use cluster::{RunbookError, from_cluster};

/// Everything that the page is made of.
#[derive(Clone, Debug)]
pub struct Page {
    /// The plan's namespace.
    pub namespace: String,
    /// The plan's name.
    pub plan: String,
    /// The plan.
    pub spec: RecoveryPlanSpec,
    /// The hash of the plan.
    pub hash: String,
    /// The Vault of its databases, if it exists.
    pub vault: Option<(String, VaultSpec)>,
    /// Names in the vault by StandbyDatabase.
    pub sources: BTreeMap<String, String>,
    /// What changes from minute to minute; left out in what is stored and hashed.
    pub live: Option<Live>,
}

/// What is true of the plan's databases at one moment.
#[derive(Clone, Debug)]
pub struct Live {
    /// The moment.
    pub at: Timestamp,
    /// Whether the plan is ready, in words.
    pub ready: String,
    /// One row a database: name, state, replayed up to, seconds behind the vault.
    pub databases: Vec<LiveDatabase>,
    /// The last drill.
    pub last_drill: Option<LastDrill>,
    /// The hash of the page without these facts: failovers and drills record it.
    pub runbook_hash: String,
}

/// A database at one moment.
#[derive(Clone, Debug)]
pub struct LiveDatabase {
    /// Its name in the plan.
    pub name: String,
    /// Its state in words.
    pub state: String,
    /// How far the standby has replayed.
    pub replayed_lsn: Option<String>,
    /// How far it is behind the vault.
    pub lag_seconds: Option<f64>,
}

impl Page {
    /// The page in Markdown: pure.
    pub fn render(&self) -> String {
        text::render(self)
    }

    /// The name in the vault of a database of the plan.
    fn source<'a>(&'a self, standby: &'a str) -> &'a str {
        self.sources.get(standby).map_or(standby, String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recovery_plan::validate::tests::spec;
    use serde_json::json;

    fn page() -> Page {
        let vault = serde_json::from_value(json!({
            "endpoint": "http://s3.cloud:8333", "bucket": "holdfast", "credentials": {"secretName": "holdfast-vault"},
            "retentionDays": 7, "encryption": {"recipients": ["age1abc"], "identity": {"secretName": "holdfast-identity"}}}));
        Page {
            namespace: "hospital".into(),
            plan: "hospital".into(),
            spec: spec(json!({})),
            hash: "c0ffee".into(),
            vault: Some(("vault".into(), vault.unwrap())),
            sources: [("registration-db".to_owned(), "registration".to_owned())].into(),
            live: None,
        }
    }

    #[test]
    fn the_hash_is_at_the_top_and_at_the_bottom() {
        let text = page().render();
        let lines: Vec<&str> = text.lines().filter(|l| l.contains("c0ffee")).collect();
        assert!(lines.len() >= 2);
        assert!(text.lines().take(5).any(|l| l.contains("c0ffee")));
        assert!(text.lines().rev().take(3).any(|l| l.contains("c0ffee")));
    }

    #[test]
    fn every_database_and_service_is_named_in_order() {
        let text = page().render();
        for name in ["registration-db", "lab-db", "Deployment registration", "Deployment lab"] {
            assert!(text.contains(name), "{name} is missing");
        }
        let start = |name: &str| text.find(&format!("scale deployment {name} ")).unwrap();
        assert!(start("registration") < start("lab"), "registration starts before lab");
    }

    /// What a heredoc of the page writes into the file.
    fn file(text: &str, name: &str) -> String {
        let after = text.split(&format!("cat > {name} <<'END'\n")).nth(1).unwrap_or_else(|| panic!("no {name}"));
        after.split("\n    END").next().unwrap().trim().to_owned()
    }

    #[test]
    fn the_files_of_the_way_by_hand_are_what_the_programs_read() {
        use holdfast_dataplane::config::{AgentConfig, RelayConfig, RestoreConfig};
        let text = page().render();
        let _: holdfast_vault::VaultConfig = serde_json::from_str(&file(&text, "vault.json")).unwrap();
        let relay: RelayConfig = serde_json::from_str(&file(&text, "registration-relay.json")).unwrap();
        let restore: RestoreConfig = serde_json::from_str(&file(&text, "registration-restore.json")).unwrap();
        let agent: AgentConfig = serde_json::from_str(&file(&text, "registration-agent.json")).unwrap();
        assert_eq!(restore.primary.port, relay.serve.port());
        assert_eq!((restore.instance_id, restore.name), (agent.instance_id, agent.name));
    }

    #[test]
    fn what_is_stored_does_not_change_from_minute_to_minute() {
        let mut live = page();
        live.live = Some(Live {
            at: Timestamp::UNIX_EPOCH,
            ready: "ready".into(),
            databases: vec![LiveDatabase {
                name: "registration".into(),
                state: "Following".into(),
                replayed_lsn: Some("0/3000060".into()),
                lag_seconds: Some(0.0),
            }],
            last_drill: None,
            runbook_hash: "feed".into(),
        });
        assert_eq!(page().render(), page().render());
        let text = live.render();
        assert!(text.contains("0/3000060") && text.contains("feed"));
        assert!(!page().render().contains("1970"));
    }
}
