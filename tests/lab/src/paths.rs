//! Where the lab keeps things: everything is under one folder of the user's cache.

use std::path::{Path, PathBuf};

use crate::error::{LabError, Result};
use crate::site::Site;

/// `<cache>/holdfast/lab`. What is built once lives beside `work`, which only exists while a lab runs.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    root: PathBuf,
}

impl Paths {
    /// `$XDG_CACHE_HOME/holdfast/lab`, or `~/.cache/holdfast/lab`.
    pub(crate) fn from_env() -> Result<Self> {
        let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let cache = absolute("XDG_CACHE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
            .ok_or_else(|| LabError::Machine("neither XDG_CACHE_HOME nor HOME is set: set one of them".into()))?;
        Ok(Self { root: cache.join("holdfast").join("lab") })
    }

    #[cfg(test)]
    pub(crate) fn at(root: &str) -> Self {
        Self { root: root.into() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Programs, images and other things that are built once, by name and version.
    pub(crate) fn cached(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The running lab: sites, the bucket's data, logs, secrets.
    pub(crate) fn work(&self) -> PathBuf {
        self.root.join("work")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.work().join("state.json")
    }

    pub(crate) fn site(&self, site: Site) -> PathBuf {
        self.work().join(site.name())
    }

    pub(crate) fn cloud(&self) -> PathBuf {
        self.work().join("cloud")
    }
}

/// The repository's root: the lab builds Holdfast's own images from it.
pub(crate) fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}
