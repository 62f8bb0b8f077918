//! What a story asks of the sites: conditions, events, pods, objects in the bucket.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_lab::{BUCKET, Site, wait};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::Resource;
use kube::api::{Api, DeleteParams, ListParams};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::install::beside_us;
use crate::kubernetes::{Condition, Observed, condition, condition_true};
use crate::story::{NAMESPACE, Story};

const LIMIT: Duration = Duration::from_secs(120);

/// The labels of the operator's pod, in `holdfast-system`.
pub const OPERATOR: &str = "app.kubernetes.io/component=operator";

/// The labels of the pod of a database's agent, relay or archiver.
pub fn part(database: &str, component: &str) -> String {
    format!("holdfast.dev/name={database},app.kubernetes.io/component={component}")
}

/// How bad input must be answered: what programs look for, what is wrong and where, and what to do.
#[derive(Clone, Copy, Debug)]
pub struct Complaint<'a> {
    pub reason: &'a str,
    pub what: &'a str,
    pub hint: &'a str,
}

impl Story {
    /// Waits until an object's condition complains like this, and a warning with it.
    pub async fn complains<K>(&self, site: Site, name: &str, type_: &str, complaint: Complaint<'_>) -> Result<()>
    where
        K: Observed + Resource<Scope = NamespaceResourceScope>,
    {
        let Complaint { reason, what, hint } = complaint;
        // A text that the object's own name brings along would prove nothing.
        ensure!(!name.contains(what) && !name.contains(hint), "{name} contains what it must be told");
        let kind = K::kind(&());
        let complete = |text: &str| text.contains(what) && text.contains(hint);
        let bad = |found: &Condition| {
            found.status != holdfast_api::condition::ConditionStatus::True
                && found.reason == reason
                && complete(&found.message)
        };
        let message = self.condition::<K>(site, name, type_, bad).await.with_context(|| format!("{complaint:?}"))?;
        println!("{kind} {name}: {reason}: {message}");
        let warns = |event: &Event| {
            let is_warning = event.type_.as_deref() == Some("Warning") && event.reason.as_deref() == Some(reason);
            is_warning && complete(event.message.as_deref().unwrap_or_default())
        };
        self.find_event(site, &kind, name, warns).await.with_context(|| format!("{complaint:?}"))
    }

    /// Waits until a condition of an object has this reason and returns its message.
    pub async fn reason<K>(&self, site: Site, name: &str, type_: &str, reason: &str) -> Result<String>
    where
        K: Observed + Resource<Scope = NamespaceResourceScope>,
    {
        self.condition::<K>(site, name, type_, |found| found.reason == reason).await
    }

    /// Waits until a condition of an object is not True and its message contains `text`; returns the message.
    pub async fn says<K>(&self, site: Site, name: &str, type_: &str, text: &str) -> Result<String>
    where
        K: Observed + Resource<Scope = NamespaceResourceScope>,
    {
        let bad = |found: &Condition| {
            found.status != holdfast_api::condition::ConditionStatus::True && found.message.contains(text)
        };
        self.condition::<K>(site, name, type_, bad).await
    }

    async fn condition<K>(
        &self,
        site: Site,
        name: &str,
        type_: &str,
        wanted: impl Fn(&Condition) -> bool,
    ) -> Result<String>
    where
        K: Observed + Resource<Scope = NamespaceResourceScope>,
    {
        let client = self.client(site).await?;
        let object = condition::<K>(&client, NAMESPACE, name, type_, LIMIT, wanted).await?;
        let found = object.conditions().iter().find(|condition| condition.type_ == type_);
        Ok(found.map(|condition| condition.message.clone()).unwrap_or_default())
    }

    /// Waits until a condition of an object is True.
    pub async fn becomes<K>(&self, site: Site, name: &str, type_: &str) -> Result<()>
    where
        K: Observed + Resource<Scope = NamespaceResourceScope>,
    {
        condition_true::<K>(&self.client(site).await?, NAMESPACE, name, type_, LIMIT).await.map(drop)
    }

    /// Waits for an event about an object with this reason.
    pub async fn event(&self, site: Site, kind: &str, name: &str, reason: &str) -> Result<()> {
        self.find_event(site, kind, name, |event| event.reason.as_deref() == Some(reason)).await
    }

    /// Waits for a warning about an object that says `text`.
    pub async fn warning(&self, site: Site, kind: &str, name: &str, text: &str) -> Result<()> {
        let says = |event: &Event| {
            let message = event.message.as_deref().unwrap_or_default();
            event.type_.as_deref() == Some("Warning") && message.contains(text)
        };
        self.find_event(site, kind, name, says).await
    }

    async fn find_event(&self, site: Site, kind: &str, name: &str, wanted: impl Fn(&Event) -> bool) -> Result<()> {
        let events = Api::<Event>::namespaced(self.client(site).await?, NAMESPACE);
        let of = ListParams::default().fields(&format!("involvedObject.kind={kind},involvedObject.name={name}"));
        let what = format!("an event of {kind} {name}");
        let found = wait::until(&what, LIMIT, || async {
            let list = events.list(&of).await.map_err(|error| error.to_string())?;
            if list.items.iter().any(&wanted) {
                return Ok(());
            }
            let text = |event: &Event| {
                let word = |text: &Option<String>| text.clone().unwrap_or_default();
                format!("{} {}: {}", word(&event.type_), word(&event.reason), word(&event.message))
            };
            Err(list.items.iter().map(text).collect::<Vec<_>>().join("; "))
        });
        Ok(found.await?)
    }

    /// `kill -9` of a pod's main process, and of the pod: another one takes its place at once. Returns how many processes
    /// were killed: a pod that has not started yet has none.
    pub async fn kill_pod(&self, site: Site, namespace: &str, labels: &str) -> Result<usize> {
        let pods = Api::<Pod>::namespaced(self.client(site).await?, namespace);
        let list = pods.list(&ListParams::default().labels(labels)).await?;
        let alive = |pod: &&Pod| pod.metadata.deletion_timestamp.is_none();
        let mut killed = 0;
        for name in list.items.iter().filter(alive).filter_map(|pod| pod.metadata.name.as_deref()) {
            match self.lab.site(site).kill9(namespace, name, None).await {
                Ok(_) => killed += 1,
                Err(error) => {
                    println!("{namespace}/{name}: {error}");
                    continue;
                }
            }
            let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
            if let Err(error) = pods.delete(name, &now).await {
                println!("{namespace}/{name}: {error}");
            }
        }
        Ok(killed)
    }

    /// Registers a patient from inside a site, also one that is cut off; returns the HTTP status, 0 without an answer.
    pub async fn register_inside(&self, site: Site) -> Result<u16> {
        let url = self.registration_inside(site, "patients").await?;
        let body = json!({ "client_id": Uuid::new_v4() }).to_string();
        let header = "content-type: application/json";
        // Written as it is printed when there is no answer: 000, and a failure of curl.
        let script = format!("curl -s -o /dev/null -m 5 -w '%{{http_code}}' -H '{header}' -d '{body}' {url} || true");
        let printed = self.lab.site(site).run_inside("sh", &["-c", &script]).await?;
        printed.trim().parse().with_context(|| format!("curl printed {printed:?}"))
    }

    /// Whether registration's process answers inside a site, also one that is cut off.
    pub async fn answers_inside(&self, site: Site) -> Result<bool> {
        let url = self.registration_inside(site, "healthz").await?;
        let arguments = ["-s", "-o", "/dev/null", "-m", "5", "-w", "%{http_code}", &url];
        Ok(self.lab.site(site).run_inside("curl", &arguments).await?.trim() == "200")
    }

    /// A path of registration's pod itself: its Service leads nowhere soon after commits hang, because it is not ready then.
    async fn registration_inside(&self, site: Site, path: &str) -> Result<String> {
        let site = self.lab.site(site);
        let pod = site.pod(NAMESPACE, "app=registration").await?;
        let address = site.kubectl(&["-n", NAMESPACE, "get", "pod", &pod, "-o", "jsonpath={.status.podIP}"]).await?;
        ensure!(!address.is_empty(), "{pod} has no address");
        Ok(format!("http://{address}:8080/{path}"))
    }

    /// What a part of Holdfast serves at a path of its port 8080 (`status`, `metrics`). It must be the only pod with these
    /// labels.
    pub async fn served(&self, site: Site, namespace: &str, labels: &str, path: &str) -> Result<String> {
        let site = self.lab.site(site);
        let pod = site.pod(namespace, labels).await?;
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:8080/proxy/{path}");
        Ok(site.kubectl(&["get", "--raw", &path]).await?)
    }

    /// The names of all objects of a site that are in no namespace.
    pub async fn cluster_objects(&self, site: Site) -> Result<BTreeSet<String>> {
        let site = self.lab.site(site);
        let kinds = ["api-resources", "--namespaced=false", "--verbs=list", "-o", "name"];
        let kinds = site.kubectl(&kinds).await?;
        // A view of what is healthy, not objects.
        let kinds: Vec<_> = kinds.lines().filter(|kind| *kind != "componentstatuses").collect();
        let names = site.kubectl(&["get", &kinds.join(","), "-o", "name"]).await?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// `holdfast runbook PLAN` at the standby site, as a person runs it.
    pub async fn runbook(&self, plan: &str) -> Result<String> {
        let output = tokio::process::Command::new(beside_us("holdfast")?)
            .args(["runbook", plan, "--namespace", NAMESPACE])
            .env("KUBECONFIG", self.lab.site(Site::Standby).kubeconfig())
            .output()
            .await?;
        ensure!(output.status.success(), "holdfast runbook: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The keys in the bucket that begin with `prefix`.
    pub async fn stored(&self, prefix: &str) -> Result<Vec<String>> {
        Ok(self.lab.cloud().bucket(BUCKET).list(prefix).await?)
    }

    /// Copies what is stored of a database to another prefix, with one bit of a chunk of its log flipped; returns
    /// that object's key. (Where they are, under lock, objects cannot be damaged.)
    pub async fn copy_with_damage(&self, database: &str, prefix: &str) -> Result<String> {
        let bucket = self.lab.cloud().bucket(BUCKET);
        let from = format!("{}/v1/db/{database}/", self.prefix());
        let mut objects = Vec::new();
        for key in bucket.list(&from).await? {
            let body = bucket.get(&key).await?.with_context(|| format!("{key} is gone"))?;
            objects.push((key.replacen(self.prefix(), prefix, 1), body));
        }
        objects.sort();
        let mut chunks: Vec<_> = objects.iter_mut().filter(|(key, _)| key.contains("/log/")).collect();
        // Behind the base backup, where a restore reads: the first chunks are from before it.
        let at = chunks.len() * 3 / 4;
        let (damaged, body) = chunks.get_mut(at).context("the log is empty")?;
        *body.last_mut().context("an empty chunk")? ^= 1;
        let damaged = damaged.clone();
        for (key, body) in objects {
            bucket.put(&key, body).await?;
        }
        Ok(damaged)
    }

    /// The spec of the sample's Vault with this story's settings and a few fields changed.
    pub fn vault_like_the_sample(&self, site: Site, changes: &[(&str, Value)]) -> Value {
        let mut encryption = json!({ "recipients": self.recipients() });
        if site == Site::Standby {
            encryption["identity"] = json!({ "secretName": "holdfast-identity" });
        }
        let mut spec = json!({
            "endpoint": self.lab.cloud().endpoint_in_sites(),
            "region": "us-east-1",
            "bucket": BUCKET,
            "prefix": self.prefix(),
            "credentials": { "secretName": "holdfast-vault" },
            "retentionDays": 1,
            "encryption": encryption,
        });
        for (field, value) in changes {
            spec[*field] = value.clone();
        }
        spec
    }

    /// An object of ours in the hospital's namespace.
    pub async fn create(&self, site: Site, kind: &str, name: &str, spec: Value) -> Result<()> {
        let object = json!({
            "apiVersion": "holdfast.dev/v1alpha1",
            "kind": kind,
            "metadata": { "name": name, "namespace": NAMESPACE },
            "spec": spec,
        });
        Ok(self.lab.site(site).apply_yaml(&object.to_string()).await?)
    }
}
