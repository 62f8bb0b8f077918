//! Sealing and opening of bodies: one zstd frame in one age file.

use std::fmt;
use std::io::{Read, Write};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use age::secrecy::ExposeSecret;
use age::x25519;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use zstd::bulk::{Compressor, Decompressor};

use crate::error::VaultError;
use crate::object::{BodyInfo, Encoding, Hash, ObjectError};

/// Fast, because WAL is sealed while a client waits for its commit, and a backup while the database is at work.
pub(crate) const ZSTD_LEVEL: i32 = 1;
/// From so many bytes on a thread for the digest is worth its start.
const DIGEST_BESIDE_BYTES: usize = 512 * 1024;
/// Of a frame as long as the longest body: one that asks for a larger window lies.
const PROVED_WINDOW_LOG: u32 = 24;

/// Who can open what is sealed: age X25519 recipients. Cheap to clone.
#[derive(Clone)]
pub struct Recipients(Arc<Vec<x25519::Recipient>>);

impl Recipients {
    /// Reads `age1...` strings; at least one.
    pub fn parse<S: AsRef<str>>(recipients: &[S]) -> Result<Recipients, VaultError> {
        let parse = |text: &S| {
            x25519::Recipient::from_str(text.as_ref().trim()).map_err(|e| VaultError::BadKey {
                what: format!("recipient `{}`", text.as_ref()),
                reason: e.to_owned(),
            })
        };
        let parsed = recipients.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        if parsed.is_empty() {
            let reason = "none given: nobody could read what is stored".to_owned();
            return Err(VaultError::BadKey { what: "recipients".into(), reason });
        }
        Ok(Recipients(Arc::new(parsed)))
    }
}

impl Recipients {
    /// The `age1...` strings.
    pub fn public_keys(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }

    /// Begins an age file for all of them.
    fn encryptor(&self) -> Result<age::Encryptor, ObjectError> {
        let recipients = self.0.iter().map(|recipient| recipient as &dyn age::Recipient);
        age::Encryptor::with_recipients(recipients).map_err(|e| ObjectError::Open { reason: e.to_string() })
    }
}

impl fmt::Debug for Recipients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(ToString::to_string)).finish()
    }
}

/// The private keys that open what is sealed. Cheap to clone; never shown.
#[derive(Clone)]
pub struct Identities(Arc<Vec<x25519::Identity>>);

impl Identities {
    /// Reads a file of `AGE-SECRET-KEY-1...` lines; `#` begins a comment.
    pub fn from_file(path: &Path) -> Result<Identities, VaultError> {
        let text = std::fs::read_to_string(path).map_err(|e| VaultError::BadKey {
            what: format!("identity file {}", path.display()),
            reason: e.to_string(),
        })?;
        Self::parse(&text)
    }

    /// Reads the content of such a file.
    pub fn parse(text: &str) -> Result<Identities, VaultError> {
        let bad = |reason: &str| VaultError::BadKey { what: "identity".into(), reason: reason.to_owned() };
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let parsed = lines.map(|line| x25519::Identity::from_str(line).map_err(bad)).collect::<Result<Vec<_>, _>>()?;
        if parsed.is_empty() {
            return Err(bad("none in there: expected a line AGE-SECRET-KEY-1..."));
        }
        Ok(Identities(Arc::new(parsed)))
    }

    /// Whether at least one of them opens what is sealed for these recipients.
    pub fn open_for(&self, recipients: &Recipients) -> bool {
        let own: Vec<String> = self.0.iter().map(|identity| identity.to_public().to_string()).collect();
        recipients.0.iter().any(|recipient| own.contains(&recipient.to_string()))
    }

    /// The public keys of those that open an age file, of which the front is enough.
    pub(crate) fn which_open(&self, body: &[u8]) -> Vec<String> {
        let opens = |identity: &&x25519::Identity| {
            let decryptor = age::Decryptor::new_buffered(body).ok();
            decryptor.is_some_and(|decryptor| {
                !decryptor.is_scrypt() && decryptor.decrypt(std::iter::once(*identity as &dyn age::Identity)).is_ok()
            })
        };
        self.0.iter().filter(opens).map(|identity| identity.to_public().to_string()).collect()
    }

    /// The recipients that these identities open for.
    pub fn recipients(&self) -> Recipients {
        Recipients(Arc::new(self.0.iter().map(x25519::Identity::to_public).collect()))
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identities({})", self.0.len())
    }
}

/// Makes a new key pair: the secret (`AGE-SECRET-KEY-1...`) and its recipient (`age1...`).
pub fn generate_identity() -> (String, String) {
    let identity = x25519::Identity::generate();
    (identity.to_string().expose_secret().to_owned(), identity.to_public().to_string())
}

