//! Uploads in parts.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use s3s::dto::{CompletedPart, Metadata};
use s3s::{S3Result, s3_error};

use crate::lock::Retention;

/// An upload that is under way.
#[derive(Debug, Default)]
pub(crate) struct Upload {
    pub(crate) key: String,
    pub(crate) retention: Option<Retention>,
    pub(crate) hold: bool,
    pub(crate) metadata: Option<Metadata>,
    pub(crate) parts: BTreeMap<i32, Bytes>,
}

impl Upload {
    /// The parts that were named, put together.
    pub(crate) fn assemble(&self, named: &[CompletedPart]) -> S3Result<Bytes> {
        let mut whole = BytesMut::new();
        for part in named {
            let number = part.part_number.ok_or_else(|| s3_error!(InvalidPart))?;
            whole.extend_from_slice(self.parts.get(&number).ok_or_else(|| s3_error!(InvalidPart))?);
        }
        Ok(whole.freeze())
    }
}
