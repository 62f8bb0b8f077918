//! The continuous verification of Vaults: everything that is stored is looked at again and again, slowly, beside the
//! reconciles, and what was found is the Vault's condition Intact and its `status.verification`.
//!
//! A task for each Vault goes through the vault's databases in passes. A pass survives a restart at the granularity of a
//! database: what is through is in the status, and the database that was under way is begun anew. Of all Vaults only one is
//! read at a time, so that the operator stays small.

mod due;
mod evidence;
pub(crate) mod metrics;
mod pace;
mod part;
mod scrub;
mod status;
mod worker;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::Context;
use worker::Worker;

pub use evidence::{EVIDENCE, leave as leave_evidence};
pub use pace::Pace;
pub use part::{of_database_error, part};
pub use scrub::Scrub;
pub use status::{intact, own_part, put};

/// How often the Vaults are looked over, and how long a task waits at most before it looks at its Vault again.
const LOOK: Duration = Duration::from_secs(5);

/// Looks after a task for each Vault until `shutdown`. A step that is under way then is dropped: it only reads.
pub(crate) async fn run(ctx: Arc<Context>, shutdown: CancellationToken) {
    let looking_after = async {
        ctx.stores.are_ready().await;
        let turn = Arc::new(Semaphore::new(1));
        let mut workers: HashMap<String, AbortOnDropHandle<()>> = HashMap::new();
        loop {
            // A task ends when its Vault is gone, or when it panicked: then another one takes its place.
            workers.retain(|_, worker| !worker.is_finished());
            for vault in ctx.stores.vaults.state() {
                let Some(uid) = vault.uid() else { continue };
                workers.entry(uid).or_insert_with(|| {
                    let worker =
                        Worker::new(ctx.clone(), turn.clone(), ObjectRef::from_obj(vault.as_ref()), vault.as_ref());
                    AbortOnDropHandle::new(tokio::spawn(worker.run()))
                });
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = looking_after => {}
    }
}
