//! The conformance suite on the fault server: without a fault nothing is wrong, each lie is caught by name, and what is no lie
//! leads to no false refusal.

use std::time::Duration;

use futures::{StreamExt, stream};
use holdfast_fault_server::{ADMIN, Fault, FaultServer, Latency, WRITER};
use holdfast_vault::conformance::{ConformanceOptions, Report, Selection, Verdict};
use holdfast_vault::{CredentialsSource, Vault, VaultConfig};

const BUCKET: &str = "vault";

/// What is wrong, and the check that must find it.
const LIES: &[(Fault, &str)] = &[
    (Fault::TornReads, "read-is-whole"),
    (Fault::TruncatedReads, "read-is-whole"),
    (Fault::BitFlips, "reads-agree"),
    (Fault::StaleLists, "list-shows-a-new-key-at-once"),
    (Fault::StaleReads, "created-object-is-read-at-once"),
    (Fault::AuthIgnored, "unsigned-request-is-refused"),
    (Fault::AuthIgnored, "wrong-signature-is-refused"),
    (Fault::AuthIgnored, "unsigned-put-is-refused"),
    (Fault::ClockJumps, "store-clock-runs-forward"),
    (Fault::NoDate, "answers-carry-a-date"),
    (Fault::LockNotEnforced, "locked-version-cannot-be-deleted"),
    (Fault::LockNotEnforcedInBatch, "locked-version-cannot-be-deleted-in-a-batch"),
    (Fault::BypassLiftsCompliance, "bypass-does-not-lift-compliance"),
    (Fault::LockDropped, "lock-is-stored"),
    (Fault::LockShortened, "lock-ends-no-sooner-than-asked"),
    (Fault::LockDowngraded, "lock-is-in-compliance-mode"),
    (Fault::LockDroppedByMultipart, "lock-holds-on-a-multipart-upload"),
    (Fault::LockDroppedByCopy, "lock-holds-on-a-copy"),
    (Fault::LockLostOnOverwrite, "lock-survives-a-newer-version"),
    (Fault::LockOnWholeKey, "lock-is-that-of-the-version"),
    (Fault::RetentionCanBeShortened, "retention-cannot-be-shortened"),
    (Fault::RetentionCanBeDowngraded, "compliance-cannot-become-governance"),
    (Fault::RetentionCanBeRemoved, "retention-cannot-be-removed"),
    (Fault::ExtensionIgnored, "retention-can-be-extended"),
    (Fault::ExtensionIgnored, "extended-lock-holds"),
    (Fault::LockNeverEnds, "lock-that-ended-lets-delete"),
    (Fault::PastLockAccepted, "lock-in-the-past-is-refused"),
    (Fault::HalfLockAccepted, "lock-without-an-end-is-refused"),
    (Fault::LegalHoldIgnored, "legal-hold-refuses-delete"),
    (Fault::GovernanceIgnored, "governance-holds-without-bypass"),
    (Fault::ChecksumNotNeeded, "locked-put-without-checksum-is-refused"),
    (Fault::IgnoredIfNoneMatch, "create-is-refused-where-an-object-stands"),
    (Fault::RacyIfNoneMatch, "one-of-many-creates-wins"),
    (Fault::WrongPreconditionStatus, "create-is-refused-with-412"),
    (Fault::RefusedCreateStores, "refused-create-stores-nothing"),
    (Fault::ChecksumIgnored, "wrong-sha256-is-refused"),
    (Fault::ChecksumIgnored, "wrong-crc32c-is-refused"),
    (Fault::ChecksumIgnored, "wrong-md5-is-refused"),
    (Fault::RefusedChecksumStores, "body-refused-by-checksum-is-not-stored"),
    (Fault::PayloadHashIgnored, "altered-body-is-refused"),
    (Fault::TornWrites, "bytes-read-as-stored"),
    (Fault::VersionsNotKept, "overwritten-version-is-kept"),
    (Fault::VersionIdIgnored, "version-is-read-by-its-id"),
    (Fault::VersionIdsRepeat, "version-ids-differ"),
    (Fault::NoVersionIds, "read-names-the-version"),
    (Fault::VersionOrderLies, "versions-are-listed-newest-first"),
    (Fault::StaleVersionLists, "new-version-is-listed-at-once"),
    (Fault::VersionListsCut, "all-versions-are-listed"),
    (Fault::MarkerHidesVersions, "marker-keeps-older-versions-listed"),
    (Fault::MarkersNotListed, "marker-is-listed"),
    (Fault::MarkerBlocksVersions, "marker-keeps-older-versions-readable"),
    (Fault::MarkerIgnored, "marker-hides-the-key"),
    (Fault::SilentMarkers, "marker-is-told-in-the-404"),
    (Fault::DeleteRemoves, "delete-without-a-version-removes-nothing"),
    (Fault::VersioningCanBeSuspended, "versioning-cannot-be-suspended"),
    (Fault::LastModifiedMoves, "last-modified-stays"),
    (Fault::LastModifiedLies, "last-modified-is-when-it-was-stored"),
    (Fault::LastModifiedTouched, "last-modified-survives-an-extension"),
    (Fault::LastModifiedDiffers, "last-modified-is-the-same-in-lists"),
    (Fault::RangesIgnored, "range-is-honoured"),
    (Fault::RangesShifted, "range-has-the-right-bytes"),
    (Fault::LongRangesRefused, "range-beyond-the-end-is-cut"),
    (Fault::UnsortedLists, "list-is-sorted"),
    (Fault::StartAfterIgnored, "list-starts-after-a-key"),
    (Fault::ListsDropKeys, "list-pages-are-complete"),
    (Fault::PrefixIgnored, "list-keeps-to-the-prefix"),
    (Fault::FoldersMissing, "list-gives-folders"),
    (Fault::HeadLies, "head-agrees-with-get"),
    (Fault::NegativeCache, "created-object-is-read-after-a-miss"),
];

