//! What a real API server refuses before any operator sees it: every rule of the schemas that is more than a type.

use anyhow::ensure;
use holdfast_stories::{DATABASES, NAMESPACE, PLAN, Site, Story, VAULT};
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{GroupVersionKind, TypeMeta};
use serde_json::{Value, json};

/// Tries objects of each kind and changes of those that are there; `failover` is one that exists. Nothing is changed.
pub(crate) async fn refuses(story: &Story, failover: &str) -> anyhow::Result<()> {
    let standby = Kinds { client: story.client(Site::Standby).await? };
    let primary = Kinds { client: story.client(Site::Primary).await? };
    let order = json!({ "plan": { "name": PLAN }, "reason": "A story." });
    let drill = json!({ "plan": { "name": "absent" }, "reason": "A story." });
    story.create(Site::Standby, "Drill", "of-unknown", drill.clone()).await?;
    let vault = |changes: &[(&str, Value)]| story.vault_like_the_sample(Site::Standby, changes);
    let database = |host: &str| json!({ "vault": { "name": VAULT }, "connection": { "host": host, "credentials": { "secretName": "s" } } });
    let copy = |size: &str| {
        json!({ "vault": { "name": VAULT }, "source": "x", "image": "postgres:15", "storage": { "size": size },
            "credentials": { "secretName": "s" } })
    };
    let plan = |databases: Value| json!({ "databases": databases, "services": [] });

    let (name, long, longer) = ("tried", "x".repeat(41), "x".repeat(53));
    let (long, longer) = (long.as_str(), longer.as_str());
    let too_long = "has at most 52 characters";
    let databases = json!([{ "name": "db", "standby": "db" }]);
    let keys = |recipients: Value| [("encryption", json!({ "recipients": recipients }))];
    for (kind, name, spec, said) in [
        ("Vault", name, vault(&keys(json!(["not a key"]))), "a recipient is an age public key"),
        ("Vault", name, vault(&keys(json!([]))), "should have at least 1 items"),
        (
            "Vault",
            name,
            vault(&[("chunkRetentionDays", json!(2))]),
            "chunkRetentionDays must not be above retentionDays",
        ),
        ("Vault", name, vault(&[("retentionDays", json!(0))]), "greater than or equal to 1"),
        ("Vault", name, vault(&[("endpoint", json!("s3.cloud:8333"))]), "should match"),
        ("Vault", name, vault(&[("tls", json!({ "caBundle": "nonsense" }))]), "caBundle is PEM"),
        ("Vault", longer, vault(&[]), too_long),
        ("ProtectedDatabase", longer, database("h"), too_long),
        ("ProtectedDatabase", name, json!({ "vault": { "name": VAULT } }), "connection: Required value"),
        ("StandbyDatabase", name, copy("0"), "size is a positive quantity"),
        ("StandbyDatabase", name, copy("much"), "size is a positive quantity"),
        ("StandbyDatabase", longer, copy("1Gi"), too_long),
        ("RecoveryPlan", name, plan(json!([])), "should have at least 1 items"),
        ("RecoveryPlan", longer, plan(databases.clone()), too_long),
        ("Failover", name, json!({ "plan": { "name": PLAN }, "reason": "" }), "should be at least 1 chars long"),
        ("Failover", longer, order.clone(), too_long),
        ("Drill", long, drill.clone(), "has at most 40 characters"),
    ] {
        standby.refuses_new(kind, name, &spec, said).await?;
    }
    // The same objects in a form that is right: the rules refuse what they are for, and not everything.
    for (kind, spec) in [
        ("Vault", vault(&[])),
        ("ProtectedDatabase", database("h")),
        ("StandbyDatabase", copy("1Gi")),
        ("RecoveryPlan", plan(databases)),
        ("Failover", order),
        ("Drill", drill),
    ] {
        standby.create(kind, name, &spec).await?;
    }
    for (site, kind, name, change, said) in [
        (&standby, "Vault", VAULT, json!({ "bucket": "another" }), "bucket cannot change"),
        (&standby, "Vault", VAULT, json!({ "prefix": "another" }), "prefix cannot change"),
        (&primary, "ProtectedDatabase", DATABASES[0], json!({ "vault": { "name": "other" } }), "vault cannot change"),
        (&primary, "ProtectedDatabase", DATABASES[0], json!({ "name": "other" }), "name cannot change"),
        (&standby, "StandbyDatabase", DATABASES[0], json!({ "vault": { "name": "other" } }), "vault cannot change"),
        (&standby, "StandbyDatabase", DATABASES[0], json!({ "source": "other" }), "source cannot change"),
        (&standby, "StandbyDatabase", DATABASES[0], json!({ "storage": { "size": "3Gi" } }), "storage cannot change"),
        (&standby, "StandbyDatabase", DATABASES[0], json!({ "purpose": "Drill" }), "purpose cannot change"),
        (
            &standby,
            "StandbyDatabase",
            DATABASES[0],
            json!({ "until": { "epoch": 1, "lsn": "0/1" } }),
            "until cannot change",
        ),
        (&standby, "Failover", failover, json!({ "reason": "Another." }), "create another Failover"),
        (&standby, "Drill", "of-unknown", json!({ "reason": "Another." }), "create another Drill"),
    ] {
        site.refuses_change(kind, name, &change, said).await?;
    }
    Ok(())
}

struct Kinds {
    client: kube::Client,
}

impl Kinds {
    fn api(&self, kind: &str) -> (Api<DynamicObject>, TypeMeta) {
        let of = ApiResource::from_gvk(&GroupVersionKind::gvk("holdfast.dev", "v1alpha1", kind));
        let types = TypeMeta { api_version: of.api_version.clone(), kind: of.kind.clone() };
        (Api::namespaced_with(self.client.clone(), NAMESPACE, &of), types)
    }

    /// As if: nothing is stored.
    async fn create(&self, kind: &str, name: &str, spec: &Value) -> kube::Result<()> {
        let (api, types) = self.api(kind);
        let object = DynamicObject {
            types: Some(types),
            metadata: kube::core::ObjectMeta { name: Some(name.to_owned()), ..Default::default() },
            data: json!({ "spec": spec }),
        };
        api.create(&PostParams { dry_run: true, ..PostParams::default() }, &object).await.map(drop)
    }

    async fn refuses_new(&self, kind: &str, name: &str, spec: &Value, said: &str) -> anyhow::Result<()> {
        is_refused(self.create(kind, name, spec).await, said, &format!("{kind} {name} with {spec}"))
    }

    async fn refuses_change(&self, kind: &str, name: &str, change: &Value, said: &str) -> anyhow::Result<()> {
        let dry = PatchParams { dry_run: true, ..PatchParams::default() };
        let patch = Patch::Merge(json!({ "spec": change }));
        let patched = self.api(kind).0.patch(name, &dry, &patch).await.map(drop);
        is_refused(patched, said, &format!("{change} for {kind} {name}"))
    }
}

fn is_refused(answer: kube::Result<()>, said: &str, what: &str) -> anyhow::Result<()> {
    match answer {
        Ok(()) => anyhow::bail!("the API server takes {what}"),
        Err(kube::Error::Api(status)) => {
            ensure!(status.code == 422 && status.message.contains(said), "{what}: {} {}", status.code, status.message);
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}
