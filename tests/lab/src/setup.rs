//! Everything a lab needs before it can start, each part only once on a machine.

use std::time::Duration;

use crate::components::{self, Programs};
use crate::error::{LabError, Result};
use crate::exec::{as_from_a_shell, mortal, run};
use crate::images::{self, AppImage, BaseImages, app_binary, build_app};
use crate::machine;
use crate::paths::{Paths, repository};
use crate::progress::Progress;

#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) programs: Programs,
    pub(crate) base: BaseImages,
}

/// Packages, programs and base images. The caller holds the lab's lock.
pub(crate) fn prepare(paths: &Paths, progress: &Progress) -> Result<Setup> {
    machine::prepare(paths, progress)?;
    // One waits for the network, the other for the processor.
    let (debian, programs) = std::thread::scope(|scope| {
        let debian = scope.spawn(|| images::prepare_debian(paths, progress).map(drop));
        let programs = components::prepare(paths, progress);
        (debian.join(), programs)
    });
    debian.map_err(|_| LabError::State("building the Debian image panicked".into()))??;
    let programs = programs?;
    let base = images::prepare(paths, &programs, progress)?;
    Ok(Setup { programs, base })
}

/// Programs of this repository that run in pods.
const APPS: &[&str] = &["holdfast", "hospital"];

/// Builds our own binaries, unless told not to, and their images.
pub(crate) fn apps(paths: &Paths, setup: &Setup, build: bool, progress: &Progress) -> Result<Vec<AppImage>> {
    if build {
        let first = !APPS.iter().all(|name| app_binary(name).is_file());
        let step = progress.step("building holdfast and hospital", first.then_some(Duration::from_secs(300)));
        let programs = ["--bin", "holdfast", "--bin", "hospital", "--bin", "holdfast-lab"];
        let mut cargo = mortal("cargo", ["build", "--quiet"]);
        run(as_from_a_shell(cargo.args(programs).current_dir(repository())))?;
        step.done();
    }
    let (built, missing): (Vec<_>, Vec<_>) = APPS.iter().partition(|name| app_binary(name).is_file());
    for name in missing {
        progress.say(&format!("{name} is not built: the sites start without its image"));
    }
    built.into_iter().map(|name| build_app(paths, &setup.base.root, name)).collect()
}
