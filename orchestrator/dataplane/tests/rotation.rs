//! The key that vouches for a site's writers is exchanged while the database is written, and revoked; then it is stolen.

mod common;

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use common::takeover::standby;
use common::{Cloud, Load, Role, make_ledger, missing, wait};
use holdfast_dataplane::status::AgentState;
use holdfast_test_postgres::TestPostgres;
use holdfast_vault::{
    Attached, ClaimOptions, Recipients, TrustedWriter, Vault, WriterKey, WriterLimits, generate_identity,
};
use holdfast_wal::Lsn;
use jiff::Timestamp;

const NAME: &str = "registration";
/// The store's clock counts seconds.
const A_SECOND_PASSES: Duration = Duration::from_millis(2100);

fn mounted(cloud: &Cloud, name: &str, key: &WriterKey) -> Option<PathBuf> {
    let file = cloud.folder.path().join(name);
    std::fs::write(&file, key.secret()).expect("writable");
    Some(file)
}

fn trusted(name: &str, key: &WriterKey, not_after: Option<Timestamp>) -> TrustedWriter {
    TrustedWriter { name: name.to_owned(), public_key: key.public(), not_after }
}

/// Whoever has the key and the bucket's credentials claims the log and writes on. Returns where.
async fn steal(cloud: &Cloud, key: Option<PathBuf>) -> Lsn {
    let config = cloud.vault_config("vault");
    let config = holdfast_vault::VaultConfig { writers: Vec::new(), writer_key_file: key, ..config };
    let database = Vault::open(config).expect("opens").database(NAME).expect("a name");
    let identity = database.identity().await.expect("readable").expect("registered");
    let (flushed, by) = (database.tip().await.expect("readable").tip, "a thief".to_owned());
    let (system_id, history) = (identity.system_id, identity.history);
    let attached = Attached { instance_id: "origin".to_owned(), system_id, history, flushed, by };
    let recipients = Recipients::parse(&[generate_identity().1]).expect("just made");
    let writer = database.claim(&attached, &recipients, ClaimOptions::default()).await.expect("claims");
    let writer = writer.into_running(WriterLimits::default()).expect("an owner");
    let end = Lsn(flushed.0 + 64);
    writer.append(flushed, Bytes::from_static(&[0; 64])).await.expect("takes it");
    writer.state().wait_for(|state| state.durable == end).await.expect("runs");
    writer.close().await;
    flushed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_writer_key_is_exchanged_under_load_and_refused_once_it_is_stolen() {
    let mut cloud = Cloud::start().await;
    let (a, b) = (WriterKey::generate(), WriterKey::generate());
    let (file_a, file_b) = (mounted(&cloud, "writer-a", &a), mounted(&cloud, "writer-b", &b));
    let primary = TestPostgres::start(&[("fsync", "on")]);
    make_ledger(&primary);
    cloud.writers = vec![trusted("first", &a, None)];
    cloud.writer_key_file = file_a.clone();
    let agent = Role::agent(cloud.agent_config(&primary, NAME));
    let before = agent.wait_protected().await;
    let mut load = Load::start(&primary, 4, 0);
    load.wait_for_more(100).await;

    // As `holdfast keys rotate writer` says: everybody believes the new key, then the site signs with it.
    cloud.writers.push(trusted("second", &b, None));
    let (follower, relay) = standby(&cloud, NAME).await;
    cloud.writer_key_file = file_b;
    agent.kill().await;
    let agent = Role::agent(cloud.agent_config(&primary, NAME));
    let after = agent.wait_state(AgentState::Streaming).await;
    assert!(after.epoch > before.epoch, "{after:?}");
    load.wait_for_more(100).await;

    // And then the old key is revoked, which changes nothing for what it has signed so far.
    tokio::time::sleep(A_SECOND_PASSES).await;
    let database = cloud.database(NAME);
    let opener = database.tip().await.expect("readable").last_seal.expect("claimed");
    assert_eq!(opener.writer, Some(b.public()), "the new key vouches for the newest epoch");
    let now = Vault::open(cloud.vault_config("vault")).expect("opens").store_time().await.expect("tells the time");
    cloud.writers = vec![trusted("first", &a, Some(now)), trusted("second", &b, None)];
    agent.kill().await;
    let agent = Role::agent(cloud.agent_config(&primary, NAME));
    agent.wait_state(AgentState::Streaming).await;
    load.wait_for_more(100).await;
    let ledger = load.stop();
    let lost = || async { missing(&follower, &ledger.acknowledged).len() };
    wait("all rows on the standby that followed all the time", lost, |lost| *lost == 0).await;
    drop((agent, relay));

    // It was stolen: what the thief wrote is named and refused.
    tokio::time::sleep(A_SECOND_PASSES).await;
    let stolen = steal(&cloud, file_a).await;
    // Who restores only now gets all that came before it.
    let (late, relay) = standby(&cloud, NAME).await;
    let status = relay.wait_relay("a refusal", |status| status.problem.is_some()).await;
    let problem = status.problem.clone().expect("waited for");
    assert_eq!(problem.code, "Untrusted", "{problem:?}");
    assert!(problem.message.contains("`first`") && problem.message.contains(&stolen.hex16()), "{problem:?}");
    let lost = || async { missing(&late, &ledger.acknowledged).len() };
    wait("all rows on a standby that was restored after the theft", lost, |lost| *lost == 0).await;
    let served = relay.wait_relay("what it served", |status| status.served.is_some()).await.served;
    assert!(served.is_some_and(|served| served <= stolen), "{served:?} is beyond {stolen}");
    assert_eq!(missing(&follower, &ledger.acknowledged), Vec::<i64>::new(), "what the standby has it keeps");
    println!("{} acknowledged rows, none lost; refused: {}", ledger.acknowledged.len(), problem.message);
}
