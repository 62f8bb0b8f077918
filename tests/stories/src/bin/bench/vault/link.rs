//! A network link before a server: all connections share so many bytes a second.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

/// Bytes that are passed on at once.
const PIECE: usize = 64 * 1024;
/// A timer wakes up to a millisecond or two late. What the wire did not carry for that it catches up with, as a switch's buffer
/// would: else a few connections could never fill it, as they fill a real one.
const BUFFER: Duration = Duration::from_millis(4);

/// A link that is up as long as this lives.
pub(super) struct Link {
    address: SocketAddr,
    /// On a thread of its own, so that it waits for nobody's work. Always there but while it is dropped.
    runtime: Option<Runtime>,
}

impl Drop for Link {
    fn drop(&mut self) {
        // Waiting for its end is not allowed among tasks.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Link {
    /// What is sent to the link goes to `server` at once; what comes back takes its time.
    pub(super) fn new(server: SocketAddr, bytes_per_second: f64) -> Result<Link> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("a port for the link")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let wire = Arc::new(Wire { free: Mutex::new(None), bytes_per_second });
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener)?;
            loop {
                let (client, _) = listener.accept().await?;
                let wire = Arc::clone(&wire);
                // A connection that breaks is the client's to see.
                tokio::spawn(async move { carry(client, server, &wire).await });
            }
            #[expect(unreachable_code, reason = "gives the block its type")]
            std::io::Result::Ok(())
        });
        Ok(Link { address, runtime: Some(runtime) })
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// What all connections share.
struct Wire {
    /// When it is free for the next bytes; none before the first.
    free: Mutex<Option<Instant>>,
    bytes_per_second: f64,
}

impl Wire {
    /// When so many bytes have arrived that are sent now.
    fn arrival(&self, bytes: usize) -> Instant {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let from = free.map_or(now, |at| at.max(now - BUFFER));
        *free.insert(from + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second))
    }
}

async fn carry(client: TcpStream, server: SocketAddr, wire: &Wire) -> std::io::Result<()> {
    let server = TcpStream::connect(server).await?;
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let there = async move {
        tokio::io::copy(&mut from_client, &mut to_server).await?;
        to_server.shutdown().await
    };
    let back = async move {
        let mut piece = vec![0; PIECE];
        loop {
            let len = from_server.read(&mut piece).await?;
            if len == 0 {
                return to_client.shutdown().await;
            }
            tokio::time::sleep_until(wire.arrival(len)).await;
            to_client.write_all(&piece[..len]).await?;
        }
    };
    tokio::try_join!(there, back).map(|_| ())
}
