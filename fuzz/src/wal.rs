//! PostgreSQL's own formats.

use holdfast_wal::history::TimelineHistory;
use holdfast_wal::record::RecordScanner;
use holdfast_wal::{Lsn, SegmentName, SystemId, TimelineId};

const SEGMENT: u64 = 1 << 24;

/// WAL from a place that the first four bytes choose; in one piece and in two it must be the same.
pub(crate) fn records(data: &[u8]) {
    let Some((head, wal)) = data.split_first_chunk::<4>() else { return };
    let start = Lsn(2 * SEGMENT + u64::from(u16::from_be_bytes([head[0], head[1]])) * 8);
    let cut = usize::from(head[2]) * wal.len() / 256;
    let verify = head[3] & 1 == 1;
    let (mut whole, mut pieces) =
        (RecordScanner::new(start, SEGMENT, verify), RecordScanner::new(start, SEGMENT, verify));
    let one = whole.push(wal);
    let two = pieces.push(&wal[..cut]).and_then(|()| pieces.push(&wal[cut..]));
    assert_eq!(one, two);
    assert_eq!(whole.complete_end(), pieces.complete_end());
    assert_eq!((whole.first_record(), whole.last_record()), (pieces.first_record(), pieces.last_record()));
    assert!(whole.complete_end() >= start);
}

/// History files, and the names and positions that are written as text.
pub(crate) fn history(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(history) = TimelineHistory::parse(TimelineId(9), text) {
        assert_eq!(TimelineHistory::parse(TimelineId(9), &history.render()).as_ref(), Ok(&history));
    }
    if let Ok(position) = text.parse::<Lsn>() {
        assert_eq!(position.to_string().parse::<Lsn>(), Ok(position));
    }
    if let Ok(name) = text.parse::<SegmentName>() {
        let _ = (name.start(SEGMENT), name.timeline());
    }
    let _ = (Lsn::from_hex16(text), text.parse::<SystemId>());
}
