//! Who may write: the sites' long-lived writer keys, the vouchers that they give to incarnations, and the list that a
//! reader was told to trust.
//!
//! Every object is signed by the key of its incarnation, which lives as long as one process does. All objects but
//! chunks and parts of backups carry a voucher as well: the site's writer key says "this incarnation is mine". A chunk
//! is vouched for by the seal that opened its epoch, a part by the manifest of its backup.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use bech32::primitives::decode::CheckedHrpstring;
use bech32::{Bech32, Hrp};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use jiff::Timestamp;
use rand::RngExt;
use serde::{Deserialize, Serialize};

use crate::error::VaultError;
use crate::object::{Decoded, Nonce, ObjectError, PublicKey};

/// What a voucher's signature covers, before the nonce and the key.
const VOUCHER_CONTEXT: &[u8; 20] = b"holdfast-voucher-v1\n";
const SECRET_PREFIX: &str = "holdfast-writer-key-";
const PUBLIC_PREFIX: &str = "holdfast-writer";

/// The private key of a site's writer (Ed25519). As text, one line `HOLDFAST-WRITER-KEY-1...`. Cheap to clone; never
/// shown by `Debug`.
#[derive(Clone)]
pub struct WriterKey(SigningKey);

impl WriterKey {
    /// A new key.
    pub fn generate() -> WriterKey {
        let seed: [u8; 32] = rand::rng().random();
        WriterKey(SigningKey::from_bytes(&seed))
    }

    /// Reads a file with one `HOLDFAST-WRITER-KEY-1...` line; `#` begins a comment.
    pub fn from_file(path: &Path) -> Result<WriterKey, VaultError> {
        let what = || format!("writer key file {}", path.display());
        let text =
            std::fs::read_to_string(path).map_err(|e| VaultError::BadKey { what: what(), reason: e.to_string() })?;
        Self::parse(&text).map_err(|e| match e {
            VaultError::BadKey { reason, .. } => VaultError::BadKey { what: what(), reason },
            other => other,
        })
    }

    /// Reads the content of such a file.
    pub fn parse(text: &str) -> Result<WriterKey, VaultError> {
        let bad = |reason: &str| VaultError::BadKey { what: "writer key".into(), reason: reason.into() };
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let line = lines.next().ok_or_else(|| bad("none in there: expected a line HOLDFAST-WRITER-KEY-1..."))?;
        if lines.next().is_some() {
            return Err(bad("more than one line in there: a writer has one key"));
        }
        // What the parser says might repeat the secret.
        let seed =
            decode(line, SECRET_PREFIX).ok_or_else(|| bad("not a line HOLDFAST-WRITER-KEY-1..., or mistyped"))?;
        Ok(WriterKey(SigningKey::from_bytes(&seed)))
    }

    /// The secret as text: what goes into the file.
    pub fn secret(&self) -> String {
        encode(self.0.as_bytes(), SECRET_PREFIX).to_uppercase()
    }

    /// What readers are told.
    pub fn public(&self) -> WriterPublic {
        WriterPublic(self.0.verifying_key().to_bytes())
    }

    /// Vouches for an incarnation.
    pub(crate) fn vouch(&self, nonce: Nonce, key: PublicKey) -> Voucher {
        let signature = self.0.sign(&vouched(nonce, key)).to_bytes();
        Voucher { key: PublicKey(self.public().0), signature }
    }
}

impl fmt::Debug for WriterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WriterKey({})", self.public())
    }
}

/// The public key of a site's writer. As text `holdfast-writer1...`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WriterPublic([u8; 32]);

impl fmt::Display for WriterPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encode(&self.0, PUBLIC_PREFIX))
    }
}

impl fmt::Debug for WriterPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for WriterPublic {
    type Err = VaultError;

    fn from_str(text: &str) -> Result<Self, VaultError> {
        let bad = |reason: &str| VaultError::BadKey { what: format!("writer `{text}`"), reason: reason.into() };
        if text.to_ascii_lowercase().starts_with(SECRET_PREFIX) {
            // Never repeat it.
            let reason = "a private key where a public one belongs".to_owned();
            return Err(VaultError::BadKey { what: "writer".into(), reason });
        }
        let bytes =
            decode(text.trim(), PUBLIC_PREFIX).ok_or_else(|| bad("not a holdfast-writer1... key, or mistyped"))?;
        VerifyingKey::from_bytes(&bytes).map_err(|_| bad("not a point of the curve"))?;
        Ok(WriterPublic(bytes))
    }
}

