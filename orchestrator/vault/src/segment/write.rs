//! Stores one segment.

use std::collections::HashSet;

use bytes::Bytes;

use super::compact::Ready;
use super::{Segment, SegmentLink, check_segment};
use crate::error::VaultError;
use crate::fetch::{self, damaged};
use crate::keys::SegmentKey;
use crate::log::LogAccess;
use crate::log::incarnation::Incarnation;
use crate::long_body::LongBody;
use crate::object::{Hash, ObjectError, Subject, decode_stored_header};
use crate::seal::Recipients;
use crate::store::Object;

/// Better than a chunk's: nobody waits for it, and it stays for months.
const ZSTD_LEVEL: i32 = 3;

/// What became of a segment.
#[derive(Debug)]
pub(crate) enum Written {
    /// It stands: ours, or the same by another archiver.
    Stands {
        /// What names it.
        link: SegmentLink,
        /// Bytes stored by this call; 0 when it stood there already.
        stored_bytes: u64,
    },
    /// Another archiver's segment begins there too and ends elsewhere: begin again, and end there.
    EndsAt(holdfast_wal::Lsn),
}

/// A sealed segment.
struct Sealed {
    segment: Segment,
    object: Bytes,
    hash: Hash,
    plain_sha256: Hash,
}

impl LogAccess {
    /// Seals a segment and creates it after `prev`. Its WAL is dropped as soon as it is sealed.
    pub(crate) async fn write_segment(
        &self,
        me: &Incarnation,
        recipients: &Recipients,
        ready: Ready,
        prev: Option<SegmentLink>,
    ) -> Result<Written, VaultError> {
        let first = SegmentKey { line: ready.segment.line, start: ready.segment.start, copy: 0 };
        let segment = Segment { prev, ..ready.segment };
        let (me, recipients, pieces) = (me.clone(), recipients.clone(), ready.pieces);
        let sealing = tokio::task::spawn_blocking(move || seal(&me, &recipients, segment, pieces));
        let gone = |_| ObjectError::Open { reason: "the sealing thread ended".into() };
        let sealed = sealing.await.map_err(gone).flatten().map_err(damaged(&self.keys.segment(first)))?;
        // Where something else stands, it may be much: what is listed is looked at, and not tried with a whole segment.
        let (mut copy, mut taken) = (0, None::<HashSet<u32>>);
        loop {
            let at = SegmentKey { copy, ..first };
            let key = self.keys.segment(at);
            if !taken.as_ref().is_some_and(|taken| taken.contains(&copy)) {
                let created = fetch::create_until_known(&*self.store, &key, sealed.object.clone()).await?;
                let link = SegmentLink { at, hash: sealed.hash };
                if created.is_stored() {
                    return Ok(Written::Stands { link, stored_bytes: sealed.object.len() as u64 });
                }
            }
            match self.compare(at, &key, &sealed).await? {
                Ok(written) => return Ok(written),
                Err(error) => tracing::warn!(key, %error, "what stands at the key of a segment is passed over"),
            }
            if taken.is_none() {
                taken = Some(self.listed_copies(first).await?);
            }
            copy = copy.checked_add(1).ok_or_else(|| {
                let reason = "no key is left for this segment: all are taken by others".to_owned();
                damaged(&key)(ObjectError::Misplaced { reason })
            })?;
        }
    }

    /// What stands where a segment was to be created.
    async fn compare(
        &self,
        at: SegmentKey,
        key: &str,
        ours: &Sealed,
    ) -> Result<Result<Written, ObjectError>, VaultError> {
        let Some(object) = fetch::oldest(&*self.store, key).await? else {
            return Ok(Err(ObjectError::Misplaced { reason: "refused, and nothing is there".into() }));
        };
        Ok(self.compare_with(at, &object, ours))
    }

    fn compare_with(&self, at: SegmentKey, object: &Object, ours: &Sealed) -> Result<Written, ObjectError> {
        let decoded = decode_stored_header(object)?;
        let theirs = check_segment(&self.facts, at, &decoded)?;
        let link = SegmentLink { at, hash: decoded.hash };
        if decoded.hash == ours.hash {
            return Ok(Written::Stands { link, stored_bytes: object.total_len });
        }
        let plain_sha256 = decoded.header.body.map(|body| body.plain_sha256);
        if *theirs == ours.segment && plain_sha256 == Some(ours.plain_sha256) {
            return Ok(Written::Stands { link, stored_bytes: 0 });
        }
        if theirs.end != ours.segment.end && theirs.prev == ours.segment.prev {
            return Ok(Written::EndsAt(theirs.end));
        }
        Err(ObjectError::Misplaced { reason: "a segment of other WAL, or that follows another".into() })
    }
}

fn seal(
    me: &Incarnation,
    recipients: &Recipients,
    segment: Segment,
    pieces: Vec<Bytes>,
) -> Result<Sealed, ObjectError> {
    let header = me.header(Subject::Segment(Box::new(segment.clone())));
    let body = LongBody::seal(me, header.clone(), recipients, pieces, ZSTD_LEVEL)?;
    let plain_sha256 = body.info().plain_sha256;
    let (object, hash) = body.with_header(me, header)?;
    Ok(Sealed { segment, object, hash, plain_sha256 })
}