/// Seals bodies. Keeps its compression context, because most chunks are small and one is made for each group of
/// commits.
pub(crate) struct Sealer {
    compressor: Compressor<'static>,
    compressed: Vec<u8>,
    recipients: Recipients,
}

impl Sealer {
    pub(crate) fn new(recipients: Recipients) -> Result<Sealer, ObjectError> {
        let compressor = Compressor::new(ZSTD_LEVEL).map_err(cannot_open)?;
        Ok(Sealer { compressor, compressed: Vec::new(), recipients })
    }

    /// Compresses, encrypts and hashes; appends the body to `out`, which begins empty.
    pub(crate) fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<BodyInfo, ObjectError> {
        let (plain_sha256, sha256) = if plain.len() < DIGEST_BESIDE_BYTES {
            (Hash::of(plain), self.seal_body(plain, out)?)
        } else {
            digest_beside(|| Hash::of(plain), || self.seal_body(plain, out))?
        };
        let (len, plain_len) = (out.len() as u64, plain.len() as u64);
        Ok(BodyInfo { len, sha256, plain_len, plain_sha256, encoding: Encoding::AgeZstd })
    }

    /// Appends the body to `out`, and gives its digest.
    fn seal_body(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<Hash, ObjectError> {
        self.compressed.clear();
        self.compressed.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        self.compressor.compress_to_buffer(plain, &mut self.compressed).map_err(cannot_open)?;
        out.reserve(self.compressed.len() + 512);
        let mut stream = self.recipients.encryptor()?.wrap_output(&mut *out).map_err(cannot_open)?;
        stream.write_all(&self.compressed).map_err(cannot_open)?;
        stream.finish().map_err(cannot_open)?;
        // A big chunk must not keep its memory for ever.
        if self.compressed.capacity() > 4 << 20 {
            self.compressed = Vec::new();
        }
        Ok(Hash::of(out))
    }
}

/// Seals a long body piece by piece, dropping each piece that is done, so that it is never there twice. Returns the body
/// behind `room` bytes for a header, so that both become one object without a copy, and what the header says of it.
pub(crate) fn seal_pieces(
    recipients: &Recipients,
    pieces: Vec<Bytes>,
    level: i32,
    room: usize,
) -> Result<(Vec<u8>, BodyInfo), ObjectError> {
    let plain_len: usize = pieces.iter().map(Bytes::len).sum();
    // As long as it may get, so that it never moves: memory that is not written to is not taken.
    let mut out = Vec::with_capacity(room + longest_sealed(plain_len));
    out.resize(room, 0);
    let same = pieces.clone();
    let (plain_sha256, ()) = digest_beside(
        move || {
            let mut digest = Sha256::new();
            same.into_iter().for_each(|piece| digest.update(&piece));
            Hash(digest.finalize().into())
        },
        || encrypt_pieces(recipients, pieces, level, plain_len as u64, &mut out),
    )?;
    let (len, sha256) = ((out.len() - room) as u64, Hash::of(&out[room..]));
    let info = BodyInfo { len, sha256, plain_len: plain_len as u64, plain_sha256, encoding: Encoding::AgeZstd };
    Ok((out, info))
}

fn encrypt_pieces(
    recipients: &Recipients,
    pieces: Vec<Bytes>,
    level: i32,
    plain_len: u64,
    out: &mut Vec<u8>,
) -> Result<(), ObjectError> {
    let encrypted = recipients.encryptor()?.wrap_output(out).map_err(cannot_open)?;
    let mut stream = zstd::stream::write::Encoder::new(encrypted, level).map_err(cannot_open)?;
    stream.set_pledged_src_size(Some(plain_len)).map_err(cannot_open)?;
    for piece in pieces {
        stream.write_all(&piece).map_err(cannot_open)?;
    }
    stream.finish().and_then(|encrypted| encrypted.finish()).map_err(cannot_open)?;
    Ok(())
}

/// Makes the digest of what is sealed on a thread of its own, beside the sealing: it takes a quarter of the time, and needs
/// nothing of what else is done.
fn digest_beside<T>(
    digest: impl FnOnce() -> Hash + Send,
    seal: impl FnOnce() -> Result<T, ObjectError>,
) -> Result<(Hash, T), ObjectError> {
    std::thread::scope(|scope| {
        let digest = scope.spawn(digest);
        let sealed = seal();
        let gone = |_| ObjectError::Open { reason: "the thread that makes a digest ended".into() };
        Ok((digest.join().map_err(gone)?, sealed?))
    })
}

/// How long a sealed body is at most: a 256th more for bytes that do not compress, and the headers of zstd and age.
fn longest_sealed(plain: usize) -> usize {
    plain + plain / 256 + 8 * 1024
}

fn cannot_open(error: std::io::Error) -> ObjectError {
    ObjectError::Open { reason: error.to_string() }
}

/// Opens a body that [`crate::object::decode`] has checked. Never allocates more than the header's checked length,
/// whatever the body claims.
pub(crate) fn open(info: &BodyInfo, body: &[u8], identities: &Identities) -> Result<Vec<u8>, ObjectError> {
    let plain = match info.encoding {
        Encoding::Plain => body.to_vec(),
        Encoding::AgeZstd => decompress(&decrypt(body, identities)?, info.plain_len)?,
    };
    if plain.len() as u64 != info.plain_len || Hash::of(&plain) != info.plain_sha256 {
        return Err(ObjectError::Body);
    }
    Ok(plain)
}

/// To how many X25519 recipients an age file is encrypted, by its header; 0 when it is none.
pub(crate) fn stanzas(body: &[u8]) -> usize {
    let mut lines = body.split(|byte| *byte == b'\n');
    if lines.next() != Some(b"age-encryption.org/v1") {
        return 0;
    }
    lines.take_while(|line| !line.starts_with(b"--- ")).filter(|line| line.starts_with(b"-> X25519 ")).count()
}

/// Checks a body as [`open`] does and keeps nothing of it: what it takes does not grow with the body.
pub(crate) fn prove(info: &BodyInfo, body: &[u8], identities: &Identities) -> Result<(), ObjectError> {
    if info.encoding == Encoding::Plain {
        return open(info, body, identities).map(drop);
    }
    let mut plain = zstd::stream::read::Decoder::new(decrypting(body, identities)?).map_err(cannot_open)?;
    plain.window_log_max(PROVED_WINDOW_LOG).map_err(cannot_open)?;
    // A byte more than it said is enough to know.
    let mut plain = plain.take(info.plain_len.saturating_add(1));
    let (mut digest, mut piece, mut plain_len) = (Sha256::new(), vec![0; 64 * 1024], 0);
    loop {
        let len = plain.read(&mut piece).map_err(cannot_open)?;
        if len == 0 {
            break;
        }
        digest.update(&piece[..len]);
        plain_len += len as u64;
    }
    let sound = plain_len == info.plain_len && Hash(digest.finalize().into()) == info.plain_sha256;
    if sound { Ok(()) } else { Err(ObjectError::Body) }
}

fn decrypt(body: &[u8], identities: &Identities) -> Result<Vec<u8>, ObjectError> {
    let mut compressed = Vec::with_capacity(body.len());
    decrypting(body, identities)?.read_to_end(&mut compressed).map_err(cannot_open)?;
    Ok(compressed)
}

fn decrypting<'a>(body: &'a [u8], identities: &Identities) -> Result<impl Read + use<'a>, ObjectError> {
    let decryptor = age::Decryptor::new_buffered(body).map_err(|e| ObjectError::Open { reason: e.to_string() })?;
    if decryptor.is_scrypt() {
        return Err(ObjectError::NoIdentity);
    }
    let keys = identities.0.iter().map(|i| i as &dyn age::Identity);
    decryptor.decrypt(keys).map_err(|e| match e {
        age::DecryptError::NoMatchingKeys => ObjectError::NoIdentity,
        e => ObjectError::Open { reason: e.to_string() },
    })
}

