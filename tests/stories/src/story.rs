//! One story: a lab of its own, Holdfast and a hospital on it, a load, a ledger, a verdict.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use holdfast_api::condition::types;
use holdfast_api::run::RunPhase;
use holdfast_api::{Drill, Failover, ProtectedDatabase, RecoveryPlan, StandbyDatabase, Vault};
use holdfast_hospital::load::{Load, LoadOptions};
use holdfast_hospital::verify::{Verdict, verify};
use holdfast_hospital::{Service, Site as Addresses};
use holdfast_lab::{Existing, Lab, Options, Site, wait};
use kube::Client;
use kube::api::Api;
use serde_json::json;

use crate::install::{Setup, repository, secret};
use crate::kubernetes::{Observed, condition_true, conditions};
use crate::traces::COLLECTOR;

/// Where the hospital and its custom resources are, at both sites.
pub const NAMESPACE: &str = "hospital";
/// The databases of the samples.
pub const DATABASES: [&str; 3] = ["registration-db", "billing-db", "lab-db"];
/// The plan of the samples.
pub const PLAN: &str = "hospital";
/// The vault of the samples.
pub const VAULT: &str = "vault";

const MINUTES: Duration = Duration::from_secs(60);

/// A running lab with whatever the story has put on it. Everything goes when it is dropped.
pub struct Story {
    pub lab: Lab,
    folder: PathBuf,
    setup: Setup,
    ledgers: Vec<PathBuf>,
}

impl Story {
    /// A fresh lab with Holdfast on both sites and nothing else. The story's files are in
    /// `target/stories/NAME`.
    pub async fn begin(name: &str) -> Result<Self> {
        Self::begin_in(&folder_of(name), options()).await
    }

    /// The same, with its files in `folder`, which is emptied, and the lab's options chosen.
    pub async fn begin_in(folder: &std::path::Path, options: Options) -> Result<Self> {
        let story = Self::begin_empty(folder, options).await?;
        let started = Instant::now();
        let install = |site| story.setup.install_holdfast(&story.lab, site);
        tokio::try_join!(install(Site::Primary), install(Site::Standby))?;
        println!("Holdfast installed after {:.1} s", started.elapsed().as_secs_f64());
        Ok(story)
    }

    /// A fresh lab with nothing on it.
    async fn begin_empty(folder: &std::path::Path, options: Options) -> Result<Self> {
        if folder.exists() {
            fs::remove_dir_all(folder).with_context(|| format!("emptying {}", folder.display()))?;
        }
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        let folder = folder.canonicalize()?;
        let started = Instant::now();
        let lab = Lab::up(options).await?;
        println!("lab up after {:.1} s", started.elapsed().as_secs_f64());
        let setup = Setup::new(&folder, &lab.cloud().endpoint_in_sites())?;
        Ok(Self { lab, folder, setup, ledgers: Vec::new() })
    }

    /// Where this story's files are.
    pub fn folder(&self) -> &std::path::Path {
        &self.folder
    }

    /// The prefix of the bucket that everything of this story is under.
    pub fn prefix(&self) -> &str {
        self.setup.prefix()
    }

    /// A client of a site's API server.
    pub async fn client(&self, site: Site) -> Result<Client> {
        Ok(self.lab.site(site).client().await?)
    }

    /// Of the role that Holdfast has in the databases.
    pub(crate) fn holdfast_password(&self) -> &str {
        self.setup.holdfast_password()
    }

    /// Keys that everything of this story is encrypted to.
    pub fn recipients(&self) -> &[String; 2] {
        self.setup.recipients()
    }