impl TryFrom<String> for WriterPublic {
    type Error = VaultError;

    fn try_from(text: String) -> Result<Self, VaultError> {
        text.parse()
    }
}

impl From<WriterPublic> for String {
    fn from(key: WriterPublic) -> String {
        key.to_string()
    }
}

impl From<PublicKey> for WriterPublic {
    fn from(key: PublicKey) -> WriterPublic {
        WriterPublic(key.0)
    }
}

fn encode(bytes: &[u8; 32], prefix: &str) -> String {
    // Neither can fail: the prefixes are constants, and 32 bytes fit.
    Hrp::parse(prefix).ok().and_then(|hrp| bech32::encode::<Bech32>(hrp, bytes).ok()).unwrap_or_default()
}

fn decode(text: &str, prefix: &str) -> Option<[u8; 32]> {
    let checked = CheckedHrpstring::new::<Bech32>(text).ok()?;
    let hrp = checked.hrp();
    let bytes: Vec<u8> = (hrp.to_lowercase() == prefix).then(|| checked.byte_iter().collect())?;
    bytes.try_into().ok()
}

/// A site's writer key says that an incarnation is its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Voucher {
    /// The site's writer key.
    pub key: PublicKey,
    /// Its signature over `holdfast-voucher-v1\n`, the nonce (16 bytes) and the incarnation's public key (32 bytes).
    #[serde(with = "hex::serde")]
    pub signature: [u8; 64],
}

impl Voucher {
    /// Whether the signature holds for this incarnation.
    pub(crate) fn holds(&self, nonce: Nonce, key: PublicKey) -> bool {
        let Ok(writer) = VerifyingKey::from_bytes(&self.key.0) else { return false };
        writer.verify_strict(&vouched(nonce, key), &Signature::from_bytes(&self.signature)).is_ok()
    }
}

fn vouched(nonce: Nonce, key: PublicKey) -> Vec<u8> {
    [&VOUCHER_CONTEXT[..], &nonce.0, &key.0].concat()
}

/// A writer that a reader was told to trust.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrustedWriter {
    /// Which site's, for people.
    pub name: String,
    /// Its key.
    pub public_key: WriterPublic,
    /// Revoked: what the store says that it made after this time does not count. A writer's own clock says nothing here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Timestamp>,
}

/// Whose objects a reader believes. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust(Option<Arc<[TrustedWriter]>>);

/// Why an object is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    /// It carries no voucher.
    #[error("no writer vouches for it, and only named writers are trusted")]
    Unvouched,
    /// A key that is not on the list.
    #[error("writer {writer} made it, which is not among the trusted writers")]
    Unknown {
        /// The key that vouches for it.
        writer: WriterPublic,
    },
    /// A key that was revoked before the store made it.
    #[error("writer `{name}` ({writer}) made it, {}, and nothing stored after {not_after} counts", at(stored))]
    Revoked {
        /// The writer's name on the list.
        name: String,
        /// Its key.
        writer: WriterPublic,
        /// Since when it does not count.
        not_after: Timestamp,
        /// When the store made it; none when the store does not say.
        stored: Option<Timestamp>,
    },
}

fn at(stored: &Option<Timestamp>) -> String {
    stored.map_or("at a time that the store does not tell".to_owned(), |at| format!("stored at {at}"))
}

impl Trust {
    /// Everybody who can write to the bucket.
    pub fn anyone() -> Trust {
        Trust(None)
    }

    /// These writers and nobody else; with an empty list, nobody.
    pub fn only(writers: Vec<TrustedWriter>) -> Trust {
        Trust(Some(writers.into()))
    }

    /// Whether everybody is trusted.
    pub fn is_anyone(&self) -> bool {
        self.0.is_none()
    }

    /// The entry of a key; none when it is not on the list (or there is none).
    pub fn entry(&self, writer: WriterPublic) -> Option<&TrustedWriter> {
        self.0.as_ref()?.iter().find(|entry| entry.public_key == writer)
    }

    /// Whether an object that carries its own voucher counts: anything but a chunk and a part of a backup.
    pub fn check(&self, decoded: &Decoded) -> Result<(), ObjectError> {
        self.admits(decoded.writer(), decoded.stored).map_err(ObjectError::Untrusted)
    }

