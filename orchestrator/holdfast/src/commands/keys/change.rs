//! `holdfast keys rotate` and `holdfast keys revoke`: what to change in the Vaults, as a command to run at each site or as a
//! change to a manifest.

use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Print;
use super::manifest::Manifest;
use super::material::{Kind, Material};
use crate::commands::vault::{Failed, Output, print_json};

/// Where the Vault's lists are read.
#[derive(Debug, Args)]
struct Target {
    /// The Vault's manifest (`-`: standard input, such as `kubectl get vault NAME -o yaml`).
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// Change the manifest, too; comments and order stay as they are.
    #[arg(long)]
    write: bool,
}

/// Bring a new key in beside the old one, so that nothing is ever without a key.
///
/// Prints the command that changes the Vault, and what else to do, in order. The old writer key stays valid until it is
/// revoked; the old age key's private half is needed as long as something is stored that was encrypted to it.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  holdfast keys rotate writer primary-writer-2.key --name primary-2 --file vault.yaml\n  \
    holdfast keys rotate age standby-2.key --replaces age1... --file vault.yaml --write"
)]
pub(super) struct Rotate {
    /// What the key is for.
    kind: Kind,
    /// The new key: its file, or its public half.
    #[arg(value_name = "FILE|PUBLIC")]
    key: String,
    /// A name for a new writer key.
    #[arg(long, required_if_eq("kind", "writer"))]
    name: Option<String>,
    /// The recipient that a new age key takes the place of; left out, it is added.
    #[arg(long, value_name = "PUBLIC", conflicts_with = "name")]
    replaces: Option<String>,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    pub(super) print: Print,
}

/// Trust a key no longer.
///
/// A writer key: what the store says that it stored after a given time does not count, everything before it does. An age
/// key: nothing more is encrypted to it; what is stored stays readable with it until its retention ends.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  holdfast keys revoke writer primary --after 2026-11-24T14:02:00Z --file vault.yaml\n  \
    kubectl get vault vault -o yaml | holdfast keys revoke age age1... --file -"
)]
pub(super) struct Revoke {
    /// What the key is for.
    kind: Kind,
    /// The key: a writer's name or public key, a recipient, or a file.
    #[arg(value_name = "NAME|PUBLIC|FILE")]
    key: String,
    /// Nothing counts that a writer key vouched for and that was stored after this time (RFC 3339, or `now`).
    #[arg(long, value_name = "TIME", required_if_eq("kind", "writer"))]
    after: Option<String>,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    pub(super) print: Print,
}

/// A change to one list of a Vault.
#[derive(Debug, PartialEq)]
struct Change {
    /// Below `spec`.
    path: &'static [&'static str],
    list: Value,
    /// What to do besides, in order; `{patch}` is the command that changes the Vault.
    steps: Vec<String>,
}

const WRITERS: &[&str] = &["writers"];
const RECIPIENTS: &[&str] = &["encryption", "recipients"];
const RESTART: &str = "at this site, let the agents begin anew with it: \
                       kubectl rollout restart deployment -l app.kubernetes.io/component=agent";

impl Rotate {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let (manifest, public) = (Manifest::read(&self.target.file)?, one(&self.key, self.kind)?);
        let change = match self.kind {
            Kind::Writer => add_writer(&manifest, self.name.as_deref().unwrap_or_default(), &public)?,
            Kind::Age => add_recipient(&manifest, self.replaces.as_deref(), &public)?,
        };
        finish(&manifest, &self.target, self.print.output, &change)
    }
}

impl Revoke {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let manifest = Manifest::read(&self.target.file)?;
        let change = match self.kind {
            Kind::Writer => revoke_writer(&manifest, &self.key, time(self.after.as_deref().unwrap_or_default())?)?,
            Kind::Age => remove_recipient(&manifest, &one(&self.key, Kind::Age)?)?,
        };
        finish(&manifest, &self.target, self.print.output, &change)
    }
}

fn time(text: &str) -> anyhow::Result<Timestamp> {
    if text == "now" {
        return Ok(Timestamp::now());
    }
    let failed =
        |error| Failed::new(format!("{text:?} is no time: {error}"), "--after", "write it as 2026-11-24T14:02:00Z");
    Ok(text.parse().map_err(failed)?)
}

