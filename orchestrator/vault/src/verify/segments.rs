//! Segments, in the order of their keys, which is the order of the log. Without I/O.

use serde::{Deserialize, Serialize};

use super::cost::{Span, Spans};
use super::report::{Finding, FindingKind};
use crate::keys::SegmentKey;
use crate::log::walk::LogFacts;
use crate::object::{Decoded, ObjectError};
use crate::segment::{SegmentLink, check_segment};

/// What is known of the segments so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Segments {
    /// WAL in sound segments.
    pub(super) wal: Spans,
    /// The last sound one.
    last: Option<SegmentLink>,
    /// The key of the last one, sound or not.
    seen: Option<SegmentKey>,
}

impl Segments {
    /// Takes the next segment, in the order of the keys.
    pub(super) fn meet(
        &mut self,
        facts: &LogFacts,
        key: &str,
        at: Option<SegmentKey>,
        decoded: Result<&Decoded, ObjectError>,
        findings: &mut Vec<Finding>,
    ) {
        let unknown = || ObjectError::Misplaced { reason: "its key is none of a segment".to_owned() };
        let Some(at) = at else {
            return findings.push(Finding::new(key, FindingKind::Damaged, unknown().to_string()));
        };
        let (before, last) = (self.seen.replace(at), self.last);
        let checked = decoded.and_then(|decoded| Ok((check_segment(facts, at, decoded)?, decoded.hash)));
        let (segment, hash) = match checked {
            Ok(checked) => checked,
            Err(error) => {
                let span = Span { from: at.start, to: at.start.segment_end(facts.segment_size) };
                let finding = Finding::new(key, FindingKind::of(&error), error.to_string());
                return findings.push(Finding { span: Some(span), ..finding });
            }
        };
        // What stands between the last one and this one is named by this one. The first ones may have expired.
        if let (Some(prev), Some(before)) = (segment.prev, before) {
            if prev.at > before {
                let detail = format!("the segment at {} that follows it names it, and it is not there", at.start);
                let span = Span { from: prev.at.start, to: at.start.max(prev.at.start) };
                let finding = Finding::new(key, FindingKind::Missing, detail);
                findings.push(Finding { span: Some(span), ..finding });
            } else if last.is_some_and(|last| last.at == prev.at && last.hash != prev.hash) {
                let detail = "it names another segment before it than the one that stands there";
                findings.push(Finding::new(key, FindingKind::Damaged, detail));
            }
        }
        if last.is_some_and(|last| last.at.line != at.line) {
            // What a cut took back is no longer part of the log.
            self.wal.truncate(segment.start);
        }
        self.wal.add(Span { from: segment.start, to: segment.end });
        self.last = Some(SegmentLink { at, hash });
    }
}
