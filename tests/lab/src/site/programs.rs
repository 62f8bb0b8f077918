//! The programs of a site and their arguments.

use std::path::{Path, PathBuf};

use crate::components::Programs;
use crate::error::Result;
use crate::site::Site;

/// When a program may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum Phase {
    /// At once.
    First,
    /// When the API server is ready.
    WithApi,
}

/// One supervised program.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Program {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) phase: Phase,
}

/// Everything that runs in a site, in the order of starting.
pub(crate) fn of_site(site: Site, folder: &Path, programs: &Programs) -> Result<Vec<Program>> {
    let program = |name: &str, phase, arguments: Vec<String>| -> Result<Program> {
        let environment = vec![collect_seldom()];
        Ok(Program { name: name.to_owned(), path: programs.path(name)?, arguments, environment, phase })
    };
    Ok(vec![
        program("etcd", Phase::First, etcd(site, folder))?,
        containerd(folder),
        program("kube-apiserver", Phase::First, api_server(site, folder))?,
        program("kube-controller-manager", Phase::WithApi, controller_manager(site, folder))?,
        program("kube-scheduler", Phase::WithApi, scheduler(folder))?,
        program("kubelet", Phase::WithApi, kubelet(site, folder))?,
        program("kube-proxy", Phase::WithApi, proxy(site, folder))?,
        Program {
            environment: vec![collect_seldom(), ("POD_NAMESPACE".into(), "local-path-storage".into())],
            ..program("local-path-provisioner", Phase::WithApi, local_path(folder))?
        },
        program("kube-router", Phase::WithApi, router(site, folder))?,
    ])
}

/// Two clusters share two cores with what is tested on them, and memory is what a machine has more of.
fn collect_seldom() -> (String, String) {
    ("GOGC".into(), "300".into())
}

/// Fills in `@DIR@` and makes owned strings.
fn arguments(folder: &Path, arguments: &[&str]) -> Vec<String> {
    let folder = folder.display().to_string();
    arguments.iter().map(|argument| argument.replace("@DIR@", &folder)).collect()
}

fn etcd(site: Site, folder: &Path) -> Vec<String> {
    let cluster = format!("--initial-cluster={site}=http://127.0.0.1:2380");
    let name = format!("--name={site}");
    arguments(
        folder,
        &[
            &name,
            &cluster,
            "--data-dir=@DIR@/etcd",
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--initial-advertise-peer-urls=http://127.0.0.1:2380",
            // A killed site loses processes, not the kernel's page cache, and the disk is for PostgreSQL.
            "--unsafe-no-fsync",
            "--log-level=warn",
        ],
    )
}

fn containerd(folder: &Path) -> Program {
    Program {
        name: "containerd".into(),
        path: "/usr/bin/containerd".into(),
        arguments: arguments(folder, &["--config", "@DIR@/containerd.toml"]),
        environment: vec![collect_seldom()],
        phase: Phase::First,
    }
}

fn api_server(site: Site, folder: &Path) -> Vec<String> {
    let bind = format!("--bind-address={}", site.ip());
    let advertise = format!("--advertise-address={}", site.ip());
    let services = format!("--service-cluster-ip-range={}", site.services());
    arguments(
        folder,
        &[
            &bind,
            &advertise,
            &services,
            "--secure-port=6443",
            "--etcd-servers=http://127.0.0.1:2379",
            "--client-ca-file=@DIR@/pki/ca.crt",
            "--tls-cert-file=@DIR@/pki/apiserver.crt",
            "--tls-private-key-file=@DIR@/pki/apiserver.key",
            "--service-account-key-file=@DIR@/pki/sa.pub",
            "--service-account-signing-key-file=@DIR@/pki/sa.key",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            "--kubelet-client-certificate=@DIR@/pki/kubelet-client.crt",
            "--kubelet-client-key=@DIR@/pki/kubelet-client.key",
            "--kubelet-certificate-authority=@DIR@/pki/ca.crt",
            "--kubelet-preferred-address-types=InternalIP",
            "--profiling=false",
        ],
    )
}

fn controller_manager(site: Site, folder: &Path) -> Vec<String> {
    let pods = format!("--cluster-cidr={}", site.pods());
    arguments(
        folder,
        &[
            &pods,
            "--kubeconfig=@DIR@/kcm.kubeconfig",
            "--root-ca-file=@DIR@/pki/ca.crt",
            "--service-account-private-key-file=@DIR@/pki/sa.key",
            "--use-service-account-credentials=true",
            "--leader-elect=false",
            "--node-monitor-grace-period=16s",
            "--node-monitor-period=2s",
            "--profiling=false",
        ],
    )
}

fn scheduler(folder: &Path) -> Vec<String> {
    arguments(folder, &["--kubeconfig=@DIR@/scheduler.kubeconfig", "--leader-elect=false", "--profiling=false"])
}

fn kubelet(site: Site, folder: &Path) -> Vec<String> {
    let node = format!("--hostname-override={site}");
    let address = format!("--node-ip={}", site.ip());
    arguments(
        folder,
        &[
            &node,
            &address,
            "--config=@DIR@/kubelet.yaml",
            "--kubeconfig=@DIR@/kubelet.kubeconfig",
            "--root-dir=@DIR@/kubelet",
            "--cert-dir=@DIR@/kubelet/pki",
        ],
    )
}

fn proxy(site: Site, folder: &Path) -> Vec<String> {
    let node = format!("--hostname-override={site}");
    let pods = format!("--cluster-cidr={}", site.pods());
    arguments(
        folder,
        &[
            &node,
            &pods,
            "--kubeconfig=@DIR@/proxy.kubeconfig",
            "--proxy-mode=nftables",
            "--oom-score-adj=0",
            // The connection table's size belongs to the machine.
            "--conntrack-max-per-core=0",
            "--metrics-bind-address=127.0.0.1:10249",
        ],
    )
}

fn local_path(folder: &Path) -> Vec<String> {
    arguments(
        folder,
        &[
            "start",
            "--kubeconfig=@DIR@/admin.kubeconfig",
            "--namespace=local-path-storage",
            "--configmap-name=local-path-config",
            "--helper-image=docker.io/library/postgres:15",
            "--service-account-name=default",
        ],
    )
}

fn router(site: Site, folder: &Path) -> Vec<String> {
    let node = format!("--hostname-override={site}");
    let services = format!("--service-cluster-ip-range={}", site.services());
    arguments(
        folder,
        &[
            &node,
            &services,
            "--kubeconfig=@DIR@/admin.kubeconfig",
            "--run-firewall=true",
            "--run-router=false",
            "--run-service-proxy=false",
            "--health-port=0",
            "--metrics-port=0",
        ],
    )
}
