//! What a run left in the vault, read as an auditor would: by the library, chain and signatures checked.

use anyhow::{Context, Result, ensure};
use holdfast_api::run::Step;
use holdfast_lab::BUCKET;
use holdfast_recovery::Line;
use holdfast_recovery::journal::{Entry, Outcome, Record};
use holdfast_vault::{Vault, VaultConfig};
use serde_json::json;

use crate::story::Story;

impl Story {
    /// The lines of a run's journal in order; `evidence` is what the status of a Failover or Drill names.
    ///
    /// # Errors
    /// A journal that cannot be read, or whose chain does not hold.
    pub async fn journal(&self, evidence: &str) -> Result<Vec<Line>> {
        let run = evidence.strip_prefix("run/").with_context(|| format!("`{evidence}` is not a run"))?;
        let records = self.vault()?.journal(run)?.load().await?;
        let mut lines = Vec::new();
        for record in records {
            lines.extend(serde_json::from_value::<Record>(record.entry)?.lines);
        }
        Ok(lines)
    }

    /// The vault, as its administrator reaches it from this machine; it believes whoever signs.
    pub fn vault(&self) -> Result<Vault> {
        let cloud = self.lab.cloud();
        let config: VaultConfig = serde_json::from_value(json!({
            "endpoint": cloud.endpoint(),
            "region": "us-east-1",
            "bucket": BUCKET,
            "prefix": self.prefix(),
            "retentionDays": 1,
            "credentials": { "static": {
                "access_key_id": cloud.admin().access_key,
                "secret_access_key": cloud.admin().secret_key,
            } },
        }))?;
        Ok(Vault::open(config)?)
    }
}

/// Fails unless the journal tells a run that succeeded, in which each of these steps was announced before it was done.
pub fn tells_of_success(journal: &[Line], steps: &[Step]) -> Result<()> {
    let started = matches!(journal.first().map(|line| &line.entry), Some(Entry::Started(_)));
    let finished = journal.last().map(|line| &line.entry);
    let succeeded = matches!(finished, Some(Entry::Finished { outcome: Outcome::Succeeded, .. }));
    ensure!(started && succeeded, "it does not tell of a whole run: {journal:?}");
    for step in steps {
        let name = &step.name;
        let announced =
            journal.iter().position(|line| matches!(&line.entry, Entry::Intent { step, .. } if step.as_str() == name));
        let done =
            journal.iter().rposition(|line| matches!(&line.entry, Entry::Done { step, .. } if step.as_str() == name));
        ensure!(announced.is_some() && announced < done, "{name} was announced at {announced:?}, done at {done:?}");
    }
    Ok(())
}
