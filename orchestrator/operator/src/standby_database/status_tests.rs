use std::sync::Arc;
use std::time::Duration;

use super::*;
use holdfast_api::Vault;
use holdfast_api::condition::{ConditionStatus, find};
use holdfast_dataplane::status::{AgentState, RelayClient};
use holdfast_wal::{Lsn, SystemId, TimelineId};
use serde_json::json;

pub(crate) fn standby() -> StandbyDatabase {
    serde_json::from_value(json!({
        "apiVersion": "holdfast.dev/v1alpha1", "kind": "StandbyDatabase",
        "metadata": {"name": "lab", "namespace": "hospital", "uid": "u5", "generation": 2,
            "creationTimestamp": "2026-01-01T00:00:10Z"},
        "spec": {"vault": {"name": "v"}, "source": "lab-main", "storage": {"size": "1Gi"},
            "credentials": {"secretName": "lab-db"}}
    }))
    .unwrap()
}

pub(crate) fn vault() -> Vault {
    serde_json::from_value(json!({
        "apiVersion": "holdfast.dev/v1alpha1", "kind": "Vault",
        "metadata": {"name": "v", "namespace": "hospital"},
        "spec": {"endpoint": "http://s3:8333", "bucket": "b00", "retentionDays": 1,
            "credentials": {"secretName": "keys"},
            "encryption": {"recipients": ["age1x"], "identity": {"secretName": "identity"}}},
        "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "R", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]}
    }))
    .unwrap()
}

pub(crate) fn problem(code: &str) -> Problem {
    Problem { code: code.into(), message: "m".into(), hint: None }
}

fn server(in_recovery: bool) -> Result<RecoveryState, RoleError> {
    Ok(RecoveryState {
        system_id: SystemId(7),
        in_recovery,
        receive_lsn: Some(Lsn(0x300)),
        replay_lsn: Some(Lsn(0x200)),
        timeline: TimelineId(1),
        replay_paused: false,
    })
}

fn relay(state: RelayState, sealed: Option<Lsn>) -> Result<RelayStatus, RoleError> {
    Ok(RelayStatus {
        state,
        sealed,
        tip: Some(Lsn(0x500)),
        tip_epoch: Some(3),
        clients: vec![RelayClient {
            address: "a".into(),
            application_name: "n".into(),
            sent: None,
            flushed: None,
            applied: None,
        }],
        ..RelayStatus::default()
    })
}

fn agent(state: AgentState) -> Option<Result<AgentStatus, RoleError>> {
    Some(Ok(AgentStatus { state, synchronous: true, epoch: Some(5), ..AgentStatus::default() }))
}

fn starting() -> RoleError {
    RoleError::NotRunning { message: "starting".into(), is_stuck: false }
}

/// A standby that follows.
pub(crate) fn observed() -> Observed {
    Observed {
        vault: Ok(Arc::new(vault())),
        secret_problem: None,
        same_name: Vec::new(),
        is_new: false,
        nothing_to_restore: None,
        instance_id: Some("claim-uid".into()),
        server: server(true),
        pod: PodState::default(),
        relay: relay(RelayState::Serving, None),
        agent: agent(AgentState::Standby),
        archiver: Some(Ok(holdfast_dataplane::status::ArchiverStatus {
            state: holdfast_dataplane::status::ArchiverState::Archiving,
            ..Default::default()
        })),
        behind: Some(Duration::from_millis(1540)),
    }
}

fn status(change: impl FnOnce(&mut Observed)) -> StandbyDatabaseStatus {
    let mut observed = observed();
    change(&mut observed);
    derive(&standby(), None, &observed, Timestamp::UNIX_EPOCH)
}

fn summary(status: &StandbyDatabaseStatus) -> (Phase, bool, String) {
    let ready = find(&status.conditions, types::READY).unwrap();
    let is_ready = ready.status == ConditionStatus::True;
    (status.phase, is_ready, ready.reason.clone())
}

#[test]
fn a_following_standby_shows_its_positions() {
    let status = status(|_| {});
    assert_eq!(summary(&status), (Phase::Following, true, reasons::REPLAYING.into()));
    assert_eq!(status.replayed_lsn.as_deref(), Some("0/200"));
    assert_eq!(status.tip_lsn.as_deref(), Some("0/500"));
    assert_eq!((status.lag_bytes, status.lag_seconds), (Some(0x300), Some(1.5)));
    assert_eq!((status.role, status.epoch), (Some(Role::Standby), Some(3)));
    assert_eq!(status.instance_id.as_deref(), Some("claim-uid"));
    assert_eq!(status.protection, None);
    let following = find(&status.conditions, types::FOLLOWING).unwrap();
    assert_eq!(following.status, ConditionStatus::True);
}