/// What goes wrong on the way, as often as it does on a bad day.
const NO_LIES: &[(Fault, f64)] = &[
    (Fault::SlowDown, 0.2),
    (Fault::InternalErrors, 0.15),
    (Fault::LostRequests, 0.15),
    (Fault::LostResponses, 0.15),
    (Fault::DelayedEffects, 0.1),
    (Fault::TornReads, 0.2),
];

async fn server() -> FaultServer {
    let server = FaultServer::start().await.unwrap();
    server.create_bucket(BUCKET);
    server
}

fn vault(server: &FaultServer, (id, secret): (&str, &str), bucket: &str) -> Vault {
    let keys = CredentialsSource::Static { access_key_id: id.into(), secret_access_key: secret.into() };
    let endpoint = Some(server.endpoint().parse().unwrap());
    Vault::open(VaultConfig { endpoint, prefix: "t".into(), ..VaultConfig::new(bucket, keys) }).unwrap()
}

async fn run(vault: &Vault, selection: Selection) -> Report {
    let options = ConformanceOptions { selection, wait_for_locks: false };
    vault.conformance(&options, |_, _| {}).await.unwrap()
}

/// What was found beside passes, for a person.
fn told(report: &Report) -> String {
    let lines = report.findings.iter().filter(|finding| finding.word() != "pass");
    lines.map(|finding| format!("{}: {}: {}\n", finding.word(), finding.name, finding.detail())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_honest_server_is_suitable_without_a_limit() {
    let server = server().await;
    let report = run(&vault(&server, ADMIN, BUCKET), Selection::All).await;
    assert_eq!(report.verdict, Verdict::Suitable, "{}", told(&report));
    assert!(report.findings.len() >= 60, "{}", report.findings.len());
    assert!(
        report.left.deleted > 0 && report.left.versions > 0 && report.left.locked_until.is_some(),
        "{:?}",
        report.left
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_can_be_deleted_when_the_locks_are_over() {
    let server = server().await;
    let vault = vault(&server, ADMIN, BUCKET);
    let names = ["lock-is-stored", "legal-hold-is-stored", "governance-holds-without-bypass", "marker-is-listed"];
    let selection = Selection::Named(names.map(str::to_owned).to_vec());
    let clock = server.clock().clone();
    let options = ConformanceOptions { selection, wait_for_locks: true };
    let waited = tokio::spawn(async move { vault.conformance(&options, |_, _| {}).await.unwrap() });
    tokio::time::sleep(Duration::from_secs(8)).await;
    clock.advance(Duration::from_secs(115));
    let report = waited.await.unwrap();
    assert_eq!((report.left.versions, &*report.left.why), (0, ""), "{:?}", report.left);
    assert!(report.left.deleted >= 4, "{:?}", report.left);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_lie_is_caught_by_name() {
    // All but what a client can never tell from a bad network, and what ends every request at once.
    let no_lies = [
        Fault::SlowDown,
        Fault::InternalErrors,
        Fault::LostRequests,
        Fault::LostResponses,
        Fault::DelayedEffects,
        Fault::ExpiredCredentials,
    ];
    for info in Fault::ALL.iter().filter(|info| !no_lies.contains(&info.fault)) {
        assert!(LIES.iter().any(|(fault, _)| *fault == info.fault), "no check is named for {}", info.name);
    }
    let catch = async |(fault, check): (Fault, &'static str)| {
        let server = server().await;
        server.faults().set(fault);
        let report = run(&vault(&server, ADMIN, BUCKET), Selection::Named(vec![check.to_owned()])).await;
        let finding = report.finding(check).unwrap().clone();
        (fault, finding)
    };
    let mut missed = String::new();
    let mut caught = stream::iter(LIES.iter().copied()).map(catch).buffer_unordered(8);
    while let Some((fault, finding)) = caught.next().await {
        if !["refused", "limit"].contains(&finding.word()) {
            missed += &format!("{}: {} is {} {}\n", fault.name(), finding.name, finding.word(), finding.detail());
        }
    }
    assert!(missed.is_empty(), "{missed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lies_is_never_called_suitable() {
    for fault in [Fault::LockNotEnforced, Fault::RacyIfNoneMatch, Fault::StaleVersionLists, Fault::ClockJumps] {
        let server = server().await;
        server.faults().set(fault);
        let report = run(&vault(&server, ADMIN, BUCKET), Selection::All).await;
        assert_eq!(report.verdict, Verdict::Refused, "{}: {}", fault.name(), told(&report));
    }
    let server = server().await;
    server.faults().set(Fault::StaleLists);
    let report = run(&vault(&server, ADMIN, BUCKET), Selection::All).await;
    assert_eq!(report.verdict, Verdict::Limited, "{}", told(&report));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_network_is_not_taken_for_a_bad_store() {
    let storm = async |(fault, rate): (Fault, f64)| {
        let server = server().await;
        server.faults().set_rate(fault, rate);
        (fault, run(&vault(&server, ADMIN, BUCKET), Selection::All).await)
    };
    let mut reports = stream::iter(NO_LIES.iter().copied()).map(storm).buffer_unordered(3);
    while let Some((fault, report)) = reports.next().await {
        assert_eq!(report.verdict, Verdict::Suitable, "{}: {}", fault.name(), told(&report));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_network_is_not_taken_for_a_bad_store() {
    let server = server().await;
    let (usual, slow) = (Duration::from_millis(20), Duration::from_millis(700));
    server.faults().set_latency(Latency::LongTail { usual, slow, share: 0.05 });
    let report = run(&vault(&server, ADMIN, BUCKET), Selection::All).await;
    assert_eq!(report.verdict, Verdict::Suitable, "{}", told(&report));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_credentials_may_not_do_is_not_passed() {
    let server = server().await;
    let report = run(&vault(&server, WRITER, BUCKET), Selection::All).await;
    assert_eq!(report.verdict, Verdict::Unproven, "{}", told(&report));
    for name in ["locked-version-cannot-be-deleted", "marker-is-listed", "versioning-cannot-be-suspended"] {
        let finding = report.finding(name).unwrap();
        assert_eq!(finding.word(), "not tried", "{finding:?}");
        assert!(finding.detail().contains("these credentials may not"), "{finding:?}");
    }
    assert_eq!(report.left.deleted, 0);
    assert!(report.left.versions > 0 && !report.left.why.is_empty(), "{:?}", report.left);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_without_lock_is_refused_and_one_that_is_not_there_is_an_error() {
    let server = server().await;
    server.create_plain_bucket("plain");
    let report = run(&vault(&server, ADMIN, "plain"), Selection::All).await;
    assert_eq!(report.verdict, Verdict::Refused);
    let grounds: Vec<_> = report.grounds().map(|finding| &*finding.name).collect();
    assert_eq!(grounds, ["versioning-is-enabled", "object-lock-is-enabled"]);
    let options = ConformanceOptions::default();
    let error = vault(&server, ADMIN, "missing").conformance(&options, |_, _| {}).await.unwrap_err();
    assert_eq!(error.reason(), "NoSuchBucket");
    server.faults().set(Fault::ExpiredCredentials);
    let error = vault(&server, ADMIN, BUCKET).conformance(&options, |_, _| {}).await.unwrap_err();
    assert_eq!(error.reason(), "BadCredentials");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_set_up_of_a_vault_names_the_lie() {
    let server = server().await;
    let vault = vault(&server, WRITER, BUCKET);
    assert!(!vault.check_store().await.unwrap().is_void());
    server.faults().set(Fault::VersionsNotKept);
    let error = vault.check_store().await.unwrap_err();
    assert_eq!(error.reason(), "UnsuitableStore");
    assert!(error.to_string().contains("overwritten-version-is-kept"), "{error}");
    server.faults().clear_all();
    server.faults().set(Fault::LostRequests);
    let away = vault.check_store().await.map(|report| report.is_void());
    assert!(!matches!(away, Ok(false)), "{away:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_essential_checks_are_quick() {
    let server = server().await;
    let vault = vault(&server, WRITER, BUCKET);
    let report = run(&vault, Selection::Essential).await;
    assert!(report.findings.iter().all(|finding| finding.word() == "pass"), "{}", told(&report));
    assert!(report.seconds < 5.0, "{} s", report.seconds);
}
