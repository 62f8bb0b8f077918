//! Bad buckets, bad credentials, bad databases, damage: each gets a condition and an event that say
//! what is wrong, where, and what to do.

use anyhow::{Context, ensure};
use holdfast_api::condition::{is_true, reasons, types};
use holdfast_api::standby_database::Role;
use holdfast_api::{ProtectedDatabase, StandbyDatabase, Vault};
use holdfast_fault_server::{Fault, FaultServer, WRITER};
use holdfast_lab::BucketKind;
use holdfast_stories::{Complaint, DATABASES, NAMESPACE, Site, Story, VAULT, story};
use holdfast_wal::Lsn;
use kube::api::Api;
use serde_json::{Value, json};

/// Reasons that an agent or a restore gives, as `holdfast_dataplane::problem::code` has them.
mod codes {
    pub(super) const DATABASE_UNREACHABLE: &str = "DatabaseUnreachable";
    pub(super) const ROLE_WITHOUT_REPLICATION: &str = "RoleWithoutReplication";
    pub(super) const WAL_LEVEL_MINIMAL: &str = "WalLevelMinimal";
    pub(super) const WRONG_PASSWORD: &str = "WrongPassword";
    pub(super) const SYSTEM_ID_MISMATCH: &str = "SystemIdMismatch";
    pub(super) const DAMAGED_OBJECT: &str = "DamagedObject";
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_vaults_and_databases_are_named_and_the_good_ones_are_not_disturbed() -> anyhow::Result<()> {
    story("bad input", async |story| {
        story.open_primary().await?;
        let load = story.load(4)?;
        bad_buckets_and_credentials(story).await?;
        nothing_to_restore_from(story).await?;
        bad_databases(story).await?;
        story.acknowledged(&load, 100).await?;
        load.stop().await?;
        story.nothing_is_lost(Site::Primary).await?;
        damaged_chunk(story).await
    })
    .await
}

async fn bad_buckets_and_credentials(story: &Story) -> anyhow::Result<()> {
    let cloud = story.lab.cloud();
    let plain = cloud.create_bucket("holdfast-plain", BucketKind::Plain).await?;
    let versioned = cloud.create_bucket("holdfast-versioned", BucketKind::Versioned).await?;
    let wrong = [("AWS_ACCESS_KEY_ID", "WRONG"), ("AWS_SECRET_ACCESS_KEY", "wrong")];
    story.secret(Site::Primary, "mistyped-keys", &wrong).await?;

    let bucket = |name: &str| ("bucket", json!(name));
    let credentials = |secret: &str| ("credentials", json!({ "secretName": secret }));
    let new_bucket = "create a new bucket with Object Lock enabled";
    for (name, change, reason, what, hint) in [
        ("a", bucket("holdfast-plain"), reasons::BUCKET_WITHOUT_VERSIONING, "holdfast-plain", new_bucket),
        ("b", bucket("holdfast-versioned"), reasons::BUCKET_WITHOUT_OBJECT_LOCK, "holdfast-versioned", new_bucket),
        (
            "c",
            bucket("holdfast-absent"),
            reasons::NO_SUCH_BUCKET,
            "holdfast-absent",
            "create the bucket with Object Lock",
        ),
        (
            "d",
            credentials("mistyped-keys"),
            reasons::BAD_CREDENTIALS,
            "credentials",
            "check the access key and the secret",
        ),
        (
            "e",
            credentials("forgotten"),
            reasons::CREDENTIALS_MISSING,
            "forgotten",
            "Create it with the keys AWS_ACCESS_KEY_ID",
        ),
    ] {
        story.create(Site::Primary, "Vault", name, story.vault_like_the_sample(Site::Primary, &[change])).await?;
        story.complains::<Vault>(Site::Primary, name, types::READY, Complaint { reason, what, hint }).await?;
    }
    a_store_that_lies(story).await?;
    for bucket in [plain, versioned] {
        let versions = bucket.versions("").await?;
        ensure!(versions.is_empty(), "something was put into {}: {versions:?}", bucket.name());
    }
    Ok(())
}

/// Where the sites reach a store of this story's own on this machine.
const LIAR: &str = "10.77.0.1:17002";

/// A store that answers everything and keeps what it says but for one thing: its listings have no order.
async fn a_store_that_lies(story: &Story) -> anyhow::Result<()> {
    let store = FaultServer::listen(LIAR.parse()?).await.with_context(|| format!("listening on {LIAR}"))?;
    store.create_bucket("liar");
    store.faults().set(Fault::UnsortedLists);
    let keys = [("AWS_ACCESS_KEY_ID", WRITER.0), ("AWS_SECRET_ACCESS_KEY", WRITER.1)];
    story.secret(Site::Primary, "liar", &keys).await?;
    let change = [
        ("endpoint", json!(store.endpoint())),
        ("bucket", json!("liar")),
        ("credentials", json!({ "secretName": "liar" })),
    ];
    story.create(Site::Primary, "Vault", "f", story.vault_like_the_sample(Site::Primary, &change)).await?;
    let refused =
        Complaint { reason: reasons::UNSUITABLE_STORE, what: "list-is-sorted", hint: "holdfast vault conformance" };
    story.complains::<Vault>(Site::Primary, "f", types::READY, refused).await
}

async fn bad_databases(story: &Story) -> anyhow::Result<()> {
    story.start_database_with(Site::Primary, "minimal", "-c wal_level=minimal -c max_wal_senders=0").await?;
    story.start_database_with(Site::Primary, "spare", "").await?;
    let password = [("username", "holdfast"), ("password", "wrong")];
    story.secret(Site::Primary, "mistyped-password", &password).await?;
    // The services' own role may log in, but not replicate.
    let hospital = json!({ "secretName": "hospital-database" });
    for (name, connection, reason, what, hint) in [
        ("a", json!({ "host": "nowhere" }), codes::DATABASE_UNREACHABLE, "nowhere", "check host and port"),
        (
            "b",
            json!({ "database": "hospital", "credentials": hospital }),
            codes::ROLE_WITHOUT_REPLICATION,
            "role hospital at registration-db",
            "ALTER ROLE \"hospital\" REPLICATION",
        ),
        (
            "c",
            json!({ "host": "minimal-db" }),
            codes::WAL_LEVEL_MINIMAL,
            "minimal-db:5432 has wal_level=minimal",
            "ALTER SYSTEM SET wal_level",
        ),
        (
            "d",
            json!({ "credentials": { "secretName": "mistyped-password" } }),
            codes::WRONG_PASSWORD,
            "registration-db",
            "correct the password in the Secret",
        ),
    ] {
        refused(story, name, name, connection, Complaint { reason, what, hint }).await?;
        let stored = story.stored(&format!("{}/v1/db/{name}/", story.prefix())).await?;
        ensure!(stored.is_empty(), "something of {name} is in the vault: {stored:?}");
    }
    let taken = Complaint {
        reason: reasons::NAME_TAKEN,
        what: "registration-db already writes under the name registration-db",
        hint: "Delete this object",
    };
    refused(story, "e", "registration-db", json!({ "host": "billing-db" }), taken).await?;
    other_system(story).await
}

/// Another server under a name whose log is in the vault, and no object left that could tell.
async fn other_system(story: &Story) -> anyhow::Result<()> {
    let spec = json!({
        "vault": { "name": VAULT },
        "name": "pharmacy",
        "connection": { "host": "spare-db", "credentials": { "secretName": "holdfast-database" } },
    });
    story.create(Site::Primary, "ProtectedDatabase", "spare", spec).await?;
    story.becomes::<ProtectedDatabase>(Site::Primary, "spare", types::PROTECTED).await?;
    let delete = ["-n", NAMESPACE, "delete", "protecteddatabase", "spare", "--timeout=60s"];
    story.lab.site(Site::Primary).kubectl(&delete).await?;
    let other = Complaint {
        reason: codes::SYSTEM_ID_MISMATCH,
        what: "pharmacy",
        hint: "give this database a name of its own in the vault",
    };
    refused(story, "f", "pharmacy", json!({ "host": "billing-db" }), other).await
}

async fn nothing_to_restore_from(story: &Story) -> anyhow::Result<()> {
    story.prepare(Site::Standby).await?;
    story.create(Site::Standby, "Vault", "g", story.vault_like_the_sample(Site::Standby, &[])).await?;
    story.create(Site::Standby, "StandbyDatabase", "a", standby_of("g", "pharmacy")).await?;
    let nothing = Complaint {
        reason: reasons::NOTHING_TO_RESTORE_FROM,
        what: "no complete base backup of a database named pharmacy",
        hint: "Check spec.source",
    };
    story.complains::<StandbyDatabase>(Site::Standby, "a", types::READY, nothing).await?;
    let made = ["get", "-n", NAMESPACE, "persistentvolumeclaims,statefulsets,pods", "-o", "name"];
    let made = story.lab.site(Site::Standby).kubectl(&made).await?;
    ensure!(made.trim().is_empty(), "something was made although there is nothing to restore: {made}");
    Ok(())
}

async fn damaged_chunk(story: &Story) -> anyhow::Result<()> {
    let database = DATABASES[0];
    story.prepare(Site::Standby).await?;
    let damaged = story.copy_with_damage(database, "damaged").await?;
    let spec = story.vault_like_the_sample(Site::Standby, &[("prefix", json!("damaged"))]);
    story.create(Site::Standby, "Vault", VAULT, spec).await?;
    story.create(Site::Standby, "StandbyDatabase", database, standby_of(VAULT, database)).await?;
    let complaint = Complaint { reason: codes::DAMAGED_OBJECT, what: &damaged, hint: "keep the bucket as it is" };
    story.complains::<StandbyDatabase>(Site::Standby, database, types::READY, complaint).await?;

    // Nothing behind the damage was served, and nobody was told that this is a database to work with.
    let standbys = Api::<StandbyDatabase>::namespaced(story.client(Site::Standby).await?, NAMESPACE);
    let status = standbys.get(database).await?.status.context("a standby without status")?;
    let open = [types::FOLLOWING, types::PROMOTED].iter().any(|type_| is_true(&status.conditions, type_));
    ensure!(!open && status.role != Some(Role::Primary), "{status:?}");
    let start = damaged.rsplit('/').next().and_then(|name| u64::from_str_radix(name, 16).ok());
    let start = start.with_context(|| format!("{damaged} does not end in a position"))?;
    let replayed = status.replayed_lsn.map(|text| text.parse::<Lsn>()).transpose()?;
    ensure!(replayed.is_none_or(|lsn| lsn.0 <= start), "{replayed:?} is behind the damage at {start:X}");
    Ok(())
}

fn standby_of(vault: &str, source: &str) -> Value {
    json!({
        "vault": { "name": vault },
        "source": source,
        "image": "postgres:15",
        "storage": { "size": "1Gi" },
        "credentials": { "secretName": "holdfast-database" },
    })
}

/// A ProtectedDatabase that must not become ready, and complains like this.
async fn refused(
    story: &Story,
    name: &str,
    vault_name: &str,
    connection: Value,
    complaint: Complaint<'_>,
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
    story.complains::<ProtectedDatabase>(Site::Primary, name, types::READY, complaint).await
}