    /// The operator of a site sends its traces to a collector on this machine from now on.
    pub async fn send_traces(&self, site: Site) -> Result<()> {
        let settings = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "name": "holdfast-telemetry", "namespace": "holdfast-system" },
            "data": { "OTEL_EXPORTER_OTLP_ENDPOINT": format!("http://{COLLECTOR}") },
        });
        let site = self.lab.site(site);
        site.apply_yaml(&settings.to_string()).await?;
        let rollout = ["-n", "holdfast-system", "rollout"];
        site.kubectl(&[&rollout[..], &["restart", "deployment/holdfast-operator"]].concat()).await?;
        site.kubectl(&[&rollout[..], &["status", "deployment/holdfast-operator", "--timeout=60s"]].concat()).await?;
        Ok(())
    }

    /// A site that is opened from now on reaches the bucket at this endpoint.
    pub fn reach_the_bucket_at(&self, endpoint: &str) -> Result<()> {
        self.setup.reach_the_bucket_at(endpoint)
    }

    /// A site that is opened from now on has its vault in this bucket.
    pub fn keep_the_vault_in(&self, bucket: &str) -> Result<()> {
        self.setup.keep_the_vault_in(bucket)
    }

    /// The namespace and the samples' Secrets at a site, and nothing else.
    pub async fn prepare(&self, site: Site) -> Result<()> {
        self.setup.prepare(&self.lab, site).await
    }

    /// One more Secret in the hospital's namespace.
    pub async fn secret(&self, site: Site, name: &str, data: &[(&str, &str)]) -> Result<()> {
        Ok(self.lab.site(site).apply_yaml(&secret(name, data).to_string()).await?)
    }

    /// One more PostgreSQL server like the samples', `NAME-db`, run with these arguments. The samples' scripts
    /// must be there.
    pub async fn start_database_with(&self, site: Site, name: &str, arguments: &str) -> Result<()> {
        self.setup.start_database_with(&self.lab, site, name, arguments).await
    }

    /// Opens the hospital at the primary site, and its standby at the other: databases protected,
    /// base backups stored, standbys following, plan ready. Both at the same time: a standby waits for what it begins with.
    pub async fn open_hospital(&self) -> Result<()> {
        tokio::try_join!(self.open_primary(), self.open_standby())?;
        Ok(())
    }

    /// The hospital at the primary site as it is before Holdfast protects it.
    pub async fn open_unprotected(&self) -> Result<()> {
        self.prepare(Site::Primary).await?;
        self.setup.apply_unprotected(&self.lab, Site::Primary).await?;
        self.serving(Site::Primary).await
    }

    /// The hospital at the primary site, every database protected and backed up.
    pub async fn open_primary(&self) -> Result<()> {
        self.prepare(Site::Primary).await?;
        self.setup.apply_samples(&self.lab, Site::Primary).await?;
        let client = self.client(Site::Primary).await?;
        condition_true::<Vault>(&client, NAMESPACE, VAULT, types::READY, MINUTES).await?;
        for database in DATABASES {
            for type_ in [types::PROTECTED, types::BACKUP_FRESH] {
                condition_true::<ProtectedDatabase>(&client, NAMESPACE, database, type_, 3 * MINUTES).await?;
            }
        }
        self.serving(Site::Primary).await
    }

    /// The standbys, following, and the plan, ready.
    pub async fn open_standby(&self) -> Result<()> {
        self.prepare(Site::Standby).await?;
        self.setup.apply_samples(&self.lab, Site::Standby).await?;
        let client = self.client(Site::Standby).await?;
        condition_true::<Vault>(&client, NAMESPACE, VAULT, types::READY, MINUTES).await?;
        for database in DATABASES {
            condition_true::<StandbyDatabase>(&client, NAMESPACE, database, types::FOLLOWING, 3 * MINUTES).await?;
        }
        condition_true::<RecoveryPlan>(&client, NAMESPACE, PLAN, types::READY, MINUTES).await?;
        Ok(())
    }

    /// Waits until all three services answer at the site's node ports.
    pub async fn serving(&self, site: Site) -> Result<()> {
        let addresses = addresses(site)?;
        let http = reqwest::Client::builder().timeout(Duration::from_secs(2)).no_proxy().build()?;
        for service in Service::ALL {
            let url = addresses.url(service, "readyz");
            let what = format!("{service} at the {site} site");
            wait::until(&what, 2 * MINUTES, || async {
                match http.get(&url).send().await {
                    Ok(response) if response.status().is_success() => Ok(()),
                    Ok(response) => Err(response.text().await.unwrap_or_default()),
                    Err(error) => Err(error.to_string()),
                }
            })
            .await?;
        }
        Ok(())
    }

    /// Starts writing at whichever site answers. Stopped or dropped, the ledger stays for the verdict.
    pub fn load(&mut self, writers: usize) -> Result<Load> {
        // Both clusters and the load share a machine: the load must not starve what it tests.
        self.load_with_pause(writers, Duration::from_millis(20))
    }

    /// Starts writing as fast as the hospital answers.
    pub fn load_at_full_speed(&mut self, writers: usize) -> Result<Load> {
        self.load_with_pause(writers, Duration::ZERO)
    }

    fn load_with_pause(&mut self, writers: usize, pause: Duration) -> Result<Load> {
        let sites = vec![addresses(Site::Primary)?, addresses(Site::Standby)?];
        let path = self.folder.join(format!("ledger-{}.jsonl", self.ledgers.len()));
        let load = Load::start(LoadOptions { pause, ..LoadOptions::new(sites, writers, &path) })?;
        self.ledgers.push(path);
        Ok(load)
    }

    /// The ledgers of all loads so far.
    pub fn ledgers(&self) -> &[PathBuf] {
        &self.ledgers
    }

    /// Waits until a load has had `more` writes acknowledged from now on.
    pub async fn acknowledged(&self, load: &Load, more: u64) -> Result<()> {
        let mut stats = load.stats();
        let goal = stats.borrow().acked + more;
        let reached = stats.wait_for(|stats| stats.acked >= goal);
        match tokio::time::timeout(2 * MINUTES, reached).await {
            Ok(Ok(_)) => Ok(()),
            _ => bail!("no {more} more acknowledged writes: {:?}", load.stats().borrow()),
        }
    }

    /// Holds a site to every ledger so far.
    pub async fn verdict(&self, site: Site) -> Result<Verdict> {
        Ok(verify(&self.ledgers, &addresses(site)?, None).await?)
    }

    /// Fails unless the site holds everything that any ledger of this story has as acknowledged, and nothing else.
    pub async fn nothing_is_lost(&self, site: Site) -> Result<()> {
        let verdict = self.verdict(site).await?;
        println!("{verdict}");
        ensure!(verdict.acknowledged > 0 && verdict.is_intact() && verdict.phantom == 0, "{verdict}");
        Ok(())
    }

    /// `kubectl apply` of a Failover like the sample, and its end.
    pub async fn fail_over(&self, name: &str) -> Result<Failover> {
        self.order_failover(name).await?;
        self.failover_succeeded(name).await
    }

    /// Only the `kubectl apply`.
    pub async fn order_failover(&self, name: &str) -> Result<()> {
        self.apply_sample("failover.yaml", "failover-1", name).await
    }

    /// Waits until a Failover has succeeded.
    pub async fn failover_succeeded(&self, name: &str) -> Result<Failover> {
        let failover =
            self.over::<Failover>(name, |failover| failover.status.as_ref().map(|status| status.phase)).await?;
        expect_success(&failover, failover.status.as_ref().map(|status| status.phase))?;
        Ok(failover)
    }

    /// `kubectl apply` of a Drill like the sample, and its end.
    pub async fn drill(&self, name: &str) -> Result<Drill> {
        self.order_drill(name).await?;
        self.drill_succeeded(name).await
    }

    /// Waits until a Drill has succeeded.
    pub async fn drill_succeeded(&self, name: &str) -> Result<Drill> {
        let drill = self.over::<Drill>(name, |drill| drill.status.as_ref().map(|status| status.phase)).await?;
        expect_success(&drill, drill.status.as_ref().map(|status| status.phase))?;
        Ok(drill)
    }

    /// Only the `kubectl apply`.
    pub async fn order_drill(&self, name: &str) -> Result<()> {
        self.apply_sample("drill.yaml", "drill-1", name).await
    }

    async fn apply_sample(&self, file: &str, sample: &str, name: &str) -> Result<()> {
        let path = self.setup.samples().join(file);
        let manifest = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(self.lab.site(Site::Standby).apply_yaml(&manifest.replace(sample, name)).await?)
    }

    /// Waits until an execution is over, well or badly.
    pub async fn over<K>(&self, name: &str, phase: impl Fn(&K) -> Option<RunPhase>) -> Result<K>
    where
        K: Observed + kube::Resource<Scope = kube::core::NamespaceResourceScope>,
    {
        let api = Api::<K>::namespaced(self.client(Site::Standby).await?, NAMESPACE);
        let what = format!("the end of {} {name}", K::kind(&()));
        let object = wait::until(&what, 5 * MINUTES, || async {
            let object = api.get(name).await.map_err(|error| error.to_string())?;
            if phase(&object).is_some_and(RunPhase::is_over) { Ok(object) } else { Err(conditions(&object)) }
        });
        Ok(object.await?)
    }
}

