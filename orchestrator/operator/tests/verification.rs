//! The verification of a Vault on a real S3 server with Object Lock: what is sound is found sound, what is damaged is named
//! with what it costs, and a scrub outlives its store.

#[path = "../../vault/tests/common/mod.rs"]
mod common;

use std::time::Duration;

use common::{Fixture, create_bucket, s3_client, s3_config, small_segments};
use holdfast_api::condition::{Condition, ConditionStatus, reasons};
use holdfast_api::vault::{VerificationStatus, VerifiedPart};
use holdfast_operator::verification::{EVIDENCE, Scrub, intact, leave_evidence, part, put};
use holdfast_test_postgres::SeaweedFS;
use holdfast_vault::store::{Lock, S3Store, Store};
use holdfast_vault::{Budget, CredentialsSource, Identities, Vault, VaultConfig, VerifyOptions};
use jiff::Timestamp;
use serde_json::json;

const BUCKET: &str = "holdfast";
const DATABASE: &str = "billing";
/// Less than any real step, so that a small database takes many.
const STEP: Budget = Budget { bytes: 1 << 20, requests: 5 };

fn config(weed: &SeaweedFS, prefix: &str) -> VaultConfig {
    s3_config(weed, BUCKET, prefix)
}

async fn hospital() -> (SeaweedFS, Fixture) {
    let weed = SeaweedFS::start();
    create_bucket(&weed, BUCKET).await;
    let fixture = Fixture::new(Vault::open(config(&weed, "t")).unwrap(), small_segments()).await;
    fixture.protected_once().await;
    (weed, fixture)
}

/// Scrubs the database step by step to its end.
async fn scrubbed(vault: &Vault, identities: Option<Identities>, sample_percent: f64) -> VerifiedPart {
    let mut scrub = Scrub::new(DATABASE, sample_percent, Timestamp::now());
    scrub.open(vault, identities).await.unwrap();
    while !scrub.step(STEP).await.unwrap() {}
    part(DATABASE, &scrub.totals(), &scrub.result(), Some(Timestamp::now()))
}

/// The condition of a Vault in which this was found.
fn verdict(part: VerifiedPart) -> Condition {
    let object = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "Vault", "metadata": {"name": "v"},
        "spec": {"bucket": BUCKET, "retentionDays": 2, "credentials": {"secretName": "c"},
            "encryption": {"recipients": ["age1x"]}}});
    let now = Some(Timestamp::now());
    let mut record = VerificationStatus { started: now, last_completed: now, ..VerificationStatus::default() };
    put(&mut record, part);
    intact(&serde_json::from_value(object).unwrap(), &record, None, Timestamp::now())
}

