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

    /// The blocks of the page, and what stands between them.
    fn blocks(text: &str) -> (Vec<String>, String) {
        let (mut blocks, mut between, mut inside) = (Vec::new(), String::new(), None::<String>);
        for line in text.lines() {
            match (&mut inside, line) {
                (None, "```sh") => inside = Some(String::new()),
                (Some(block), "```") => {
                    blocks.push(std::mem::take(block));
                    inside = None;
                }
                (Some(block), _) => *block += &format!("{line}\n"),
                (None, _) => between += &format!("{line}\n"),
            }
        }
        assert!(inside.is_none(), "a block without an end");
        (blocks, between)
    }

    fn bash(folder: &std::path::Path, arguments: &[&str]) -> std::process::Output {
        std::process::Command::new("bash").args(arguments).current_dir(folder).output().expect("bash runs")
    }

    #[test]
    fn every_block_can_be_pasted_as_it_is_printed() {
        let text = page().render();
        let (blocks, between) = blocks(&text);
        assert!(blocks.len() > 20, "{}", blocks.len());
        for block in blocks {
            // A heredoc without its end is a warning only.
            let parsed = bash(&std::env::temp_dir(), &["-n", "-c", &block]);
            let said = String::from_utf8_lossy(&parsed.stderr);
            assert!(parsed.status.success() && said.is_empty(), "{said}\n{block}");
        }
        for line in between.lines() {
            assert!(!line.starts_with("    ") && !line.contains("<<"), "a command outside of a block: {line}");
        }
    }

    #[test]
    fn the_files_of_the_way_by_hand_are_what_the_programs_read() {
        use holdfast_dataplane::config::{AgentConfig, RelayConfig, RestoreConfig};
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("registration.instance"), "hand-registration-20261127-010203\n").unwrap();
        let (blocks, _) = blocks(&page().render());
        // bash itself writes the files: what stands from each `cat >` to its END.
        for block in &blocks {
            let mut rest = block.as_str();
            while let Some(start) = rest.find("cat > ") {
                let end = rest[start..].find("\nEND\n").expect("an end") + start + "\nEND\n".len();
                assert!(bash(folder.path(), &["-c", &rest[start..end]]).status.success());
                rest = &rest[end..];
            }
        }
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        let vault: holdfast_vault::VaultConfig = serde_json::from_str(&read("vault.json")).unwrap();
        let relay: RelayConfig = serde_json::from_str(&read("registration-relay.json")).unwrap();
        let restore: RestoreConfig = serde_json::from_str(&read("registration-restore.json")).unwrap();
        let agent: AgentConfig = serde_json::from_str(&read("registration-agent.json")).unwrap();
        assert_eq!(restore.primary.port, relay.serve.port());
        assert_eq!((&restore.instance_id, &restore.name), (&agent.instance_id, &agent.name));
        assert_eq!(agent.instance_id, "hand-registration-20261127-010203");
        assert_eq!([&relay.vault, &restore.vault, &agent.vault], [&vault; 3]);
    }

    #[test]
    fn what_a_name_says_is_never_run() {
        let mut page = page();
        let (_, vault) = page.vault.as_mut().unwrap();
        vault.encryption.recipients = vec!["age1$(touch owned)`touch owned`\\".to_owned()];
        let folder = tempfile::tempdir().unwrap();
        let text = page.render();
        let start = text.find("cat > registration-agent.json").unwrap();
        let end = text[start..].find("\nEND\n").unwrap() + start + "\nEND\n".len();
        assert!(bash(folder.path(), &["-c", &text[start..end]]).status.success());
        assert!(!folder.path().join("owned").exists());
        let written = std::fs::read_to_string(folder.path().join("registration-agent.json")).unwrap();
        assert!(written.contains(r#""age1$(touch owned)`touch owned`\\""#), "{written}");
    }

    #[test]
    fn every_execution_has_a_name_of_its_own() {
        let mut page = page();
        page.plan = "the-general-hospital-of-the-county".into();
        let text = page.render();
        for variable in ["FAILOVER", "DRILL"] {
            let line = text.lines().find(|l| l.starts_with(&format!("{variable}="))).expect("a name");
            let echo = bash(&std::env::temp_dir(), &["-c", &format!("{line}; printf %s ${variable}")]);
            let name = String::from_utf8(echo.stdout).unwrap();
            assert!(name.starts_with("the-general-hospital-of-2") && name.len() <= 40, "{name}");
            assert!(text.contains(&format!("metadata: {{name: ${variable}, ")));
        }
        assert!(!text.contains("county-1"));
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
