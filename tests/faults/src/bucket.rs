//! Buckets and the versions of their keys. No I/O; what is decided here is decided under one lock.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use s3s::dto::Metadata;
use s3s::{S3Result, s3_error};
use sha2::{Digest, Sha256};

use crate::clock::Clock;
use crate::fault::{Fault, Faults};
use crate::lock::{Held, Retention};
use crate::settings::Settings;
use crate::upload::Upload;

/// How long what is stale stays so.
const STALE: Duration = Duration::from_secs(3);
const BRIEFLY: Duration = Duration::from_secs(1);

/// One version of a key.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub(crate) id: String,
    /// When it was stored; whole seconds.
    pub(crate) at: Timestamp,
    /// None in a delete marker.
    pub(crate) body: Option<Bytes>,
    pub(crate) retention: Option<Retention>,
    pub(crate) hold: bool,
    pub(crate) metadata: Option<Metadata>,
    /// The exact time, for what a fault hides for a while.
    pub(crate) seen: Timestamp,
}

impl Version {
    /// An entity tag: nobody may take it for an MD5.
    pub(crate) fn etag(&self) -> String {
        let digest = Sha256::digest(self.body.as_deref().unwrap_or_default());
        let hex: String = digest[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{hex}-1")
    }

    pub(crate) fn is_marker(&self) -> bool {
        self.body.is_none()
    }
}

/// What is to be stored.
#[derive(Debug, Default)]
pub(crate) struct Put {
    pub(crate) body: Bytes,
    pub(crate) retention: Option<Retention>,
    pub(crate) hold: bool,
    pub(crate) metadata: Option<Metadata>,
    pub(crate) if_absent: bool,
}

/// A bucket.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    pub(crate) settings: Settings,
    /// Oldest version first.
    pub(crate) keys: BTreeMap<String, Vec<Version>>,
    pub(crate) uploads: BTreeMap<String, Upload>,
    /// Keys that were asked for in vain, and when.
    missed: BTreeMap<String, Timestamp>,
    counter: u64,
}

/// The clock and the switches, which every operation needs.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    pub(crate) clock: Clock,
    pub(crate) faults: Faults,
}

impl World {
    pub(crate) fn on(&self, fault: Fault) -> bool {
        self.faults.on(fault)
    }

    /// Whether something stored then is still hidden by a fault.
    fn hides(&self, fault: Fault, since: Timestamp, by: Duration) -> bool {
        self.on(fault) && self.clock.now() < since + by
    }
}

impl Bucket {
    /// An empty one.
    pub(crate) fn new(settings: Settings) -> Bucket {
        Bucket { settings, ..Bucket::default() }
    }

    /// The newest version, when it is an object.
    pub(crate) fn current(&self, key: &str) -> Option<&Version> {
        self.keys.get(key)?.last().filter(|version| !version.is_marker())
    }

    pub(crate) fn next_id(&mut self, world: &World) -> String {
        self.counter += 1;
        let versioned = self.settings.versioning_enabled() && !world.on(Fault::VersionIdsRepeat);
        if versioned { format!("v{:015x}{:04x}", self.counter, rand::random::<u16>()) } else { "null".to_owned() }
    }

    /// Whether a create-if-absent is to be refused.
    pub(crate) fn refuses_create(&self, key: &str, if_absent: bool, world: &World) -> S3Result<()> {
        if !if_absent || self.current(key).is_none() || world.on(Fault::IgnoredIfNoneMatch) {
            return Ok(());
        }
        if world.on(Fault::WrongPreconditionStatus) {
            return Err(s3_error!(InvalidRequest, "the key exists"));
        }
        Err(s3_error!(PreconditionFailed, "At least one of the pre-conditions you specified did not hold"))
    }

    /// Stores a version; gives its id.
    pub(crate) fn store(&mut self, key: &str, put: Put, world: &World) -> String {
        let now = world.clock.now();
        let id = self.next_id(world);
        let body =
            if world.on(Fault::TornWrites) { put.body.slice(..put.body.len().saturating_sub(1)) } else { put.body };
        let retention = put.retention.or_else(|| self.settings.default_retention(now));
        let (at, body, metadata) = (whole(now), Some(body), put.metadata);
        let version = Version { id, at, body, retention, hold: put.hold, metadata, seen: now };
        let id = version.id.clone();
        self.push(key, version, world);
        id
    }

    pub(crate) fn push(&mut self, key: &str, version: Version, world: &World) {
        let kept = self.settings.versioning_enabled() && !world.on(Fault::VersionsNotKept);
        let versions = self.keys.entry(key.to_owned()).or_default();
        if !kept {
            // Without versioning there is one version without an id.
            versions.retain(|old| old.id != "null" && !world.on(Fault::VersionsNotKept));
        }
        if world.on(Fault::LockLostOnOverwrite) {
            versions.iter_mut().for_each(|old| old.retention = None);
        }
        versions.push(version);
    }

