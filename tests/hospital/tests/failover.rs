//! Load, ledger and verifier across a change of site.

mod support;

use std::time::Duration;

use holdfast_hospital::load::{Load, LoadOptions, Stats};
use holdfast_hospital::verify::verify;
use support::{Database, Hospital, ledger};

#[tokio::test]
async fn all_that_was_acknowledged_is_found_and_measured() {
    let database = Database::start().await;
    let hospital = Hospital::open(&database).await;
    let folder = tempfile::tempdir().unwrap();
    let path = ledger(&folder, "ledger");

    let mut options = LoadOptions::new(vec![hospital.site.clone()], 4, &path);
    options.patients = Some(40);
    let last = Load::start(options).unwrap().wait().await.unwrap();
    assert_eq!((last.acked, last.errors), (120, 0));

    let verdict = verify(&[path], &hospital.site, None).await.unwrap();
    assert_eq!((verdict.attempted, verdict.acknowledged, verdict.phantom), (120, 120, 0));
    assert!(verdict.is_intact(), "{verdict}");
    for figures in &verdict.services {
        assert_eq!((figures.acknowledged, figures.present), (40, 40));
        assert!(figures.commit.p50_us > 0 && figures.commit.p50_us <= figures.latency.p50_us, "{figures:?}");
        assert!(figures.gap.is_some());
    }
}

/// The second site has the same database: as if every commit had been replicated.
#[tokio::test]
async fn the_load_follows_the_hospital_and_nothing_is_lost() {
    let database = Database::start().await;
    let primary = Hospital::open(&database).await;
    let standby = Hospital::open(&database).await;
    let folder = tempfile::tempdir().unwrap();
    let path = ledger(&folder, "ledger");

    let sites = vec![primary.site.clone(), standby.site.clone()];
    let load = Load::start(LoadOptions::new(sites, 4, &path)).unwrap();
    acknowledged(&load, 60).await;
    assert!(load.stats().borrow().services.iter().all(|service| service.site == 0));
    drop(primary);
    let now = load.stats().borrow().acked;
    acknowledged(&load, now + 60).await;
    let last = load.stop().await.unwrap();
    assert!(last.services.iter().all(|service| service.site == 1), "{last:?}");

    let verdict = verify(&[path], &standby.site, None).await.unwrap();
    assert_eq!(verdict.acknowledged, last.acked);
    assert!(verdict.is_intact(), "{verdict}");
    assert_eq!(verdict.phantom, 0);
}

/// The second site knows nothing of the first: what a failover without replication comes to.
#[tokio::test]
async fn a_site_without_the_records_is_found_out() {
    let (first, second) = futures::join!(Database::start(), Database::start());
    let primary = Hospital::open(&first).await;
    let standby = Hospital::open(&second).await;
    let folder = tempfile::tempdir().unwrap();
    let path = ledger(&folder, "ledger");

    let mut options = LoadOptions::new(vec![primary.site.clone()], 2, &path);
    options.patients = Some(10);
    Load::start(options).unwrap().wait().await.unwrap();

    let verdict = verify(std::slice::from_ref(&path), &standby.site, None).await.unwrap();
    assert_eq!((verdict.acknowledged, verdict.lost), (30, 30));
    assert!(!verdict.is_intact());
    assert!(verdict.to_string().contains("lost: registration record"), "{verdict}");

    // The program says the same by its exit code.
    let judge = |site: &holdfast_hospital::Site| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_hospital"));
        command.arg("verify").arg("--json").arg("--ledger").arg(&path).arg("--site").arg(site.to_string());
        tokio::task::spawn_blocking(move || command.output().expect("running hospital"))
    };
    assert_eq!(judge(&primary.site).await.unwrap().status.code(), Some(0));
    let output = judge(&standby.site).await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let verdict: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(verdict["lost"], 30);
}

/// A commit that hangs is not acknowledged, is tried at the other site, and is settled there.
#[tokio::test]
async fn a_hanging_primary_is_left_for_the_other_site() {
    let (first, second) = futures::join!(Database::start(), Database::start());
    let primary = Hospital::open(&first).await;
    let standby = Hospital::open(&second).await;
    first.set("synchronous_standby_names", "nobody").await;
    let folder = tempfile::tempdir().unwrap();
    let path = ledger(&folder, "ledger");

    let sites = vec![primary.site.clone(), standby.site.clone()];
    let load = Load::start(LoadOptions::new(sites, 2, &path)).unwrap();
    acknowledged(&load, 30).await;
    load.stop().await.unwrap();
    let verdict = verify(&[path], &standby.site, None).await.unwrap();
    assert!(verdict.acknowledged >= 30 && verdict.is_intact(), "{verdict}");
}

async fn acknowledged(load: &Load, at_least: u64) {
    let mut stats = load.stats();
    let enough = stats.wait_for(|stats: &Stats| stats.acked >= at_least);
    let result = tokio::time::timeout(Duration::from_secs(30), enough).await;
    let last = load.stats().borrow().clone();
    assert!(matches!(result, Ok(Ok(_))), "{at_least} acknowledged writes did not come: {last:?}");
}
