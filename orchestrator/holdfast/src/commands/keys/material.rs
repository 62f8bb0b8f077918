//! A key as a person gives it: a public key as text, or a file with a private one.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use clap::ValueEnum;
use holdfast_vault::{Hash, Identities, Recipients, WriterKey, WriterPublic};
use serde::Serialize;

use crate::commands::vault::Failed;

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// Decrypts what is stored (an age X25519 key).
    Age,
    /// Vouches for what a site stores (an Ed25519 key).
    Writer,
}

/// A key, or both halves of it.
pub(super) struct Material {
    pub(super) kind: Kind,
    /// The public key as text. A file of several identities has several keys.
    pub(super) public: Vec<String>,
    /// The private key as text; none when only a public key was given.
    pub(super) secret: Vec<String>,
}

impl Material {
    /// Reads a public key as text, or a file with a private key.
    ///
    /// # Errors
    /// It is neither; the message never repeats what may be a secret.
    pub(super) fn of(text: &str) -> anyhow::Result<Material> {
        let text = text.trim();
        if text.starts_with("holdfast-writer1") {
            let public = vec![text.parse::<WriterPublic>()?.to_string()];
            return Ok(Material { kind: Kind::Writer, public, secret: Vec::new() });
        }
        if text.starts_with("age1") {
            let public = Recipients::parse(&[text])?.public_keys();
            return Ok(Material { kind: Kind::Age, public, secret: Vec::new() });
        }
        let upper = text.to_uppercase();
        if ["AGE-SECRET-KEY-", "HOLDFAST-WRITER-KEY-"].iter().any(|prefix| upper.starts_with(prefix)) {
            let what = "a private key was given on the command line, where others can see it";
            return Err(Failed::new(what, "", "put it into a file and give the file; then make a new key").into());
        }
        Material::from_file(Path::new(text))
    }

    /// Reads a file with private keys.
    ///
    /// # Errors
    /// There is none in it.
    pub(super) fn from_file(path: &Path) -> anyhow::Result<Material> {
        let place = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failed::new(
                format!("no key can be read there: {error}"),
                &place,
                "give a file with a private key, or a public key",
            )
        })?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let secret: Vec<String> = lines.map(ToOwned::to_owned).collect();
        let (kind, public) =
            if secret.first().is_some_and(|line| line.to_uppercase().starts_with("HOLDFAST-WRITER-KEY-")) {
                (Kind::Writer, vec![WriterKey::from_file(path)?.public().to_string()])
            } else {
                (Kind::Age, Identities::from_file(path)?.recipients().public_keys())
            };
        Ok(Material { kind, public, secret })
    }
}

/// What people compare on paper and on the telephone: the first 16 digits of the SHA-256 of the public key's text, in
/// fours.
pub(super) fn fingerprint(public: &str) -> String {
    let hex = Hash::of(public.as_bytes()).to_string();
    let fours: Vec<&str> = (0..4).filter_map(|n| hex.get(4 * n..4 * n + 4)).collect();
    fours.join(" ")
}

/// Writes a file that holds a secret: only its owner can read it, and nothing is overwritten.
///
/// # Errors
/// It exists, or cannot be written.
pub(super) fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let place = path.display().to_string();
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Failed::new("the file exists, and a key is never overwritten", place, "choose another name").into()
        }
        _ => Failed::new(format!("cannot write: {error}"), place, "choose a folder that can be written to").into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_vault::generate_identity;

    #[test]
    fn public_keys_and_files_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let (secret, recipient) = generate_identity();
        let writer = WriterKey::generate();
        for (name, secret, public, kind) in [
            ("a.key", secret.clone(), recipient, Kind::Age),
            ("w.key", writer.secret(), writer.public().to_string(), Kind::Writer),
        ] {
            let path = folder.path().join(name);
            write_private(&path, &format!("# a comment\n{secret}\n")).unwrap();
            let file = Material::of(path.to_str().unwrap()).unwrap();
            assert_eq!(
                (file.kind, &file.public[..], &file.secret[..]),
                (kind, &[public.clone()][..], &[secret.clone()][..])
            );
            let text = Material::of(&public).unwrap();
            assert_eq!((text.kind, text.public, text.secret.len()), (kind, vec![public], 0));
            let refused = Material::of(&secret).err().unwrap().to_string();
            assert!(!refused.contains(&secret[15..30]), "{refused}");
            assert!(write_private(&path, "x").unwrap_err().to_string().contains("never overwritten"));
        }
        assert!(Material::of("/nonexistent").is_err());
    }

    #[test]
    fn secrets_are_for_their_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("k");
        write_private(&path, "x").unwrap();
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
