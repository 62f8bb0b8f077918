//! A site as a test sees it: its API, and its power and network switches.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::{Timestamp, ToSpan};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ListParams};

use crate::components::Programs;
use crate::error::{LabError, Result};
use crate::exec::{command, run};
use crate::lab::SiteStatus;
use crate::network::Reach;
use crate::paths::Paths;
use crate::process::{self, Process};
use crate::site::{Site, config, launch};
use crate::wait::{self, until};
use crate::{blocking, images, network};

/// A cold start of everything, with two sites and a build on two cores.
const BOOT_LIMIT: Duration = Duration::from_secs(180);

#[derive(Clone, Debug)]
pub struct SiteHandle {
    site: Site,
    folder: PathBuf,
    kubectl: PathBuf,
    kubectl_cache: PathBuf,
}

impl SiteHandle {
    pub(crate) fn new(site: Site, paths: &Paths, programs: &Programs) -> Result<Self> {
        Ok(Self {
            site,
            folder: paths.site(site),
            kubectl: programs.path("kubectl")?,
            kubectl_cache: paths.work().join("kubectl"),
        })
    }

    pub fn site(&self) -> Site {
        self.site
    }

    pub fn name(&self) -> &'static str {
        self.site.name()
    }

    /// Of the node: NodePorts answer here, for whoever is not in the other site.
    pub fn ip(&self) -> String {
        self.site.ip()
    }

    pub fn kubeconfig(&self) -> PathBuf {
        config::kubeconfig(&self.folder)
    }

    /// Logs of the site's own programs, one file each.
    pub fn logs(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// The `kubectl` that was built with the site.
    pub fn kubectl_program(&self) -> &Path {
        &self.kubectl
    }

    /// An administrator's client. It goes over the network, so not into a site that is cut off.
    pub async fn client(&self) -> Result<kube::Client> {
        wait::client(&self.kubeconfig()).await
    }

    /// PID 1 of the site; `None` without power.
    pub fn process(&self) -> Option<Process> {
        launch::running(&self.folder)
    }

    fn powered(&self) -> Result<Process> {
        self.process().ok_or_else(|| LabError::State(format!("site {} has no power", self.site)))
    }

    /// Runs `kubectl` at the site's own machine, so also while the site is cut off.
    /// Returns what it printed.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.inside(&self.kubectl)?;
        command
            .arg(format!("--kubeconfig={}", self.kubeconfig().display()))
            .arg(format!("--cache-dir={}", self.kubectl_cache.display()))
            .args(arguments);
        blocking(move || run(&mut command)).await
    }

    /// Any program of this machine, in the site's network: it connects as the site's node does.
    pub async fn run_inside(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let mut command = self.inside(program)?;
        command.args(arguments);
        blocking(move || run(&mut command)).await
    }

    fn inside(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<std::process::Command> {
        let pid = self.powered()?.pid;
        let mut command = command("nsenter", [format!("--net=/proc/{pid}/ns/net"), "--".into()]);
        command.arg(program);
        Ok(command)
    }

    /// Server-side apply of a file, or of a folder with a `kustomization.yaml`.
    pub async fn apply(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let how = if path.join("kustomization.yaml").is_file() { "-k" } else { "-f" };
        let path = path.display().to_string();
        let apply = ["apply", "--server-side", "--force-conflicts", how, &path];
        self.kubectl(&apply).await.map(drop)
    }

    /// Server-side apply of YAML documents.
    pub async fn apply_yaml(&self, yaml: &str) -> Result<()> {
        // In the work folder, which goes with the lab when this process is killed.
        let file = tempfile::Builder::new()
            .suffix(".yaml")
            .tempfile_in(&self.folder)
            .and_then(|file| fs::write(file.path(), yaml).map(|()| file))
            .map_err(|source| LabError::Io { what: "write a temporary file".into(), source })?;
        self.apply(file.path()).await
    }

    /// `kill -9` of a container's main process, from outside. The kubelet starts the container again.
    /// Without a name it is the pod's first container. Returns the number of the process.
    pub async fn kill9(&self, namespace: &str, pod: &str, container: Option<&str>) -> Result<i32> {
        let process = self.container_process(namespace, pod, container).await?;
        blocking(move || process.kill9()).await?;
        Ok(process.pid)
    }

    /// The most memory that the main process of a pod's first container had resident since it was started.
    pub async fn peak_memory_bytes(&self, namespace: &str, pod: &str) -> Result<u64> {
        let process = self.container_process(namespace, pod, None).await?;
        let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap_or_default();
        peak_bytes(&status).ok_or_else(|| LabError::State(format!("{namespace}/{pod}: its main process has ended")))
    }

    async fn container_process(&self, namespace: &str, pod: &str, container: Option<&str>) -> Result<Process> {
        let text = self.kubectl(&["get", "pod", "-n", namespace, pod, "-o", "json"]).await?;
        let known: Pod =
            serde_json::from_str(&text).map_err(|error| LabError::State(format!("kubectl's answer: {error}")))?;
        let id = container_id(&known, container).ok_or_else(|| {
            let which = container.unwrap_or("its first container");
            LabError::State(format!("{namespace}/{pod}: {which} is not running"))
        })?;
        main_process(&id).ok_or_else(|| LabError::State(format!("{namespace}/{pod}: container {id} has no process")))
    }

    /// The name of the only running pod with these labels, e.g. `app=registration`.
    pub async fn pod(&self, namespace: &str, selector: &str) -> Result<String> {
        let arguments = ["get", "pods", "-n", namespace, "-l", selector, "-o", "name"];
        let running = ["--field-selector", "status.phase=Running"];
        let text = self.kubectl(&[&arguments[..], &running].concat()).await?;
        let mut names = text.lines().filter_map(|line| line.strip_prefix("pod/"));
        match (names.next(), names.next()) {
            (Some(name), None) => Ok(name.to_owned()),
            (None, _) => Err(LabError::State(format!("no pod {selector} runs in {namespace}"))),
            (Some(_), Some(_)) => Err(LabError::State(format!("several pods {selector} run in {namespace}:\n{text}"))),
        }
    }

    /// Waits for a condition as `kubectl wait` has it: `what` is `deployment/x`, `condition` is
    /// `condition=Available`, `jsonpath={.status.phase}=Running` or `delete`.
    pub async fn wait_for(&self, namespace: &str, what: &str, condition: &str, limit: Duration) -> Result<()> {
        let condition = format!("--for={condition}");
        let timeout = format!("--timeout={}s", limit.as_secs());
        let arguments = ["wait", "-n", namespace, what, &condition, &timeout];
        // An object that does not exist yet makes `kubectl wait` fail at once.
        let label = format!("{namespace}/{what} to have {condition} at {}", self.site);
        until(&label, limit, || async { self.kubectl(&arguments).await.map(drop).map_err(|error| error.to_string()) })
            .await
    }

    /// Cuts the site off from the cloud and from everybody. It goes on by itself.
    pub async fn cut(&self) -> Result<()> {
        self.set_reach(Reach::Cut).await
    }

    /// Cuts the site off from the cloud alone: its users still reach it, it no longer reaches the bucket.
    pub async fn cut_from_cloud(&self) -> Result<()> {
        self.set_reach(Reach::WithoutCloud).await
    }

    /// Ends either cut.
    pub async fn heal(&self) -> Result<()> {
        self.set_reach(Reach::Connected).await
    }

    async fn set_reach(&self, reach: Reach) -> Result<()> {
        self.powered()?;
        let site = self.site;
        blocking(move || network::set_reach(site, reach)).await
    }

    pub fn reach(&self) -> Result<Reach> {
        network::reach(self.site)
    }

    /// A power cut: every process of the site ends at this moment. Its disks keep what they have.
    pub async fn kill(&self) -> Result<()> {
        let (site, folder) = (self.site, self.folder.clone());
        blocking(move || launch::power_off(site, &folder)).await
    }

    /// The power comes back: the site starts from its disks. Returns when its node is ready again.
    pub async fn restore(&self) -> Result<()> {
        if self.process().is_some() {
            return Err(LabError::State(format!("site {} has power", self.site)));
        }
        let since = Timestamp::now();
        self.power_on().await?;
        self.ready(since).await
    }

    async fn power_on(&self) -> Result<()> {
        let (site, folder) = (self.site, self.folder.clone());
        blocking(move || launch::power_on(site, &folder).map(drop)).await?;
        // Whatever was cut before, the line is a new one.
        self.heal().await
    }

    /// Starts a site that has just been built, with these images.
    pub(crate) async fn boot(&self, archives: Vec<PathBuf>) -> Result<()> {
        let since = Timestamp::now();
        self.power_on().await?;
        let base = self.folder.join("base.yaml");
        let (imported, ready) = tokio::join!(self.import(archives), async {
            wait::api_ready(&self.kubeconfig(), BOOT_LIMIT).await?;
            self.apply(&base).await?;
            self.ready(since).await
        });
        imported.and(ready)
    }

    pub(crate) async fn import(&self, archives: Vec<PathBuf>) -> Result<()> {
        let socket = config::socket(&self.folder);
        blocking(move || {
            images::wait_for_socket(&socket)?;
            archives.iter().try_for_each(|archive| images::import(&socket, archive))
        })
        .await
    }

    pub(crate) async fn status(&self) -> SiteStatus {
        let power = self.process().is_some();
        let mut status = SiteStatus {
            site: self.site,
            power,
            network: self.reach().ok().filter(|_| power),
            api: false,
            node_ready: false,
            pods_ready: 0,
            pods: 0,
            address: self.ip(),
            kubeconfig: self.kubeconfig(),
        };
        if !power {
            return status;
        }
        // From the inside, so that a site that is cut off can be looked at, too.
        let limit = "--request-timeout=3s";
        status.api = self.kubectl(&["get", "--raw=/readyz", limit]).await.is_ok();
        if status.api {
            let jsonpath = |path: &str| format!("-o=jsonpath={path}");
            let node = jsonpath(r#"{.status.conditions[?(@.type=="Ready")].status}"#);
            let node = self.kubectl(&["get", "node", self.name(), &node, limit]).await;
            status.node_ready = node.is_ok_and(|text| text == "True");
            let pods = jsonpath(r#"{range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}"#);
            let pods = self.kubectl(&["get", "pods", "-A", &pods, limit]).await.unwrap_or_default();
            status.pods = pods.lines().count();
            status.pods_ready = pods.lines().filter(|line| *line == "True").count();
        }
        status
    }

    /// Until the node and DNS answer. What the API remembers from before `since` does not count.
    async fn ready(&self, since: Timestamp) -> Result<()> {
        wait::api_ready(&self.kubeconfig(), BOOT_LIMIT).await?;
        let client = self.client().await?;
        // The API's times are whole seconds.
        let since = since - 1.second();
        let nodes: Api<Node> = Api::all(client.clone());
        let what = format!("the node of site {}", self.site);
        until(&what, BOOT_LIMIT, || async {
            let node = nodes.get(self.name()).await.map_err(|error| error.to_string())?;
            node_ready(&node, since)
        })
        .await?;
        let pods: Api<Pod> = Api::namespaced(client, "kube-system");
        let dns = ListParams::default().labels("k8s-app=kube-dns");
        until(&format!("DNS of site {}", self.site), BOOT_LIMIT, || async {
            let pods = pods.list(&dns).await.map_err(|error| error.to_string())?;
            pods.iter().any(|pod| pod_ready(pod, since)).then_some(()).ok_or_else(|| "no DNS pod is ready".to_owned())
        })
        .await
    }
}

fn node_ready(node: &Node, since: Timestamp) -> Result<(), String> {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions
        .and_then(|conditions| conditions.iter().find(|condition| condition.type_ == "Ready"))
        .ok_or("it has no condition Ready")?;
    let seen = ready.last_heartbeat_time.as_ref().is_some_and(|time| time.0 >= since);
    match (ready.status.as_str(), seen) {
        ("True", true) => Ok(()),
        ("True", false) => Err("ready before the power cut, not seen since".to_owned()),
        _ => Err(ready.message.clone().unwrap_or_default()),
    }
}

fn pod_ready(pod: &Pod, since: Timestamp) -> bool {
    let containers = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    containers.is_some_and(|containers| {
        containers.iter().all(|container| {
            let running = container.state.as_ref().and_then(|state| state.running.as_ref());
            let started = running.and_then(|running| running.started_at.as_ref());
            container.ready && started.is_some_and(|time| time.0 >= since)
        })
    })
}

/// Without the scheme that Kubernetes puts before it.
fn container_id(pod: &Pod, container: Option<&str>) -> Option<String> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let first = &pod.spec.as_ref()?.containers.first()?.name;
    let wanted = container.unwrap_or(first);
    let status = statuses.iter().find(|status| status.name == wanted)?;
    status.state.as_ref()?.running.as_ref()?;
    let (_, id) = status.container_id.as_ref()?.split_once("://")?;
    Some(id.to_owned())
}

/// The process that is PID 1 in the container's own namespace.
fn main_process(container: &str) -> Option<Process> {
    process::all()
        .filter(|pid| fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.contains(container)))
        .find(|pid| fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|text| is_first(&text)))
        .and_then(Process::now)
}

