//! Object Lock: who may delete what, and how a retention may change.

use jiff::{SignedDuration, Timestamp};
use s3s::{S3Result, s3_error};

use crate::bucket::{Delete, Version, World};
use crate::fault::Fault;

/// How and until when a version is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Retention {
    pub(crate) compliance: bool,
    pub(crate) until: Timestamp,
}

/// A version that somebody wants to delete or to lock otherwise.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    pub(crate) version: &'a Version,
    pub(crate) now: Timestamp,
}

impl Held<'_> {
    /// The retention, while it lasts.
    fn retention(&self) -> Option<Retention> {
        self.version.retention.filter(|retention| retention.until > self.now)
    }

    /// Whether the version may be deleted.
    pub(crate) fn may_delete(&self, how: Delete, world: &World) -> S3Result<()> {
        let denied = || Err(s3_error!(AccessDenied, "Access Denied because object protected by object lock."));
        if self.version.hold && !world.on(Fault::LegalHoldIgnored) {
            return denied();
        }
        if self.version.retention.is_some() && world.on(Fault::LockNeverEnds) {
            return denied();
        }
        let Some(retention) = self.retention() else { return Ok(()) };
        let open = match (retention.compliance, how) {
            (_, Delete { batch: true, .. }) if world.on(Fault::LockNotEnforcedInBatch) => true,
            (true, Delete { bypass: true, .. }) => world.on(Fault::BypassLiftsCompliance),
            (true, Delete { batch: false, .. }) => world.on(Fault::LockNotEnforced),
            (false, Delete { bypass, .. }) => bypass || world.on(Fault::GovernanceIgnored),
            _ => false,
        };
        if open { Ok(()) } else { denied() }
    }

    /// What a new retention of this version comes to; `None` in it takes the lock away.
    pub(crate) fn change(&self, to: Option<Retention>, bypass: bool, world: &World) -> S3Result<Option<Retention>> {
        if to.is_some_and(|to| to.until <= self.now) {
            return Err(s3_error!(InvalidArgument, "The retain until date must be in the future!"));
        }
        let Some(present) = self.retention() else { return Ok(to) };
        let weaker = weakens(present, to);
        let allowed = match weaker {
            None => true,
            Some(_) if !present.compliance => bypass,
            Some(fault) => world.on(fault),
        };
        if !allowed {
            return Err(s3_error!(AccessDenied, "Access Denied because object protected by object lock."));
        }
        if weaker.is_none() && world.on(Fault::ExtensionIgnored) {
            return Ok(Some(present));
        }
        Ok(to)
    }
}

/// In what way a new retention is weaker than the present one.
fn weakens(present: Retention, to: Option<Retention>) -> Option<Fault> {
    match to {
        None => Some(Fault::RetentionCanBeRemoved),
        Some(to) if present.compliance && !to.compliance => Some(Fault::RetentionCanBeDowngraded),
        Some(to) if to.until < present.until => Some(Fault::RetentionCanBeShortened),
        Some(_) => None,
    }
}

/// What a PUT's lock is stored as.
pub(crate) fn stored(asked: Option<Retention>, world: &World) -> Option<Retention> {
    let asked = asked.filter(|_| !world.on(Fault::LockDropped))?;
    let compliance = asked.compliance && !world.on(Fault::LockDowngraded);
    let until = if world.on(Fault::LockShortened) { asked.until - SignedDuration::from_mins(1) } else { asked.until };
    Some(Retention { compliance, until })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn locked(compliance: bool, until: i64) -> Version {
        let retention = Some(Retention { compliance, until: at(until) });
        let (id, body) = ("1".to_owned(), Some(Bytes::new()));
        Version { id, at: at(0), body, retention, hold: false, metadata: None, seen: at(0) }
    }

    #[test]
    fn a_lock_holds_until_its_end() {
        let world = World::default();
        for (compliance, bypass, now, open) in [
            (true, false, 9, false),
            (true, true, 9, false),
            (true, false, 10, true),
            (false, false, 9, false),
            (false, true, 9, true),
        ] {
            let version = locked(compliance, 10);
            let held = Held { version: &version, now: at(now) };
            for batch in [false, true] {
                let how = Delete { bypass, batch };
                assert_eq!(held.may_delete(how, &world).is_ok(), open, "{compliance} {how:?} {now}");
            }
        }
    }

    #[test]
    fn a_compliance_lock_only_grows() {
        let (world, version) = (World::default(), locked(true, 10));
        let held = Held { version: &version, now: at(5) };
        let to = |compliance, until| Some(Retention { compliance, until: at(until) });
        for (to, bypass, allowed) in [
            (to(true, 11), false, true),
            (to(true, 10), false, true),
            (to(true, 9), true, false),
            (to(false, 11), true, false),
            (None, true, false),
            (to(true, 5), false, false),
        ] {
            assert_eq!(held.change(to, bypass, &world).is_ok(), allowed, "{to:?}");
        }
    }
}
