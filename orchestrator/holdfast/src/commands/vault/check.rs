//! `holdfast vault check`: the lock probe, by hand.

use anyhow::Context;
use clap::Args;
use holdfast_vault::{LockProbe, ProbeOptions, in_sync};

use super::{Output, Printed, Table, Where, print_json};

/// Try to break the vault's lock with the vault's own credentials.
///
/// Tries to delete, shorten, overwrite and hide a small object that it stores for this, and to change the bucket's
/// settings; reads back what came of each attempt, and puts back at once what it changed. The result is stored in the vault
/// as evidence. What is left: a few objects of some bytes below `probe/`, until their locks end. Exit code 1 when an
/// attempt did harm.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  holdfast vault check --vault hospital -n hospital\n  \
    holdfast vault check --bucket vault --endpoint https://s3.example.org --credentials /etc/holdfast/s3 \\\n      \
    --other-prefix laboratory/ -o json")]
pub(crate) struct Check {
    /// A prefix of the same bucket that belongs to somebody else: reading there must be refused.
    #[arg(long, value_name = "PREFIX")]
    other_prefix: Option<String>,
    /// Do not store the result in the vault.
    #[arg(long)]
    no_evidence: bool,
}

impl Check {
    pub(crate) async fn run(self, place: &Where) -> anyhow::Result<()> {
        place.needs_s3()?;
        let vault = place.open().await?;
        let probe = vault.probe_lock(&ProbeOptions { other_prefix: self.other_prefix }).await?;
        let mut json = serde_json::to_value(&probe)?;
        let evidence = match self.no_evidence {
            true => None,
            false => Some(vault.put_lock_evidence(&probe).await.context("the result could not be stored as evidence")),
        };
        match (place.output, &evidence) {
            (Output::Json, Some(Ok(key))) => {
                json["evidence"] = key.as_str().into();
                print_json(&json)?;
            }
            (Output::Json, _) => print_json(&json)?,
            (Output::Table, _) => print!("{}", text(&probe, evidence.as_ref().and_then(|key| key.as_deref().ok()))),
        }
        // Printed first: harm is worth more than its record.
        evidence.transpose()?;
        if probe.harmful().next().is_some() { Err(Printed.into()) } else { Ok(()) }
    }
}

fn text(probe: &LockProbe, evidence: Option<&str>) -> String {
    let mut table = Table::new(&["ATTEMPT", "OUTCOME", "DETAIL"]);
    for tried in &probe.attempts {
        let (title, outcome) = (tried.attempt.title(), tried.outcome.name());
        table.row([title.to_owned(), outcome.to_uppercase(), tried.outcome.detail()]);
    }
    let harmful = probe.harmful().count();
    let verdict = match (harmful, probe.lock_is_broken()) {
        (0, _) => "the lock holds: no attempt did harm".to_owned(),
        (n, false) => format!("the lock holds, and these credentials may do too much; attempts that did harm: {n}"),
        (n, true) => format!("THE LOCK DOES NOT HOLD; attempts that did harm: {n}"),
    };
    let clock = match probe.check.clock_skew_seconds {
        Some(skew) if in_sync(skew) => format!("{skew} s from this machine's"),
        Some(skew) => format!("{skew} s from this machine's: TOO FAR. Synchronise this machine's clock (NTP)"),
        None => "the store tells no time".to_owned(),
    };
    let mut lines = vec![
        table.to_string(),
        format!("bucket:        {}", probe.bucket),
        format!("store's clock: {clock}"),
        format!("verdict:       {verdict}"),
    ];
    lines.extend(evidence.map(|key| format!("evidence:      {key}")));
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn probe(outcome: serde_json::Value, skew: i64) -> LockProbe {
        let mut tried = json!({"attempt": "put-policy"});
        tried.as_object_mut().unwrap().extend(outcome.as_object().unwrap().clone());
        serde_json::from_value(json!({
            "bucket": "b", "ended": "2026-11-24T12:00:00Z", "probe": "k", "lockedUntil": "2026-11-25T12:00:00Z",
            "clockSkewSeconds": skew, "attempts": [tried]
        }))
        .unwrap()
    }

    #[test]
    fn the_table_ends_in_a_verdict() {
        let sound = text(&probe(json!({"outcome": "refused", "said": "403 AccessDenied"}), 1), Some("p/v1/evidence/x"));
        for part in ["REFUSED", "403 AccessDenied", "the lock holds: no attempt", "p/v1/evidence/x", "1 s from"] {
            assert!(sound.contains(part), "{part} in {sound}");
        }
        let harmed = text(&probe(json!({"outcome": "harmful", "what": "w", "remedy": "r"}), 300), None);
        for part in ["HARMFUL", "w. To do: r", "may do too much", "TOO FAR"] {
            assert!(harmed.contains(part), "{part} in {harmed}");
        }
    }
}