pub(crate) fn decompress(compressed: &[u8], plain_len: u64) -> Result<Vec<u8>, ObjectError> {
    let mut plain = Vec::with_capacity(plain_len as usize);
    let mut decompressor = Decompressor::new().map_err(cannot_open)?;
    decompressor.decompress_to_buffer(compressed, &mut plain).map_err(cannot_open)?;
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identities() -> Identities {
        Identities::parse(&generate_identity().0).unwrap()
    }

    #[test]
    fn opens_what_it_sealed() {
        let identities = identities();
        let mut sealer = Sealer::new(identities.recipients()).unwrap();
        for len in [0, 1, 1000, 70_000, 5 << 20] {
            let plain: Vec<u8> = (0..len).map(|n: u32| (n / 7) as u8).collect();
            let mut body = Vec::new();
            let info = sealer.seal(&plain, &mut body).unwrap();
            assert!(open(&info, &body, &identities).unwrap() == plain, "{len} bytes");
            assert!(!body.windows(64).any(|w| len >= 1000 && w == &plain[500..564]), "{len} bytes in the clear");
        }
    }

    #[test]
    fn a_long_body_stands_behind_the_room_for_its_header_and_never_moved() {
        let identities = identities();
        // It does not compress.
        let noise = |n: u32| Hash::of(&n.to_le_bytes()).0[..4].to_vec();
        let plain: Vec<u8> = (0..1 << 18).flat_map(noise).collect();
        for pieces in [Vec::new(), plain.chunks(70_000).map(Bytes::copy_from_slice).collect()] {
            let whole = pieces.concat();
            let (out, info) = seal_pieces(&identities.recipients(), pieces, 3, 700).unwrap();
            assert_eq!((info.len, out[..700].iter().all(|byte| *byte == 0)), (out.len() as u64 - 700, true));
            assert!(out.len() <= longest_sealed(whole.len()) + 700, "{} of {}", out.len(), whole.len());
            assert!(open(&info, &out[700..], &identities).unwrap() == whole);
        }
    }

    #[test]
    fn who_can_open_is_seen_from_the_front() {
        let (a, b, stranger) = (identities(), identities(), identities());
        let both = [a.recipients().public_keys(), b.recipients().public_keys()].concat();
        let mut body = Vec::new();
        Sealer::new(Recipients::parse(&both).unwrap()).unwrap().seal(&[7; 100_000], &mut body).unwrap();
        let front = &body[..1024.min(body.len())];
        assert_eq!(stanzas(front), 2);
        assert_eq!(a.which_open(front), a.recipients().public_keys());
        assert!(stranger.which_open(front).is_empty() && stranger.which_open(b"rubbish").is_empty());
        assert!(a.open_for(&Recipients::parse(&both).unwrap()) && !a.open_for(&b.recipients()));
        assert_eq!((stanzas(b"rubbish"), stanzas(b"")), (0, 0));
    }

    #[test]
    fn a_bomb_is_no_bigger_than_it_said() {
        let identities = identities();
        let mut sealer = Sealer::new(identities.recipients()).unwrap();
        let mut body = Vec::new();
        let honest = sealer.seal(&vec![0; 32 << 20], &mut body).unwrap();
        let lie = BodyInfo { plain_len: 1000, ..honest };
        assert!(matches!(open(&lie, &body, &identities), Err(ObjectError::Open { .. })));
        assert_eq!(prove(&lie, &body, &identities), Err(ObjectError::Body));
    }

    #[test]
    fn what_is_proved_is_what_opens() {
        let identities = identities();
        let plain: Vec<u8> = (0..3_000_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let mut body = Vec::new();
        let info = Sealer::new(identities.recipients()).unwrap().seal(&plain, &mut body).unwrap();
        assert_eq!(prove(&info, &body, &identities), Ok(()));
        assert_eq!(open(&info, &body, &identities), Ok(plain));
        for lie in [
            BodyInfo { plain_len: info.plain_len - 1, ..info },
            BodyInfo { plain_len: info.plain_len + 1, ..info },
            BodyInfo { plain_sha256: Hash::of(b"other"), ..info },
        ] {
            assert_eq!(prove(&lie, &body, &identities), Err(ObjectError::Body));
        }
        let (short, mut flipped) = (&body[..body.len() - 100], body.clone());
        flipped[body.len() / 2] ^= 1;
        for damaged in [short, &flipped] {
            assert!(matches!(prove(&info, damaged, &identities), Err(ObjectError::Open { .. })));
        }
        let stranger = prove(&info, &body, &Identities::parse(&generate_identity().0).unwrap());
        assert_eq!(stranger, Err(ObjectError::NoIdentity));
    }

    #[test]
    fn strangers_and_rubbish_are_told_apart() {
        let mut body = Vec::new();
        let info = Sealer::new(identities().recipients()).unwrap().seal(b"secret", &mut body).unwrap();
        assert_eq!(open(&info, &body, &identities()), Err(ObjectError::NoIdentity));
        assert!(matches!(open(&info, b"rubbish", &identities()), Err(ObjectError::Open { .. })));
    }

    #[test]
    fn bad_keys_are_named() {
        assert!(Recipients::parse::<&str>(&[]).is_err());
        let error = Recipients::parse(&["age1nonsense"]).unwrap_err().to_string();
        assert!(error.contains("age1nonsense"), "{error}");
        assert!(Identities::parse("# only a comment\n").is_err());
        // An error must not show a secret that is only mistyped.
        let mistyped = generate_identity().0 + "X";
        let error = Identities::parse(&mistyped).unwrap_err().to_string();
        assert!(!error.contains(&mistyped[..20]), "{error}");
    }
}
