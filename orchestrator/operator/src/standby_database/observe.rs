//! What a StandbyDatabase depends on, and what its parts say.

use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_api::common::sentence;
use holdfast_api::condition::reasons;
use holdfast_api::standby_database::Purpose;
use holdfast_api::{Problem, StandbyDatabase, Vault};
use holdfast_dataplane::instance::RecoveryState;
use holdfast_dataplane::status::{AgentStatus, ArchiverStatus, RelayStatus};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::build::RESTORE_CONTAINER;
use crate::apply::describe;
use crate::claims::Claimant;
use crate::pod::{Component, termination_message, why_not_running};
use crate::protected_database::{is_new, same_name};
use crate::role::RoleError;
use crate::vault_access::{VaultAccessError, secret_text};
use crate::{Context, Error};

/// Everything that validation and status need to know.
pub(crate) struct Observed {
    pub(crate) vault: Result<Arc<Vault>, VaultAccessError>,
    /// What is wrong with the Secret of the database role.
    pub(crate) secret_problem: Option<String>,
    /// The ProtectedDatabase of the same name, whose agent would have the same name.
    pub(crate) same_name: Vec<Claimant>,
    /// It was created a moment ago.
    pub(crate) is_new: bool,
    /// Why there is nothing to restore from; looked at only until the standby exists.
    pub(crate) nothing_to_restore: Option<Problem>,
    /// Uid of the claim; known once it is applied.
    pub(crate) instance_id: Option<String>,
    pub(crate) server: Result<RecoveryState, RoleError>,
    /// Looked at only while the server does not answer.
    pub(crate) pod: PodState,
    pub(crate) relay: Result<RelayStatus, RoleError>,
    /// None: a drill's copy has no agent.
    pub(crate) agent: Option<Result<AgentStatus, RoleError>>,
    /// None: a drill's copy has no archiver.
    pub(crate) archiver: Option<Result<ArchiverStatus, RoleError>>,
    /// For how long the server has been behind the vault.
    pub(crate) behind: Option<Duration>,
}

/// Where the pod of a server that does not answer is on its way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum PodState {
    /// Not created, not scheduled yet, or PostgreSQL is coming up.
    #[default]
    Starting,
    /// The base backup is being unpacked.
    Restoring,
    /// The restore failed; it is tried again by the kubelet.
    RestoreFailed(Problem),
    /// Something else is in its way.
    Stuck(String),
}

pub(crate) async fn observe(standby: &StandbyDatabase, ctx: &Context) -> Result<Observed, Error> {
    let namespace = standby.namespace().unwrap_or_default();
    let name = standby.name_any();
    let vault = ctx.vault_object(&namespace, &standby.spec.vault.name);
    let (secret, server, relay, agent, archiver) = tokio::join!(
        ctx.secret(&namespace, &standby.spec.credentials.secret_name),
        recovery_state(standby, ctx),
        ctx.relay_status(&namespace, &name),
        agent(standby, ctx),
        archiver(standby, ctx),
    );
    let secret = secret?;
    let usable = secret_text(secret.as_ref(), "username").and_then(|_| secret_text(secret.as_ref(), "password"));
    let (pod, nothing_to_restore) = match &server {
        Ok(_) => (PodState::default(), None),
        Err(_) => (
            pod_state(&ctx.pods(&namespace, &name, Component::Postgres).await?),
            nothing_to_restore(standby, &vault, ctx).await?,
        ),
    };
    Ok(Observed {
        is_new: is_new(standby),
        same_name: same_name(&ctx.stores.protected_databases, &namespace, &name),
        secret_problem: usable.err(),
        behind: behind(standby, &server, &relay, ctx),
        instance_id: None,
        vault,
        nothing_to_restore,
        server,
        pod,
        relay,
        agent,
        archiver,
    })
}

async fn recovery_state(standby: &StandbyDatabase, ctx: &Context) -> Result<RecoveryState, RoleError> {
    let server = ctx.connect_standby(standby).await?;
    Ok(server.recovery_state().await?)
}

async fn agent(standby: &StandbyDatabase, ctx: &Context) -> Option<Result<AgentStatus, RoleError>> {
    if standby.spec.purpose == Purpose::Drill {
        return None;
    }
    let namespace = standby.namespace().unwrap_or_default();
    Some(ctx.agent_status(&namespace, &standby.name_any()).await)
}

async fn archiver(standby: &StandbyDatabase, ctx: &Context) -> Option<Result<ArchiverStatus, RoleError>> {
    if standby.spec.purpose == Purpose::Drill {
        return None;
    }
    let namespace = standby.namespace().unwrap_or_default();
    Some(ctx.archiver_status(&namespace, &standby.name_any()).await)
}

