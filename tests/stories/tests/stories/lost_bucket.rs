//! The bucket is lost together with the primary site, and a copy in another bucket takes its place.

use anyhow::{Context, Result, ensure};
use aws_sdk_s3::types::{
    DefaultRetention, ObjectLockConfiguration, ObjectLockEnabled, ObjectLockRetentionMode, ObjectLockRule,
};
use holdfast_lab::{BUCKET, BucketKind};
use holdfast_stories::{NAMESPACE, Site, Story, VAULT, story};

/// The sites' credentials reach buckets with names like this.
const SECOND: &str = "holdfast-second";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes two minutes: `cargo lab test lost_bucket` runs it"]
async fn a_copy_in_another_bucket_takes_the_place_of_one_that_is_lost() -> Result<()> {
    story("lost bucket", async |story| {
        story.open_primary().await?;
        let load = story.load(4)?;
        story.acknowledged(&load, 200).await?;
        make_second_bucket(story).await?;
        copy(story).await?;
        story.acknowledged(&load, 200).await?;
        load.stop().await?;
        let rest = copy(story).await?;
        ensure!(!rest.starts_with("0 objects copied") && !rest.contains(" 0 were there already"), "{rest}");

        story.lab.site(Site::Primary).kill().await?;
        story.lab.cloud().bucket(BUCKET).deny_everything(Site::ALL.map(Site::name)).await?;
        // A cluster that is new, and settings with the bucket that is left.
        story.keep_the_vault_in(SECOND)?;
        story.open_standby().await?;
        story.fail_over("failover-1").await?;
        let load = story.load(2)?;
        story.acknowledged(&load, 100).await?;
        load.stop().await?;
        story.nothing_is_lost(Site::Standby).await?;
        // What was copied, and what was stored since.
        let objects = story.everything_is_locked_once(SECOND).await?;
        println!("{objects} objects in the second bucket, each once, locked and with a checksum");
        Ok(())
    })
    .await
}

/// Versioned, with Object Lock and, since a copy sets no locks, a default retention.
async fn make_second_bucket(story: &Story) -> Result<()> {
    let bucket = story.lab.cloud().create_bucket(SECOND, BucketKind::Locked).await?;
    let retention = DefaultRetention::builder().mode(ObjectLockRetentionMode::Compliance).days(90).build();
    let lock = ObjectLockConfiguration::builder()
        .object_lock_enabled(ObjectLockEnabled::Enabled)
        .rule(ObjectLockRule::builder().default_retention(retention).build())
        .build();
    let put = bucket.client().put_object_lock_configuration().bucket(SECOND).object_lock_configuration(lock);
    put.send().await.context("setting the default retention")?;
    Ok(())
}

/// As the README says; returns what was printed.
async fn copy(story: &Story) -> Result<String> {
    let (credentials, endpoint) = (story.lab.credentials(Site::Primary), story.lab.cloud().endpoint());
    let environment = format!(
        "export AWS_CHECKSUM_ALGORITHM=sha256 AWS_ENDPOINT_URL={endpoint} AWS_ALLOW_HTTP=true AWS_REGION=us-east-1\n\
         export AWS_ACCESS_KEY_ID={} AWS_SECRET_ACCESS_KEY={}",
        credentials.access_key, credentials.secret_key
    );
    let copy = format!("holdfast vault copy --to s3://{SECOND} --vault {VAULT} -n {NAMESPACE}");
    story.paste(Site::Primary, &[environment, copy]).await
}