    /// Whether something that this writer vouches for, and that the store made at `stored`, counts.
    pub fn admits(&self, writer: Option<WriterPublic>, stored: Option<Timestamp>) -> Result<(), Distrust> {
        if self.is_anyone() {
            return Ok(());
        }
        let writer = writer.ok_or(Distrust::Unvouched)?;
        let entry = self.entry(writer).ok_or(Distrust::Unknown { writer })?;
        match entry.not_after {
            Some(not_after) if stored.is_none_or(|stored| stored > not_after) => {
                Err(Distrust::Revoked { name: entry.name.clone(), writer, not_after, stored })
            }
            _ => Ok(()),
        }
    }
}

/// Where the site's own writer key comes from.
#[derive(Clone, Debug)]
pub(crate) enum WriterSource {
    Key(WriterKey),
    /// Read again for each incarnation, so that a mounted Secret can rotate.
    File(PathBuf),
}

impl WriterSource {
    pub(crate) fn key(&self) -> Result<WriterKey, VaultError> {
        match self {
            Self::Key(key) => Ok(key.clone()),
            Self::File(path) => WriterKey::from_file(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn trusted(name: &str, key: &WriterKey, not_after: Option<i64>) -> TrustedWriter {
        TrustedWriter { name: name.into(), public_key: key.public(), not_after: not_after.map(at) }
    }

    #[test]
    fn keys_read_back_as_text() {
        let key = WriterKey::generate();
        let file = format!("# made for a test\n\n {} \n", key.secret());
        assert!(key.secret().starts_with("HOLDFAST-WRITER-KEY-1"), "{}", key.public());
        assert_eq!(WriterKey::parse(&file).unwrap().public(), key.public());
        let public = key.public().to_string();
        assert!(public.starts_with("holdfast-writer1"), "{public}");
        assert_eq!(public.parse::<WriterPublic>().unwrap(), key.public());
    }

    #[test]
    fn a_bad_key_is_refused_and_a_secret_never_repeated() {
        let secret = WriterKey::generate().secret();
        let mistyped = format!("{}Q", &secret[..secret.len() - 1]);
        let two = format!("{secret}\n{secret}");
        for text in
            ["", "# nothing", "AGE-SECRET-KEY-1XYZ", &mistyped, &two, &WriterKey::generate().public().to_string()]
        {
            let error = WriterKey::parse(text).unwrap_err().to_string();
            assert!(!error.contains(&secret[20..40]), "{error}");
        }
        for text in ["", "holdfast-writer1xyz", "age1xyz", &secret] {
            let error = text.parse::<WriterPublic>().unwrap_err().to_string();
            assert!(!error.contains(&secret[20..40]), "{error}");
        }
    }

    #[test]
    fn a_voucher_holds_for_one_incarnation_only() {
        let writer = WriterKey::generate();
        let (nonce, key) = (Nonce([1; 16]), PublicKey([2; 32]));
        let voucher = writer.vouch(nonce, key);
        assert!(voucher.holds(nonce, key));
        assert!(!voucher.holds(Nonce([3; 16]), key) && !voucher.holds(nonce, PublicKey([3; 32])));
        let other = WriterKey::generate();
        assert!(!Voucher { key: PublicKey(other.public().0), ..voucher }.holds(nonce, key));
    }

    #[test]
    fn who_is_trusted_and_until_when() {
        let (a, b, stranger) = (WriterKey::generate(), WriterKey::generate(), WriterKey::generate());
        let trust = Trust::only(vec![trusted("a", &a, Some(100)), trusted("b", &b, None)]);
        let (a, b, stranger) = (Some(a.public()), Some(b.public()), Some(stranger.public()));
        for (writer, stored, counts) in [
            (a, Some(at(99)), true),
            (a, Some(at(100)), true),
            (a, Some(at(101)), false),
            (a, None, false),
            (b, Some(at(101)), true),
            (b, None, true),
            (stranger, Some(at(1)), false),
            (None, Some(at(1)), false),
        ] {
            assert_eq!(trust.admits(writer, stored).is_ok(), counts, "{writer:?} {stored:?}");
            assert!(Trust::anyone().admits(writer, stored).is_ok());
            assert!(Trust::only(Vec::new()).admits(writer, stored).is_err());
        }
        let error = trust.admits(a, Some(at(101))).unwrap_err().to_string();
        for part in ["`a`", "1970-01-01T00:01:40Z", "1970-01-01T00:01:41Z"] {
            assert!(error.contains(part), "{part} in {error}");
        }
    }
}
