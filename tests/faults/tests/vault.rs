//! The vault's own client against the fault server: what is acknowledged is stored, whatever the network does, and a lock
//! that is not enforced is noticed.

#[path = "../../../orchestrator/vault/tests/common/mod.rs"]
mod common;

use std::time::Duration;

use common::{Fixture, append, durable, small_segments, wal};
use holdfast_fault_server::{ADMIN, Fault, FaultServer, Latency};
use holdfast_vault::{CredentialsSource, Vault, VaultConfig};

const BUCKET: &str = "vault";

async fn server() -> FaultServer {
    let server = FaultServer::start().await.unwrap();
    server.create_bucket(BUCKET);
    server
}

fn vault(server: &FaultServer, bucket: &str) -> Vault {
    let keys = CredentialsSource::Static { access_key_id: ADMIN.0.into(), secret_access_key: ADMIN.1.into() };
    let endpoint = Some(server.endpoint().parse().unwrap());
    let config = VaultConfig { endpoint, retention_days: 2, chunk_retention_days: 1, ..VaultConfig::new(bucket, keys) };
    Vault::open(config).unwrap()
}

/// Writes, under faults, and reads all of it back.
async fn acknowledged_is_stored(faults: &[(Fault, f64)]) {
    let server = server().await;
    let fixture = Fixture::new(vault(&server, BUCKET), small_segments()).await;
    let (start, writer) = fixture.writer().await;
    faults.iter().for_each(|(fault, rate)| server.faults().set_rate(*fault, *rate));
    let len = small_segments() as usize + 777;
    let end = append(&writer, start, len, 30_000, 0).await;
    durable(&writer, end).await;
    assert_eq!(writer.close().await.durable, end);
    let read = fixture.read(start, end).await;
    assert!(read == wal(start, len, 0), "the bytes differ under {faults:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_is_stored_under_lost_responses() {
    acknowledged_is_stored(&[(Fault::LostResponses, 0.2)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_is_stored_under_delayed_effects_and_lost_requests() {
    acknowledged_is_stored(&[(Fault::DelayedEffects, 0.15), (Fault::LostRequests, 0.1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_is_stored_in_a_storm() {
    acknowledged_is_stored(&[(Fault::SlowDown, 0.3), (Fault::InternalErrors, 0.1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_is_read_through_torn_reads() {
    acknowledged_is_stored(&[(Fault::TornReads, 0.3)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_is_stored_over_a_slow_network() {
    let server = server().await;
    let fixture = Fixture::new(vault(&server, BUCKET), small_segments()).await;
    let (usual, slow) = (Duration::from_millis(5), Duration::from_millis(300));
    server.faults().set_latency(Latency::LongTail { usual, slow, share: 0.05 });
    let (start, writer) = fixture.writer().await;
    let end = append(&writer, start, 200_000, 10_000, 0).await;
    durable(&writer, end).await;
    assert!(fixture.read(start, end).await == wal(start, 200_000, 0), "the bytes differ");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_passes_on_an_honest_server_and_names_each_lie() {
    let server = server().await;
    vault(&server, BUCKET).check().await.unwrap();
    for (fault, reason) in [
        (Fault::LockDropped, "LockNotEnforced"),
        (Fault::LockDowngraded, "LockNotEnforced"),
        (Fault::LockNotEnforced, "LockNotEnforced"),
        (Fault::IgnoredIfNoneMatch, "ConditionNotHonoured"),
        (Fault::ExpiredCredentials, "BadCredentials"),
    ] {
        server.faults().clear_all();
        server.faults().set(fault);
        let error = vault(&server, BUCKET).check().await.unwrap_err();
        assert_eq!(error.reason(), reason, "{}: {error}", fault.name());
    }
    server.faults().clear_all();
    server.create_plain_bucket("plain");
    assert_eq!(vault(&server, "plain").check().await.unwrap_err().reason(), "BucketWithoutVersioning");
}
