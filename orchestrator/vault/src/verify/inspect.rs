//! One object: read, its signature and digests checked, opened, its lock read.

use std::sync::Arc;

use jiff::Timestamp;

use crate::catalogue::ListedKey;
use crate::fetch::retrying;
use crate::object::{Decoded, Encoding, ObjectError, decode_stored, decode_stored_header, header_block_len};
use crate::seal::{Identities, prove};
use crate::store::{Object, Retention, Store, StoreError, StoreErrorKind};

/// Bytes that hold nearly every header.
const FRONT: u64 = 4096;

/// How to look at an object.
#[derive(Clone)]
pub(super) struct Look {
    pub(super) store: Arc<dyn Store>,
    pub(super) identities: Option<Identities>,
    /// Read the whole body, not the header alone.
    pub(super) whole: bool,
    /// Read its retention.
    pub(super) lock: bool,
}

/// What was seen of an object.
pub(super) struct Seen {
    pub(super) listed: ListedKey,
    /// It was listed, and gone when it was asked for: its lock had ended and the janitor came by.
    pub(super) gone: bool,
    /// Its header, when all that was looked at holds.
    pub(super) decoded: Result<Decoded, ObjectError>,
    /// Its retention, when that was asked for and may be read.
    pub(super) lock: Option<Option<Retention>>,
    pub(super) whole: bool,
    pub(super) opened: bool,
    pub(super) bytes: u64,
    pub(super) requests: u64,
}

/// Looks at the oldest version of a key. What is wrong with the object is in the result.
pub(super) async fn inspect(look: Look, listed: ListedKey) -> Result<Seen, StoreError> {
    let mut seen = Seen {
        decoded: Err(ObjectError::Truncated { have: 0, need: 1 }),
        lock: None,
        whole: look.whole,
        opened: false,
        bytes: 0,
        requests: 0,
        gone: false,
        listed,
    };
    let Some(version) = seen.listed.version.clone() else { return Ok(seen) };
    // What a newer version hides has no other way to be read.
    if !look.whole && !seen.listed.tampered() && header(&look, &mut seen).await? {
        return Ok(seen);
    }
    seen.requests += 1;
    let object = retrying(|| look.store.get_version(&seen.listed.key, &version)).await?;
    let Some(object) = object else {
        seen.gone = true;
        return Ok(seen);
    };
    (seen.whole, seen.bytes) = (true, seen.bytes + object.bytes.len() as u64);
    if look.lock {
        seen.lock = match object.lock.clone().filter(|lock| holds(lock, look.store.now())) {
            Some(lock) => Some(Some(lock)),
            None => {
                seen.requests += 1;
                lock(&*look.store, &seen.listed.key, &version).await?
            }
        };
    }
    let identities = look.identities;
    let job = tokio::task::spawn_blocking(move || check(&object, identities.as_ref()));
    let gone = ObjectError::Open { reason: "the checking thread ended".into() };
    (seen.decoded, seen.opened) = job.await.unwrap_or((Err(gone), false));
    Ok(seen)
}

/// The header alone; false when it is longer than its usual front.
async fn header(look: &Look, seen: &mut Seen) -> Result<bool, StoreError> {
    seen.requests += 1;
    let object = retrying(|| look.store.get_front(&seen.listed.key, FRONT)).await?;
    let Some(object) = object else {
        seen.gone = true;
        return Ok(true);
    };
    seen.bytes += object.bytes.len() as u64;
    let whole = object.bytes.len() as u64 >= object.total_len;
    if !whole && header_block_len(&object.bytes).is_ok_and(|len| len > object.bytes.len()) {
        return Ok(false);
    }
    seen.decoded = decode_stored_header(&object).and_then(|decoded| {
        let body = decoded.header.body.as_ref().map_or(0, |body| body.len);
        let need = decoded.body_at as u64 + body;
        match object.total_len.cmp(&need) {
            std::cmp::Ordering::Less => Err(ObjectError::Truncated { have: object.total_len, need }),
            std::cmp::Ordering::Equal => Ok(decoded),
            std::cmp::Ordering::Greater => Err(ObjectError::Body),
        }
    });
    Ok(true)
}

fn check(object: &Object, identities: Option<&Identities>) -> (Result<Decoded, ObjectError>, bool) {
    let (decoded, body) = match decode_stored(object) {
        Ok(decoded) => decoded,
        Err(error) => return (Err(error), false),
    };
    let sealed = decoded.header.body.filter(|info| info.encoding == Encoding::AgeZstd);
    match (sealed, identities) {
        (Some(info), Some(identities)) => match prove(&info, &body, identities) {
            Ok(()) => (Ok(decoded), true),
            Err(error) => (Err(error), false),
        },
        _ => (Ok(decoded), false),
    }
}

/// Whether a lock that came with its object needs no second look, which saves a request for nearly every object. The answer
/// to a GET may tell of a lock as it was set first.
fn holds(lock: &Retention, now: Option<Timestamp>) -> bool {
    lock.compliance && now.is_some_and(|now| lock.until > now)
}

/// The retention of a version; none when these credentials may not ask.
async fn lock(store: &dyn Store, key: &str, version: &str) -> Result<Option<Option<Retention>>, StoreError> {
    match retrying(|| store.retention(key, version)).await {
        Ok(retention) => Ok(Some(retention)),
        Err(error) if error.kind == StoreErrorKind::Denied => Ok(None),
        Err(error) => Err(error),
    }
}
