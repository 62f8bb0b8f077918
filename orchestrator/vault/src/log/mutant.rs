//! Rules left out one at a time, so that the simulation can show that it finds each. Only tests can switch one on.

/// A rule left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(test), allow(dead_code, reason = "some stand in the simulation's own actors"))]
pub(crate) enum Mutant {
    /// 412 counts as stored, whatever stands there.
    FlushOnExists,
    /// What stands at a key is one's own when it says the same, whoever made it.
    IdentityWithoutNonce,
    /// A chunk whose answer is lost is cut anew, and is one's own by its nonce.
    RecutOnRetry,
    /// A seal is put at the end of what a listing shows.
    SealAtListed,
    /// The key of a chunk holds its end: a seal at its start does not collide with it.
    EndInKey,
    /// A reader goes on in an epoch that a seal has ended.
    ReadPastSeal,
    /// A claim names the tail that was read first, not the one where it landed.
    ClaimApartFromFence,
    /// A restarted writer goes on in the epoch of the one before it.
    RestartWithoutSeal,
    /// A writer claims whatever the lineage.
    ClaimAnyLineage,
    /// A server is not compared with what is stored before it writes on.
    NoOverlap,
    /// The lineage is the site: two histories of one site are the same.
    LineageIsSite,
    /// A standby opens on its takeover alone.
    NoPromote,
    /// The end of the last stored chunk counts, whatever lies before it.
    FlushOverHole,
    /// Every claim after a local timeline switch names the branch point.
    BranchNamedAgain,
    /// A delete marker is taken for absence.
    MarkerIsAbsence,
    /// A standby that received what was cut later goes on, and is promoted.
    ReplayedCut,
    /// A seal put ahead counts when it is stored.
    AheadCounts,
    /// A walk begins at a seal put ahead.
    BeginAtAhead,
    /// A walk begins at any chunk.
    BeginAtChunk,
    /// A promote goes to the taker's other seal.
    PromoteAtOther,
    /// A chunk crosses a segment boundary.
    CrossBoundary,
    /// A writer counts answers however old its claim is.
    SleepingWriter,
    /// A claim that is stored counts without a walk.
    SleepingClaimant,
    /// A takeover that is met on a walk begun long ago counts.
    SleepingPromoter,
    /// A reader that slept goes on where it was.
    SleepingReader,
    /// A seal goes where a walk came to that slept on its way.
    SleepingWalk,
    /// A walk begins at an old index: the newest that a listing shows.
    OldIndex,
    /// Chunks are deleted before an index covers them.
    LateIndex,
    /// Chunks that no index covers are built on however old they are.
    NoAgeLimit,
}

#[cfg(test)]
thread_local! {
    static ON: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Whether this rule is left out. Never outside of tests.
#[inline]
pub(crate) fn on(mutant: Mutant) -> bool {
    #[cfg(test)]
    return ON.get() == Some(mutant);
    #[cfg(not(test))]
    {
        let _ = mutant;
        false
    }
}

/// Leaves one rule out on this thread, or none.
#[cfg(test)]
pub(crate) fn leave_out(mutant: Option<Mutant>) {
    ON.set(mutant);
}