#[test]
fn the_phase_follows_the_parts() {
    let damaged = |o: &mut Observed| {
        o.relay = relay(RelayState::Damaged, None);
        if let Ok(relay) = &mut o.relay {
            relay.problem = Some(holdfast_dataplane::status::Problem::new("DamagedObject", "key x", "keep it"));
        }
    };
    type Change = Box<dyn FnOnce(&mut Observed)>;
    let cases: Vec<(Change, Phase, bool, &str)> = vec![
        (Box::new(|o| o.relay = relay(RelayState::Serving, Some(Lsn(0x500)))), Phase::Sealed, true, reasons::SEALED),
        (Box::new(damaged), Phase::Problem, false, "DamagedObject"),
        (Box::new(|o| o.relay = Err(starting())), Phase::Following, true, reasons::REPLAYING),
        (Box::new(|o| o.server = Err(starting())), Phase::Pending, false, reasons::STARTING),
        (
            Box::new(|o| {
                o.server = Err(starting());
                o.pod = PodState::Restoring;
            }),
            Phase::Restoring,
            false,
            reasons::RESTORING,
        ),
        (
            Box::new(|o| {
                o.server = Err(starting());
                o.pod = PodState::RestoreFailed(problem("DamagedObject"));
            }),
            Phase::Problem,
            false,
            "DamagedObject",
        ),
        (
            Box::new(|o| {
                o.server = server(false);
                o.agent = agent(AgentState::Streaming);
            }),
            Phase::Promoted,
            true,
            reasons::PROMOTED,
        ),
        (
            Box::new(|o| {
                o.server = server(false);
                o.agent = agent(AgentState::Claiming);
            }),
            Phase::Promoted,
            false,
            reasons::STARTING,
        ),
        (
            Box::new(|o| {
                o.server = server(false);
                o.agent = None;
            }),
            Phase::Promoted,
            true,
            reasons::PROMOTED,
        ),
    ];
    for (change, phase, ready, reason) in cases {
        let found = summary(&status(change));
        assert_eq!(found, (phase, ready, reason.to_owned()));
    }
}

#[test]
fn a_promoted_standby_shows_its_protection_and_epoch() {
    let status = status(|o| {
        o.server = server(false);
        o.agent = agent(AgentState::Streaming);
    });
    assert_eq!(status.epoch, Some(5));
    assert_eq!(status.role, Some(Role::Primary));
    assert_eq!(status.lag_bytes, None);
    assert!(status.protection.is_some());
    let condition = |type_| find(&status.conditions, type_).unwrap().status;
    assert_eq!(condition(types::PROTECTED), ConditionStatus::True);
    assert_eq!(condition(types::PROMOTED), ConditionStatus::True);
    assert_eq!(condition(types::FOLLOWING), ConditionStatus::False);
}

#[test]
fn a_promoted_server_that_is_down_stays_promoted() {
    let promoted = status(|o| {
        o.server = server(false);
        o.agent = agent(AgentState::Streaming);
    });
    let mut object = standby();
    object.status = Some(promoted);
    let mut down = observed();
    down.server = Err(starting());
    assert!(is_promoted(&object, &down));
    let after = derive(&object, None, &down, Timestamp::UNIX_EPOCH);
    assert_eq!(summary(&after), (Phase::Promoted, false, reasons::STARTING.into()));
    let promoted = find(&after.conditions, types::PROMOTED).unwrap();
    assert_eq!(promoted.status, ConditionStatus::True);

    down.instance_id = Some("another claim".into());
    assert!(!is_promoted(&object, &down), "a new volume is a new copy");
}

#[test]
fn a_fault_is_said_and_hides_nothing_that_runs() {
    let fault = Fault::new(reasons::CREDENTIALS_MISSING, "gone");
    let running = derive(&standby(), Some(&fault), &observed(), Timestamp::UNIX_EPOCH);
    assert_eq!(summary(&running), (Phase::Following, false, reasons::CREDENTIALS_MISSING.into()));
    let mut nothing = observed();
    nothing.server = Err(starting());
    let pending = derive(&standby(), Some(&fault), &nothing, Timestamp::UNIX_EPOCH);
    assert_eq!(summary(&pending), (Phase::Pending, false, reasons::CREDENTIALS_MISSING.into()));
}
