//! The files a new site starts from.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{IoContext, Result};
use crate::images::PAUSE;
use crate::machine::write_file;
use crate::network::CLOUD_IP;
use crate::site::{Site, certificates};

/// Of the site's folder: what the supervisor mounts, the kubelet fills or programs log to.
const FOLDERS: &[&str] =
    &["cni", "etcd", "kubelet", "log", "pods", "pv", "run", "run-containerd", "var/upper", "var/work"];

/// Fills the folder of a new site. The containerd store is seeded apart.
pub(crate) fn write(site: Site, folder: &Path) -> Result<()> {
    for name in FOLDERS {
        let path = folder.join(name);
        fs::create_dir_all(&path).doing(|| format!("create {}", path.display()))?;
    }
    certificates::write(site, folder)?;
    for (file, template) in [
        ("containerd.toml", include_str!("templates/containerd.toml")),
        ("cni/10-site.conflist", include_str!("templates/cni.conflist")),
        ("kubelet.yaml", include_str!("templates/kubelet.yaml")),
        ("base.yaml", include_str!("templates/base.yaml")),
        ("resolv.conf", "nameserver @CLOUD@\n"),
    ] {
        write_file(&folder.join(file), fill(template, site, folder))?;
    }
    Ok(())
}

pub(crate) fn socket(folder: &Path) -> PathBuf {
    folder.join("run/containerd.sock")
}

pub(crate) fn kubeconfig(folder: &Path) -> PathBuf {
    folder.join("admin.kubeconfig")
}

fn fill(template: &str, site: Site, folder: &Path) -> String {
    template
        .replace("@DIR@", &folder.display().to_string())
        .replace("@DNS@", &site.dns_service())
        .replace("@PODS@", &site.pods())
        .replace("@CGROUP@", &site.cgroup())
        .replace("@CLOUD@", CLOUD_IP)
        .replace("@PAUSE@", PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_placeholder_is_left() {
        let folder = tempfile::tempdir().unwrap();
        write(Site::Primary, folder.path()).unwrap();
        for file in ["containerd.toml", "cni/10-site.conflist", "kubelet.yaml", "base.yaml"] {
            let text = fs::read_to_string(folder.path().join(file)).unwrap();
            assert!(!text.contains('@'), "{file}: {text}");
        }
    }

    #[test]
    fn a_unix_socket_fits_below_the_work_folder() {
        // The kernel allows 107 bytes.
        let folder = Path::new("/home/somebody-with-a-name/.cache/holdfast/lab/work/primary");
        assert!(socket(folder).as_os_str().len() < 107);
    }
}