/// "High water mark", of `/proc/PID/status`.
fn peak_bytes(status: &str) -> Option<u64> {
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().strip_suffix(" kB")?;
    Some(kib.parse::<u64>().ok()? * 1024)
}

fn is_first(status: &str) -> bool {
    status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))
        .is_some_and(|line| line.split_whitespace().next_back() == Some("1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pid_1_of_the_innermost_namespace_is_the_main_process() {
        assert!(is_first("Name:\tpostgres\nNSpid:\t812\t97\t1\n"));
        assert!(!is_first("NSpid:\t812\t97\t14\n"));
        assert!(!is_first("Name:\tpostgres\n"));
    }

    #[test]
    fn the_peak_is_read_in_bytes() {
        assert_eq!(peak_bytes("VmPeak:\t  900 kB\nVmHWM:\t    33 kB\nVmRSS:\t 20 kB\n"), Some(33 * 1024));
        assert_eq!(peak_bytes("Name:\tkthreadd\n"), None);
    }

    #[test]
    fn a_container_is_found_by_name_and_only_while_it_runs() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "spec": {"containers": [{"name": "a"}, {"name": "b"}]},
            "status": {"containerStatuses": [
                {"name": "b", "containerID": "containerd://bbb", "ready": true, "restartCount": 0, "image": "", "imageID": "",
                 "state": {"running": {"startedAt": "2026-01-01T00:00:10Z"}}},
                {"name": "a", "containerID": "containerd://aaa", "ready": false, "restartCount": 0, "image": "", "imageID": "",
                 "state": {"waiting": {"reason": "CrashLoopBackOff"}}},
            ]},
        }))
        .unwrap();
        assert_eq!(container_id(&pod, Some("b")).as_deref(), Some("bbb"));
        assert_eq!(container_id(&pod, None), None);
        assert!(!pod_ready(&pod, "2026-01-01T00:00:10Z".parse().unwrap()));
    }

    #[test]
    fn a_node_that_was_ready_before_the_power_cut_is_not_ready() {
        let node: Node = serde_json::from_value(serde_json::json!({
            "status": {"conditions": [{"type": "Ready", "status": "True",
                "lastHeartbeatTime": "2026-01-01T00:00:10Z"}]},
        }))
        .unwrap();
        assert!(node_ready(&node, "2026-01-01T00:00:10Z".parse().unwrap()).is_ok());
        assert!(node_ready(&node, "2026-01-01T00:00:11Z".parse().unwrap()).is_err());
    }
}
