//! The container of every object in the vault, format version 1.
//!
//! ```text
//! "HOLDFAST" | version u16 BE = 1 | header_len u32 BE | header, JSON | Ed25519 signature, 64 bytes | body
//! ```
//!
//! The signature covers everything before it; what comes before the body is the header block, and its
//! SHA-256 is what the next object of a chain names. `docs/vault-format.md` writes the format down.
//! Nothing here panics or allocates by an unchecked length on foreign bytes.

use bytes::Bytes;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use holdfast_wal::history::{Entry, TimelineHistory};
use holdfast_wal::{Lsn, SystemId, TimelineId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::keys::Position;
use crate::store::Object;
use crate::trust::{Distrust, Voucher, WriterPublic};

/// The first bytes of every object.
pub const MAGIC: &[u8; 8] = b"HOLDFAST";
/// The version written by this code.
pub const VERSION: u16 = 1;
/// The longest header that is read, in bytes.
pub const MAX_HEADER_LEN: usize = 64 * 1024;
/// The most plain bytes that one object may hold.
pub const MAX_PLAIN_LEN: u64 = 64 * 1024 * 1024;
/// The most body bytes that one object may hold.
pub const MAX_BODY_LEN: u64 = MAX_PLAIN_LEN + 1024 * 1024;

const FIXED_LEN: usize = 8 + 2 + 4;
const SIGNATURE_LEN: usize = 64;
/// The longest header block.
pub(crate) const MAX_HEADER_BLOCK_LEN: u64 = (FIXED_LEN + MAX_HEADER_LEN + SIGNATURE_LEN) as u64;

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hash(#[serde(with = "hex::serde")] pub [u8; 32]);

impl Hash {
    /// The digest of some bytes.
    pub fn of(bytes: &[u8]) -> Hash {
        Hash(Sha256::digest(bytes).into())
    }
}

impl std::fmt::Display for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(&self.0[..8]))
    }
}

/// The random number that tells one incarnation of a writer or taker from every other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Nonce(#[serde(with = "hex::serde")] pub [u8; 16]);

impl std::fmt::Display for Nonce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl std::fmt::Debug for Nonce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(&self.0[..4]))
    }
}

/// An Ed25519 public key, as it stands in headers. Only its use tells whether it is a point on the curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PublicKey(#[serde(with = "hex::serde")] pub [u8; 32]);

/// What names an object before another in a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Where that object stands.
    pub at: Position,
    /// The SHA-256 of its header block.
    pub hash: Hash,
}

/// One line of history of a primary. Timeline numbers are not unique (two standbys may both pick 2), so it has an
/// id of its own: `origin`, or the instance id of the standby that was promoted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// The id of the instance whose history this is.
    pub id: String,
    /// Its timeline and where each ancestor was left. The reasons are empty.
    pub history: TimelineHistory,
}

impl Lineage {
    /// A lineage; the free text of the history is dropped.
    pub fn new(id: impl Into<String>, history: &TimelineHistory) -> Lineage {
        let entry = |e: &Entry| Entry { timeline: e.timeline, switch: e.switch, reason: String::new() };
        let entries = history.entries.iter().map(entry).collect();
        Lineage { id: id.into(), history: TimelineHistory { timeline: history.timeline, entries } }
    }
}

/// A run of WAL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// The database's name in the vault.
    pub database: String,
    /// The database's system identifier.
    pub system_id: SystemId,
    /// The epoch that it belongs to.
    pub epoch: u64,
    /// Its first byte.
    pub start: Lsn,
    /// The first byte after it.
    pub end: Lsn,
    /// The timeline of its bytes.
    pub timeline: TimelineId,
    /// The id of the lineage.
    pub lineage: String,
    /// Where the seal that opened the epoch stands.
    pub opened_by: Position,
    /// The object before it; two after an ahead seal: that seal, and the object before that.
    pub prev: Vec<Link>,
    /// The last object of this epoch that its writer knew to be stored with everything before it, and where that
    /// object ends. A walk may begin there: it is a statement of the epoch's owner, which holds for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored: Option<Stored>,
    /// Where the last WAL record begins that begins before `end`, if its writer knows: what the next record names as the
    /// one before it (`xl_prev`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_record: Option<Lsn>,
}

/// A place of the chain that its writer knew to be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// The last object of the contiguous stored run.
    pub link: Link,
    /// Where that object ends.
    pub end: Lsn,
}

