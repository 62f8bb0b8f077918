//! What is set for a bucket as a whole.

use jiff::{SignedDuration, Timestamp};
use s3s::dto;

use crate::lock::Retention;

/// A bucket's settings.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    /// None: never set.
    pub(crate) versioning: Option<bool>,
    pub(crate) object_lock: bool,
    /// COMPLIANCE or not, and for how many days.
    pub(crate) default: Option<(bool, i32)>,
    pub(crate) lifecycle: Option<Vec<dto::LifecycleRule>>,
    pub(crate) policy: Option<String>,
}

impl Settings {
    pub(crate) fn locked() -> Settings {
        Settings { versioning: Some(true), object_lock: true, ..Settings::default() }
    }

    pub(crate) fn versioning_enabled(&self) -> bool {
        self.versioning == Some(true)
    }

    pub(crate) fn never_versioned(&self) -> bool {
        self.versioning.is_none()
    }

    pub(crate) fn default_retention(&self, now: Timestamp) -> Option<Retention> {
        let (compliance, days) = self.default?;
        let until = now.checked_add(SignedDuration::from_hours(24 * i64::from(days))).ok()?;
        Some(Retention { compliance, until })
    }
}
