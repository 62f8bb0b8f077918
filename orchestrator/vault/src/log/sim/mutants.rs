//! Every rule left out is found.

use super::*;

/// More than enough for each: the table says how many it took.
const SEEDS: u64 = 20_000;

/// Those that are found by what happens in a world. That a chunk never crosses a boundary is for progress: see there. Not
/// found in so many seeds, and so not shown: `LineageIsSite`, `ReplayedCut`, `PromoteAtOther` and `NoAgeLimit`, which need
/// longer stories than these worlds tell.
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
];

/// Only where chunks of no chain vanish do these do harm: the worlds in which they do not are left out.
fn only_hostile(mutant: Mutant) -> bool {
    matches!(mutant, Mutant::SleepingWriter)
}

#[test]
fn every_rule_left_out_is_found() {
    let mut missed = Vec::new();
    for mutant in MUTANTS {
        let found = (0..SEEDS).find_map(|n| {
            let seed = if only_hostile(*mutant) { 4 * n + 3 } else { n };
            Some((n, run(seed, Some(*mutant)).1.err()?))
        });
        match found {
            Some((seed, error)) => println!("{mutant:?}: found after {} seeds, {error}", seed + 1),
            None => missed.push(mutant),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
