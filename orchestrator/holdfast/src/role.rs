//! The roles that the operator starts in pods: each reads one JSON file and runs until it is told to stop.

use anyhow::Context;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Reads a role's configuration.
///
/// # Errors
/// The file cannot be read, or a field is missing or of the wrong type; the message names file, line and field.
pub(crate) fn config<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let text = std::fs::read(path).with_context(|| format!("cannot read the configuration {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not a valid configuration", path.display()))
}

/// Where a container leaves its last word (Kubernetes' `terminationMessagePath`), at most 4096 bytes.
const TERMINATION_LOG: &str = "/dev/termination-log";

/// Leaves a last word for the operator, which reads it from the pod's status. Outside a pod there is nobody to read it.
///
/// # Errors
/// There is such a file and it cannot be written.
pub(crate) fn last_word(word: &impl Serialize) -> anyhow::Result<()> {
    if !Path::new(TERMINATION_LOG).exists() {
        return Ok(());
    }
    std::fs::write(TERMINATION_LOG, serde_json::to_vec(word)?)
        .with_context(|| format!("cannot write {TERMINATION_LOG}"))
}

/// A token that SIGTERM and Ctrl-C cancel, so that every role ends in order.
///
/// # Errors
/// The process may not install signal handlers.
pub(crate) fn until_told_to_stop() -> anyhow::Result<CancellationToken> {
    let token = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    });
    Ok(token)
}
