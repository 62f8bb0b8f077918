//! A containerd store with the images that never change, made once. Each site's store starts from it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::components::{Programs, digest, read};
use crate::error::{IoContext, Result};
use crate::exec::{command, mortal, poll, run, sh};
use crate::images::archive::{self, ImageConfig};
use crate::images::debian;
use crate::paths::{Paths, repository};
use crate::progress::Progress;

/// Raise it when the steps below change.
const RECIPE: &str = "1";

/// Where the store and the libraries of our own images are.
#[derive(Clone, Debug)]
pub(crate) struct BaseImages {
    pub(crate) store: PathBuf,
    pub(crate) root: PathBuf,
}

/// Builds the base images and the store unless they are in the cache.
pub(crate) fn prepare(paths: &Paths, programs: &Programs, progress: &Progress) -> Result<BaseImages> {
    let debian = debian::prepare(paths, progress)?;
    let pause_source = repository().join("tests/lab/components/pause/pause.c");
    let coredns = programs.path("coredns")?;
    let version = sh("containerd", &["--version"])?;
    let key = digest(&[
        debian.archive.display().to_string().into_bytes(),
        coredns.display().to_string().into_bytes(),
        read(&pause_source)?,
        version.into_bytes(),
        RECIPE.as_bytes().to_vec(),
    ]);
    let store = paths.cached("images").join(format!("store-{key}"));
    let root = debian.root.clone();
    if store.is_dir() {
        return Ok(BaseImages { store, root });
    }
    let step = progress.step("unpacking the base images", Some(Duration::from_secs(10)));
    // In the cache, where the next attempt finds what a killed one has left.
    let folder = paths.cached("images").join("unpacking.partial");
    let partial = store.with_extension("partial");
    for left in [&folder, &partial] {
        let _ = fs::remove_dir_all(left);
    }
    create(&folder)?;
    let pause = pause_image(&folder, &pause_source)?;
    let coredns = single_file_image(&folder, "coredns", &coredns)?;
    unpack(&partial, &folder, &[&pause, &coredns, &debian.archive])?;
    fs::rename(&partial, &store).doing(|| format!("create {}", store.display()))?;
    let _ = fs::remove_dir_all(&folder);
    step.done();
    Ok(BaseImages { store, root })
}

fn pause_image(folder: &Path, source: &Path) -> Result<PathBuf> {
    let binary = folder.join("pause.bin");
    let mut cc = command("cc", ["-static", "-Os", "-s", "-Wall", "-Werror", "-o"]);
    run(cc.arg(&binary).arg(source))?;
    single_file_image(folder, "pause", &binary)
}

/// An image with one statically linked program, as `/NAME`.
fn single_file_image(folder: &Path, name: &str, binary: &Path) -> Result<PathBuf> {
    let doing = || format!("write the image of {name}");
    let layer = folder.join("layer.tar");
    let file = fs::File::create(&layer).doing(doing)?;
    let mut tar = tar::Builder::new(file);
    archive::append_file(&mut tar, name, 0o755, binary).doing(doing)?;
    tar.into_inner().doing(doing)?;
    let archive = folder.join(format!("{name}.tar"));
    let config =
        ImageConfig { entrypoint: vec![format!("/{name}")], user: "65532:65532".into(), ..ImageConfig::default() };
    archive::write(&archive, &format!("docker.io/library/{name}:1"), &layer, &config)?;
    Ok(archive)
}

/// Runs a containerd of its own, in namespaces that end with it, and lets it unpack the archives.
fn unpack(store: &Path, folder: &Path, archives: &[&Path]) -> Result<()> {
    let socket = folder.join("containerd.sock");
    let config = folder.join("containerd.toml");
    let text = format!(
        "version = 2\nroot = {:?}\nstate = {:?}\n[grpc]\n  address = {socket:?}\n",
        store,
        folder.join("state"),
    );
    crate::machine::write_file(&config, text)?;
    let mut child = mortal("containerd", ["--config"])
        .arg(&config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .doing(|| "start containerd".into())?;
    let result =
        wait_for_socket(&socket).and_then(|()| archives.iter().try_for_each(|archive| import(&socket, archive)));
    let _ = child.kill();
    let _ = child.wait();
    result
}

pub(crate) fn wait_for_socket(socket: &Path) -> Result<()> {
    let limit = Duration::from_secs(60);
    poll("containerd", limit, Duration::from_millis(50), || {
        std::os::unix::net::UnixStream::connect(socket).map(drop).map_err(|error| error.to_string())
    })
}

/// Imports and unpacks an archive where the kubelet's containerd finds it.
pub(crate) fn import(socket: &Path, archive: &Path) -> Result<()> {
    let mut ctr = command("ctr", ["--namespace", "k8s.io", "--address"]);
    ctr.arg(socket).args(["images", "import"]).arg(archive);
    run(&mut ctr).map(drop)
}

const SNAPSHOTTER: &str = "io.containerd.snapshotter.v1.overlayfs";

/// Gives a site its own store, at `target`. Returns what must be mounted in the site: the unpacked
/// layers, which only ever are the lower part of a container's file system, are not copied.
pub(crate) fn seed(store: &Path, target: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
    for part in folders(store)? {
        let own = target.join(&part);
        create(&own)?;
        if part != Path::new(SNAPSHOTTER) {
            // Blobs are never changed in place.
            let link = ["--archive", "--link", "--no-target-directory"];
            run(command("cp", link).arg(store.join(&part)).arg(&own))?;
        }
    }
    // Databases are: these must be real copies.
    for database in ["io.containerd.metadata.v1.bolt/meta.db", &format!("{SNAPSHOTTER}/metadata.db")] {
        let own = target.join(database);
        let _ = fs::remove_file(&own);
        fs::copy(store.join(database), &own).doing(|| format!("copy to {}", own.display()))?;
    }
    let layers = Path::new(SNAPSHOTTER).join("snapshots");
    let mut binds = Vec::new();
    for layer in folders(&store.join(&layers))? {
        let layer = layers.join(layer);
        create(&target.join(&layer))?;
        binds.push((store.join(&layer), target.join(&layer)));
    }
    Ok(binds)
}

fn folders(parent: &Path) -> Result<Vec<PathBuf>> {
    let doing = || format!("read {}", parent.display());
    let entries = fs::read_dir(parent).doing(doing)?;
    let names = entries.map(|entry| entry.map(|entry| PathBuf::from(entry.file_name())));
    names.collect::<std::io::Result<_>>().doing(doing)
}

fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).doing(|| format!("create {}", folder.display()))
}