/// What a seal is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SealKind {
    /// A writer starts.
    Claim,
    /// A standby site is about to promote; the epoch that it opens never holds a chunk.
    Takeover,
    /// Ends the pending epoch; the standby opens.
    Promote,
}

impl std::fmt::Display for SealKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Claim => "claim",
            Self::Takeover => "takeover",
            Self::Promote => "promote",
        })
    }
}

/// The end of an epoch and the beginning of the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// What for.
    pub seal: SealKind,
    /// The database's name in the vault.
    pub database: String,
    /// The database's system identifier.
    pub system_id: SystemId,
    /// The epoch that it ends.
    pub epoch: u64,
    /// The tail of that epoch: where it stands.
    pub start: Lsn,
    /// Where the next epoch starts.
    pub next_start: Lsn,
    /// The lineage from here on (a takeover repeats the one that it met).
    pub lineage: Lineage,
    /// Put ahead of the tail by a taker: it counts only when a walk reaches it.
    #[serde(default)]
    pub ahead: bool,
    /// Who: the writer's or the taker's name, for people.
    pub by: String,
    /// The object before it; none in a seal put ahead; two after an ahead seal.
    pub prev: Vec<Link>,
}

/// What an object is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Subject {
    /// WAL.
    Chunk(Chunk),
    /// A claim, a takeover or a promote.
    Seal(Seal),
    /// Which database this is; the body is [`crate::Identity`] as JSON.
    Identity {
        /// The database's name in the vault.
        database: String,
    },
    /// A part of a base backup.
    BackupPart {
        /// The database's name in the vault.
        database: String,
        /// The database's system identifier.
        system_id: SystemId,
        /// The backup's id.
        backup: String,
        /// Counted from 0.
        n: u32,
        /// The header block of the part before; none in the first.
        prev: Option<Hash>,
    },
    /// The end of a base backup; the body is [`crate::BackupManifest`] as JSON.
    BackupManifest {
        /// The database's name in the vault.
        database: String,
        /// The database's system identifier.
        system_id: SystemId,
        /// The backup's id.
        backup: String,
    },
    /// A record of a run's journal; the body is JSON.
    Journal {
        /// The run's id.
        run: String,
        /// Counted from 0.
        n: u64,
        /// The header block of the record before; none in the first.
        prev: Option<Hash>,
    },
    /// A plan and its runbook.
    Plan {
        /// The plan's name.
        name: String,
        /// The hash that names it.
        hash: String,
    },
    /// Where the chain of a log stood.
    Index(Box<crate::log::index::Index>),
    /// WAL that chunks held before.
    Segment(Box<crate::segment::Segment>),
    /// What was tried and found; the body is JSON.
    Evidence {
        /// Of what kind.
        about: String,
    },
    /// A small object that proves that the lock holds.
    Probe,
}

/// What a header says of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BodyInfo {
    /// Bytes stored.
    pub len: u64,
    /// Their SHA-256.
    pub sha256: Hash,
    /// Bytes before compression and encryption.
    pub plain_len: u64,
    /// Their SHA-256.
    pub plain_sha256: Hash,
    /// How they were sealed.
    pub encoding: Encoding,
}

/// How a body was made of its plain bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encoding {
    /// As it is.
    #[serde(rename = "plain")]
    Plain,
    /// One zstd frame in one age file.
    #[serde(rename = "age(zstd)")]
    AgeZstd,
}

/// The header of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// What it is about.
    pub subject: Subject,
    /// The incarnation that made it.
    pub nonce: Nonce,
    /// The key that the incarnation signs with.
    pub key: PublicKey,
    /// When, by the maker's clock. For people; nothing is decided by it.
    pub created: Timestamp,
    /// The body, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<BodyInfo>,
    /// The site's writer key says that the incarnation is its own. Never in a chunk or a part of a backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub voucher: Option<Voucher>,
}