/// The one public key of this kind that was given.
fn one(text: &str, kind: Kind) -> anyhow::Result<String> {
    let material = Material::of(text)?;
    match (&material.public[..], material.kind == kind) {
        ([public], true) => Ok(public.clone()),
        (_, true) => Err(Failed::new("there are several keys in this file", text, "give one public key").into()),
        _ => Err(Failed::new(format!("this is no {kind:?} key").to_lowercase(), "", "see `holdfast keys show`").into()),
    }
}

fn list(manifest: &Manifest, path: &[&str]) -> Vec<Value> {
    manifest.spec(path).as_array().cloned().unwrap_or_default()
}

fn add_writer(manifest: &Manifest, name: &str, public: &str) -> anyhow::Result<Change> {
    let mut writers = list(manifest, WRITERS);
    if let Some(there) = writers.iter().find(|writer| writer["name"] == name || writer["publicKey"] == public) {
        let what = format!("there is a writer {} with the key {} already", there["name"], there["publicKey"]);
        return Err(Failed::new(what, "", "give a new key a name of its own").into());
    }
    writers.push(json!({ "name": name, "publicKey": public }));
    let secret = manifest.spec(&["signing", "secretName"]).as_str().unwrap_or("holdfast-writer").to_owned();
    let namespace = manifest.namespace_flag();
    let steps = vec![
        "at every site, so that everybody believes the new key: {patch}".to_owned(),
        format!(
            "at the site that signs with it: kubectl create secret generic {secret}{namespace} --from-file=writer=FILE \
             --dry-run=client -o yaml | kubectl apply -f -"
        ),
        format!("{RESTART}{namespace}"),
        "when `holdfast keys list` shows that the new key vouches for the newest objects, at every site: holdfast keys revoke \
         writer OLD-NAME --after now"
            .to_owned(),
    ];
    Ok(Change { path: WRITERS, list: writers.into(), steps })
}

fn revoke_writer(manifest: &Manifest, key: &str, after: Timestamp) -> anyhow::Result<Change> {
    let mut writers = list(manifest, WRITERS);
    let public = Material::of(key).ok().and_then(|material| material.public.first().cloned());
    let is_it =
        |writer: &&mut Value| writer["name"] == key || public.as_ref().is_some_and(|k| writer["publicKey"] == **k);
    let Some(writer) = writers.iter_mut().find(is_it) else {
        let names: Vec<String> = writers.iter().map(|writer| writer["name"].to_string()).collect();
        let listed = if names.is_empty() { "nobody".to_owned() } else { names.join(", ") };
        let what = format!("the Vault lists no writer {key}, only: {listed}");
        return Err(Failed::new(what, "", "a key that is not listed is not believed anyway").into());
    };
    writer["notAfter"] = json!(after);
    let steps = vec![
        "at every site: {patch}".to_owned(),
        format!(
            "if the site of this key goes on: give it a new key first (`holdfast keys rotate writer`); {RESTART}{}",
            manifest.namespace_flag()
        ),
        "if something was stored with it after that time: each log ends there. Recover to that point (`holdfast vault ls`), \
         and protect the recovered databases under new names"
            .to_owned(),
    ];
    Ok(Change { path: WRITERS, list: writers.into(), steps })
}

fn add_recipient(manifest: &Manifest, replaces: Option<&str>, public: &str) -> anyhow::Result<Change> {
    let mut recipients = list(manifest, RECIPIENTS);
    if recipients.iter().any(|recipient| recipient == public) {
        return Err(Failed::new("everything is encrypted to this key already", public, "nothing").into());
    }
    match replaces {
        None => recipients.push(public.into()),
        Some(old) => {
            let there = recipients.iter_mut().find(|recipient| *recipient == old);
            let missing =
                || Failed::new("nothing is encrypted to the key that is to be replaced", old, "see the manifest");
            *there.ok_or_else(missing)? = public.into();
        }
    }
    let steps = vec![
        "at the site that decrypts with it: put both private keys, a line each, into the Secret that encryption.identity \
         names; what is stored was encrypted to the old one"
            .to_owned(),
        "at every site, for what is stored from now on: {patch}".to_owned(),
        "keep the old private key until `holdfast keys list --identity NEW.key` shows nothing that only the old one opens".into(),
    ];
    Ok(Change { path: RECIPIENTS, list: recipients.into(), steps })
}

