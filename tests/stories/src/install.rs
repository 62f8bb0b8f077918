//! Puts Holdfast and the hospital on the sites, the way the README tells a person to.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use holdfast_lab::{BUCKET, Lab, Site};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::story::NAMESPACE;

/// The file of the private key that lies in the safe.
pub(crate) const SAFE_KEY: &str = "safe.key";

/// What is made up for one story and never leaves its folder and its sites.
#[derive(Debug)]
pub(crate) struct Setup {
    folder: PathBuf,
    /// The standby site's public key and the safe's.
    recipients: [String; 2],
    /// The public writer keys of the primary and the standby site.
    writers: [String; 2],
    prefix: String,
    holdfast_password: String,
    hospital_password: String,
}

impl Setup {
    /// Makes keys and passwords, and a copy of the samples with this story's settings.
    pub(crate) fn new(folder: &Path, endpoint: &str) -> Result<Self> {
        let setup = Self {
            folder: folder.to_owned(),
            recipients: [key(folder, "age", "standby.key")?, key(folder, "age", SAFE_KEY)?],
            writers: [
                key(folder, "writer", &writer_file(Site::Primary))?,
                key(folder, "writer", &writer_file(Site::Standby))?,
            ],
            prefix: format!("story-{}", Uuid::new_v4().simple()),
            holdfast_password: Uuid::new_v4().simple().to_string(),
            hospital_password: Uuid::new_v4().simple().to_string(),
        };
        copy_folder(&repository().join("manifests"), &setup.manifests())?;
        let ([recipient, escrow], [primary, standby]) = (&setup.recipients, &setup.writers);
        let settings = format!(
            "endpoint={endpoint}\nregion=us-east-1\nbucket={BUCKET}\nprefix={}\nrecipient={recipient}\nescrow={escrow}\n\
             primaryWriter={primary}\nstandbyWriter={standby}\n",
            setup.prefix
        );
        write(&setup.samples().join("settings/settings.env"), settings.as_bytes())?;
        Ok(setup)
    }

    /// From the next [`Setup::apply_samples`] on, a site reaches the bucket at this endpoint.
    pub(crate) fn reach_the_bucket_at(&self, endpoint: &str) -> Result<()> {
        self.set("endpoint", endpoint)
    }

    /// From the next [`Setup::apply_samples`] on, a site's vault is in this bucket.
    pub(crate) fn keep_the_vault_in(&self, bucket: &str) -> Result<()> {
        self.set("bucket", bucket)
    }

    /// Edits the samples' settings.
    fn set(&self, name: &str, value: &str) -> Result<()> {
        let path = self.samples().join("settings/settings.env");
        let settings = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let others = settings.lines().filter(|line| !line.starts_with(&format!("{name}=")));
        let settings: String = others.map(|line| format!("{line}\n")).collect();
        write(&path, format!("{name}={value}\n{settings}").as_bytes())
    }

    /// The copy of the repository's `manifests` that this story applies.
    fn manifests(&self) -> PathBuf {
        self.folder.join("manifests")
    }

    /// The samples in that copy, with this story's settings.
    pub(crate) fn samples(&self) -> PathBuf {
        self.manifests().join("samples")
    }