/// Why bytes are no object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// Shorter than its own header says.
    #[error("truncated: {have} bytes of {need}")]
    Truncated {
        /// Bytes there.
        have: u64,
        /// Bytes needed.
        need: u64,
    },
    /// Does not begin with `HOLDFAST`.
    #[error("not an object of a vault: the first bytes are not HOLDFAST")]
    Magic,
    /// A version that this code does not read.
    #[error("format version {version}, and this Holdfast reads version {VERSION}")]
    Version {
        /// The version found.
        version: u16,
    },
    /// The header's length is out of bounds.
    #[error("a header of {len} bytes, more than the {MAX_HEADER_LEN} allowed")]
    HeaderTooLong {
        /// The length found.
        len: usize,
    },
    /// The header is not the JSON of version 1.
    #[error("header: {reason}")]
    Header {
        /// What the parser says.
        reason: String,
    },
    /// The signature does not fit the header and its key.
    #[error("the signature does not hold")]
    Signature,
    /// The voucher is not for this incarnation, or forged.
    #[error("the voucher does not hold")]
    Voucher,
    /// Sound, and by nobody who is trusted.
    #[error(transparent)]
    Untrusted(#[from] Distrust),
    /// The body is not the one that the header describes.
    #[error("the body is not the one that the header describes")]
    Body,
    /// A length in the header is out of bounds.
    #[error("a body of {len} bytes, more than the {max} allowed")]
    BodyTooLong {
        /// The length found.
        len: u64,
        /// The bound.
        max: u64,
    },
    /// The body cannot be decrypted or decompressed.
    #[error("the body cannot be opened: {reason}")]
    Open {
        /// Why.
        reason: String,
    },
    /// None of the given identities can decrypt the body.
    #[error("none of the given identities can decrypt it")]
    NoIdentity,
    /// A sound object that does not belong where it stands.
    #[error("{reason}")]
    Misplaced {
        /// What it is and where it should be.
        reason: String,
    },
}

/// A decoded object.
#[derive(Clone, Debug)]
pub struct Decoded {
    /// Its header; the signature holds by the key named in it.
    pub header: Header,
    /// The SHA-256 of its header block.
    pub hash: Hash,
    /// Where the body begins.
    pub body_at: usize,
    /// When the store made it, by the store's clock (Last-Modified); none when that is not known.
    pub stored: Option<Timestamp>,
}

impl Decoded {
    /// The writer key that vouches for its incarnation; none in a chunk and a part of a backup, and where a site has
    /// no writer key. The voucher's signature holds.
    pub fn writer(&self) -> Option<WriterPublic> {
        self.header.voucher.map(|voucher| voucher.key.into())
    }

    /// The same, stored at this time.
    pub fn stored_at(self, stored: Option<Timestamp>) -> Decoded {
        Decoded { stored, ..self }
    }
}

/// Signs a header: gives the header block and its hash.
pub fn encode_header(header: &Header, key: &SigningKey) -> Result<(Vec<u8>, Hash), ObjectError> {
    let json = serde_json::to_vec(header).map_err(|e| ObjectError::Header { reason: e.to_string() })?;
    if json.len() > MAX_HEADER_LEN {
        return Err(ObjectError::HeaderTooLong { len: json.len() });
    }
    let mut block = Vec::with_capacity(FIXED_LEN + json.len() + SIGNATURE_LEN);
    block.extend_from_slice(MAGIC);
    block.extend_from_slice(&VERSION.to_be_bytes());
    block.extend_from_slice(&(json.len() as u32).to_be_bytes());
    block.extend_from_slice(&json);
    let signature = key.sign(&block);
    block.extend_from_slice(&signature.to_bytes());
    let hash = Hash::of(&block);
    #[cfg(test)]
    if header.key.0 == key.verifying_key().to_bytes() {
        known::put(&Decoded { header: header.clone(), hash, body_at: block.len(), stored: None });
    }
    Ok((block, hash))
}

/// Makes a whole object of a header without its body info, and plain body bytes that stay as they are.
pub(crate) fn encode_plain(mut header: Header, body: &[u8], key: &SigningKey) -> Result<(Bytes, Hash), ObjectError> {
    let sha256 = Hash::of(body);
    let len = body.len() as u64;
    header.body = Some(BodyInfo { len, sha256, plain_len: len, plain_sha256: sha256, encoding: Encoding::Plain });
    let (mut block, hash) = encode_header(&header, key)?;
    block.extend_from_slice(body);
    Ok((block.into(), hash))
}

/// How many bytes the header block has, as far as the first bytes tell. Checks magic, version and bounds.
pub fn header_block_len(bytes: &[u8]) -> Result<usize, ObjectError> {
    if !bytes.starts_with(MAGIC) {
        return Err(if MAGIC.starts_with(bytes) { truncated(bytes, FIXED_LEN) } else { ObjectError::Magic });
    }
    let Some(&[v0, v1, l0, l1, l2, l3]) = bytes.get(8..FIXED_LEN) else {
        return Err(truncated(bytes, FIXED_LEN));
    };
    let version = u16::from_be_bytes([v0, v1]);
    if version != VERSION {
        return Err(ObjectError::Version { version });
    }
    let len = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    if len > MAX_HEADER_LEN {
        return Err(ObjectError::HeaderTooLong { len });
    }
    Ok(FIXED_LEN + len + SIGNATURE_LEN)
}

