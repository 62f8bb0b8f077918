//! What the server can be told to do wrong.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::RngExt;

macro_rules! faults {
    ($($variant:ident $name:literal $what:literal)*) => {
        /// Something that a store, or the network before it, does wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Fault {
            $(#[doc = $what] $variant,)*
        }

        impl Fault {
            /// Every fault there is.
            pub const ALL: &'static [FaultInfo] =
                &[$(FaultInfo { fault: Fault::$variant, name: $name, what: $what },)*];
        }
    };
}

/// A fault with its name.
#[derive(Clone, Copy, Debug)]
pub struct FaultInfo {
    /// The fault.
    pub fault: Fault,
    /// Its name on the command line.
    pub name: &'static str,
    /// What goes wrong.
    pub what: &'static str,
}

faults! {
    SlowDown "slow-down" "requests are answered with 503 SlowDown and not done"
    InternalErrors "internal-errors" "requests are answered with 500 InternalError and not done"
    LostRequests "lost-requests" "the connection is cut before the request is done"
    LostResponses "lost-responses" "the request is done and the connection cut before the answer"
    DelayedEffects "delayed-effects" "the connection is cut, and the request is done later"
    TornReads "torn-reads" "the connection is cut in the middle of an object's bytes"
    TruncatedReads "truncated-reads" "an object's last bytes are missing, and the length given is that of the rest"
    BitFlips "bit-flips" "one bit of the bytes that are read is wrong"
    StaleLists "stale-lists" "listings of keys show what was there some seconds ago"
    StaleReads "stale-reads" "an object that was just created is absent for a second"
    ExpiredCredentials "expired-credentials" "every signature is refused with ExpiredToken"
    AuthIgnored "auth-ignored" "requests without a signature, or with a wrong one, are done"
    ClockJumps "clock-jumps" "the Date of the answers jumps back and forth by an hour"
    NoDate "no-date" "answers carry no Date"
    LockNotEnforced "lock-not-enforced" "a locked version can be deleted"
    LockNotEnforcedInBatch "lock-not-enforced-in-batch" "a locked version can be deleted in a batch"
    BypassLiftsCompliance "bypass-lifts-compliance" "the header that lifts GOVERNANCE lifts COMPLIANCE too"
    LockDropped "lock-dropped" "a PUT with a lock stores the object without it"
    LockShortened "lock-shortened" "a lock ends a minute earlier than was asked for"
    LockDowngraded "lock-downgraded" "a lock asked for in COMPLIANCE mode is stored in GOVERNANCE mode"
    LockDroppedByMultipart "lock-dropped-by-multipart" "an object uploaded in parts loses its lock"
    LockDroppedByCopy "lock-dropped-by-copy" "a copied object loses its lock"
    LockLostOnOverwrite "lock-lost-on-overwrite" "a newer version takes the lock of the older one away"
    LockOnWholeKey "lock-on-whole-key" "the lock of the newest version is reported for every version of the key"
    RetentionCanBeShortened "retention-can-be-shortened" "a COMPLIANCE lock can be set to end earlier"
    RetentionCanBeDowngraded "retention-can-be-downgraded" "a COMPLIANCE lock can be turned into GOVERNANCE"
    RetentionCanBeRemoved "retention-can-be-removed" "a COMPLIANCE lock can be taken away"
    ExtensionIgnored "extension-ignored" "setting a later end of a lock is accepted and not done"
    LockNeverEnds "lock-never-ends" "a version cannot be deleted after its lock has ended"
    PastLockAccepted "past-lock-accepted" "a lock that ends in the past is accepted"
    HalfLockAccepted "half-lock-accepted" "a lock mode without an end is accepted, and nothing locked"
    LegalHoldIgnored "legal-hold-ignored" "a legal hold is accepted and does not hold"
    GovernanceIgnored "governance-ignored" "a GOVERNANCE lock does not hold"
    ChecksumNotNeeded "checksum-not-needed" "a PUT with a lock is accepted without a checksum"
    IgnoredIfNoneMatch "ignored-if-none-match" "If-None-Match is ignored"
    RacyIfNoneMatch "racy-if-none-match" "If-None-Match is looked at a moment before the object is stored"
    WrongPreconditionStatus "wrong-precondition-status" "an object that exists is reported by 400 and not by 412"
    RefusedCreateStores "refused-create-stores" "a create that is refused with 412 stores a newer version all the same"
    ChecksumIgnored "checksum-ignored" "a checksum that does not fit the body is ignored"
    RefusedChecksumStores "refused-checksum-stores" "a body that is refused for its checksum is stored all the same"
    PayloadHashIgnored "payload-hash-ignored" "a body that differs from its signed hash is accepted"
    TornWrites "torn-writes" "the last byte of a body is not stored"
    VersionsNotKept "versions-not-kept" "a PUT to a key replaces what stood there"
    VersionIdIgnored "version-id-ignored" "reading a version gives the newest one"
    VersionIdsRepeat "version-ids-repeat" "all versions of a key have the same id"
    NoVersionIds "no-version-ids" "answers to reads do not tell the version"
    VersionOrderLies "version-order-lies" "the versions of a key are listed with the oldest as the newest"
    StaleVersionLists "stale-version-lists" "listings of versions show what was there some seconds ago"
    VersionListsCut "version-lists-cut" "listings of versions show the newest version of each key alone"
    MarkerHidesVersions "marker-hides-versions" "behind a delete marker the older versions are not listed"
    MarkersNotListed "markers-not-listed" "delete markers are not listed"
    MarkerBlocksVersions "marker-blocks-versions" "behind a delete marker an older version cannot be read"
    MarkerIgnored "marker-ignored" "a delete marker does not hide the key from GET"
    SilentMarkers "silent-markers" "the 404 of a key behind a delete marker does not say so"
    DeleteRemoves "delete-removes" "a DELETE without a version removes the newest version"
    VersioningCanBeSuspended "versioning-can-be-suspended" "versioning can be suspended under Object Lock"
    LastModifiedMoves "last-modified-moves" "Last-Modified is the time of the answer"
    LastModifiedLies "last-modified-lies" "Last-Modified is a day before the object was stored"
    LastModifiedTouched "last-modified-touched" "Last-Modified becomes the time at which the lock was last changed"
    LastModifiedDiffers "last-modified-differs" "a listing of versions tells another time than GET"
    RangesIgnored "ranges-ignored" "a range is ignored and the whole object given"
    RangesShifted "ranges-shifted" "a range begins one byte too late"
    LongRangesRefused "long-ranges-refused" "a range that ends behind the object is refused"
    UnsortedLists "unsorted-lists" "keys are listed in no order"
    StartAfterIgnored "start-after-ignored" "a listing does not begin where it is told"
    ListsDropKeys "lists-drop-keys" "every page of a listing leaves out its last key"
    PrefixIgnored "prefix-ignored" "a listing shows keys that do not begin with the prefix"
    FoldersMissing "folders-missing" "a listing with a delimiter gives keys and no folders"
    HeadLies "head-lies" "HEAD tells another length than GET, and no lock"
    NegativeCache "negative-cache" "a key that was once asked for in vain stays absent for a second"
}

