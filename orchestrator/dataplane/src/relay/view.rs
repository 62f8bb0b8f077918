//! What the relay's streams have seen of the log, for `/status`.

use std::net::SocketAddr;
use std::time::Instant;

use holdfast_protocol::server::ClientProgress;
use holdfast_vault::{ReadError, SealKind, SealSummary, Tampering, Tip, VaultError};
use holdfast_wal::Lsn;

use crate::board::Board;
use crate::problem::{code, vault_problem};
use crate::relay::metrics::RelayMetrics;
use crate::status::{Problem, RelayClient, RelayState, RelayStatus};

/// Keeps the status; shared by all streams.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) board: Board<RelayStatus>,
    pub(crate) metrics: std::sync::Arc<RelayMetrics>,
    pub(crate) until: Option<crate::config::Until>,
    seen: Board<Option<Instant>>,
}

impl View {
    pub(crate) fn new(
        board: Board<RelayStatus>,
        metrics: std::sync::Arc<RelayMetrics>,
        until: Option<crate::config::Until>,
    ) -> Self {
        Self { board, metrics, until, seen: Board::new(None) }
    }

    /// When anything was last read of the log's end.
    pub(crate) fn last_seen(&self) -> Option<Instant> {
        self.seen.read()
    }

    pub(crate) fn tip(&self, tip: &Tip) {
        let (history, end) = super::cursor::certain(tip, self.until);
        self.board.update(|status| {
            status.timeline = Some(history.timeline);
            status.sealed = tip.pending().map(|seal| seal.at.start);
        });
        // Where the log ends is known without opening what is before it: only a stream that came to the end clears a damage.
        if self.board.read().state != RelayState::Damaged {
            self.at_end(end, tip.epoch);
        }
    }

    pub(crate) fn wal(&self, end: Lsn) {
        self.metrics.chunks_read.inc();
        self.metrics.tip_at(end.min(self.fixed_end()), Instant::now());
        self.board.update(|status| {
            status.tip = status.tip.max(Some(end.min(self.fixed_end())));
            status.at_end = false;
            if matches!(status.state, RelayState::Starting | RelayState::Retrying) {
                status.state = RelayState::Serving;
                status.problem = None;
            }
        });
    }

    pub(crate) fn at_end(&self, tip: Lsn, epoch: u64) {
        self.seen.update(|seen| *seen = Some(Instant::now()));
        let tip = tip.min(self.fixed_end());
        self.metrics.tip_at(tip, Instant::now());
        let finished = self.until.is_some_and(|until| tip >= until.lsn);
        self.board.update(|status| {
            status.tip = Some(tip);
            status.tip_epoch = Some(epoch);
            status.at_end = true;
            status.state = if finished { RelayState::Finished } else { RelayState::Serving };
            status.problem = None;
        });
    }

    pub(crate) fn seal(&self, seal: &SealSummary) {
        tracing::info!(kind = %seal.kind, at = %seal.at, by = seal.by, "seal");
        self.board.update(|status| {
            status.sealed = (seal.kind == SealKind::Takeover).then_some(seal.at.start);
            if seal.kind == SealKind::Claim {
                status.timeline = Some(seal.lineage.history.timeline);
            }
        });
    }

    pub(crate) fn tampering(&self, tampering: &Tampering) {
        self.metrics.tampering.inc();
        tracing::warn!(%tampering, "the vault was tampered with; the oldest version was read");
        self.board.update(|status| status.tampering = Some(tampering.to_string()));
    }

    pub(crate) fn read_failed(&self, error: &ReadError) {
        self.metrics.read_failures.inc();
        match error {
            ReadError::Vault(error) => self.vault_failed(error),
            ReadError::EndsBefore { .. } | ReadError::Stopped => {
                tracing::warn!(%error, "a reader of the log has ended")
            }
            ReadError::BeforeOrigin { .. } | ReadError::Archived { .. } => self.fail(
                RelayState::Serving,
                Problem::new(
                    code::WAL_GONE,
                    format!("a standby asks for WAL that is not in the vault: {error}"),
                    "rebuild the standby from a base backup in the vault",
                ),
            ),
        }
    }

    pub(crate) fn vault_failed(&self, error: &VaultError) {
        let state = match error {
            VaultError::Damaged { .. } => RelayState::Damaged,
            error if error.is_permanent() => RelayState::Refused,
            _ => RelayState::Retrying,
        };
        self.fail(state, vault_problem(error));
    }

    pub(crate) fn fail(&self, state: RelayState, problem: Problem) {
        self.board.update(|status| {
            if status.problem.as_ref() != Some(&problem) {
                tracing::warn!(code = problem.code, hint = problem.hint, "{}", problem.message);
            }
            status.state = state;
            status.problem = Some(problem);
            status.at_end = false;
        });
    }

    /// Called from the connections' tasks at every change.
    pub(crate) fn client(&self, progress: &ClientProgress) {
        self.board.update(|status| {
            let address = progress.peer.to_string();
            status.clients.retain(|client| client.address != address);
            status.served = status.served.max(valid(progress.sent));
            if progress.connected {
                status.clients.push(client(progress.peer, progress));
            }
        });
    }

    fn fixed_end(&self) -> Lsn {
        self.until.map_or(Lsn(u64::MAX), |until| until.lsn)
    }
}

fn client(peer: SocketAddr, progress: &ClientProgress) -> RelayClient {
    RelayClient {
        address: peer.to_string(),
        application_name: progress.application_name.clone(),
        sent: valid(progress.sent),
        flushed: valid(progress.flushed),
        applied: valid(progress.applied),
    }
}

fn valid(lsn: Lsn) -> Option<Lsn> {
    lsn.is_valid().then_some(lsn)
}