fn truncated(bytes: &[u8], need: usize) -> ObjectError {
    ObjectError::Truncated { have: bytes.len() as u64, need: need as u64 }
}

/// Reads a header block at the front of `bytes` and verifies its signature by the key named in it, and the voucher for
/// that key. Whether that key may sign is for the chain to say, and whom to believe for [`crate::Trust`].
pub fn decode_header(bytes: &[u8]) -> Result<Decoded, ObjectError> {
    let body_at = header_block_len(bytes)?;
    let block = bytes.get(..body_at).ok_or_else(|| truncated(bytes, body_at))?;
    #[cfg(test)]
    if let Some(known) = known::get(block) {
        return Ok(known);
    }
    let (signed, signature) = block.split_at(body_at - SIGNATURE_LEN);
    let header: Header =
        serde_json::from_slice(&signed[FIXED_LEN..]).map_err(|e| ObjectError::Header { reason: e.to_string() })?;
    let key = VerifyingKey::from_bytes(&header.key.0).map_err(|_| ObjectError::Signature)?;
    let signature = Signature::from_slice(signature).map_err(|_| ObjectError::Signature)?;
    key.verify_strict(signed, &signature).map_err(|_| ObjectError::Signature)?;
    if header.voucher.is_some_and(|voucher| !voucher.holds(header.nonce, header.key)) {
        return Err(ObjectError::Voucher);
    }
    if let Some(body) = &header.body {
        check_bounds(body)?;
    }
    let decoded = Decoded { header, hash: Hash::of(block), body_at, stored: None };
    #[cfg(test)]
    known::put(&decoded);
    Ok(decoded)
}

fn check_bounds(body: &BodyInfo) -> Result<(), ObjectError> {
    if body.len > MAX_BODY_LEN {
        return Err(ObjectError::BodyTooLong { len: body.len, max: MAX_BODY_LEN });
    }
    if body.plain_len > MAX_PLAIN_LEN {
        return Err(ObjectError::BodyTooLong { len: body.plain_len, max: MAX_PLAIN_LEN });
    }
    Ok(())
}

/// Reads the header of an object, or of the front of one, as it came from the store.
pub fn decode_stored_header(object: &Object) -> Result<Decoded, ObjectError> {
    Ok(decode_header(&object.bytes)?.stored_at(object.last_modified))
}

/// Reads a whole object as it came from the store.
pub fn decode_stored(object: &Object) -> Result<(Decoded, Bytes), ObjectError> {
    let (decoded, body) = decode(&object.bytes)?;
    Ok((decoded.stored_at(object.last_modified), body))
}

/// Reads a whole object: the header as [`decode_header`] does, and the body's length and digest.
pub fn decode(bytes: &Bytes) -> Result<(Decoded, Bytes), ObjectError> {
    let decoded = decode_header(bytes)?;
    let body = bytes.slice(decoded.body_at..);
    let want = decoded.header.body.as_ref().map_or(0, |info| info.len);
    if (body.len() as u64) < want {
        return Err(truncated(bytes, decoded.body_at + want as usize));
    }
    let holds = match &decoded.header.body {
        Some(info) => body.len() as u64 == info.len && Hash::of(&body) == info.sha256,
        None => body.is_empty(),
    };
    if holds { Ok((decoded, body)) } else { Err(ObjectError::Body) }
}

/// The simulation reads the same headers again and again: what it signed itself, it does not verify.
#[cfg(test)]
pub(crate) mod known {
    use std::cell::RefCell;
    use std::collections::HashMap;

    use super::{Decoded, Hash};

    thread_local! {
        static KNOWN: RefCell<Option<HashMap<Hash, Decoded>>> = const { RefCell::new(None) };
    }

    /// Begins to remember, with nothing, on this thread.
    pub(crate) fn begin() {
        KNOWN.with_borrow_mut(|known| *known = Some(HashMap::new()));
    }

    pub(super) fn get(block: &[u8]) -> Option<Decoded> {
        KNOWN.with_borrow(|known| known.as_ref()?.get(&Hash::of(block)).cloned())
    }

    pub(super) fn put(decoded: &Decoded) {
        KNOWN.with_borrow_mut(|known| known.as_mut()?.insert(decoded.hash, decoded.clone()));
    }
}
