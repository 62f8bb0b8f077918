//! Unpacks a base backup's tar stream into a data directory, and compares it with PostgreSQL's own manifest.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use tar::EntryType;

use crate::archive::MANIFEST_FOLDER;

const COPY_BYTES: usize = 128 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("the backup's archive cannot be read: {reason}")]
    Archive { reason: String },
    #[error(
        "the backup holds the entry {path}, {what}; nothing outside the data directory is ever written, the restore stops"
    )]
    UnsafeEntry { path: String, what: &'static str },
    #[error("cannot write {path}: {reason}")]
    Write { path: PathBuf, reason: String },
    #[error("PostgreSQL's manifest of the backup is not understood: {reason}")]
    Manifest { reason: String },
    #[error("file {path} of the backup {what}: PostgreSQL's manifest says otherwise")]
    Differs { path: String, what: &'static str },
}

/// What was unpacked.
#[derive(Debug, Default)]
pub(crate) struct Unpacked {
    files: BTreeMap<String, Sum>,
    manifest: Vec<u8>,
    pub(crate) bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sum {
    size: u64,
    crc32c: u32,
}

/// Unpacks into `into`, which must be an empty directory. Files 0600, directories 0700.
pub(crate) fn unpack(stream: impl Read, into: &Path) -> Result<Unpacked, UnpackError> {
    let damaged = |error: std::io::Error| UnpackError::Archive { reason: error.to_string() };
    let mut archive = tar::Archive::new(stream);
    // The manifest follows the archive that PostgreSQL has ended.
    archive.set_ignore_zeros(true);
    let mut unpacked = Unpacked::default();
    for entry in archive.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let path = entry.path().map_err(damaged)?.into_owned();
        let relative = safe(&path)?;
        if relative.starts_with(MANIFEST_FOLDER) {
            entry.read_to_end(&mut unpacked.manifest).map_err(damaged)?;
            continue;
        }
        match entry.header().entry_type() {
            EntryType::Directory => make_directory(&into.join(&relative))?,
            EntryType::Regular | EntryType::Continuous => {
                let sum = write_file(&mut entry, &into.join(&relative))?;
                unpacked.bytes += sum.size;
                unpacked.files.insert(relative.display().to_string(), sum);
            }
            _ => {
                return Err(UnpackError::UnsafeEntry {
                    path: path.display().to_string(),
                    what: "which is neither a file nor a directory",
                });
            }
        }
    }
    Ok(unpacked)
}

/// The path without `.`; refused when it could lead outside.
fn safe(path: &Path) -> Result<PathBuf, UnpackError> {
    let mut relative = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => relative.push(name),
            Component::CurDir => {}
            _ => {
                return Err(UnpackError::UnsafeEntry { path: path.display().to_string(), what: "which leads outside" });
            }
        }
    }
    Ok(relative)
}

fn make_directory(path: &Path) -> Result<(), UnpackError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| UnpackError::Write { path: path.to_owned(), reason: error.to_string() })
}

fn write_file(content: &mut impl Read, path: &Path) -> Result<Sum, UnpackError> {
    let failed = |error: std::io::Error| UnpackError::Write { path: path.to_owned(), reason: error.to_string() };
    if let Some(parent) = path.parent() {
        make_directory(parent)?;
    }
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    let mut sum = Sum { size: 0, crc32c: 0 };
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let read = content.read(&mut buffer).map_err(|error| UnpackError::Archive { reason: error.to_string() })?;
        if read == 0 {
            return Ok(sum);
        }
        file.write_all(&buffer[..read]).map_err(failed)?;
        sum.crc32c = crc32c::crc32c_append(sum.crc32c, &buffer[..read]);
        sum.size += read as u64;
    }
}

#[derive(Deserialize)]
struct Manifest {
    #[serde(rename = "Files")]
    files: Vec<ManifestFile>,
}

#[derive(Deserialize)]
struct ManifestFile {
    #[serde(rename = "Path")]
    path: Option<String>,
    #[serde(rename = "Encoded-Path")]
    encoded_path: Option<String>,
    #[serde(rename = "Size")]
    size: u64,
    #[serde(rename = "Checksum-Algorithm")]
    algorithm: Option<String>,
    #[serde(rename = "Checksum")]
    checksum: Option<String>,
}

