//! The serving end: a walsender for anything that has WAL.
//!
//! A PostgreSQL standby whose `primary_conninfo` points here follows the [`WalSource`] as it would
//! follow a primary, across timelines too. Nothing can be written through this server, and it
//! answers no SQL.

mod auth;
mod command;
mod reply;
mod session;
mod source;
mod stream;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use holdfast_wal::{Lsn, SEGMENT_SIZE_DEFAULT, TimelineId};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use auth::Authentication;
pub use source::{SourceError, WalPiece, WalSource};

use session::Session;

/// How a server behaves.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Who may connect.
    pub authentication: Authentication,
    /// What `SHOW wal_segment_size` says, in bytes.
    pub segment_size: u64,
    /// What is reported as `server_version`; its major version should be the standby's.
    pub server_version: String,
    /// A sign of life is sent this often when there is nothing else to send.
    pub keepalive_interval: Duration,
    /// A standby that was not heard of for so long is dropped; it is asked for a reply well before.
    pub silence_limit: Duration,
    /// For everything before the first command.
    pub login_timeout: Duration,
    /// Connections beyond so many are closed at once.
    pub max_connections: usize,
}

impl Default for ServeOptions {
    fn default() -> Self {
        ServeOptions {
            authentication: Authentication::Trust,
            segment_size: SEGMENT_SIZE_DEFAULT,
            server_version: "15.0".into(),
            keepalive_interval: Duration::from_secs(1),
            silence_limit: Duration::from_secs(60),
            login_timeout: Duration::from_secs(10),
            max_connections: 32,
        }
    }
}

/// What is known of one standby; told at every change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientProgress {
    /// Where it connects from.
    pub peer: SocketAddr,
    /// What it calls itself.
    pub application_name: String,
    /// What it is being sent.
    pub timeline: TimelineId,
    /// The end of what was sent.
    pub sent: Lsn,
    /// The end of what it has written; invalid before its first status. Likewise the next two.
    pub written: Lsn,
    /// The end of what is on its disk.
    pub flushed: Lsn,
    /// The end of what it has replayed.
    pub applied: Lsn,
    /// False in the last report: the stream is over.
    pub connected: bool,
}

/// Serves with [`ServeOptions::default`]: everybody who can connect is trusted.
pub async fn serve(
    listener: TcpListener,
    source: impl WalSource,
    observer: impl Fn(ClientProgress) + Send + Sync + 'static,
    shutdown: CancellationToken,
) -> io::Result<()> {
    serve_with(listener, source, ServeOptions::default(), observer, shutdown).await
}

/// Serves `source` on `listener` until `shutdown`; then it closes every connection.
///
/// `observer` is called from the connections' tasks and must not block. An error is one of the
/// listener's; those of a connection end that connection and are logged.
pub async fn serve_with(
    listener: TcpListener,
    source: impl WalSource,
    options: ServeOptions,
    observer: impl Fn(ClientProgress) + Send + Sync + 'static,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(options.max_connections));
    let (options, observer) = (Arc::new(options), Arc::new(observer));
    let sessions = TaskTracker::new();
    while let Some(accepted) = shutdown.run_until_cancelled(listener.accept()).await {
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_passing(&error) => {
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::warn!(%peer, limit = options.max_connections, "refused a connection: too many");
            continue;
        };
        let session = run_session(stream, peer, source.clone(), Arc::clone(&options), Arc::clone(&observer));
        let shutdown = shutdown.clone();
        sessions.spawn(async move {
            shutdown.run_until_cancelled(session).await;
            drop(place);
        });
    }
    sessions.close();
    sessions.wait().await;
    Ok(())
}

async fn run_session<S: WalSource, O: Fn(ClientProgress) + Send + Sync + 'static>(
    stream: TcpStream,
    peer: SocketAddr,
    source: S,
    options: Arc<ServeOptions>,
    observer: Arc<O>,
) {
    let ended = match Session::new(stream, peer, source, options, observer) {
        Ok(session) => session.run().await,
        Err(error) => Err(error.into()),
    };
    match ended {
        Ok(()) => tracing::info!(%peer, "a standby disconnected"),
        Err(error) => tracing::warn!(%peer, %error, "a connection ended"),
    }
}

/// Errors of `accept` that concern one connection, or that pass when others close.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    // ENFILE and EMFILE have no kind of their own.
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
        || matches!(error.raw_os_error(), Some(23 | 24))
}

/// Reads a body as everything that a client may send, for `fuzz/`.
pub(crate) fn fuzz_read(body: &bytes::Bytes) {
    session::fuzz_startup(body);
    if let Ok(text) = std::str::from_utf8(body) {
        let _ = command::parse(text.trim_end_matches('\0'));
    }
    static SCRAM: std::sync::OnceLock<Option<auth::ScramServer>> = std::sync::OnceLock::new();
    if let Some(scram) = SCRAM.get_or_init(|| auth::ScramServer::new("password"))
        && let Some(challenge) = scram.challenge(body.clone())
    {
        assert!(scram.verify(&challenge, body).is_none(), "the first message proves nothing");
    }
}
