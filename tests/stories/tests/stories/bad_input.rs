//! Bad buckets, bad credentials, bad databases, damage: each gets a condition and an event that say
//! what is wrong, where, and what to do.

use holdfast_api::condition::{reasons, types};
use holdfast_api::{ProtectedDatabase, StandbyDatabase, Vault};
use holdfast_lab::BucketKind;
use holdfast_stories::{NAMESPACE, Site, Story, VAULT, story};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_vault_is_named_and_so_is_an_empty_one() -> anyhow::Result<()> {
    story("bad vaults", async |story| {
        bad_buckets_and_credentials(story).await?;
        nothing_to_restore_from(story).await
    })
    .await
}

async fn bad_buckets_and_credentials(story: &Story) -> anyhow::Result<()> {
    story.prepare(Site::Primary).await?;
    let cloud = story.lab.cloud();
    cloud.create_bucket("holdfast-plain", BucketKind::Plain).await?;
    cloud.create_bucket("holdfast-versioned", BucketKind::Versioned).await?;
    let wrong = [("AWS_ACCESS_KEY_ID", "WRONG"), ("AWS_SECRET_ACCESS_KEY", "wrong")];
    story.secret(Site::Primary, "wrong", &wrong).await?;

    for (name, change, reason, hint) in [
        ("plain", vec![("bucket", json!("holdfast-plain"))], reasons::BUCKET_WITHOUT_VERSIONING, "holdfast-plain"),
        (
            "versioned",
            vec![("bucket", json!("holdfast-versioned"))],
            reasons::BUCKET_WITHOUT_OBJECT_LOCK,
            "holdfast-versioned",
        ),
        ("absent", vec![("bucket", json!("holdfast-absent"))], reasons::NO_SUCH_BUCKET, "holdfast-absent"),
        ("wrong", vec![("credentials", json!({ "secretName": "wrong" }))], reasons::BAD_CREDENTIALS, "access key"),
        ("none", vec![("credentials", json!({ "secretName": "none" }))], reasons::CREDENTIALS_MISSING, "none"),
    ] {
        story.create(Site::Primary, "Vault", name, story.vault_like_the_sample(Site::Primary, &change)).await?;
        let message = story.reason::<Vault>(Site::Primary, name, types::READY, reason).await?;
        anyhow::ensure!(message.contains(hint), "{name}: {message:?} does not say {hint:?}");
        story.event(Site::Primary, "Vault", name, reason).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_database_is_named_and_the_good_ones_are_not_disturbed() -> anyhow::Result<()> {
    story("bad databases", async |story| {
        story.open_primary().await?;
        let load = story.load(4)?;
        bad_databases(story).await?;
        story.acknowledged(&load, 100).await?;
        load.stop().await?;
        story.nothing_is_lost(Site::Primary).await?;
        damaged_chunk(story).await
    })
    .await
}

async fn bad_databases(story: &Story) -> anyhow::Result<()> {
    story.start_database_with(Site::Primary, "minimal", "-c wal_level=minimal -c max_wal_senders=0").await?;
    story.start_database_with(Site::Primary, "spare", "").await?;
    let password = [("username", "holdfast"), ("password", "wrong")];
    story.secret(Site::Primary, "wrong-password", &password).await?;
    // The services' own role may log in, but not replicate.
    let hospital = json!({ "secretName": "hospital-database" });
    for (name, connection, problem) in [
        ("unreachable", json!({ "host": "nowhere" }), "nowhere"),
        ("no-replication", json!({ "database": "hospital", "credentials": hospital }), "REPLICATION"),
        ("wal-minimal", json!({ "host": "minimal-db" }), "wal_level"),
        ("wrong-password", json!({ "credentials": { "secretName": "wrong-password" } }), "password"),
    ] {
        expect_refused(story, name, name, connection, problem).await?;
    }
    // A name that another object has.
    expect_refused(story, "second", "registration-db", json!({ "host": "billing-db" }), "registration-db").await?;
    other_system(story).await
}

/// Another server under a name whose log is in the vault, and no object left that could tell.
async fn other_system(story: &Story) -> anyhow::Result<()> {
    let spec = json!({
        "vault": { "name": VAULT },
        "name": "taken",
        "connection": { "host": "spare-db", "credentials": { "secretName": "holdfast-database" } },
    });
    story.create(Site::Primary, "ProtectedDatabase", "spare", spec).await?;
    story.becomes::<ProtectedDatabase>(Site::Primary, "spare", types::PROTECTED).await?;
    let delete = ["-n", NAMESPACE, "delete", "protecteddatabase", "spare", "--timeout=60s"];
    story.lab.site(Site::Primary).kubectl(&delete).await?;
    expect_refused(story, "other-system", "taken", json!({ "host": "billing-db" }), "system").await
}

async fn nothing_to_restore_from(story: &Story) -> anyhow::Result<()> {
    story.prepare(Site::Standby).await?;
    story.create(Site::Standby, "Vault", VAULT, story.vault_like_the_sample(Site::Standby, &[])).await?;
    story.create(Site::Standby, "StandbyDatabase", "absent", standby_of("absent")).await?;
    let reason = reasons::NOTHING_TO_RESTORE_FROM;
    let message = story.reason::<StandbyDatabase>(Site::Standby, "absent", types::READY, reason).await?;
    anyhow::ensure!(message.contains("absent"), "{message}");
    story.event(Site::Standby, "StandbyDatabase", "absent", reason).await
}

async fn damaged_chunk(story: &Story) -> anyhow::Result<()> {
    story.prepare(Site::Standby).await?;
    let damaged = story.copy_with_damage("registration-db", "damaged").await?;
    let spec = story.vault_like_the_sample(Site::Standby, &[("prefix", json!("damaged"))]);
    story.create(Site::Standby, "Vault", VAULT, spec).await?;
    story.create(Site::Standby, "StandbyDatabase", "registration-db", standby_of("registration-db")).await?;
    let message = story.says::<StandbyDatabase>(Site::Standby, "registration-db", types::READY, &damaged).await?;
    println!("{message}");
    story.warning(Site::Standby, "StandbyDatabase", "registration-db", &damaged).await
}

fn standby_of(source: &str) -> Value {
    json!({
        "vault": { "name": VAULT },
        "source": source,
        "image": "postgres:15",
        "storage": { "size": "1Gi" },
        "credentials": { "secretName": "holdfast-database" },
    })
}

/// A ProtectedDatabase that must not become ready, with a message that says `problem`, and an event.
async fn expect_refused(
    story: &Story,
    name: &str,
    vault_name: &str,
    connection: Value,
    problem: &str,
) -> anyhow::Result<()> {
    let mut merged = json!({
        "host": "registration-db",
        "database": "postgres",
        "credentials": { "secretName": "holdfast-database" },
    });
    if let (Some(merged), Some(connection)) = (merged.as_object_mut(), connection.as_object()) {
        merged.extend(connection.clone());
    }
    let spec = json!({ "vault": { "name": VAULT }, "name": vault_name, "connection": merged });
    story.create(Site::Primary, "ProtectedDatabase", name, spec).await?;
    let message = story.says::<ProtectedDatabase>(Site::Primary, name, types::READY, problem).await?;
    println!("{name}: {message}");
    story.warning(Site::Primary, "ProtectedDatabase", name, problem).await
}
