//! The images of the binaries that this repository builds: the binary and the few libraries it links.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::components::digest;
use crate::error::{IoContext, Result};
use crate::images::archive::{self, ImageConfig, append_bytes, append_file, append_folder, append_link};
use crate::paths::{Paths, repository};

/// Without a shell, a package manager or a user's home: what the Containerfile builds, too.
const USER: &str = "65532:65532";
const LIBRARIES: &[&str] = &[
    "lib/x86_64-linux-gnu/libc.so.6",
    "lib/x86_64-linux-gnu/libgcc_s.so.1",
    "lib/x86_64-linux-gnu/libm.so.6",
    "lib/x86_64-linux-gnu/libdl.so.2",
    "lib/x86_64-linux-gnu/libpthread.so.0",
    "lib/x86_64-linux-gnu/libresolv.so.2",
    "lib/x86_64-linux-gnu/librt.so.1",
];
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";
const AUTHORITIES: &str = "etc/ssl/certs/ca-certificates.crt";
const ENVIRONMENT: [&str; 2] = ["PATH=/usr/local/bin", "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"];
const PASSWD: &str = "root:x:0:0:root:/:/nologin\nnonroot:x:65532:65532:nonroot:/tmp:/nologin\n";
const GROUP: &str = "root:x:0:\nnonroot:x:65532:\n";
const NSSWITCH: &str = "hosts: files dns\n";

/// An image that is ready to be imported.
#[derive(Clone, Debug)]
pub(crate) struct AppImage {
    pub(crate) tag: String,
    /// Changes when the binary changes.
    pub(crate) id: String,
    pub(crate) archive: PathBuf,
}

/// Where cargo puts a program of this repository.
pub(crate) fn app_binary(name: &str) -> PathBuf {
    let repository = repository();
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| repository.join("target"), |folder| repository.join(folder));
    target.join("debug").join(name)
}

/// The image of a program as it is in the target folder now. `root` gives the libraries.
pub(crate) fn build_app(paths: &Paths, root: &Path, name: &str) -> Result<AppImage> {
    let binary = app_binary(name);
    let stamp = stamp(&binary)?;
    let folder = paths.cached("images");
    fs::create_dir_all(&folder).doing(|| format!("create {}", folder.display()))?;
    let archive = folder.join(format!("{name}.tar"));
    let record = folder.join(format!("{name}.json"));
    let tag = format!("docker.io/library/{name}:{}", env!("CARGO_PKG_VERSION"));
    let key = digest(&[stamp.as_str(), &tag, &root.display().to_string(), include_str!("app.rs")]);

    let known = fs::read_to_string(&record).unwrap_or_default();
    if let Some(id) = known.strip_prefix(&format!("{key} ")).filter(|_| archive.is_file()) {
        return Ok(AppImage { tag, id: id.trim().to_owned(), archive });
    }
    let layer = tempfile::NamedTempFile::new_in(&folder).doing(|| "make a temporary file".into())?;
    write_layer(layer.path(), root, name, &binary).doing(|| format!("write the image of {}", binary.display()))?;
    let config = ImageConfig {
        entrypoint: vec![format!("/usr/local/bin/{name}")],
        env: ENVIRONMENT.map(Into::into).to_vec(),
        user: USER.into(),
    };
    let id = archive::write(&archive, &tag, layer.path(), &config)?;
    crate::machine::write_file(&record, format!("{key} {id}"))?;
    Ok(AppImage { tag, id, archive })
}

fn write_layer(layer: &Path, root: &Path, name: &str, binary: &Path) -> io::Result<()> {
    let mut tar = tar::Builder::new(io::BufWriter::with_capacity(1 << 20, File::create(layer)?));
    for folder in [
        "etc",
        "etc/ssl",
        "etc/ssl/certs",
        "usr",
        "usr/lib",
        "usr/lib64",
        "usr/lib/x86_64-linux-gnu",
        "usr/local",
        "usr/local/bin",
        "var",
    ] {
        append_folder(&mut tar, folder, 0o755)?;
    }
    append_folder(&mut tar, "tmp", 0o1777)?;
    append_link(&mut tar, "lib", "usr/lib")?;
    append_link(&mut tar, "lib64", "usr/lib64")?;
    append_bytes(&mut tar, "etc/passwd", 0o644, PASSWD.as_bytes())?;
    append_bytes(&mut tar, "etc/group", 0o644, GROUP.as_bytes())?;
    append_bytes(&mut tar, "etc/nsswitch.conf", 0o644, NSSWITCH.as_bytes())?;
    append_file(&mut tar, AUTHORITIES, 0o644, &root.join(AUTHORITIES))?;
    for library in LIBRARIES.iter().chain([&LOADER]) {
        append_file(&mut tar, &format!("usr/{library}"), 0o755, &root.join(library))?;
    }
    append_file(&mut tar, &format!("usr/local/bin/{name}"), 0o755, binary)?;
    tar.into_inner()?.into_inner().map_err(io::IntoInnerError::into_error)?;
    Ok(())
}

fn stamp(binary: &Path) -> Result<String> {
    let metadata = fs::metadata(binary).doing(|| format!("look at {}", binary.display()))?;
    let modified = metadata.modified().doing(|| format!("look at {}", binary.display()))?;
    let age = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(format!("{}-{}", metadata.len(), age.as_nanos()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No test builds the Containerfile, so what it says is held to what the lab's images are.
    #[test]
    fn the_containerfile_makes_the_same_image() {
        let file = include_str!("../../../../Containerfile");
        let has = |text: &str| assert!(file.contains(text), "the Containerfile does not say {text}");
        has(&format!("\nUSER {USER}\n"));
        has(&format!("\nENV {}\n", ENVIRONMENT.join(" ")));
        has(&format!("/{AUTHORITIES} "));
        for text in [PASSWD, GROUP, NSSWITCH] {
            has(&format!("printf '{}' > ", text.replace('\n', "\\n")));
        }
        let library = |path: &str| Path::new(path).file_name().unwrap().to_str().unwrap().to_owned();
        let libraries: Vec<_> = LIBRARIES.iter().map(|path| library(path)).collect();
        has(&format!("for library in {};", libraries.join(" ")));
        assert!(library(LOADER).starts_with("ld-linux"), "what the Containerfile looks for");
        for name in ["holdfast", "hospital"] {
            // The tag that the manifests ask for, and the entrypoint.
            has(&format!("podman build -t {name}:{} ", env!("CARGO_PKG_VERSION")));
            has(&format!("FROM base AS {name}\nCOPY --from=build /src/target/release/{name} /usr/local/bin/\n"));
            has(&format!("\nENTRYPOINT [\"/usr/local/bin/{name}\"]\n"));
        }
        let rust = include_str!("../../../../Cargo.toml").lines().find_map(|line| line.strip_prefix("rust-version = "));
        has(&format!("rust:{}-bookworm", rust.unwrap().trim_matches('"')));
        let operator = include_str!("../../../../manifests/base/deployment.yaml");
        assert!(operator.contains(&format!("image: holdfast:{}\n", env!("CARGO_PKG_VERSION"))));
    }
}