    /// Everything of this story is under this prefix of the bucket.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(crate) fn recipients(&self) -> &[String; 2] {
        &self.recipients
    }

    /// Of the role that Holdfast has in the databases.
    pub(crate) fn holdfast_password(&self) -> &str {
        &self.holdfast_password
    }

    /// Operator and custom resources.
    pub(crate) async fn install_holdfast(&self, lab: &Lab, site: Site) -> Result<()> {
        let folder = self.manifests().join(site.name());
        let site = lab.site(site);
        site.apply(&folder).await?;
        site.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]).await?;
        site.kubectl(&["-n", "holdfast-system", "rollout", "status", "deployment", "--timeout=120s"]).await?;
        Ok(())
    }

    /// The namespace, the operator's rights in it and its Secrets, before anything needs them.
    pub(crate) async fn prepare(&self, lab: &Lab, site: Site) -> Result<()> {
        lab.site(site).apply(self.samples().join("hospital/namespace.yaml")).await?;
        // Lets the operator work there.
        let tenant = self.manifests().join("tenant").display().to_string();
        let apply = ["apply", "--server-side", "--force-conflicts", "--namespace", NAMESPACE, "-k", &tenant];
        lab.site(site).kubectl(&apply).await?;
        let credentials = lab.credentials(site);
        let writer = self.folder.join(writer_file(site));
        let writer = fs::read_to_string(&writer).with_context(|| format!("reading {}", writer.display()))?;
        let mut secrets = vec![
            secret("holdfast-writer", &[("writer", writer.trim())]),
            secret(
                "holdfast-vault",
                &[("AWS_ACCESS_KEY_ID", &credentials.access_key), ("AWS_SECRET_ACCESS_KEY", &credentials.secret_key)],
            ),
            secret("holdfast-database", &[("username", "holdfast"), ("password", &self.holdfast_password)]),
            secret("hospital-database", &[("username", "hospital"), ("password", &self.hospital_password)]),
        ];
        if site == Site::Standby {
            let path = self.folder.join("standby.key");
            let identity = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            secrets.push(secret("holdfast-identity", &[("identity", identity.trim())]));
        }
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": secrets });
        // JSON is YAML.
        Ok(lab.site(site).apply_yaml(&list.to_string()).await?)
    }

    /// One more PostgreSQL server like the samples', `NAME-db`, run with these arguments.
    pub(crate) async fn start_database_with(&self, lab: &Lab, site: Site, name: &str, arguments: &str) -> Result<()> {
        let folder = self.samples().join("databases").join(name);
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        let command = json!(["sh", "-c", format!("exec postgres -D \"$PGDATA\" {arguments}")]);
        let path = "/spec/template/spec/containers/0/command";
        let patch = json!([{ "op": "replace", "path": path, "value": command }]).to_string();
        let kustomization = json!({
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namePrefix": format!("{name}-"),
            "namespace": NAMESPACE,
            "resources": ["../base"],
            "labels": [{ "pairs": { "app": format!("{name}-db") }, "includeSelectors": true }],
            "patches": [{ "target": { "kind": "StatefulSet" }, "patch": patch }],
        });
        write(&folder.join("kustomization.yaml"), kustomization.to_string().as_bytes())?;
        Ok(lab.site(site).apply(&folder).await?)
    }

    /// The samples' databases and services without any custom resource.
    pub(crate) async fn apply_unprotected(&self, lab: &Lab, site: Site) -> Result<()> {
        let folder = self.samples().join("unprotected");
        fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        let resources =
            ["hospital", "databases/scripts", "databases/registration", "databases/billing", "databases/lab"];
        let kustomization = json!({
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": NAMESPACE,
            "resources": resources.map(|resource| format!("../{resource}")),
        });
        write(&folder.join("kustomization.yaml"), kustomization.to_string().as_bytes())?;
        Ok(lab.site(site).apply(&folder).await?)
    }

    /// The hospital's part at this site: `samples/primary` or `samples/standby`.
    pub(crate) async fn apply_samples(&self, lab: &Lab, site: Site) -> Result<()> {
        Ok(lab.site(site).apply(self.samples().join(site.name())).await?)
    }
}

pub(crate) fn secret(name: &str, data: &[(&str, &str)]) -> Value {
    let data: serde_json::Map<String, Value> =
        data.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": name, "namespace": NAMESPACE },
        "stringData": data,
    })
}

/// The file of a site's writer key.
pub(crate) fn writer_file(site: Site) -> String {
    format!("{}-writer.key", site.name())
}

/// `holdfast keys new`, as a person runs it; returns the public key.
fn key(folder: &Path, kind: &str, name: &str) -> Result<String> {
    let program = beside_us("holdfast")?;
    let output = Command::new(&program)
        .args(["keys", "new", kind, "--out"])
        .arg(folder.join(name))
        .output()
        .with_context(|| format!("running {}", program.display()))?;
    if !output.status.success() {
        bail!("{} keys new: {}", program.display(), String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// A program that cargo built into the same target folder as this one.
pub fn beside_us(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("finding this program")?;
    // target/debug/demo, or target/debug/deps/some_story-1234
    let found = own.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.with_context(|| format!("{name} is not built: run `cargo build --workspace`"))
}

/// The repository's root.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("creating {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target).with_context(|| format!("copying to {}", target.display()))?;
        }
    }
    Ok(())
}

/// Writes a file that only its owner can read: most of them hold secrets.
fn write(path: &Path, content: &[u8]) -> Result<()> {
    use std::io::Write as _;
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(content)).with_context(|| format!("writing {}", path.display()))
}
