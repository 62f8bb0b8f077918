//! The scanner against WAL that a second, simpler piece of code lays out.

use super::*;

/// The smallest that PostgreSQL allows, so that tests cross segments.
const SEGMENT: u64 = 1 << 20;
const CONTRECORD: u16 = 1;
const LONG: u16 = 2;
const OVERWRITE: u16 = 8;

/// Lays records out as PostgreSQL does, one byte at a time.
struct Layout {
    start: u64,
    bytes: Vec<u8>,
    previous: u64,
    /// Start and end of each record.
    records: Vec<(u64, u64)>,
}

impl Layout {
    fn new(start: u64) -> Layout {
        Layout { start, bytes: Vec::new(), previous: start - 64, records: Vec::new() }
    }

    fn position(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    fn page_header(&mut self, flags: u16, remaining: u32) {
        let at = self.position();
        let long = at.is_multiple_of(SEGMENT);
        self.bytes.extend(0xD110u16.to_le_bytes());
        self.bytes.extend((flags | if long { LONG } else { 0 }).to_le_bytes());
        self.bytes.extend(1u32.to_le_bytes());
        self.bytes.extend(at.to_le_bytes());
        self.bytes.extend(remaining.to_le_bytes());
        self.bytes.extend([0; 4]);
        if long {
            self.bytes.extend(7u64.to_le_bytes());
            self.bytes.extend((SEGMENT as u32).to_le_bytes());
            self.bytes.extend((PAGE_SIZE as u32).to_le_bytes());
        }
    }

    /// The bytes of a record that starts where the next one would.
    fn encode(&self, manager: u8, info: u8, data: usize) -> Vec<u8> {
        let mut record = Vec::new();
        record.extend((HEADER_BYTES as u32 + data as u32).to_le_bytes());
        record.extend(9u32.to_le_bytes());
        record.extend(self.previous.to_le_bytes());
        record.extend([info, manager, 0, 0]);
        let data: Vec<u8> = (0..data).map(|i| (i % 251) as u8 ^ info).collect();
        let crc = crc32c::crc32c(&[&data[..], &record[..]].concat());
        record.extend(crc.to_le_bytes());
        record.extend(data);
        record
    }

    fn write(&mut self, record: &[u8]) -> u64 {
        if self.position().is_multiple_of(PAGE_SIZE) {
            self.page_header(0, 0);
        }
        let start = self.position();
        for (written, byte) in record.iter().enumerate() {
            if self.position().is_multiple_of(PAGE_SIZE) {
                self.page_header(CONTRECORD, (record.len() - written) as u32);
            }
            self.bytes.push(*byte);
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        start
    }

    fn record(&mut self, data: usize) -> &mut Self {
        let record = self.encode(10, 0x20, data);
        let start = self.write(&record);
        self.previous = start;
        self.records.push((start, self.position()));
        self
    }

    fn switch(&mut self) -> &mut Self {
        let record = self.encode(RESOURCE_MANAGER_XLOG, XLOG_SWITCH, 0);
        let start = self.write(&record);
        self.previous = start;
        let end = self.position().next_multiple_of(SEGMENT);
        self.bytes.resize((end - self.start) as usize, 0);
        self.records.push((start, end));
        self
    }

    /// A record that a crash broke off at the end of its first page.
    fn broken(&mut self, data: usize) -> &mut Self {
        let record = self.encode(10, 0x20, data);
        self.write(&record[..(PAGE_SIZE - self.position() % PAGE_SIZE) as usize]);
        assert!(self.position().is_multiple_of(PAGE_SIZE));
        self.page_header(OVERWRITE, 0);
        self.record(16)
    }

    fn scanner(&self) -> RecordScanner {
        RecordScanner::new(Lsn(self.start), SEGMENT, true)
    }

    /// Where the last record ends of which everything lies below `upto`.
    fn end_below(&self, upto: u64) -> u64 {
        self.records.iter().map(|record| record.1).filter(|end| *end <= upto).max().unwrap_or(self.start)
    }

    fn check_every_prefix(&self) {
        let mut scanner = self.scanner();
        for (index, byte) in self.bytes.iter().enumerate() {
            assert_eq!(scanner.push(&[*byte]), Ok(()));
            let position = self.start + index as u64 + 1;
            assert_eq!(scanner.complete_end(), Lsn(self.end_below(position)), "after the byte before {position:X}");
            assert_eq!(scanner.position(), Lsn(position));
        }
    }

    fn failure(&self) -> RecordError {
        self.scanner().push(&self.bytes).unwrap_err()
    }
}

#[test]
fn records_end_where_they_are_aligned() {
    let mut layout = Layout::new(SEGMENT);
    layout.record(0).record(1).record(7).record(8).record(100);
    layout.check_every_prefix();
    assert_eq!(layout.records[1].1 - layout.records[1].0, 32);
}

#[test]
fn records_cross_pages_and_segments() {
    let mut layout = Layout::new(2 * SEGMENT - 3 * PAGE_SIZE);
    layout.record(5000).record(3 * PAGE_SIZE as usize).record(10).record(9 * PAGE_SIZE as usize).record(3);
    layout.check_every_prefix();
}

#[test]
fn a_header_may_be_split_and_a_record_may_end_with_its_page() {
    for left in [8, 16, 24, 32] {
        let mut layout = Layout::new(SEGMENT + PAGE_SIZE);
        // Page header, record header, data: `left` bytes of the page are left.
        layout.record(PAGE_SIZE as usize - 24 - HEADER_BYTES - left).record(0).record(40);
        layout.check_every_prefix();
        let boundary = layout.records.iter().any(|record| record.1.is_multiple_of(PAGE_SIZE));
        assert_eq!(boundary, left == 24);
    }
}

#[test]
fn a_switch_ends_with_its_segment() {
    let mut layout = Layout::new(2 * SEGMENT - 2 * PAGE_SIZE);
    layout.record(10).switch().record(20);
    layout.check_every_prefix();

    let mut scanner = layout.scanner();
    let (start, end) = layout.records[1];
    let upto = |lsn: u64| (lsn - layout.start) as usize;
    scanner.push(&layout.bytes[..upto(start) + 23]).unwrap();
    assert_eq!(scanner.pending_switch(), None);
    scanner.push(&layout.bytes[upto(start) + 23..upto(end) - 1]).unwrap();
    assert_eq!(scanner.pending_switch(), Some(PendingSwitch { start: Lsn(start), end: Lsn(end) }));
    assert_eq!(scanner.complete_end(), Lsn(start));
    scanner.push(&layout.bytes[upto(end) - 1..upto(end)]).unwrap();
    assert_eq!((scanner.pending_switch(), scanner.complete_end()), (None, Lsn(end)));
}

#[test]
fn a_switch_that_fills_its_segment_exactly() {
    let mut layout = Layout::new(2 * SEGMENT - PAGE_SIZE);
    layout.record(PAGE_SIZE as usize - 24 - HEADER_BYTES - 24).switch().record(20);
    assert_eq!(layout.records[1], (2 * SEGMENT - 24, 2 * SEGMENT));
    layout.check_every_prefix();
}

#[test]
fn a_record_that_a_crash_broke_off_counts_for_nothing() {
    let mut layout = Layout::new(SEGMENT);
    layout.record(100).broken(20_000).record(5);
    layout.check_every_prefix();
}

#[test]
fn the_rest_of_an_older_record_is_passed_over() {
    let mut layout = Layout::new(SEGMENT + PAGE_SIZE);
    layout.record(100).record(3 * PAGE_SIZE as usize).record(5).record(6);
    let start = SEGMENT + 2 * PAGE_SIZE;
    let mut scanner = RecordScanner::new(Lsn(start), SEGMENT, true);
    let mut ends = Vec::new();
    for byte in &layout.bytes[PAGE_SIZE as usize..] {
        scanner.push(&[*byte]).unwrap();
        ends.push(scanner.complete_end().0);
    }
    ends.dedup();
    assert_eq!(ends, [start, layout.records[1].1, layout.records[2].1, layout.records[3].1]);
    let first = FirstRecord { start: Lsn(layout.records[2].0), previous: Lsn(layout.records[1].0) };
    assert_eq!(scanner.first_record(), Some(first));
    assert_eq!(scanner.last_record(), Some(Lsn(layout.records[3].0)));
}

#[test]
fn a_start_behind_a_page_header_is_a_start() {
    let mut layout = Layout::new(SEGMENT);
    layout.record(100).record(5);
    let mut scanner = RecordScanner::new(Lsn(SEGMENT + 40), SEGMENT, true);
    scanner.push(&layout.bytes[40..]).unwrap();
    assert_eq!(scanner.complete_end(), Lsn(layout.position()));
}

/// A generator of numbers that looks random and is the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

#[test]
fn any_cuts_of_any_layout() {
    for seed in 0..60 {
        let mut dice = Dice(seed);
        let mut layout = Layout::new(2 * SEGMENT - dice.roll(20) * PAGE_SIZE);
        for _ in 0..dice.roll(60) + 1 {
            match dice.roll(20) {
                0 => layout.switch(),
                1 if !layout.position().is_multiple_of(PAGE_SIZE) => layout.broken(30_000),
                2..5 => layout.record(dice.roll(60_000) as usize),
                _ => layout.record(dice.roll(300) as usize),
            };
        }
        let mut scanner = layout.scanner();
        let mut rest = &layout.bytes[..];
        while !rest.is_empty() {
            let longest = [2, 30, 9000, 300_000][dice.roll(4) as usize];
            let (piece, after) = rest.split_at((dice.roll(longest) as usize).min(rest.len()));
            assert_eq!(scanner.push(piece), Ok(()), "seed {seed}");
            assert_eq!(scanner.complete_end().0, layout.end_below(scanner.position().0), "seed {seed}");
            rest = after;
        }
        assert_eq!(scanner.complete_end(), Lsn(layout.position()), "seed {seed}");
    }
}

#[test]
fn garbage_never_panics_and_completes_nothing_it_should_not() {
    for seed in 0..200 {
        let mut dice = Dice(seed);
        let mut layout = Layout::new(2 * SEGMENT - 2 * PAGE_SIZE);
        layout.record(100).record(9000).record(30).record(12_000).record(5);
        let hit = dice.roll(layout.bytes.len() as u64) as usize;
        layout.bytes[hit] ^= 1 << dice.roll(8);
        let mut scanner = layout.scanner();
        let _ = scanner.push(&layout.bytes);
        // Padding, the transaction's rest of a page header and the like may change unseen, and then
        // nothing changes; what was seen is never behind the damage.
        let end = scanner.complete_end().0;
        let record = layout.records.iter().find(|record| record.1 > layout.start + hit as u64);
        let known: Vec<u64> = layout.records.iter().map(|record| record.1).collect();
        assert!(end == layout.start || known.contains(&end), "seed {seed}: {end:X}");
        assert!(record.is_none_or(|record| end >= layout.end_below(record.0)), "seed {seed}");
    }
}

#[test]
fn zeros_are_the_end() {
    let mut layout = Layout::new(SEGMENT);
    layout.record(100);
    let end = layout.position();
    layout.bytes.extend([0; 64]);
    let mut scanner = layout.scanner();
    assert_eq!(scanner.push(&layout.bytes), Err(RecordError::Zeros { at: Lsn(end) }));
    assert_eq!(scanner.complete_end(), Lsn(end));
    // A failed scanner stays failed.
    assert_eq!(scanner.push(&[1]), Err(RecordError::Zeros { at: Lsn(end) }));
    assert_eq!(scanner.complete_end(), Lsn(end));
}

#[test]
fn lengths_are_checked() {
    for length in [1u32, 23, 0x4000_0000, u32::MAX] {
        let mut layout = Layout::new(SEGMENT);
        layout.record(100);
        layout.bytes[40..44].copy_from_slice(&length.to_le_bytes());
        assert_eq!(layout.failure(), RecordError::BadLength { at: Lsn(SEGMENT + 40), length });
    }
}

#[test]
fn checksums_are_checked_when_asked_for() {
    let mut layout = Layout::new(SEGMENT);
    layout.record(100);
    layout.bytes[100] ^= 1;
    assert_eq!(layout.failure(), RecordError::BadChecksum { at: Lsn(SEGMENT + 40) });
    let mut trusting = RecordScanner::new(Lsn(layout.start), SEGMENT, false);
    assert_eq!(trusting.push(&layout.bytes), Ok(()));
    assert_eq!(trusting.complete_end(), Lsn(layout.position()));
}

#[test]
fn records_must_follow_each_other() {
    let mut layout = Layout::new(SEGMENT);
    layout.record(0);
    layout.previous -= 8;
    layout.record(0);
    let (expected, at) = (Lsn(layout.records[0].0), Lsn(layout.records[1].0));
    assert_eq!(layout.failure(), RecordError::BadPrevious { at, found: Lsn(expected.0 - 8), expected });

    let mut layout = Layout::new(SEGMENT);
    layout.previous = SEGMENT + 40;
    layout.record(0);
    assert!(matches!(layout.failure(), RecordError::BadPrevious { .. }));
}

#[test]
fn page_headers_are_checked() {
    let page = PAGE_SIZE as usize;
    let damage: [(usize, u8, &str); 7] = [
        (1, 0xFF, "magic"),
        (0, 0x01, "version"),
        (2, CONTRECORD as u8, "does not continue"),
        (2, LONG as u8, "long header"),
        (9, 0x01, "belongs at"),
        (4, 0x01, "goes back"),
        (16, 0x01, "does not continue"),
    ];
    for (offset, mask, fault) in damage {
        let mut layout = Layout::new(SEGMENT);
        layout.record(2 * page);
        layout.bytes[page + offset] ^= mask;
        match layout.failure() {
            RecordError::BadPage { at, fault: found } => {
                assert!(found.contains(fault), "{found} instead of {fault}");
                assert_eq!(at, Lsn(SEGMENT + PAGE_SIZE));
            }
            other => panic!("{other} instead of {fault}"),
        }
    }
}

#[test]
fn the_segment_size_must_be_the_one_announced() {
    let mut layout = Layout::new(4 * SEGMENT);
    layout.record(10);
    let mut scanner = RecordScanner::new(Lsn(layout.start), 2 * SEGMENT, true);
    assert!(matches!(scanner.push(&layout.bytes), Err(RecordError::BadPage { .. })));
}

#[test]
fn a_continuation_out_of_nowhere_is_refused() {
    let mut layout = Layout::new(SEGMENT + PAGE_SIZE);
    layout.record(PAGE_SIZE as usize - 24 - HEADER_BYTES);
    layout.page_header(CONTRECORD, 40);
    assert!(matches!(layout.failure(), RecordError::BadPage { .. }));
}

#[test]
fn impossible_starts_are_refused() {
    for start in [SEGMENT + 4, SEGMENT + 8, SEGMENT + 32, SEGMENT + PAGE_SIZE + 16] {
        let mut scanner = RecordScanner::new(Lsn(start), SEGMENT, true);
        assert_eq!(scanner.push(&[0]), Err(RecordError::BadStart { at: Lsn(start) }), "{start:X}");
    }
}
