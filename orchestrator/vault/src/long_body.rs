//! Objects with a long body: sealed piece by piece behind the room for their header, so that they are in memory once.

use bytes::Bytes;

use crate::log::incarnation::Incarnation;
use crate::object::{BodyInfo, Encoding, Hash, Header, ObjectError, encode_header};
use crate::seal::{Recipients, seal_pieces};

/// A sealed body that waits for its header.
pub(crate) struct LongBody {
    /// `room` bytes, and the body.
    bytes: Vec<u8>,
    room: usize,
    info: BodyInfo,
}

impl LongBody {
    /// Seals the pieces, each of which is dropped as soon as it is done. `longest` is a header of the most bytes that the
    /// object's own may have.
    pub(crate) fn seal(
        me: &Incarnation,
        mut longest: Header,
        recipients: &Recipients,
        pieces: Vec<Bytes>,
        level: i32,
    ) -> Result<LongBody, ObjectError> {
        // Numbers of the most digits.
        let (any, len) = (Hash([0; 32]), u64::MAX);
        let info = BodyInfo { len, sha256: any, plain_len: len, plain_sha256: any, encoding: Encoding::AgeZstd };
        longest.body = Some(info);
        let room = encode_header(&longest, me.key())?.0.len();
        let (bytes, info) = seal_pieces(recipients, pieces, level, room)?;
        Ok(LongBody { bytes, room, info })
    }

    /// What the header says of it.
    pub(crate) fn info(&self) -> BodyInfo {
        self.info
    }

    /// The object, and the digest of its header block.
    pub(crate) fn with_header(self, me: &Incarnation, mut header: Header) -> Result<(Bytes, Hash), ObjectError> {
        let LongBody { mut bytes, room, info } = self;
        header.body = Some(info);
        let (block, hash) = encode_header(&header, me.key())?;
        let from = room.checked_sub(block.len()).ok_or(ObjectError::HeaderTooLong { len: block.len() })?;
        bytes[from..room].copy_from_slice(&block);
        Ok((Bytes::from(bytes).slice(from..), hash))
    }
}