impl Fault {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|info| info.fault == self).map_or("", |info| info.name)
    }

    /// The fault of that name.
    pub fn by_name(name: &str) -> Option<Fault> {
        Self::ALL.iter().find(|info| info.name == name).map(|info| info.fault)
    }
}

/// How long an answer takes beyond the server's own time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Latency {
    /// Nothing.
    #[default]
    None,
    /// Always so long.
    Fixed(Duration),
    /// Anything between the two, all alike.
    Uniform(Duration, Duration),
    /// The first as a rule, the second for this share (0 to 1) of the requests.
    LongTail {
        /// As a rule.
        usual: Duration,
        /// Now and then.
        slow: Duration,
        /// How often.
        share: f64,
    },
}

#[derive(Debug, Default)]
struct Inner {
    /// How often each happens, 0 to 1; what is not here does not happen.
    rates: BTreeMap<Fault, f64>,
    latency: Latency,
}

/// The switches. Cheap to clone; all clones are one board.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<Inner>>);

impl Faults {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a fault happen at every occasion.
    pub fn set(&self, fault: Fault) {
        self.set_rate(fault, 1.0);
    }

    /// Makes a fault happen at this share (0 to 1) of its occasions.
    pub fn set_rate(&self, fault: Fault, rate: f64) {
        self.inner().rates.insert(fault, rate.clamp(0.0, 1.0));
    }

    /// Sets how long answers take.
    pub fn set_latency(&self, latency: Latency) {
        self.inner().latency = latency;
    }

    /// Ends a fault.
    pub fn clear(&self, fault: Fault) {
        self.inner().rates.remove(&fault);
    }

    /// An honest server and a quick network again.
    pub fn clear_all(&self) {
        *self.inner() = Inner::default();
    }

    /// What is switched on, with its rates.
    pub fn list(&self) -> Vec<(&'static str, f64)> {
        self.inner().rates.iter().map(|(fault, rate)| (fault.name(), *rate)).collect()
    }

    /// Whether the fault happens now.
    pub(crate) fn on(&self, fault: Fault) -> bool {
        let rate = self.inner().rates.get(&fault).copied().unwrap_or_default();
        rate > 0.0 && (rate >= 1.0 || rand::rng().random_bool(rate))
    }

    /// How long the next answer is to take.
    pub(crate) fn delay(&self) -> Duration {
        match self.inner().latency {
            Latency::None => Duration::ZERO,
            Latency::Fixed(delay) => delay,
            Latency::Uniform(least, most) => least + most.saturating_sub(least).mul_f64(rand::rng().random()),
            Latency::LongTail { usual, slow, share } => {
                if rand::rng().random_bool(share.clamp(0.0, 1.0)) {
                    slow
                } else {
                    usual
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_found_again() {
        let names: BTreeSet<_> = Fault::ALL.iter().map(|info| info.name).collect();
        assert_eq!(names.len(), Fault::ALL.len());
        for info in Fault::ALL {
            assert_eq!((Fault::by_name(info.name), info.fault.name()), (Some(info.fault), info.name));
        }
    }

    #[test]
    fn rates_hold() {
        let faults = Faults::default();
        assert!(!faults.on(Fault::SlowDown));
        faults.set_rate(Fault::SlowDown, 0.5);
        let times = (0..1000).filter(|_| faults.on(Fault::SlowDown)).count();
        assert!((350..650).contains(&times), "{times}");
        faults.clear_all();
        assert!(!faults.on(Fault::SlowDown));
    }
}