fn behind(
    standby: &StandbyDatabase,
    server: &Result<RecoveryState, RoleError>,
    relay: &Result<RelayStatus, RoleError>,
    ctx: &Context,
) -> Option<Duration> {
    let tip = relay.as_ref().ok()?.tip?;
    let replayed = server.as_ref().ok()?.replay_lsn?;
    let object = describe(standby);
    Some(ctx.lags.observe(object, tip, replayed, Instant::now()))
}

/// Looks into the vault for a base backup, unless the standby was started already.
async fn nothing_to_restore(
    standby: &StandbyDatabase,
    vault: &Result<Arc<Vault>, VaultAccessError>,
    ctx: &Context,
) -> Result<Option<Problem>, Error> {
    let namespace = standby.namespace().unwrap_or_default();
    let name = standby.name_any();
    let Ok(vault) = vault else {
        return Ok(None);
    };
    let started = ctx
        .api::<StatefulSet>(&namespace)
        .get_metadata_opt(&name)
        .await
        .map_err(Error::kube(format!("read StatefulSet {namespace}/{name}")))?;
    if started.is_some() {
        return Ok(None);
    }
    let access = match ctx.open_vault_object(vault).await {
        Ok(access) => access,
        // A vault that cannot be opened is the fault that validation names.
        Err(Error::Vault(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let source = &standby.spec.source;
    let found = match access.vault.database(source) {
        Ok(database) => database.backups().await,
        Err(error) => Err(error),
    };
    Ok(match found {
        Ok(backups) if !backups.is_empty() => None,
        Ok(_) => Some(no_backup(source, &vault.name_any())),
        Err(error) => Some(Problem {
            code: crate::vault::reason(&error).to_owned(),
            message: sentence(&error.to_string()),
            hint: Some(error.hint().to_owned()),
        }),
    })
}

fn no_backup(source: &str, vault: &str) -> Problem {
    Problem {
        code: reasons::NOTHING_TO_RESTORE_FROM.to_owned(),
        message: format!("Vault {vault} holds no complete base backup of a database named {source}"),
        hint: Some(
            "Check spec.source against the name at the other site (kubectl get protected), and that its first \
             base backup is complete (BackupFresh). The restore begins by itself as soon as there is one"
                .to_owned(),
        ),
    }
}

/// What the kubelet says of the pod.
pub(crate) fn pod_state(pods: &[Pod]) -> PodState {
    if let Some(message) = termination_message(pods, RESTORE_CONTAINER) {
        return PodState::RestoreFailed(restore_problem(message));
    }
    let Some(pod) = pods.iter().find(|p| p.metadata.deletion_timestamp.is_none()) else {
        return PodState::Starting;
    };
    let restoring = pod
        .status
        .iter()
        .flat_map(|s| s.init_container_statuses.iter().flatten())
        .filter_map(|c| c.state.as_ref())
        .any(|s| s.running.is_some());
    if restoring {
        return PodState::Restoring;
    }
    let reason = why_not_running(pod);
    if reason.is_stuck {
        return PodState::Stuck(reason.message);
    }
    PodState::Starting
}

/// What `holdfast restore` wrote as its last words.
fn restore_problem(message: &str) -> Problem {
    serde_json::from_str(message).unwrap_or_else(|_| Problem {
        code: reasons::RESTORE_FAILED.to_owned(),
        message: message.trim().to_owned(),
        hint: Some("Look at the log of the container restore. It is tried again".to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pods(init: Value) -> Vec<Pod> {
        let mut status = json!({"name": "restore", "image": "x", "imageID": "", "ready": false, "restartCount": 0});
        status["state"] = init;
        let pod = json!({"metadata": {"name": "p"}, "status": {"initContainerStatuses": [status]}});
        vec![serde_json::from_value(pod).unwrap()]
    }

    #[test]
    fn the_restore_is_seen_from_its_container() {
        let said = json!({"code": "DamagedObject", "message": "object x", "hint": "keep it"}).to_string();
        let failed = |message: &str| json!({"terminated": {"exitCode": 1, "message": message}});
        let damaged =
            Problem { code: "DamagedObject".into(), message: "object x".into(), hint: Some("keep it".into()) };
        let cases = [
            (json!({"running": {}}), PodState::Restoring),
            (json!({"waiting": {"reason": "PodInitializing"}}), PodState::Starting),
            (
                json!({"waiting": {"reason": "ErrImagePull", "message": "m"}}),
                PodState::Stuck("pod p, container restore: ErrImagePull: m".into()),
            ),
            (failed(&said), PodState::RestoreFailed(damaged)),
            (failed("panic"), PodState::RestoreFailed(restore_problem("panic"))),
            (json!({"terminated": {"exitCode": 0}}), PodState::Starting),
        ];
        for (state, expected) in cases {
            assert_eq!(pod_state(&pods(state)), expected);
        }
        assert_eq!(pod_state(&[]), PodState::Starting);
        assert_eq!(restore_problem("panic").code, reasons::RESTORE_FAILED);
    }
}