fn remove_recipient(manifest: &Manifest, public: &str) -> anyhow::Result<Change> {
    let before = list(manifest, RECIPIENTS);
    let recipients: Vec<Value> = before.iter().filter(|recipient| *recipient != public).cloned().collect();
    if recipients.len() == before.len() {
        return Err(Failed::new("the Vault does not encrypt to this key", public, "see the manifest").into());
    }
    if recipients.is_empty() {
        let to_do = "bring in a new one first: `holdfast keys rotate age`";
        return Err(Failed::new("this is the only key that decrypts", public, to_do).into());
    }
    let steps = vec![
        "at every site: {patch}".to_owned(),
        "what is stored stays readable with this key until its retention ends: nothing can take that back. Whoever has the key \
         must not reach the bucket: change the credentials that can read it"
            .to_owned(),
    ];
    Ok(Change { path: RECIPIENTS, list: recipients.into(), steps })
}

/// The merge patch of a Vault: a list is replaced as a whole.
fn patch(change: &Change) -> Value {
    let inner = change.path.iter().rev().fold(change.list.clone(), |value, key| json!({ *key: value }));
    json!({ "spec": inner })
}

fn finish(manifest: &Manifest, target: &Target, output: Output, change: &Change) -> anyhow::Result<()> {
    if target.write {
        manifest.write(change.path, &change.list)?;
    }
    let (patch, name, namespace) = (patch(change), manifest.name(), manifest.namespace_flag());
    let command = format!("kubectl patch vault {name}{namespace} --type merge -p '{patch}'");
    let steps: Vec<String> = change.steps.iter().map(|step| step.replace("{patch}", &command)).collect();
    match output {
        Output::Json => print_json(&json!({ "patch": patch, "steps": steps, "written": target.write })),
        Output::Table => {
            if target.write {
                println!(
                    "{} is changed; where a step says `kubectl patch`, applying it does the same\n",
                    target.file.display()
                );
            }
            steps.iter().enumerate().for_each(|(n, step)| println!("{}. {step}", n + 1));
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn manifest(writers: Value, recipients: Value) -> (tempfile::TempDir, Manifest) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vault.json");
        let object = json!({"kind": "Vault", "metadata": {"name": "v", "namespace": "hospital"},
            "spec": {"writers": writers, "encryption": {"recipients": recipients}}});
        std::fs::write(&path, object.to_string()).unwrap();
        let read = Manifest::read(Path::new(&path)).unwrap();
        (folder, read)
    }

    #[test]
    fn a_new_writer_comes_in_beside_the_old_one() {
        let (_folder, vault) = manifest(json!([{"name": "a", "publicKey": "ka"}]), json!(["r"]));
        let change = add_writer(&vault, "b", "kb").unwrap();
        let expected = json!([{"name": "a", "publicKey": "ka"}, {"name": "b", "publicKey": "kb"}]);
        assert_eq!(patch(&change), json!({"spec": {"writers": expected}}));
        assert!(add_writer(&vault, "a", "kb").is_err() && add_writer(&vault, "b", "ka").is_err());
    }

    #[test]
    fn a_writer_is_revoked_from_a_time_on() {
        let (_folder, vault) =
            manifest(json!([{"name": "a", "publicKey": "ka"}, {"name": "b", "publicKey": "kb"}]), json!(["r"]));
        let change = revoke_writer(&vault, "a", time("2026-11-24T14:02:00Z").unwrap()).unwrap();
        assert_eq!(change.list[0], json!({"name": "a", "publicKey": "ka", "notAfter": "2026-11-24T14:02:00Z"}));
        assert_eq!(change.list[1], json!({"name": "b", "publicKey": "kb"}));
        let unknown = revoke_writer(&vault, "c", Timestamp::UNIX_EPOCH).unwrap_err().to_string();
        assert!(unknown.contains("\"a\", \"b\""), "{unknown}");
        assert!(time("14:02").is_err());
    }

    #[test]
    fn the_last_recipient_stays() {
        let (_folder, vault) = manifest(json!([]), json!(["r", "s"]));
        assert_eq!(remove_recipient(&vault, "r").unwrap().list, json!(["s"]));
        assert!(remove_recipient(&vault, "x").is_err());
        assert_eq!(add_recipient(&vault, Some("r"), "t").unwrap().list, json!(["t", "s"]));
        assert_eq!(add_recipient(&vault, None, "t").unwrap().list, json!(["r", "s", "t"]));
        assert!(add_recipient(&vault, Some("x"), "t").is_err() && add_recipient(&vault, None, "s").is_err());
        let (_folder, single) = manifest(json!([]), json!(["r"]));
        assert!(remove_recipient(&single, "r").unwrap_err().to_string().contains("only key"));
    }
}
