//! The whole of it: up, as it is, down.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::{fs, time::Duration};

use serde::Serialize;

use crate::cloud::{BUCKET, BucketKind, Cloud};
use crate::components::Programs;
use crate::error::{IoContext, LabError, Result};
use crate::guard::Guard;
use crate::images::AppImage;
use crate::lock::{LOCK, LabLock};
use crate::network::Reach;
use crate::paths::Paths;
use crate::progress::Progress;
use crate::setup::{self, Setup};
use crate::site::{Site, launch};
use crate::site_handle::SiteHandle;
use crate::state::{Credentials, State};
use crate::{blocking, cloud, dump, machine, network, sweep, tunables};

/// What becomes of a lab that somebody has left running on purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    /// It is taken as it is. One that is not whole, after a power cut say, is an error that says what mends it.
    #[default]
    Use,
    /// It stays, and this is an error that says how to end it.
    Refuse,
    /// It goes, with its data.
    Replace,
}

/// How to bring a lab up.
#[derive(Clone, Debug)]
pub struct Options {
    pub existing: Existing,
    /// Build `holdfast` and `hospital` first.
    pub build: bool,
    pub progress: Progress,
}

impl Default for Options {
    fn default() -> Self {
        Self { existing: Existing::default(), build: true, progress: Progress::new() }
    }
}

/// A running lab. Dropped, it goes down, unless it was running before or [`Lab::keep`] was called.
#[derive(Debug)]
pub struct Lab {
    paths: Paths,
    state: State,
    cloud: Cloud,
    primary: SiteHandle,
    standby: SiteHandle,
    // Dropped in this order: the guard ends before the lock is released.
    guard: Option<Guard>,
    _lock: Option<LabLock>,
}

/// What [`Lab::status`] finds out about a site.
#[derive(Clone, Debug, Serialize)]
pub struct SiteStatus {
    pub site: Site,
    pub power: bool,
    /// `None` without power.
    pub network: Option<Reach>,
    /// The API server answers that it is ready.
    pub api: bool,
    pub node_ready: bool,
    pub pods_ready: usize,
    pub pods: usize,
    pub address: String,
    pub kubeconfig: std::path::PathBuf,
}

impl Lab {
    /// Brings the lab up, setting the machine up first if need be. One that is taken as it is gets the images of our own
    /// binaries as they are now. Waits while somebody else is using a lab on this machine.
    pub async fn up(options: Options) -> Result<Self> {
        let paths = Paths::from_env()?;
        machine::check(&paths)?;
        let (lock, running, setup, apps) = blocking({
            let (paths, options) = (paths.clone(), options.clone());
            move || {
                let lock = locked_alone(&paths, &options.progress)?;
                let running = running(&paths, options.existing)?;
                let setup = setup::prepare(&paths, &options.progress)?;
                let apps = setup::apps(&paths, &setup, options.build, &options.progress)?;
                Ok((lock, running, setup, apps))
            }
        })
        .await?;
        if let Some(state) = running {
            let mut lab = Self::of(&paths, state, &setup.programs)?;
            lab._lock = Some(lock);
            lab.update_images(&apps).await?;
            return Ok(lab);
        }
        let step = options.progress.step("starting both sites", Some(Duration::from_secs(20)));
        let lab = Self::start(paths, &setup, &apps, lock).await?;
        step.done();
        Ok(lab)
    }

    /// A lab that somebody else brought up, to look at it and to cause faults. It stays up.
    pub fn attach() -> Result<Self> {
        let paths = Paths::from_env()?;
        let state = State::load(&paths).ok_or_else(|| LabError::State("no lab is up: run `cargo lab up`".into()))?;
        Self::of(&paths, state, &crate::components::locate(&paths)?)
    }

