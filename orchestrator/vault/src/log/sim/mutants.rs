//! Every rule left out is found.

use super::story::seeds;
use super::*;

/// All of them. What is found is what happens in a world; that a chunk never crosses a boundary is for progress: see there.
const MUTANTS: &[Mutant] = &[
    Mutant::FlushOnExists,
    Mutant::IdentityWithoutNonce,
    Mutant::RecutOnRetry,
    Mutant::SealAtListed,
    Mutant::EndInKey,
    Mutant::ReadPastSeal,
    Mutant::ClaimApartFromFence,
    Mutant::RestartWithoutSeal,
    Mutant::ClaimAnyLineage,
    Mutant::NoPromote,
    Mutant::FlushOverHole,
    Mutant::BranchNamedAgain,
    Mutant::MarkerIsAbsence,
    Mutant::AheadCounts,
    Mutant::BeginAtAhead,
    Mutant::BeginAtChunk,
    Mutant::SleepingWriter,
    Mutant::SleepingClaimant,
    Mutant::SleepingPromoter,
    Mutant::SleepingReader,
    Mutant::OldIndex,
    Mutant::LateIndex,
    Mutant::SleepingWalk,
    Mutant::NoOverlap,
    Mutant::LineageIsSite,
    Mutant::ReplayedCut,
    Mutant::PromoteAtOther,
    Mutant::NoAgeLimit,
    Mutant::CrossBoundary,
];

/// Whether a world may tell of its harm. The others are left out, to find it sooner.
fn concerns(mutant: Mutant, seed: u64) -> bool {
    let (kind, expiry, hostile) = (Kind::of(seed), is_expiry(seed), seed % 4 == 3);
    match mutant {
        Mutant::NoOverlap => kind == Kind::Switching && !is_recycled(seed),
        Mutant::LineageIsSite => kind == Kind::Switching && !expiry && is_recycled(seed),
        Mutant::ReplayedCut => kind == Kind::TakingOver && !expiry,
        Mutant::SleepingWriter | Mutant::NoAgeLimit => hostile,
        Mutant::SleepingClaimant | Mutant::SleepingPromoter | Mutant::SleepingWalk | Mutant::OldIndex => {
            kind == Kind::Sleeping
        }
        _ => true,
    }
}

fn found(mutant: Mutant) -> Option<(u64, u64, Wrong)> {
    if mutant == Mutant::CrossBoundary {
        return progress::never_stopped(Some(mutant), seeds()).map(|(seed, wrong)| (seed + 1, seed, wrong));
    }
    let worlds = (0..).filter(|seed| concerns(mutant, *seed)).take(seeds() as usize);
    (1..).zip(worlds).find_map(|(n, seed)| Some((n, seed, run(seed, Some(mutant)).1.err()?)))
}

#[test]
fn every_rule_left_out_is_found() {
    let mut missed = Vec::new();
    println!("mutant | worlds | seed | step | what was violated");
    for mutant in MUTANTS {
        let began = std::time::Instant::now();
        match found(*mutant) {
            Some((n, seed, Wrong { step, what })) => {
                println!("{mutant:?} | {n} | {seed} | {step} | {what} {:?}", began.elapsed())
            }
            None => missed.push(mutant),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
