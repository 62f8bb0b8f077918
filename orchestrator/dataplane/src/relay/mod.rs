//! The relay: what a standby at a site that has nothing but the vault connects to.
//!
//! PostgreSQL's own walreceiver follows it as it would follow a primary. Only what is stored without a hole and
//! verifies (chain, signature, digest) is served, and nothing of that is ever taken back: at a takeover it stops at the
//! sealed end, and goes on when the writer of the new history has claimed the log. A damaged object ends the service
//! there, with the object's name on `/status`.

mod cursor;
mod metrics;
mod source;
mod view;

use std::sync::Arc;
use std::time::Duration;

use holdfast_protocol::server::{Authentication, ServeOptions, serve_with};
use holdfast_vault::{DatabaseVault, Identities, Identity, Vault, VaultError};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::metrics::RelayMetrics;
use self::source::VaultSource;
use self::view::View;
use crate::backoff::Backoff;
use crate::board::Board;
use crate::config::RelayConfig;
use crate::http::{self, ListenError};
use crate::problem::{code, vault_problem};
use crate::secret;
use crate::status::{Problem, RelayState, RelayStatus};

/// Without a standby nobody reads; the relay looks for itself.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// Each standby's reader takes memory.
const MAX_CONNECTIONS: usize = 4;

/// Why the relay cannot even say what is wrong.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    #[error(transparent)]
    Listen(#[from] ListenError),
}

/// Runs until `shutdown`.
pub async fn run(config: RelayConfig, shutdown: CancellationToken) -> Result<(), RelayError> {
    let http_listener = http::bind(config.listen).await?;
    let listener = http::bind(config.serve).await?;
    let board = Board::new(RelayStatus::default());
    let metrics = Arc::new(RelayMetrics::new());
    let view = View::new(board.clone(), Arc::clone(&metrics), config.until);
    // Connections run as tasks of their own; they end with this future, also when it is dropped.
    let shutdown = shutdown.child_token();
    let _ends = shutdown.clone().drop_guard();
    let http = http::serve(http_listener, board, metrics, shutdown.clone());
    let working = async {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = work(&config, listener, &view, &shutdown) => {}
        }
    };
    let (served, ()) = tokio::join!(http, working);
    Ok(served?)
}

async fn work(config: &RelayConfig, listener: TcpListener, view: &View, shutdown: &CancellationToken) {
    let (source, options) = opened(config, view).await;
    let database = source.database.clone();
    let observer = {
        let view = view.clone();
        move |progress| view.client(&progress)
    };
    let serving = serve_with(listener, source, options, observer, shutdown.clone());
    tokio::select! {
        served = serving => if let Err(error) = served {
            view.fail(RelayState::Refused, Problem::new(
                code::REPLICATION_FAILED,
                format!("the replication listener failed: {error}"),
                "restart the relay",
            ));
            std::future::pending::<()>().await;
        },
        () = look_now_and_then(&database, view) => {}
    }
}

/// Tries until the vault can be read and knows the database.
async fn opened(config: &RelayConfig, view: &View) -> (VaultSource, ServeOptions) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    loop {
        match open(config, view).await {
            Ok(opened) => return opened,
            Err((state, problem)) => view.fail(state, problem),
        }
        tokio::time::sleep(backoff.delay()).await;
    }
}

async fn open(config: &RelayConfig, view: &View) -> Result<(VaultSource, ServeOptions), (RelayState, Problem)> {
    let identities = Identities::from_file(&config.identity_file).map_err(|error| {
        (RelayState::Refused, Problem { code: code::IDENTITY_UNUSABLE.to_owned(), ..vault_problem(&error) })
    })?;
    let failed = |error: VaultError| {
        let state = if error.is_permanent() { RelayState::Refused } else { RelayState::Retrying };
        (state, vault_problem(&error))
    };
    let vault = Vault::open(config.vault.clone()).map_err(failed)?;
    view.metrics.store.opened(&vault);
    let database = vault.database(&config.name).map_err(failed)?;
    let identity: Identity = database.identity().await.map_err(failed)?.ok_or_else(|| {
        let problem = Problem::new(
            code::NOTHING_TO_RESTORE,
            format!("the vault has no database `{}`", config.name),
            "check the name, and that the ProtectedDatabase at the other site has started",
        );
        (RelayState::Retrying, problem)
    })?;
    let authentication = match &config.password_file {
        None => Authentication::Trust,
        Some(path) => Authentication::Password(secret::read(path).map_err(|reason| {
            (
                RelayState::Refused,
                Problem::new(code::CREDENTIALS_UNREADABLE, reason, "mount the Secret that password_file names"),
            )
        })?),
    };
    let version = database.backups().await.map_err(failed)?.pop().map(|backup| backup.meta.server_version);
    let options = ServeOptions {
        authentication,
        segment_size: identity.segment_size,
        max_connections: MAX_CONNECTIONS,
        server_version: version.unwrap_or_else(|| ServeOptions::default().server_version),
        ..ServeOptions::default()
    };
    view.board.update(|status| status.system_id = Some(identity.system_id));
    let source =
        VaultSource { database, identities, system_id: identity.system_id, until: config.until, view: view.clone() };
    Ok((source, options))
}

async fn look_now_and_then(database: &DatabaseVault, view: &View) {
    loop {
        let stale = view.last_seen().is_none_or(|seen| seen.elapsed() >= LOOK_EVERY);
        let damaged = view.board.read().state == RelayState::Damaged;
        if stale && !damaged {
            match database.tip().await {
                Ok(tip) => view.tip(&tip),
                Err(error) => view.vault_failed(&error),
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