/// A fresh lab, unless somebody has left one running on purpose, with binaries built now. With `HOLDFAST_NO_BUILD` set they
/// are taken as they are, which saves the wait for cargo when somebody else is using it.
pub fn options() -> Options {
    let build = std::env::var_os("HOLDFAST_NO_BUILD").is_none();
    Options { existing: Existing::Refuse, build, ..Options::default() }
}

/// Tells a story on a fresh lab. When it fails, what both sites looked like is written into its folder.
pub async fn story(name: &str, tell: impl AsyncFnOnce(&mut Story) -> Result<()>) -> Result<()> {
    tell_on(Story::begin(name).await?, tell).await
}

/// The same, on clusters that Holdfast is not installed on.
pub async fn story_on_empty_clusters(name: &str, tell: impl AsyncFnOnce(&mut Story) -> Result<()>) -> Result<()> {
    tell_on(Story::begin_empty(&folder_of(name), options()).await?, tell).await
}

/// Where the files of a story are.
fn folder_of(name: &str) -> PathBuf {
    repository().join("target/stories").join(name.replace(' ', "-"))
}

async fn tell_on(mut story: Story, tell: impl AsyncFnOnce(&mut Story) -> Result<()>) -> Result<()> {
    let told = tell(&mut story).await;
    if told.is_err() {
        let folder = story.folder().join("failure");
        match story.lab.dump(&folder).await {
            Ok(()) => eprintln!("what both sites looked like is in {}", folder.display()),
            Err(error) => eprintln!("what both sites looked like could not be written: {error}"),
        }
    }
    told
}

/// The site's services at its node ports.
pub fn addresses(site: Site) -> Result<Addresses> {
    Ok(Addresses::at_host(&site.ip())?)
}

fn expect_success(object: &impl Observed, phase: Option<RunPhase>) -> Result<()> {
    match phase {
        Some(RunPhase::Succeeded) => Ok(()),
        _ => bail!("{} ended as {phase:?}: {}", crate::kubernetes::describe(object), conditions(object)),
    }
}