/// Copies everything to another prefix, with one bit of the chunk flipped that the log has in the middle. (Where they are,
/// under lock, objects cannot be damaged.) Returns that chunk's key.
async fn copy_with_damage(weed: &SeaweedFS, prefix: &str) -> String {
    let (from, to) = (S3Store::new(config(weed, "t")).unwrap(), S3Store::new(config(weed, prefix)).unwrap());
    let listed = s3_client(weed).list_objects_v2().bucket(BUCKET).prefix("t/v1/db/").send().await.unwrap();
    let keys: Vec<String> = listed.contents().iter().filter_map(|object| object.key().map(str::to_owned)).collect();
    let chunks: Vec<&String> = keys.iter().filter(|key| key.contains("/log/")).collect();
    let damaged = chunks[chunks.len() / 2];
    for key in &keys {
        let mut bytes = from.get(key).await.unwrap().unwrap().bytes.to_vec();
        if key == damaged {
            *bytes.last_mut().unwrap() ^= 1;
        }
        let lock = if key.contains("/log/") { Lock::Short } else { Lock::Long };
        assert!(to.create(&key.replacen('t', prefix, 1), bytes.into(), lock).await.unwrap().is_stored());
    }
    damaged.replacen('t', prefix, 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sound_is_found_sound_with_and_without_a_private_key() {
    let (_weed, fixture) = hospital().await;
    let whole = scrubbed(&fixture.vault, Some(fixture.identities.clone()), 100.0).await;
    assert_eq!((whole.findings, whole.worst.clone()), (0, None));
    assert!(whole.objects > 5 && whole.bodies == whole.objects, "{whole:?}");
    // A site without an identity looks at headers, signatures and the chain.
    let headers = scrubbed(&fixture.vault, None, 0.0).await;
    assert_eq!((headers.findings, headers.objects, headers.bodies), (0, whole.objects, 0));
    assert!(headers.bytes < whole.bytes, "{headers:?}");
    let found = verdict(whole);
    assert_eq!((found.status, found.reason.as_str()), (ConditionStatus::True, reasons::VERIFIED));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_chunk_is_named_with_the_moments_that_it_costs() {
    let (weed, fixture) = hospital().await;
    let damaged = copy_with_damage(&weed, "damaged").await;
    let copy = Vault::open(config(&weed, "damaged")).unwrap();
    let part = scrubbed(&copy, Some(fixture.identities.clone()), 100.0).await;
    assert_eq!(part.findings, 1, "{part:?}");
    let found = verdict(part);
    assert_eq!((found.status, found.reason.as_str()), (ConditionStatus::False, reasons::DAMAGED_OBJECT));
    for said in
        [damaged.as_str(), "billing: ", "backup a: no restore to moments between", "To do: keep the bucket as it is"]
    {
        assert!(found.message.contains(said), "{said} in {}", found.message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_put_over_an_object_is_named_and_nothing_is_lost() {
    let (weed, fixture) = hospital().await;
    let client = s3_client(&weed);
    let listed = client.list_objects_v2().bucket(BUCKET).prefix("t/v1/db/billing/log/").send().await.unwrap();
    let keys: Vec<&str> = listed.contents().iter().filter_map(|object| object.key()).collect();
    let (hidden, covered) = (keys[keys.len() / 2], keys[keys.len() / 2 + 1]);
    client.delete_object().bucket(BUCKET).key(hidden).send().await.unwrap();
    client.put_object().bucket(BUCKET).key(covered).body(b"forged".to_vec().into()).send().await.unwrap();
    let part = scrubbed(&fixture.vault, Some(fixture.identities.clone()), 100.0).await;
    assert_eq!(part.findings, 2, "{part:?}");
    let found = verdict(part);
    assert_eq!((found.status, found.reason.as_str()), (ConditionStatus::False, reasons::TAMPERED_OBJECT));
    assert!(found.message.contains(hidden) && found.message.contains("nothing is lost"), "{}", found.message);
    assert!(!found.message.contains("no restore"), "{}", found.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_goes_on_where_it_stood_when_its_store_comes_back() {
    let (mut weed, fixture) = hospital().await;
    let all = scrubbed(&fixture.vault, Some(fixture.identities.clone()), 100.0).await;

    let mut scrub = Scrub::new(DATABASE, 100.0, Timestamp::now());
    scrub.open(&fixture.vault, Some(fixture.identities.clone())).await.unwrap();
    for _ in 0..3 {
        assert!(!scrub.step(STEP).await.unwrap());
    }
    let before = scrub.totals().objects;
    assert!(before > 0);
    weed.kill();
    let error = tokio::time::timeout(Duration::from_secs(120), scrub.step(STEP)).await.unwrap().unwrap_err();
    assert!(!error.is_permanent(), "{error}");
    assert!(!scrub.is_open());
    weed.restart();
    // A connection of its own, as after a change of credentials.
    let again = Vault::open(config(&weed, "t")).unwrap();
    scrub.open(&again, Some(fixture.identities.clone())).await.unwrap();
    assert!(scrub.totals().objects >= before, "it began anew");
    while !scrub.step(STEP).await.unwrap() {}
    let went_on = part(DATABASE, &scrub.totals(), &scrub.result(), None);
    assert_eq!((went_on.objects, went_on.findings), (all.objects, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pass_leaves_evidence_that_is_locked_and_found_sound_by_the_next_one() {
    let (_weed, fixture) = hospital().await;
    let now = Some(Timestamp::now());
    let mut record = VerificationStatus { started: now, last_completed: now, ..VerificationStatus::default() };
    // Of nothing there is none: such a pass is made every few minutes.
    leave_evidence(&fixture.vault, &mut record).await.unwrap();
    assert_eq!((record.evidence.clone(), fixture.vault.evidence(EVIDENCE, 9).await.unwrap().len()), (None, 0));

    put(&mut record, scrubbed(&fixture.vault, Some(fixture.identities.clone()), 100.0).await);
    leave_evidence(&fixture.vault, &mut record).await.unwrap();
    let [evidence] = &fixture.vault.evidence(EVIDENCE, 9).await.unwrap()[..] else { panic!("one piece") };
    assert_eq!((Some(&evidence.key), &record.evidence_problem), (record.evidence.as_ref(), &None));
    let body = &evidence.body;
    assert_eq!((&body["started"], &body["ended"]), (&json!(now), &json!(now)));
    assert_eq!((&body["objects"], &body["findings"]), (&json!(record.objects), &json!(0)), "{body:#}");
    assert_eq!((&body["databases"][0]["name"], body["databases"][0]["worst"].is_null()), (&json!(DATABASE), true));
    assert!(body["objects"].as_i64().unwrap() > 5 && body["bytes"] == record.bytes, "{body:#}");
    let shared = fixture.vault.verify_shared(&VerifyOptions::default()).await.unwrap();
    assert_eq!((shared.findings, shared.totals.objects, shared.totals.locks), (vec![], 1, 1));
}

/// Of chunks there may be millions: a pass over them takes and costs as much as its requests.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_and_its_lock_are_one_request() {
    let (_weed, fixture) = hospital().await;
    let mut scrub = Scrub::new(DATABASE, 100.0, Timestamp::now());
    scrub.open(&fixture.vault, Some(fixture.identities.clone())).await.unwrap();
    assert!(scrub.step(Budget::unlimited()).await.unwrap());
    let totals = scrub.totals();
    // Listings, and the manifest of the backup.
    let others = totals.requests - totals.objects;
    assert!(totals.locks == totals.objects && totals.objects > 12 && others < 10, "{totals:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_only_read_leaves_no_evidence_and_says_so() {
    let weed = SeaweedFS::start_with_identities(
        r#"{"identities": [
            {"name": "admin", "credentials": [{"accessKey": "holdfast-test", "secretKey": "holdfast-test-secret"}],
             "actions": ["Admin", "Read", "Write", "List", "Tagging"]},
            {"name": "reader", "credentials": [{"accessKey": "reader", "secretKey": "reader-secret"}],
             "actions": ["Read:holdfast*", "List:holdfast*", "GetBucketObjectLockConfiguration:holdfast*"]}
        ]}"#,
    );
    create_bucket(&weed, BUCKET).await;
    let fixture = Fixture::new(Vault::open(config(&weed, "t")).unwrap(), small_segments()).await;
    fixture.protected_once().await;
    let credentials =
        CredentialsSource::Static { access_key_id: "reader".into(), secret_access_key: "reader-secret".into() };
    let reader = Vault::open(VaultConfig { credentials, ..config(&weed, "t") }).unwrap();
    let now = Some(Timestamp::now());
    let mut record = VerificationStatus { started: now, last_completed: now, ..VerificationStatus::default() };
    put(&mut record, scrubbed(&reader, None, 0.0).await);
    assert!(record.objects > 5 && record.findings == 0, "{record:?}");
    leave_evidence(&reader, &mut record).await.unwrap();
    let problem = record.evidence_problem.unwrap();
    assert!(problem.contains("evidence/") && problem.contains("grant these credentials"), "{problem}");
    assert_eq!((record.evidence, fixture.vault.evidence(EVIDENCE, 9).await.unwrap().len()), (None, 0));
}
