//! What may stand on the chain, and what is refused: one change to a good object a line.

use super::*;
use crate::log::incarnation::Incarnation;
use crate::object::{BodyInfo, Encoding, Hash, Stored, decode_header, encode_header};

const SEGMENT: u64 = 1 << 20;
const AT: Lsn = Lsn(3 * SEGMENT);

fn me(n: u8) -> Incarnation {
    Incarnation::new(Nonce([n; 16]), &[n; 32], None)
}

fn facts() -> Arc<LogFacts> {
    Arc::new(LogFacts {
        database: "db".into(),
        system_id: SystemId(7),
        segment_size: SEGMENT,
        origin: AT,
        trust: Trust::anyone(),
        chunk_life: std::time::Duration::from_secs(7 * 24 * 60 * 60),
    })
}

fn first_lineage() -> Lineage {
    Lineage::new("origin", &TimelineHistory::initial(TimelineId(1)))
}

fn genesis() -> Cursor {
    let identity = Link { at: Position { epoch: 0, start: AT }, hash: Hash::of(b"identity") };
    Cursor::genesis(facts(), first_lineage(), identity)
}

fn signed(subject: Subject, by: &Incarnation, plain_len: Option<u64>) -> Decoded {
    let mut header = by.header(subject);
    let digest = Hash::of(b"");
    header.body = plain_len.map(|plain_len| BodyInfo {
        len: 0,
        sha256: digest,
        plain_len,
        plain_sha256: digest,
        encoding: Encoding::AgeZstd,
    });
    let (block, _) = encode_header(&header, by.key()).unwrap();
    decode_header(&block).unwrap()
}

fn seal(cursor: &Cursor, kind: SealKind) -> Seal {
    let start = cursor.position().start;
    Seal {
        seal: kind,
        database: "db".into(),
        system_id: SystemId(7),
        epoch: cursor.position().epoch,
        start,
        next_start: start,
        lineage: cursor.lineage().clone(),
        ahead: false,
        by: "test".into(),
        prev: cursor.prev().to_vec(),
    }
}

fn chunk(cursor: &Cursor, len: u64) -> Chunk {
    let start = cursor.position().start;
    Chunk {
        database: "db".into(),
        system_id: SystemId(7),
        epoch: cursor.position().epoch,
        start,
        end: Lsn(start.0 + len),
        timeline: cursor.timeline(),
        lineage: cursor.lineage().id.clone(),
        opened_by: cursor.opened_by().map_or(cursor.position(), |seal| seal.at),
        prev: cursor.prev().to_vec(),
        stored: None,
        last_record: None,
    }
}

fn put_seal(cursor: &mut Cursor, kind: SealKind, by: &Incarnation) -> Decoded {
    let decoded = signed(Subject::Seal(seal(cursor, kind)), by, None);
    cursor.apply(&decoded).unwrap();
    decoded
}

fn put_chunk(cursor: &mut Cursor, len: u64, by: &Incarnation) -> Decoded {
    let decoded = signed(Subject::Chunk(chunk(cursor, len)), by, Some(len));
    cursor.apply(&decoded).unwrap();
    decoded
}

#[test]
fn a_chunk_must_fit_its_place() {
    let mut cursor = genesis();
    put_seal(&mut cursor, SealKind::Claim, &me(1));
    put_chunk(&mut cursor, 100, &me(1));
    type Change = fn(&mut Chunk);
    let changes: &[(&str, Change)] = &[
        ("another database", |c| c.database = "lab".into()),
        ("another system", |c| c.system_id = SystemId(8)),
        ("another epoch", |c| c.epoch += 1),
        ("another start", |c| c.start = Lsn(c.start.0 + 8)),
        ("empty", |c| c.end = c.start),
        ("across a boundary", |c| c.end = Lsn(AT.0 + SEGMENT + 1)),
        ("another timeline", |c| c.timeline = TimelineId(2)),
        ("another lineage", |c| c.lineage = "pvc".into()),
        ("another seal", |c| c.opened_by.epoch += 1),
        ("another object before", |c| c.prev[0].hash = Hash::of(b"y")),
        ("nothing before", |c| c.prev.clear()),
    ];
    for (what, change) in changes {
        let mut chunk = chunk(&cursor, 50);
        change(&mut chunk);
        let len = chunk.end.0.saturating_sub(chunk.start.0);
        let refused = cursor.clone().apply(&signed(Subject::Chunk(chunk), &me(1), Some(len)));
        assert!(refused.is_err(), "{what}");
    }
    for (what, by, len) in
        [("another's", me(2), Some(50)), ("another length", me(1), Some(49)), ("no body", me(1), None)]
    {
        let refused = cursor.clone().apply(&signed(Subject::Chunk(chunk(&cursor, 50)), &by, len));
        assert!(refused.is_err(), "{what}");
    }
    put_chunk(&mut cursor, 50, &me(1));
}

