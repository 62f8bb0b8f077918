//! Writing a one-layer docker archive (the format of `docker save`).

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::components::hex;
use crate::error::{IoContext, Result};

/// What a container of the image runs as and with.
#[derive(Clone, Debug, Default)]
pub(crate) struct ImageConfig {
    pub(crate) entrypoint: Vec<String>,
    pub(crate) env: Vec<String>,
    /// `uid:gid`; empty is root.
    pub(crate) user: String,
}

/// Writes `archive` with the one layer that `layer` holds, uncompressed. Returns the image's id.
pub(crate) fn write(archive: &Path, tag: &str, layer: &Path, config: &ImageConfig) -> Result<String> {
    let doing = || format!("write the image {}", archive.display());
    let diff_id = file_digest(layer).doing(doing)?;
    let config = serde_json::to_vec(&json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": config.entrypoint, "Env": config.env, "User": config.user},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{diff_id}")]},
        "history": [{"created_by": "holdfast-lab"}],
    }))
    .map_err(io::Error::from)
    .doing(doing)?;
    let id = hex(&Sha256::digest(&config));
    let manifest = json!([{"Config": format!("{id}.json"), "RepoTags": [tag], "Layers": ["layer.tar"]}]);

    let partial = archive.with_extension("partial");
    let file = File::create(&partial).doing(doing)?;
    let mut tar = tar::Builder::new(io::BufWriter::with_capacity(1 << 20, file));
    append_bytes(&mut tar, "manifest.json", 0o644, manifest.to_string().as_bytes()).doing(doing)?;
    append_bytes(&mut tar, &format!("{id}.json"), 0o644, &config).doing(doing)?;
    append_file(&mut tar, "layer.tar", 0o644, layer).doing(doing)?;
    tar.into_inner().and_then(|mut out| out.flush()).doing(doing)?;
    fs::rename(&partial, archive).doing(doing)?;
    Ok(id)
}

/// Appends a file owned by root, with a fixed time so that the same content gives the same image.
pub(crate) fn append_bytes<W: Write>(
    tar: &mut tar::Builder<W>,
    path: &str,
    mode: u32,
    content: &[u8],
) -> io::Result<()> {
    let mut header = header(tar::EntryType::Regular, mode, content.len() as u64);
    tar.append_data(&mut header, path, content)
}

pub(crate) fn append_file<W: Write>(tar: &mut tar::Builder<W>, path: &str, mode: u32, source: &Path) -> io::Result<()> {
    let file = File::open(source)?;
    let length = file.metadata()?.len();
    let mut header = header(tar::EntryType::Regular, mode, length);
    tar.append_data(&mut header, path, file.take(length))
}

pub(crate) fn append_folder<W: Write>(tar: &mut tar::Builder<W>, path: &str, mode: u32) -> io::Result<()> {
    let mut header = header(tar::EntryType::Directory, mode, 0);
    tar.append_data(&mut header, path, io::empty())
}

pub(crate) fn append_link<W: Write>(tar: &mut tar::Builder<W>, path: &str, target: &str) -> io::Result<()> {
    let mut header = header(tar::EntryType::Symlink, 0o777, 0);
    tar.append_link(&mut header, path, target)
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn file_digest(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hash.finalize())),
            count => hash.update(&buffer[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn entries(archive: &Path) -> BTreeMap<String, Vec<u8>> {
        let mut tar = tar::Archive::new(File::open(archive).unwrap());
        tar.entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).unwrap();
                (entry.path().unwrap().display().to_string(), bytes)
            })
            .collect()
    }

    #[test]
    fn the_archive_names_its_layer_by_digest_and_is_the_same_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let layer = folder.path().join("layer");
        let mut tar = tar::Builder::new(File::create(&layer).unwrap());
        append_bytes(&mut tar, "hello", 0o755, b"world").unwrap();
        tar.into_inner().unwrap();

        let archive = folder.path().join("image.tar");
        let config = ImageConfig { user: "65532:65532".into(), ..ImageConfig::default() };
        let id = write(&archive, "docker.io/library/x:1", &layer, &config).unwrap();
        let again = write(&archive, "docker.io/library/x:1", &layer, &config).unwrap();
        assert_eq!(id, again);

        let entries = entries(&archive);
        let manifest: serde_json::Value = serde_json::from_slice(&entries["manifest.json"]).unwrap();
        assert_eq!(manifest[0]["RepoTags"][0], "docker.io/library/x:1");
        let config: serde_json::Value = serde_json::from_slice(&entries[&format!("{id}.json")]).unwrap();
        assert_eq!(config["config"]["User"], "65532:65532");
        let digest = hex(&Sha256::digest(&entries["layer.tar"]));
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{digest}"));
    }
}