    fn of(paths: &Paths, state: State, programs: &Programs) -> Result<Self> {
        Ok(Self {
            cloud: Cloud::new(paths, programs, &state),
            primary: SiteHandle::new(Site::Primary, paths, programs)?,
            standby: SiteHandle::new(Site::Standby, paths, programs)?,
            paths: paths.clone(),
            state,
            guard: None,
            _lock: None,
        })
    }

    async fn start(paths: Paths, setup: &Setup, apps: &[AppImage], lock: LabLock) -> Result<Self> {
        let guard = blocking({
            let paths = paths.clone();
            let lock = lock.share()?;
            move || {
                sweep::everything(&paths)?;
                Guard::start(lock)
            }
        })
        .await?;
        // From here on, dropping `lab` takes away whatever there is.
        let mut lab = Self::of(&paths, State::new()?, &setup.programs)?;
        lab.guard = Some(guard);
        lab._lock = Some(lock);
        blocking({
            let (paths, setup, state) = (paths.clone(), setup.clone(), lab.state.clone());
            move || build(&paths, &setup, &state)
        })
        .await?;
        let archives: Vec<_> = apps.iter().map(|app| app.archive.clone()).collect();
        let (cloud, primary, standby) =
            tokio::join!(lab.start_cloud(), lab.primary.boot(archives.clone()), lab.standby.boot(archives),);
        cloud.and(primary).and(standby)?;
        lab.state.images = apps.iter().map(|app| (app.tag.clone(), app.id.clone())).collect();
        lab.state.ready = true;
        lab.state.save(&paths)?;
        Ok(lab)
    }

    async fn start_cloud(&self) -> Result<()> {
        self.cloud.start().await?;
        self.cloud.create_bucket(BUCKET, BucketKind::Locked).await.map(drop)
    }

    async fn update_images(&mut self, apps: &[AppImage]) -> Result<()> {
        let changed = apps.iter().filter(|app| !self.state.has(app));
        let archives: Vec<_> = changed.map(|app| app.archive.clone()).collect();
        if archives.is_empty() {
            return Ok(());
        }
        let (primary, standby) = tokio::join!(self.primary.import(archives.clone()), self.standby.import(archives));
        primary.and(standby)?;
        self.state.images = apps.iter().map(|app| (app.tag.clone(), app.id.clone())).collect();
        self.state.save(&self.paths)
    }

    pub fn site(&self, site: Site) -> &SiteHandle {
        match site {
            Site::Primary => &self.primary,
            Site::Standby => &self.standby,
        }
    }

    pub fn sites(&self) -> [&SiteHandle; 2] {
        [&self.primary, &self.standby]
    }

    pub fn cloud(&self) -> &Cloud {
        &self.cloud
    }

    /// The S3 identity that is meant for a site.
    pub fn credentials(&self, site: Site) -> &Credentials {
        // Both were made with the state.
        &self.state.sites[&site]
    }

    /// Was the lab started by this call of [`Lab::up`]?
    pub fn is_owned(&self) -> bool {
        self.guard.is_some()
    }

    /// Leaves the lab running when this is dropped, until [`Lab::down`] or `cargo lab down`.
    pub fn keep(&mut self) {
        self.state.kept = true;
        // Without the word it counts as forgotten, and the next one takes its place.
        let _ = self.state.save(&self.paths);
        if let Some(guard) = self.guard.take() {
            guard.keep();
        }
    }

    /// Takes the lab down, whoever brought it up.
    pub async fn down(mut self) -> Result<()> {
        if let Some(guard) = self.guard.take() {
            guard.keep();
        }
        let paths = self.paths.clone();
        blocking(move || sweep::everything(&paths)).await
    }

    /// Takes down whatever is there, healthy or not. Waits for whoever is using it.
    pub async fn sweep(progress: &Progress) -> Result<()> {
        let paths = Paths::from_env()?;
        let progress = progress.clone();
        blocking(move || {
            let _lock = locked(&progress)?;
            sweep::everything(&paths)
        })
        .await
    }