impl ManifestFile {
    fn name(&self) -> Result<String, UnpackError> {
        let unreadable = |reason: &str| UnpackError::Manifest { reason: reason.to_owned() };
        if let Some(path) = &self.path {
            return Ok(path.clone());
        }
        let encoded = self.encoded_path.as_deref().ok_or_else(|| unreadable("a file without a path"))?;
        let bytes = hex::decode(encoded).map_err(|_| unreadable("a path that is not hexadecimal"))?;
        String::from_utf8(bytes).map_err(|_| unreadable("a path that is not UTF-8"))
    }

    fn matches(&self, sum: Sum) -> Result<(), &'static str> {
        if self.size != sum.size {
            return Err("has another size");
        }
        let (Some("CRC32C"), Some(expected)) = (self.algorithm.as_deref(), self.checksum.as_deref()) else {
            return Ok(());
        };
        // PostgreSQL writes the bytes in the order of the machine that it runs on.
        let little = hex::encode(sum.crc32c.to_le_bytes());
        let big = hex::encode(sum.crc32c.to_be_bytes());
        if expected.eq_ignore_ascii_case(&little) || expected.eq_ignore_ascii_case(&big) {
            return Ok(());
        }
        Err("has another checksum")
    }
}

impl Unpacked {
    /// Compares every file with PostgreSQL's manifest; returns how many there were.
    pub(crate) fn verify(&self) -> Result<usize, UnpackError> {
        let manifest: Manifest = serde_json::from_slice(&self.manifest)
            .map_err(|error| UnpackError::Manifest { reason: error.to_string() })?;
        for file in &manifest.files {
            let path = file.name()?;
            let sum =
                self.files.get(&path).ok_or_else(|| UnpackError::Differs { path: path.clone(), what: "is missing" })?;
            file.matches(*sum).map_err(|what| UnpackError::Differs { path, what })?;
        }
        Ok(manifest.files.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar_with(entries: &[(&str, EntryType, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, content) in entries {
            let mut header = tar::Header::new_ustar();
            // Written by hand: the crate's own setter refuses what an attacker would write.
            header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
            header.set_entry_type(*kind);
            header.set_size(content.len() as u64);
            header.set_mode(0o777);
            header.set_cksum();
            builder.append(&header, *content).expect("in memory");
        }
        builder.into_inner().expect("in memory")
    }

    fn place() -> PathBuf {
        let path = std::env::temp_dir().join(format!("holdfast-unpack-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&path).expect("temporary directory");
        path
    }

    #[test]
    fn nothing_is_written_outside() {
        let cases: [(&str, EntryType); 4] = [
            ("../escaped", EntryType::Regular),
            ("/tmp/escaped", EntryType::Regular),
            ("base/../../escaped", EntryType::Regular),
            ("pg_tblspc/1", EntryType::Symlink),
        ];
        for (path, kind) in cases {
            let into = place();
            let stream = tar_with(&[(path, kind, b"x")]);
            let outcome = unpack(stream.as_slice(), &into);
            assert!(matches!(outcome, Err(UnpackError::UnsafeEntry { .. })), "{path}: {outcome:?}");
            std::fs::remove_dir_all(into).expect("clean up");
        }
    }

    #[test]
    fn files_are_compared_with_the_manifest() {
        let sum = hex::encode(crc32c::crc32c(b"content").to_le_bytes());
        let manifest = format!(
            r#"{{"PostgreSQL-Backup-Manifest-Version":1,"Files":[{{"Path":"base/1","Size":7,"Checksum-Algorithm":"CRC32C","Checksum":"{sum}"}}]}}"#
        );
        for (content, verdict) in
            [(b"content".as_slice(), true), (b"c0ntent".as_slice(), false), (b"conten".as_slice(), false)]
        {
            let into = place();
            let mut stream = tar_with(&[("base/1", EntryType::Regular, content)]);
            stream.extend(crate::archive::manifest_entry(0, manifest.as_bytes()).expect("an entry"));
            let unpacked = unpack(stream.as_slice(), &into).expect("unpacks");
            assert_eq!(unpacked.verify().is_ok(), verdict);
            assert_eq!(std::fs::read(into.join("base/1")).expect("written"), content);
            assert!(!into.join(MANIFEST_FOLDER).exists());
            std::fs::remove_dir_all(into).expect("clean up");
        }
    }
}
