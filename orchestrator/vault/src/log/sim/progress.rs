//! A takeover comes to its end against a writer that is faster each time.

use super::*;
use crate::log::access::{Sure, TAKER_STEPS};
use crate::log::claim::{SealAnswer, encode_seal};
use crate::log::taker::TakerWish;
use crate::object::{BodyInfo, Encoding, SealKind, decode_header, encode_header};

/// Segments that the writer fills at most before it is stopped: it may be at the end of one when the taker comes.
const WITHIN: u64 = 3;

/// How many bytes a writer of chunks of any size gets to write before the taker has the log, and in how many steps.
fn written(seed: u64) -> Result<(u64, usize), String> {
    let mut world = World::new(seed);
    let me = world.incarnation();
    let mut cursor = world.access.genesis();
    let next = (cursor.position().start, cursor.lineage().clone());
    let seal = encode_seal(&me, &cursor, SealKind::Claim, next, "writer").map_err(told)?;
    world.store.put(&world.access.key(cursor.position()), &seal);
    cursor.apply(&decode_header(&seal).map_err(told)?).map_err(told)?;
    let mut core = WriterCore::new(&cursor, 1).ok_or("owns nothing")?;
    let state = TakerState {
        nonce: Nonce(world.rng.random()),
        key_seed: world.rng.random(),
        by: "taker".into(),
        created: Timestamp::UNIX_EPOCH,
        voucher: None,
    };
    let near = done(world.access.near_end()).map_err(told)?;
    let (mut taker, mut known) = (TakerCore::new(&state, near.cursor), near.known);
    let access = world.access.clone();
    for step in 0.. {
        let from = taker.cursor().clone();
        match taker.wish().map_err(told)? {
            TakerWish::Walk => {
                taker.walked(done(access.walk_on(&mut known, from, Sure::Yes, TAKER_STEPS)).map_err(told)?)
            }
            TakerWish::Look => taker.looked(done(access.look(&mut known, from)).map_err(told)?),
            TakerWish::PutAhead(at, bytes) => {
                let created = world.store.put(&access.key(at), &bytes).ok_or("hidden")?;
                let answer = done(access.seal_answered(at, &bytes, created)).map_err(told)?.ok_or("not listed")?;
                taker.ahead_answered(at, answer);
            }
            TakerWish::PutTail(_) => {
                // The writer is there first, unless a seal stops it.
                let Some(cut) = core.plan(world.rng.random_range(1..6)) else { return Err("no slot".into()) };
                let plain = vec![7; (cut.end.0 - cut.start.0) as usize];
                let (len, sha256) = (plain.len() as u64, Hash::of(&plain));
                let mut header = me.header(core.subject(cut));
                let encoding = Encoding::Plain;
                header.body = Some(BodyInfo { len, sha256, plain_len: len, plain_sha256: sha256, encoding });
                let (mut object, hash) = encode_header(&header, me.key()).map_err(told)?;
                object.extend_from_slice(&plain);
                let at = core.sent(cut, hash);
                let created = world.store.put(&access.key(at), &object.into()).ok_or("hidden")?;
                if created == Created::Exists {
                    return Ok((cut.start.0 - START, step));
                }
                core.answered(cut.start, crate::log::writer::ChunkAnswer::Stored { at: None });
                taker.tail_answered(SealAnswer::Foreign);
            }
            TakerWish::Won(taken) => return Ok((taken.sealed.0 - START, step)),
        }
        if core.next().0 > START + 100 * SEGMENT {
            return Ok((core.next().0 - START, step));
        }
    }
    Err("without end".into())
}

/// The first seed in which the writer is not stopped in time.
pub(super) fn never_stopped(mutant: Option<Mutant>, seeds: u64) -> Option<(u64, Wrong)> {
    (0..seeds).find_map(|seed| {
        leave_out(mutant);
        known::begin();
        let (written, step) = written(seed).unwrap();
        leave_out(None);
        let what = format!("no takeover in time: the writer wrote {written} bytes, of segments of {SEGMENT}");
        (written > WITHIN * SEGMENT).then_some((seed, Wrong { step, what }))
    })
}

#[test]
fn a_takeover_ends_against_a_writer_that_is_always_faster() {
    let never = never_stopped(None, 500);
    assert!(never.is_none(), "seed {:?}", never.map(|(seed, _)| seed));
}
