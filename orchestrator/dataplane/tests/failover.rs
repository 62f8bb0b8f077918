//! The whole way of a database: protected, restored elsewhere, taken over and promoted, with nothing lost.

mod common;

use std::time::Instant;

use common::takeover::{standby, successor, take_over};
use common::{Cloud, Load, Role, make_ledger, missing, target, wait};
use holdfast_dataplane::instance::Instance;
use holdfast_dataplane::status::AgentState;
use holdfast_test_postgres::TestPostgres;
use holdfast_wal::TimelineId;

const NAME: &str = "registration";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_acknowledged_is_lost() {
    let cloud = Cloud::start().await;
    let primary = TestPostgres::start(&[("fsync", "on")]);
    make_ledger(&primary);
    let config = cloud.agent_config(&primary, NAME);
    let first = Role::agent(config.clone());
    let before = first.wait_protected().await;
    let mut load = Load::start(&primary, 8, 0);
    load.wait_for_more(200).await;

    // Killed in mid-stream and started again: a new incarnation goes on at the tail.
    first.kill().await;
    let agent = Role::agent(config.clone());
    let again = agent.wait_state(AgentState::Streaming).await;
    assert!(again.epoch > before.epoch, "{again:?}");
    assert!(again.overlap_check.ends_with("received again and the same"), "{}", again.overlap_check);
    assert_ne!(again.incarnation, before.incarnation);
    load.wait_for_more(200).await;

    let (standby, _relay) = standby(&cloud, NAME).await;
    wait("rows on the standby", || async { standby.psql("SELECT count(*) > 100 FROM ledger") }, |answer| answer == "t")
        .await;
    let successor = successor(&cloud, NAME, &standby);
    successor.wait_state(AgentState::Standby).await;
    load.wait_for_more(100).await;

    let began = Instant::now();
    let start = take_over(&cloud.database(NAME), &cloud, &standby).await;
    let took = began.elapsed();
    let instance = Instance::connect(&target(&standby)).await.expect("connects");
    let state = instance.recovery_state().await.expect("answers");
    assert!(!state.in_recovery);
    assert_eq!(state.timeline, TimelineId(2));
    assert_eq!(instance.switch_point(TimelineId(2)).await.expect("a history"), start);
    let protected = successor.wait_state(AgentState::Streaming).await;
    println!("takeover to promoted {took:?}, to protected {:?}", began.elapsed());
    assert_eq!(protected.timeline, Some(TimelineId(2)));

    // The old primary cannot have a commit acknowledged any more.
    let acknowledged = load.acknowledged();
    let fenced = agent.wait_agent("read-only", |s| s.fence.as_ref().is_some_and(|f| f.database_read_only)).await;
    assert_eq!(fenced.state, AgentState::Fenced);
    assert_eq!(fenced.problem.expect("says so").code, "Fenced");
    assert_eq!(load.acknowledged(), acknowledged);
    let refused = primary.try_psql("INSERT INTO ledger VALUES (-1, 'x')").expect_err("the site is fenced");
    assert!(refused.contains("read-only"), "{refused}");

    let ledger = load.stop();
    assert_eq!(missing(&standby, &ledger.acknowledged), Vec::<i64>::new());
    println!("{} acknowledged rows, none lost", ledger.acknowledged.len());

    // The new primary acknowledges only what is in the vault, and takes a base backup of its own line.
    standby.psql("INSERT INTO ledger VALUES (-2, 'after')");
    successor.wait_agent("synchronous", |s| s.synchronous).await;
    successor.wait_agent("own backup", |s| s.backups.iter().any(|b| b.timeline == TimelineId(2))).await;
}
