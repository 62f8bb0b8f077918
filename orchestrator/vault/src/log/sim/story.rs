//! A world from its beginning to its end, or to the first thing that is wrong, told aloud or not.

use super::*;
use crate::object::{Subject, decode_header};

/// What went wrong in a world, and in which step.
pub(super) struct Wrong {
    pub(super) step: usize,
    pub(super) what: String,
}

/// One seed, from its beginning to the first thing that is wrong.
pub(super) fn run(seed: u64, mutant: Option<Mutant>) -> (Stats, Result<(), Wrong>) {
    live(World::new(seed), mutant)
}

fn live(mut world: World, mutant: Option<Mutant>) -> (Stats, Result<(), Wrong>) {
    leave_out(mutant);
    known::begin();
    let step = |step| world.step().map_err(|what| Wrong { step, what });
    let result = (0..STEPS).try_for_each(step);
    leave_out(None);
    world.stats.cut = world.truth.cuts;
    world.stats.reclaimed = world.truth.reclaimed;
    (world.stats, result)
}

/// Tells the story of one seed, and what is wrong.
fn tell(seed: u64) -> Result<(), Wrong> {
    live(World { aloud: true, ..World::new(seed) }, None).1
}

/// An object in a line.
pub(super) fn said(bytes: &Bytes) -> String {
    let Ok(decoded) = decode_header(bytes) else { return "rubbish".into() };
    let hash = decoded.hash.to_string();
    match &decoded.header.subject {
        Subject::Chunk(chunk) => {
            let (epoch, start, end) = (chunk.epoch, chunk.start, chunk.end);
            format!("chunk {epoch} {start}..{end} #{hash:.4} after {}", links(&chunk.prev))
        }
        Subject::Seal(seal) => {
            let (kind, epoch, start, next) = (seal.seal, seal.epoch, seal.start, seal.next_start);
            let ahead = if seal.ahead { " ahead" } else { "" };
            format!("{kind} {epoch} {start}..{next}{ahead} #{hash:.4} after {}", links(&seal.prev))
        }
        Subject::Index(index) => {
            let archived = index.archived.as_ref().map(|place| place.at.to_string());
            format!("index {} at {}, archived to {archived:?}", index.n, index.place.at)
        }
        _ => "another".into(),
    }
}

fn links(prev: &[Link]) -> String {
    let link = |link: &Link| format!("{}#{:.4}", link.at, link.hash.to_string());
    prev.iter().map(link).collect::<Vec<_>>().join(", ")
}

/// How many seeds a test runs.
pub(super) fn seeds() -> u64 {
    number("HOLDFAST_SEEDS").unwrap_or(20_000)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn must_hold(seed: u64, result: Result<(), Wrong>) {
    if let Err(Wrong { step, what }) = result {
        panic!("seed {seed}, step {step}: {what}\ntell it again with HOLDFAST_SEED={seed} and --nocapture");
    }
}

#[test]
fn the_rules_hold() {
    if let Some(seed) = number("HOLDFAST_SEED") {
        return must_hold(seed, tell(seed));
    }
    let (mut total, began) = (Stats::default(), std::time::Instant::now());
    for seed in 0..seeds() {
        let (stats, result) = run(seed, None);
        must_hold(seed, result);
        total.add(&stats);
    }
    println!("{} seeds in {:?}: {total:?}", seeds(), began.elapsed());
    // A simulation in which nothing happens holds too.
    for (what, count) in total.each() {
        assert!(count > 0, "never {what}");
    }
}
