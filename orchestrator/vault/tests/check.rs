//! The lock probe: on a real S3 server with the rights that a writer has, with too many, and on stores that lie.

mod common;

use std::sync::Arc;

use aws_sdk_s3::Client;
use holdfast_test_postgres::SeaweedFS;
use holdfast_vault::store::{Answer, Forbidden, MemoryStore, S3Store, Store};
use holdfast_vault::{Attempt, CredentialsSource, LockProbe, Outcome, ProbeOptions, Vault, VaultConfig};

const BUCKET: &str = "holdfast";

struct Server {
    weed: SeaweedFS,
    admin: Client,
}

impl Server {
    async fn start() -> Server {
        let weed = SeaweedFS::start_with_writer();
        let admin = common::s3_client_of(&weed, weed.access_key(), weed.secret_key());
        admin.create_bucket().bucket(BUCKET).object_lock_enabled_for_bucket(true).send().await.unwrap();
        Server { weed, admin }
    }

    /// What a vault's bucket says about its writer, as far as this server knows the words.
    async fn deny_the_writer(&self) {
        let policy = serde_json::json!({"Version": "2012-10-17", "Statement": [
            {"Sid": "Settings", "Effect": "Deny", "Principal": {"AWS": "arn:aws:iam::000000000000:user/writer"},
             "Action": ["s3:PutLifecycleConfiguration", "s3:PutBucketVersioning", "s3:PutBucketPolicy",
                        "s3:DeleteObject", "s3:DeleteObjectVersion"],
             "Resource": [format!("arn:aws:s3:::{BUCKET}"), format!("arn:aws:s3:::{BUCKET}/*")]},
            {"Sid": "Other", "Effect": "Deny", "Principal": {"AWS": "arn:aws:iam::000000000000:user/writer"},
             "Action": ["s3:GetObject"], "Resource": [format!("arn:aws:s3:::{BUCKET}/other/*")]}
        ]});
        self.admin.put_bucket_policy().bucket(BUCKET).policy(policy.to_string()).send().await.unwrap();
    }

    fn vault(&self, user: &str) -> Vault {
        let keys =
            CredentialsSource::Static { access_key_id: user.to_owned(), secret_access_key: format!("{user}-secret") };
        let config = VaultConfig {
            endpoint: Some(self.weed.endpoint().parse().unwrap()),
            prefix: "t".into(),
            retention_days: 2,
            chunk_retention_days: 1,
            ..VaultConfig::new(BUCKET, keys)
        };
        Vault::open(config).unwrap()
    }
}

fn outcome(probe: &LockProbe, attempt: Attempt) -> &Outcome {
    &probe.attempts.iter().find(|tried| tried.attempt == attempt).unwrap().outcome
}

fn names(probe: &LockProbe) -> Vec<(&'static str, &'static str)> {
    probe.attempts.iter().map(|tried| (tried.attempt.name(), tried.outcome.name())).collect()
}

