//! What a running lab remembers between commands: its secrets and what it was started with.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;

use serde::{Deserialize, Serialize};

use crate::components::hex;
use crate::error::{IoContext, Result};
use crate::images::AppImage;
use crate::paths::Paths;
use crate::site::Site;

/// An S3 identity of the lab's cloud. Fixed while the lab is up.
#[derive(Clone, Serialize, Deserialize)]
pub struct Credentials {
    pub access_key: String,
    pub secret_key: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Credentials({})", self.access_key)
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    /// Of the lab itself: may do everything, and no site knows it.
    pub(crate) admin: Credentials,
    pub(crate) sites: BTreeMap<Site, Credentials>,
    /// Images of our own binaries that the sites have, tag to id.
    pub(crate) images: BTreeMap<String, String>,
    /// Every part answered once since `up`.
    pub(crate) ready: bool,
    /// Somebody wants it to run on after the command that started it: nothing but that person's word ends it.
    #[serde(default)]
    pub(crate) kept: bool,
}

impl State {
    pub(crate) fn new() -> Result<Self> {
        let sites = Site::ALL.into_iter().map(|site| Ok((site, credentials(site.name())?))).collect::<Result<_>>()?;
        Ok(Self { admin: credentials("admin")?, sites, images: BTreeMap::new(), ready: false, kept: false })
    }

    /// `None` when no lab was started, or its start was interrupted before it had anything.
    pub(crate) fn load(paths: &Paths) -> Option<Self> {
        serde_json::from_slice(&fs::read(paths.state()).ok()?).ok()
    }

    pub(crate) fn save(&self, paths: &Paths) -> Result<()> {
        let path = paths.state();
        let doing = || format!("write {}", path.display());
        let partial = path.with_extension("partial");
        let mut file =
            File::options().create(true).write(true).truncate(true).mode(0o600).open(&partial).doing(doing)?;
        let text = serde_json::to_vec_pretty(self).map_err(io::Error::from).doing(doing)?;
        file.write_all(&text).doing(doing)?;
        fs::rename(&partial, &path).doing(doing)
    }

    pub(crate) fn has(&self, image: &AppImage) -> bool {
        self.images.get(&image.tag) == Some(&image.id)
    }
}

fn credentials(name: &str) -> Result<Credentials> {
    Ok(Credentials {
        access_key: format!("{}{}", name.to_uppercase(), random(6)?.to_uppercase()),
        secret_key: random(20)?,
    })
}

fn random(bytes: usize) -> Result<String> {
    let mut buffer = vec![0; bytes];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut buffer))
        .doing(|| "read /dev/urandom".into())?;
    Ok(hex(&buffer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_differ_and_do_not_show() {
        let (one, other) = (State::new().unwrap(), State::new().unwrap());
        assert_ne!(one.admin.secret_key, other.admin.secret_key);
        assert_ne!(one.admin.secret_key, one.sites[&Site::Primary].secret_key);
        assert!(!format!("{one:?}").contains(&one.admin.secret_key));
    }
}
