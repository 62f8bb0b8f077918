//! Steps of databases that a failover and a drill share: wait for the replay, and see that a commit is
//! acknowledged.

use std::time::Duration;

use holdfast_api::StandbyDatabase;
use holdfast_dataplane::instance::{Instance, RecoveryState, Target};
use holdfast_recovery::StepError;
use holdfast_recovery::executor::Progress;
use holdfast_vault::{DatabaseVault, Identities};
use holdfast_wal::Lsn;
use kube::runtime::reflector::ObjectRef;
use tokio::time::{Instant, sleep, timeout};

use crate::Context;
use crate::role::RoleError;

use super::remedy::step_error;

/// How often a server is asked.
const POLL: Duration = Duration::from_millis(50);
/// Without any progress for so long, what is there is taken for all there is.
const STALLED: Duration = Duration::from_millis(300);
/// One attempt to replay; then the step counts as failed and is repeated.
const REPLAY_TIMEOUT: Duration = Duration::from_secs(600);
/// Whoever reads a log for its last record may hold a whole segment of WAL, so databases take turns; but none waits longer for
/// another's log, which may be on a store that does not answer.
const TURN: Duration = Duration::from_secs(1);
/// How long one commit may wait for its acknowledgement.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);

/// The StandbyDatabase, as last watched.
///
/// # Errors
/// When it does not exist.
pub fn standby(ctx: &Context, namespace: &str, name: &str) -> Result<std::sync::Arc<StandbyDatabase>, StepError> {
    let found = ctx.stores.standby_databases.get(&ObjectRef::new(name).within(namespace));
    found.ok_or_else(|| {
        StepError::person(
            format!("there is no StandbyDatabase {namespace}/{name}"),
            "apply it, or correct the plan and create another execution",
        )
    })
}

/// A log and how far it is to be replayed.
pub struct ReplayTarget<'a> {
    pub(crate) log: &'a DatabaseVault,
    pub(crate) identities: &'a Identities,
    pub(crate) upto: Lsn,
}

/// Waits until the standby has replayed to the end of the last complete record at or below `upto`, and
/// returns that position.
///
/// # Errors
/// A standby that replayed beyond it, or does not replay, needs a person. A damaged object is named.
pub async fn replay(
    ctx: &Context,
    standby: &StandbyDatabase,
    target: &ReplayTarget<'_>,
    progress: &Progress,
) -> Result<Lsn, StepError> {
    let instance = ctx.connect_standby(standby).await.map_err(step_error)?;
    let mut wait = ReplayWait::new();
    let deadline = Instant::now() + REPLAY_TIMEOUT;
    loop {
        let state = recovery_state(&instance).await?;
        let replayed = state.replay_lsn.unwrap_or(Lsn::INVALID);
        check(&state, replayed, target.upto)?;
        if wait.floor.is_none() && wait.has_all(&state, target.upto) {
            wait.floor = Some(floor(ctx, target, replayed).await?);
        }
        if wait.floor.is_some_and(|floor| floor <= replayed) {
            return Ok(replayed);
        }
        progress.say(format!("replayed {replayed} of {}", wait.floor.unwrap_or(target.upto)));
        if Instant::now() >= deadline {
            return Err(too_slow(replayed, target.upto));
        }
        sleep(POLL).await;
    }
}

async fn floor(ctx: &Context, target: &ReplayTarget<'_>, replayed: Lsn) -> Result<Lsn, StepError> {
    let _turn = timeout(TURN, ctx.floors.acquire()).await;
    let floor = target.log.floor(target.identities.clone(), replayed, target.upto).await;
    floor.map_err(step_error)
}

/// Decides when it is worth asking the vault where the last record ends: once all has been received, or
/// when nothing moves any more (a server that restarted does not say what it had received before).
struct ReplayWait {
    last: Option<(Option<Lsn>, Option<Lsn>)>,
    since: Instant,
    floor: Option<Lsn>,
}

impl ReplayWait {
    fn new() -> Self {
        Self { last: None, since: Instant::now(), floor: None }
    }

    fn has_all(&mut self, state: &RecoveryState, upto: Lsn) -> bool {
        if state.replay_lsn.is_none() {
            return false;
        }
        let at = (state.receive_lsn, state.replay_lsn);
        if self.last != Some(at) {
            self.last = Some(at);
            self.since = Instant::now();
        }
        state.receive_lsn.is_some_and(|r| r >= upto) || self.since.elapsed() >= STALLED
    }
}

async fn recovery_state(instance: &Instance) -> Result<RecoveryState, StepError> {
    instance.recovery_state().await.map_err(step_error)
}

fn check(state: &RecoveryState, replayed: Lsn, upto: Lsn) -> Result<(), StepError> {
    let rebuild = "delete the StandbyDatabase and its volume and create it again: it is restored from the vault";
    if replayed > upto {
        let message = format!("the standby has replayed to {replayed}, beyond the end of the log at {upto}");
        return Err(StepError::person(message, rebuild));
    }
    if !state.in_recovery {
        let message = "the standby is no standby any more: it takes writes".to_owned();
        return Err(StepError::person(message, rebuild));
    }
    if state.replay_paused {
        let hint = "look at its log; raise the setting that it names, or SELECT pg_wal_replay_resume()";
        return Err(StepError::retry("the standby has paused its replay").with_hint(hint));
    }
    Ok(())
}

fn too_slow(replayed: Lsn, upto: Lsn) -> StepError {
    let seconds = REPLAY_TIMEOUT.as_secs();
    StepError::retry(format!("after {seconds} s the standby has replayed to {replayed} of {upto}"))
        .with_hint("look at the standby's and its relay's log and conditions; it goes on by itself when they do")
}

/// Commits a transaction that changes nothing and waits for its acknowledgement: with synchronous
/// replication on, that one comes from the vault.
///
/// # Errors
/// When it is not acknowledged in time, or the server refuses writes.
pub async fn commit_check(ctx: &Context, standby: &StandbyDatabase) -> Result<(), StepError> {
    let target = ctx.standby_target(standby).await.map_err(step_error)?;
    match timeout(COMMIT_TIMEOUT, commit(&target)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(reason)) => Err(StepError::retry(format!("a test commit failed: {reason}"))),
        Err(_) => {
            let seconds = COMMIT_TIMEOUT.as_secs();
            Err(StepError::retry(format!("a test commit was not acknowledged within {seconds} s"))
                .with_hint("the agent of the new primary does not store WAL; look at its log"))
        }
    }
}

async fn commit(target: &Target) -> Result<(), String> {
    let mut config = tokio_postgres::Config::new();
    config
        .host(&target.host)
        .port(target.port)
        .dbname(&target.database)
        .user(&target.username)
        .password(&target.password)
        .application_name("holdfast-commit-check")
        .connect_timeout(Duration::from_secs(5));
    let connected = config.connect(tokio_postgres::NoTls).await;
    let (client, connection) = connected.map_err(|e| explain(&e))?;
    let connection = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(connection));
    // A transactional message is WAL with a commit record, and touches no table.
    let statement = "SELECT pg_logical_emit_message(true, 'holdfast', 'commit check')";
    let committed = client.simple_query(statement).await.map_err(|e| explain(&e));
    drop(connection);
    committed.map(drop)
}

/// The server's own words, where there are any.
fn explain(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |e| e.message().to_owned())
}

/// Whether the server takes writes already; `None` while it does not answer.
pub async fn takes_writes(ctx: &Context, standby: &StandbyDatabase) -> Result<bool, RoleError> {
    let instance = ctx.connect_standby(standby).await?;
    Ok(!instance.recovery_state().await?.in_recovery)
}
