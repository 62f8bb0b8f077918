//! What a person needs to understand why a story failed.

use std::fs;
use std::path::Path;

use crate::error::{IoContext, Result};
use crate::exec::tail;
use crate::lab::Lab;
use crate::machine::write_file;
use crate::site_handle::SiteHandle;

/// Namespaces whose pods are the site's own.
const OWN: &[&str] = &["kube-system", "local-path-storage"];

pub(crate) async fn write(lab: &Lab, folder: &Path) -> Result<()> {
    for site in lab.sites() {
        let folder = folder.join(site.name());
        fs::create_dir_all(&folder).doing(|| format!("create {}", folder.display()))?;
        if site.process().is_none() {
            write_file(&folder.join("no-power"), "")?;
            continue;
        }
        objects(site, &folder).await?;
        container_logs(site, &folder).await?;
        own_logs(site, &folder)?;
    }
    Ok(())
}

/// A question that fails leaves its error in place of the answer.
async fn answer(site: &SiteHandle, arguments: &[&str]) -> String {
    let arguments = [arguments, &["--request-timeout=10s"]].concat();
    match site.kubectl(&arguments).await {
        Ok(text) => text,
        Err(error) => format!("{error}\n"),
    }
}

async fn objects(site: &SiteHandle, folder: &Path) -> Result<()> {
    for (file, arguments) in [
        ("events.txt", &["get", "events", "-A", "--sort-by=.lastTimestamp"][..]),
        ("pods.txt", &["get", "pods", "-A", "-o", "wide"]),
        ("pods.yaml", &["get", "pods", "-A", "-o", "yaml"]),
        ("workloads.txt", &["get", "deployments,statefulsets,services,pvc,networkpolicies", "-A", "-o", "wide"]),
    ] {
        write_file(&folder.join(file), answer(site, arguments).await)?;
    }
    let kinds = answer(site, &["api-resources", "--api-group=holdfast.dev", "--verbs=list", "-o", "name"]).await;
    let kinds = kinds.lines().filter(|line| line.ends_with(".holdfast.dev"));
    let kinds = kinds.collect::<Vec<_>>().join(",");
    if !kinds.is_empty() {
        let text = answer(site, &["get", &kinds, "-A", "-o", "yaml"]).await;
        write_file(&folder.join("holdfast.yaml"), text)?;
    }
    Ok(())
}

async fn container_logs(site: &SiteHandle, folder: &Path) -> Result<()> {
    let names = r#"jsonpath={range .items[*]}{.metadata.namespace}/{.metadata.name}{"\n"}{end}"#;
    let pods = answer(site, &["get", "pods", "-A", "-o", names]).await;
    for (namespace, pod) in pods.lines().filter_map(|line| line.split_once('/')) {
        if OWN.contains(&namespace) {
            continue;
        }
        let common = ["logs", "-n", namespace, pod, "--all-containers", "--prefix", "--tail=2000"];
        let text = answer(site, &common).await;
        write_file(&folder.join(format!("{namespace}-{pod}.log")), text)?;
        let before = answer(site, &[&common[..], &["--previous"]].concat()).await;
        write_file(&folder.join(format!("{namespace}-{pod}.previous.log")), before)?;
    }
    Ok(())
}

fn own_logs(site: &SiteHandle, folder: &Path) -> Result<()> {
    let entries = fs::read_dir(site.logs()).doing(|| format!("read {}", site.logs().display()))?;
    for entry in entries.flatten() {
        let text = fs::read(entry.path()).unwrap_or_default();
        let name = entry.file_name();
        write_file(&folder.join(format!("site-{}", name.to_string_lossy())), tail(&text))?;
    }
    Ok(())
}