    /// Writes what a person needs to understand a failure into `folder`: events, objects, logs.
    pub async fn dump(&self, folder: impl AsRef<Path>) -> Result<()> {
        dump::write(self, folder.as_ref()).await
    }

    pub async fn status(&self) -> Vec<SiteStatus> {
        let (primary, standby) = tokio::join!(self.primary.status(), self.standby.status());
        vec![primary, standby]
    }
}

pub(crate) fn locked(progress: &Progress) -> Result<LabLock> {
    LabLock::acquire(Path::new(LOCK), |holder| {
        progress.say(&format!("waiting for the lab, which {holder} is using …"));
    })
}

/// The lock, at a moment when no lab of another user is up. Whoever ends that one needs the lock meanwhile.
fn locked_alone(paths: &Paths, progress: &Progress) -> Result<LabLock> {
    let mut said = false;
    loop {
        let lock = locked(progress)?;
        let Some(owner) = sweep::stranger(paths) else { return Ok(lock) };
        drop(lock);
        if !said {
            progress.say(&format!(
                "waiting for the lab with its files in {owner} to go down. `cargo lab down` ends it, with the same HOME or \
                 XDG_CACHE_HOME as it was started with …"
            ));
            said = true;
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// The lab to go on with, if there is one; an error when there is one that must not be touched.
fn running(paths: &Paths, existing: Existing) -> Result<Option<State>> {
    let Some(state) = kept(paths) else { return Ok(None) };
    match existing {
        Existing::Replace => Ok(None),
        Existing::Refuse => Err(is_in_use()),
        Existing::Use => whole(paths).map(|()| Some(state)),
    }
}

/// A lab that somebody has left running on purpose. After a restart of the machine nothing of it is left to go on with.
fn kept(paths: &Paths) -> Option<State> {
    State::load(paths).filter(|state| state.ready && state.kept && network::exists())
}

/// Fails when somebody has left a lab running on purpose.
pub(crate) fn must_be_free(paths: &Paths) -> Result<()> {
    kept(paths).map_or(Ok(()), |_| Err(is_in_use()))
}

fn is_in_use() -> LabError {
    LabError::State(
        "a lab is up that `cargo lab up` or `cargo lab demo --keep` has left running, and this needs one of its own. Nothing \
         was touched: `cargo lab down` ends it, with its data (or `cargo lab demo --fresh`)"
            .into(),
    )
}

/// Fails when something of the lab that is up was switched off, and says how it is switched on again.
fn whole(paths: &Paths) -> Result<()> {
    let off = |what: String, how: &str| {
        Err(LabError::State(format!(
            "the lab is up, and {what}: `{how}` mends that (`cargo lab up --fresh` starts anew, without its data)"
        )))
    };
    for site in Site::ALL {
        if launch::running(&paths.site(site)).is_none() {
            return off(format!("site {site} has no power"), &format!("cargo lab restore {site}"));
        }
        if !network::reach(site).is_ok_and(|reach| reach == Reach::Connected) {
            return off(format!("site {site} is cut off"), &format!("cargo lab heal {site}"));
        }
    }
    match cloud::server::running(&paths.cloud()) {
        Some(_) => Ok(()),
        None => off("the S3 server is off".to_owned(), "cargo lab cloud start"),
    }
}

/// Folders, settings and the network of a new lab.
fn build(paths: &Paths, setup: &Setup, state: &State) -> Result<()> {
    let work = paths.work();
    fs::create_dir_all(&work).doing(|| format!("create {}", work.display()))?;
    // Traversable, so that a pod's user reaches its volume; secrets have modes of their own.
    fs::set_permissions(&work, fs::Permissions::from_mode(0o711)).doing(|| format!("protect {}", work.display()))?;
    state.save(paths)?;
    tunables::save(paths)?;
    network::create(paths.root())?;
    cloud::write_config(&paths.cloud(), state)?;
    for site in Site::ALL {
        launch::build(site, &paths.site(site), &setup.programs, &setup.base.store)?;
    }
    Ok(())
}
