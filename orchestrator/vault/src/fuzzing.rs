//! Parsers that are not public, for `fuzz/`. No other caller; not part of the interface.

use crate::keys::Keys;
use crate::object::{BodyInfo, Encoding, Hash, ObjectError};
use crate::seal::{self, Identities};

/// Opens a sealed body whose header announced `plain_len` bytes, at most [`crate::object::MAX_PLAIN_LEN`]. The digest of
/// what comes out is not known, so that a whole body ends as [`ObjectError::Body`].
pub fn open(plain_len: u64, body: &[u8], identities: &Identities) -> Result<Vec<u8>, ObjectError> {
    let nothing = Hash::of(b"");
    let info = BodyInfo {
        len: body.len() as u64,
        sha256: Hash::of(body),
        plain_len,
        plain_sha256: nothing,
        encoding: Encoding::AgeZstd,
    };
    seal::open(&info, body, identities)
}

/// Decompresses a zstd frame into at most `plain_len` bytes.
pub fn decompress(compressed: &[u8], plain_len: u64) -> Result<Vec<u8>, ObjectError> {
    seal::decompress(compressed, plain_len)
}

/// Reads a key of the bucket in every way that a listing is read.
pub fn key(text: &str) {
    let database = Keys::new("hospital").database("a");
    let _ = (database.parse(text), database.parse_epoch(text), database.parse_index(text));
    let _ = (database.parse_segment_line(text), database.parse_segment(text));
}