fn other() -> ProbeOptions {
    ProbeOptions { other_prefix: Some("other/".into()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_with_a_writer_s_rights_is_refused_everything() {
    let server = Server::start().await;
    server.deny_the_writer().await;
    let put = server.admin.put_object().bucket(BUCKET).key("other/v1/db/lab/identity");
    put.body(bytes::Bytes::from_static(b"x").into()).send().await.unwrap();
    let probe = server.vault("writer").probe_lock(&other()).await.unwrap();
    assert_eq!(
        names(&probe),
        [
            ("shorten-retention", "refused"),
            ("downgrade-retention", "refused"),
            ("delete-version", "refused"),
            ("delete-batch", "refused"),
            ("bypass-governance", "refused"),
            // This server knows no condition on If-None-Match or on retention, so that a policy cannot forbid these.
            ("overwrite", "harmless"),
            ("hide", "refused"),
            ("put-unlocked", "limit"),
            ("suspend-versioning", "refused"),
            ("put-lifecycle", "refused"),
            ("put-policy", "refused"),
            ("put-lock-configuration", "refused"),
            ("expiring-rules", "harmless"),
            // Its policies cannot limit a listing to a prefix either.
            ("read-other", "limit"),
        ],
        "{probe:#?}"
    );
    assert!(!probe.lock_is_broken());
    assert_eq!(probe.check.clock_in_sync(), Some(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_that_a_writer_should_not_have_are_named_and_the_bucket_is_left_as_it_was() {
    let server = Server::start().await;
    let put = server.admin.put_object().bucket(BUCKET).key("other/v1/db/lab/identity");
    put.body(bytes::Bytes::from_static(b"x").into()).send().await.unwrap();
    let probe = server.vault(server.weed.access_key()).probe_lock(&other()).await.unwrap();
    for attempt in [Attempt::PutLifecycle, Attempt::PutPolicy, Attempt::PutLockConfiguration, Attempt::ReadOther] {
        assert!(outcome(&probe, attempt).is_harmful(), "{attempt:?}: {probe:#?}");
        assert!(outcome(&probe, attempt).detail().contains("To do: "), "{attempt:?}");
    }
    // COMPLIANCE binds the administrator too, and what he may hide is found again.
    assert!(!probe.lock_is_broken(), "{probe:#?}");
    assert_eq!(outcome(&probe, Attempt::Hide).name(), "harmless");
    assert_eq!(outcome(&probe, Attempt::SuspendVersioning).name(), "refused");
    let rules = server.admin.get_bucket_lifecycle_configuration().bucket(BUCKET).send().await;
    assert!(rules.is_err(), "{rules:?}");
    let policy = server.admin.get_bucket_policy().bucket(BUCKET).send().await;
    assert!(policy.is_err(), "{policy:?}");
    server.vault("writer").check().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn lifecycle_rules_are_put_back_and_those_that_expire_are_named() {
    use aws_sdk_s3::types::{
        BucketLifecycleConfiguration, ExpirationStatus, LifecycleExpiration, LifecycleRule, LifecycleRuleFilter,
    };
    let server = Server::start().await;
    let rule = LifecycleRule::builder()
        .id("tidy")
        .status(ExpirationStatus::Enabled)
        .filter(LifecycleRuleFilter::builder().prefix("t/").build())
        .expiration(LifecycleExpiration::builder().days(30).build())
        .build()
        .unwrap();
    let rules = BucketLifecycleConfiguration::builder().rules(rule).build().unwrap();
    let put = server.admin.put_bucket_lifecycle_configuration().bucket(BUCKET).lifecycle_configuration(rules);
    put.send().await.unwrap();
    let probe = server.vault(server.weed.access_key()).probe_lock(&ProbeOptions::default()).await.unwrap();
    assert!(outcome(&probe, Attempt::ExpiringRules).detail().contains("tidy"), "{probe:#?}");
    assert_eq!(outcome(&probe, Attempt::ReadOther).name(), "skipped");
    let after = server.admin.get_bucket_lifecycle_configuration().bucket(BUCKET).send().await.unwrap();
    let ids: Vec<_> = after.rules().iter().map(|rule| rule.id().unwrap_or_default()).collect();
    assert_eq!(ids, ["tidy"]);
}

/// A probe whose requests never work proves nothing: on what is not locked each of them does.
#[tokio::test(flavor = "multi_thread")]
async fn the_requests_of_the_probe_succeed_where_nothing_is_locked() {
    let server = Server::start().await;
    let config = VaultConfig {
        endpoint: Some(server.weed.endpoint().parse().unwrap()),
        chunk_retention_days: 1,
        ..VaultConfig::new(
            BUCKET,
            CredentialsSource::Static {
                access_key_id: server.weed.access_key().into(),
                secret_access_key: server.weed.secret_key().into(),
            },
        )
    };
    let store = S3Store::new(config).unwrap();
    let until = jiff::Timestamp::now() + std::time::Duration::from_secs(3);
    let accepted = Answer::accepted();
    for n in 0..4 {
        let key = format!("free-{n}");
        let body = bytes::Bytes::from_static(b"x");
        assert_eq!(store.forbidden(Forbidden::PutUnlocked { key: &key, body }).await.unwrap(), accepted);
        let id = store.versions(&key).await.unwrap()[0].id.clone();
        let (key, id) = (&*key, &*id);
        let request = match n {
            0 => Forbidden::DeleteVersion { key, id },
            1 => Forbidden::DeleteBatch { key, id },
            2 => Forbidden::BypassGovernance { key, id },
            _ => Forbidden::Retain { key, id, until, compliance: false },
        };
        assert_eq!(store.forbidden(request.clone()).await.unwrap(), accepted, "{request:?}");
        assert_eq!(store.versions(key).await.unwrap().len(), usize::from(n == 3), "{request:?}");
        if n == 3 {
            let lock = store.retention(key, id).await.unwrap().unwrap();
            assert!(!lock.compliance, "{lock:?}");
        }
    }
    assert_eq!(store.forbidden(Forbidden::Hide { key: "free-3" }).await.unwrap(), accepted);
    assert!(store.versions("free-3").await.unwrap().iter().any(|version| version.is_delete_marker));
}

#[tokio::test]
async fn a_store_that_accepts_locks_and_does_not_hold_them_is_found_out_by_each_attempt() {
    let store = Arc::new(MemoryStore::default());
    let vault = Vault::with_store(store.clone(), "b", "t");
    let sound = vault.probe_lock(&ProbeOptions::default()).await.unwrap();
    assert_eq!(sound.harmful().count(), 0, "{sound:#?}");
    store.set_enforce_lock(false);
    let probe = vault.probe_lock(&ProbeOptions::default()).await.unwrap();
    let harmful: Vec<_> = probe.harmful().map(|tried| tried.attempt).collect();
    assert_eq!(
        harmful,
        [
            Attempt::ShortenRetention,
            Attempt::DowngradeRetention,
            Attempt::DeleteVersion,
            Attempt::DeleteBatch,
            Attempt::BypassGovernance,
            Attempt::SuspendVersioning,
            Attempt::PutLifecycle,
            Attempt::PutPolicy,
            Attempt::PutLockConfiguration,
        ]
    );
    assert!(probe.lock_is_broken());
}

#[tokio::test]
async fn a_lock_that_is_shorter_than_asked_for_is_refused() {
    let store = Arc::new(MemoryStore::default());
    let vault = Vault::with_store(store.clone(), "b", "t");
    vault.check().await.unwrap();
    store.set_shortened_locks(true);
    let error = vault.check().await.unwrap_err();
    assert_eq!(error.reason(), "LockNotEnforced", "{error}");
}