    /// Finds what a read asks for: the version, and whether a delete marker hides the key.
    pub(crate) fn find(&mut self, key: &str, id: Option<&str>, world: &World) -> Found {
        let now = world.clock.now();
        if world.on(Fault::NegativeCache) && self.missed.get(key).is_some_and(|missed| now < *missed + BRIEFLY) {
            return Found::Absent;
        }
        let Some(versions) = self.keys.get(key).filter(|versions| !versions.is_empty()) else {
            self.missed.insert(key.to_owned(), now);
            return Found::Absent;
        };
        let newest = &versions[versions.len() - 1];
        let version = match id {
            Some(_) if newest.is_marker() && world.on(Fault::MarkerBlocksVersions) => return Found::Absent,
            Some(id) if !world.on(Fault::VersionIdIgnored) => versions.iter().rev().find(|version| version.id == id),
            None if world.on(Fault::MarkerIgnored) => versions.iter().rfind(|version| !version.is_marker()),
            _ => Some(newest),
        };
        match version {
            None => Found::NoSuchVersion,
            Some(version) if version.is_marker() => Found::Marker { id: version.id.clone(), named: id.is_some() },
            Some(version) if world.hides(Fault::StaleReads, version.seen, BRIEFLY) => Found::Absent,
            Some(version) => Found::Object(version.clone()),
        }
    }

    /// The version of a key that a lock operation is about.
    pub(crate) fn version_mut(&mut self, key: &str, id: Option<&str>) -> S3Result<&mut Version> {
        let versions = self.keys.get_mut(key).filter(|versions| !versions.is_empty());
        let versions = versions.ok_or_else(|| s3_error!(NoSuchKey))?;
        let version = match id {
            Some(id) => versions.iter_mut().rev().find(|version| version.id == id),
            None => versions.last_mut(),
        };
        let version = version.ok_or_else(|| s3_error!(NoSuchVersion))?;
        if version.is_marker() { Err(s3_error!(MethodNotAllowed)) } else { Ok(version) }
    }

    /// Deletes a version, or puts a delete marker.
    pub(crate) fn delete(&mut self, key: &str, id: Option<&str>, how: Delete, world: &World) -> S3Result<Deleted> {
        let Some(id) = id else { return Ok(self.hide(key, world)) };
        let Some(versions) = self.keys.get_mut(key) else { return Ok(Deleted::of(id, false)) };
        let Some(place) = versions.iter().position(|version| version.id == id) else {
            return Ok(Deleted::of(id, false));
        };
        Held { version: &versions[place], now: world.clock.now() }.may_delete(how, world)?;
        let marker = versions.remove(place).is_marker();
        if versions.is_empty() {
            self.keys.remove(key);
        }
        Ok(Deleted::of(id, marker))
    }

    fn hide(&mut self, key: &str, world: &World) -> Deleted {
        if world.on(Fault::DeleteRemoves) || self.settings.never_versioned() {
            if let Some(versions) = self.keys.get_mut(key) {
                versions.pop();
            }
            self.keys.retain(|_, versions| !versions.is_empty());
            return Deleted { id: None, marker: false };
        }
        let (id, now) = (self.next_id(world), world.clock.now());
        let (at, retention, metadata) = (whole(now), None, None);
        let marker = Version { id: id.clone(), at, body: None, retention, hold: false, metadata, seen: now };
        self.push(key, marker, world);
        Deleted { id: Some(id), marker: true }
    }

    /// What a listing sees of the keys: all of it, or what a fault lets through.
    pub(crate) fn visible<'a>(
        &'a self,
        fault: Fault,
        world: &'a World,
    ) -> impl Iterator<Item = (&'a String, Vec<&'a Version>)> {
        let stale = world.on(fault);
        let before = world.clock.now() - STALE;
        self.keys.iter().map(move |(key, versions)| {
            (key, versions.iter().filter(|version| !stale || version.seen < before).collect())
        })
    }
}

/// What a read found.
#[derive(Debug)]
pub(crate) enum Found {
    Object(Version),
    /// Hidden by a delete marker; `named`: the marker itself was asked for.
    Marker {
        id: String,
        named: bool,
    },
    NoSuchVersion,
    Absent,
}

/// How a deletion is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Delete {
    pub(crate) bypass: bool,
    pub(crate) batch: bool,
}

/// What a deletion did.
#[derive(Debug)]
pub(crate) struct Deleted {
    pub(crate) id: Option<String>,
    /// A delete marker was made, or removed.
    pub(crate) marker: bool,
}

impl Deleted {
    fn of(id: &str, marker: bool) -> Deleted {
        Deleted { id: Some(id.to_owned()), marker }
    }
}

/// S3 keeps whole seconds.
pub(crate) fn whole(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}
