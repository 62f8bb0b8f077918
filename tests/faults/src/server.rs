//! The server as a whole, for tests and for the binary.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::access::Gate;
use crate::bucket::{Bucket, World};
use crate::clock::Clock;
use crate::fault::Faults;
use crate::operations::Buckets;
use crate::settings::Settings;
use crate::transport::Transport;

/// Access key and secret of who may do everything.
pub const ADMIN: (&str, &str) = ("holdfast-admin", "holdfast-admin-secret");
/// Access key and secret of who may do what a vault's writer may: no deletion, no change of settings.
pub const WRITER: (&str, &str) = ("holdfast-writer", "holdfast-writer-secret");

/// A running server with everything in memory. It ends when it is dropped.
#[derive(Debug)]
pub struct FaultServer {
    address: SocketAddr,
    buckets: Buckets,
    world: World,
    task: JoinHandle<()>,
}

impl FaultServer {
    /// Starts a server at a free port of this machine, without a bucket.
    ///
    /// # Errors
    /// No port can be listened at.
    pub async fn start() -> std::io::Result<FaultServer> {
        FaultServer::listen(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// Starts a server at this address, without a bucket.
    ///
    /// # Errors
    /// The address cannot be listened at.
    pub async fn listen(address: SocketAddr) -> std::io::Result<FaultServer> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let world = World::default();
        let buckets: Buckets = Arc::new(Mutex::default());
        let gate = Gate { faults: world.faults.clone() };
        let transport = Transport::new(buckets.clone(), world.clone(), gate);
        let task = tokio::spawn(transport.serve(listener));
        Ok(FaultServer { address, buckets, world, task })
    }

    /// Makes a bucket with versioning and Object Lock, as a vault needs it.
    pub fn create_bucket(&self, name: &str) {
        self.insert(name, Settings::locked());
    }

    /// Makes a bucket without versioning and without Object Lock.
    pub fn create_plain_bucket(&self, name: &str) {
        self.insert(name, Settings::default());
    }

    fn insert(&self, name: &str, settings: Settings) {
        let bucket = Bucket::new(settings);
        crate::operations::locked(&self.buckets).entry(name.to_owned()).or_insert(bucket);
    }

    /// The endpoint, `http://127.0.0.1:PORT`; buckets are part of the path.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The switches of its faults.
    pub fn faults(&self) -> &Faults {
        &self.world.faults
    }

    /// The store's clock.
    pub fn clock(&self) -> &Clock {
        &self.world.clock
    }

    /// Runs until the process ends.
    pub async fn forever(mut self) {
        let _ = (&mut self.task).await;
    }
}

impl Drop for FaultServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
