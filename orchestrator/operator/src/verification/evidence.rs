//! What a pass leaves in the vault: that it was made, over what, and what it found.

use holdfast_api::vault::{VerificationStatus, VerifiedPart};
use holdfast_vault::{Vault, VaultError};
use jiff::Timestamp;
use serde::Serialize;

/// The kind of evidence that a pass leaves.
pub const EVIDENCE: &str = "verification";

/// The body of the evidence; `docs/vault-format.md` explains the fields.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    started: Option<Timestamp>,
    ended: Option<Timestamp>,
    objects: i64,
    bytes: i64,
    findings: i64,
    databases: &'a [VerifiedPart],
    #[serde(skip_serializing_if = "Option::is_none")]
    shared: Option<&'a VerifiedPart>,
}

/// Stores that a pass is complete, and notes in the record where that stands, or why it does not: credentials that may only
/// read leave none, and the pass counts all the same. A pass over nothing leaves none either: there is one every few minutes
/// then.
///
/// # Errors
/// A store that does not answer: to be tried again.
pub async fn leave(vault: &Vault, record: &mut VerificationStatus) -> Result<(), VaultError> {
    (record.evidence, record.evidence_problem) = (None, None);
    if record.databases.is_empty() {
        return Ok(());
    }
    let body = Body {
        started: record.started,
        ended: record.last_completed,
        objects: record.objects,
        bytes: record.bytes,
        findings: record.findings,
        databases: &record.databases,
        shared: record.shared.as_ref(),
    };
    let body = serde_json::to_value(body).map_err(|e| VaultError::BadConfig { reason: e.to_string() })?;
    match vault.put_evidence(EVIDENCE, &body).await {
        Ok(key) => record.evidence = Some(key),
        Err(error) if error.is_permanent() => record.evidence_problem = Some(why(&error)),
        Err(error) => return Err(error),
    }
    Ok(())
}

fn why(error: &VaultError) -> String {
    format!(
        "the pass counts, and left no evidence in the vault: {error}. To do, if it should: {}; it is put below evidence/",
        error.hint()
    )
}
