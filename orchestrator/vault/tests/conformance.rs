//! The conformance suite on a real S3 server: what SeaweedFS keeps, and its limits.

mod common;

use holdfast_test_postgres::SeaweedFS;
use holdfast_vault::conformance::{ConformanceOptions, Report, Verdict};
use holdfast_vault::{CredentialsSource, Vault, VaultConfig};

const BUCKET: &str = "holdfast";

/// What SeaweedFS 4.48 does otherwise than S3. Holdfast depends on none of it.
const LIMITS: &[&str] = &[
    "create-beside-a-longer-key",
    "altered-body-is-refused",
    "locked-put-without-checksum-is-refused",
    "marker-is-told-in-the-404",
    "list-sorts-odd-names-by-bytes",
    "list-sorts-folders-by-bytes",
    "last-modified-survives-an-extension",
    "key-with-a-name-of-250-bytes",
    "key-with-two-slashes",
];
/// Of extensions at the same time an earlier end may win: a race, so that it is not seen every time.
const NOW_AND_THEN: &str = "newest-extension-counts";

async fn report(weed: &SeaweedFS) -> Report {
    common::create_bucket(weed, BUCKET).await;
    let keys = CredentialsSource::Static {
        access_key_id: weed.access_key().into(),
        secret_access_key: weed.secret_key().into(),
    };
    let endpoint = Some(weed.endpoint().parse().unwrap());
    let config = VaultConfig { endpoint, prefix: "t".into(), ..VaultConfig::new(BUCKET, keys) };
    Vault::open(config).unwrap().conformance(&ConformanceOptions::default(), |_, _| {}).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn seaweedfs_is_suitable_with_its_limits() {
    let weed = SeaweedFS::start();
    let report = report(&weed).await;
    println!("{} s, left {:?}", report.seconds, report.left);
    let other: Vec<_> = report.findings.iter().filter(|finding| finding.word() != "pass").collect();
    let names = other.iter().map(|finding| &*finding.name);
    let names: Vec<_> = names.filter(|name| *name != NOW_AND_THEN).collect();
    for finding in &other {
        println!("{} {}: {}", finding.word(), finding.name, finding.detail());
    }
    assert_eq!(names, LIMITS);
    assert_eq!(report.verdict, Verdict::Limited);
    assert!(report.left.deleted > 0 && report.left.locked_until.is_some(), "{:?}", report.left);
}
