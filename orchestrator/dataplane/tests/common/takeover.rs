//! A standby, and the way to its promotion.

use std::time::{Duration, Instant};

use holdfast_dataplane::instance::Instance;
use holdfast_dataplane::restore;
use holdfast_test_postgres::TestPostgres;
use holdfast_vault::{DatabaseVault, Promotion, TakeoverOptions, TakerState};
use holdfast_wal::{Lsn, TimelineId};
use tokio_util::sync::CancellationToken;

use super::{Cloud, LIMIT, Role, start_restored, target};

/// Restores the newest backup and starts a hot standby that follows a relay.
pub(crate) async fn standby(cloud: &Cloud, name: &str) -> (TestPostgres, Role) {
    let relay_config = cloud.relay_config(name, None);
    let serve = relay_config.serve;
    let relay = Role::relay(relay_config);
    let folder = tempfile::tempdir().expect("a folder");
    let config = cloud.restore_config(name, folder.path(), serve, "volume-1");
    restore::run(config.clone(), CancellationToken::new()).await.expect("restores");
    // Done once: a second start of the pod touches nothing.
    std::fs::write(folder.path().join("pgdata/touched"), "").expect("writable");
    restore::run(config, CancellationToken::new()).await.expect("finds its marker");
    assert!(folder.path().join("pgdata/touched").exists());
    let standby = start_restored(folder.path(), &[("fsync", "on")]);
    relay.wait_relay("a client", |status| status.clients.len() == 1 && status.served.is_some()).await;
    (standby, relay)
}

/// The standby's own agent; it waits for the promotion.
pub(crate) fn successor(cloud: &Cloud, name: &str, standby: &TestPostgres) -> Role {
    let mut config = cloud.agent_config(standby, name);
    config.instance_id = "volume-1".to_owned();
    Role::agent(config)
}

/// Takeover, replay to the end, promote, open. Returns where the new line begins.
pub(crate) async fn take_over(database: &DatabaseVault, cloud: &Cloud, standby: &TestPostgres) -> Lsn {
    let state = TakerState::generate("test");
    let taken = loop {
        match database.takeover(&state, &TakeoverOptions::default()).await {
            Ok(taken) => break taken,
            Err(error) => println!("takeover: {error}"),
        }
    };
    let instance = Instance::connect(&target(standby)).await.expect("connects");
    let replayed = instance.recovery_state().await.expect("answers").replay_lsn.expect("has replayed");
    let start = database.floor(cloud.identities(), replayed, taken.sealed).await.expect("readable");
    let deadline = Instant::now() + LIMIT;
    while instance.recovery_state().await.expect("answers").replay_lsn < Some(start) {
        assert!(Instant::now() < deadline, "the standby does not come to {start} (sealed at {})", taken.sealed);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let promotion = Promotion { start, instance_id: "volume-1".to_owned(), new_timeline: TimelineId(2) };
    database.promote(&state, &taken, &promotion).await.expect("promotes");
    // Time for the relay to see the seal: it must not tell the standby of its own new timeline.
    tokio::time::sleep(Duration::from_millis(700)).await;
    instance.promote().await.expect("opens");
    start
}