#[test]
fn a_pending_epoch_holds_no_chunk_and_one_takers_promote() {
    let mut cursor = genesis();
    put_seal(&mut cursor, SealKind::Claim, &me(1));
    put_chunk(&mut cursor, 100, &me(1));
    put_seal(&mut cursor, SealKind::Takeover, &me(2));
    for by in [me(1), me(2)] {
        assert!(cursor.clone().apply(&signed(Subject::Chunk(chunk(&cursor, 8)), &by, Some(8))).is_err());
    }
    let sealed = cursor.position().start;
    let promote = |start: Lsn, timeline: u32| Seal {
        next_start: start,
        lineage: promoted_lineage(cursor.lineage(), start, "pvc", TimelineId(timeline)),
        ..seal(&cursor, SealKind::Promote)
    };
    let put = |seal: Seal, by: &Incarnation| cursor.clone().apply(&signed(Subject::Seal(seal), by, None));
    assert!(put(promote(sealed, 2), &me(3)).is_err(), "another taker's");
    assert!(put(promote(sealed, 1), &me(2)).is_err(), "no new timeline");
    assert!(put(promote(Lsn(sealed.0 + 8), 2), &me(2)).is_err(), "beyond the seal");
    assert!(put(promote(Lsn(AT.0 - 8), 2), &me(2)).is_err(), "before the origin");
    assert!(put(Seal { lineage: first_lineage(), ..promote(sealed, 2) }, &me(2)).is_err(), "another history");
    assert!(put(promote(Lsn(sealed.0 - 4), 2), &me(2)).is_ok(), "the torn record is cut");
    // Or the old writer takes the log back.
    put_seal(&mut cursor.clone(), SealKind::Claim, &me(4));
}

#[test]
fn a_claim_names_the_same_instance_and_no_lower_branch() {
    let mut cursor = genesis();
    put_seal(&mut cursor, SealKind::Claim, &me(1));
    put_chunk(&mut cursor, 100, &me(1));
    let tail = cursor.position().start;
    let first = TimelineHistory::initial(TimelineId(1));
    let claim = |lineage: Lineage| {
        let seal = Seal { lineage, ..seal(&cursor, SealKind::Claim) };
        cursor.clone().apply(&signed(Subject::Seal(seal), &me(2), None)).is_ok()
    };
    for (what, lineage, fits) in [
        ("the same", first_lineage(), true),
        ("a branch at the tail", Lineage::new("origin", &first.branch(TimelineId(2), tail, "")), true),
        ("a branch below it", Lineage::new("origin", &first.branch(TimelineId(2), Lsn(tail.0 - 1), "")), false),
        ("a stranger's timeline", Lineage::new("origin", &TimelineHistory::initial(TimelineId(2))), false),
        ("another instance", Lineage::new("pvc", &first), false),
    ] {
        assert_eq!(claim(lineage), fits, "{what}");
    }
    let moved = Seal { next_start: Lsn(tail.0 - 8), ..seal(&cursor, SealKind::Claim) };
    assert!(cursor.clone().apply(&signed(Subject::Seal(moved), &me(2), None)).is_err());
}

#[test]
fn after_a_seal_put_ahead_the_next_object_names_both() {
    let mut cursor = genesis();
    put_seal(&mut cursor, SealKind::Claim, &me(1));
    put_chunk(&mut cursor, SEGMENT, &me(1));
    let before = cursor.prev()[0];
    let ahead = |kind| Seal { ahead: true, prev: Vec::new(), ..seal(&cursor, kind) };
    assert!(cursor.clone().apply(&signed(Subject::Seal(ahead(SealKind::Claim)), &me(2), None)).is_err());
    let object = signed(Subject::Seal(ahead(SealKind::Takeover)), &me(2), None);
    assert!(Cursor::after_seal(facts(), &object).is_err(), "no place to begin");
    cursor.apply(&object).unwrap();
    assert_eq!(cursor.prev().len(), 2);
    assert_eq!((cursor.prev()[0].hash, cursor.prev()[1]), (object.hash, before));
    let claim = put_seal(&mut cursor.clone(), SealKind::Claim, &me(3));
    assert!(matches!(claim.header.subject, Subject::Seal(Seal { prev, .. }) if prev.len() == 2));
}

#[test]
fn a_walk_begins_where_a_chunk_says_that_its_writer_was() {
    let mut cursor = genesis();
    let claim = put_seal(&mut cursor, SealKind::Claim, &me(1));
    let first = put_chunk(&mut cursor, 100, &me(1));
    let at = cursor.clone();
    put_chunk(&mut cursor, 100, &me(1));
    let link = Link { at: Position { epoch: 1, start: AT }, hash: first.hash };
    let stated = |stored| {
        let subject = Subject::Chunk(Chunk { stored, ..chunk(&cursor, 8) });
        signed(subject, &me(1), Some(8))
    };
    let begin = |chunk: &Decoded, seal: &Decoded| Cursor::before_chunk(facts(), chunk, seal);
    let found = begin(&stated(Some(Stored { link, end: at.position().start })), &claim).unwrap();
    assert_eq!((found.position(), found.prev()), (at.position(), at.prev()));
    assert_eq!(begin(&stated(None), &claim).unwrap().position().start, AT);
    let later = Stored { link, end: Lsn(AT.0 + 10_000) };
    assert!(begin(&stated(Some(later)), &claim).is_err(), "beyond the chunk itself");
    let other = signed(Subject::Chunk(chunk(&cursor, 8)), &me(2), Some(8));
    assert!(begin(&other, &claim).is_err(), "not by the owner");
    assert!(begin(&stated(None), &first).is_err(), "not a seal");
}
