//! Object Lock: what is locked stays, whoever asks.

use super::attempt::{Cx, Stored, Tried, holds, needed, refused, untried, wrong};
use crate::store::{Put, Retention};

pub(super) const ENABLED: &str = "object-lock-is-enabled";

super::declare! { Lock:
    "object-lock-is-enabled" Refused essential is_enabled
        "a bucket without Object Lock accepts no retention"
    "lock-is-stored" Refused essential is_stored
        "a lock that is accepted and dropped leaves everything open to whoever stole the credentials"
    "lock-is-in-compliance-mode" Refused essential is_compliance
        "GOVERNANCE can be lifted by an administrator, and so by whoever stole his keys"
    "lock-ends-no-sooner-than-asked" Refused essential no_sooner
        "what is needed to recover must not come free early"
    "locked-version-cannot-be-deleted" Refused full cannot_be_deleted
        "this is what a vault is"
    "locked-version-cannot-be-deleted-in-a-batch" Refused full cannot_be_deleted_in_a_batch
        "the batch is a code path of its own, and the one that an attacker takes"
    "bypass-does-not-lift-compliance" Refused full bypass
        "the header that lifts GOVERNANCE is in reach of every administrator"
    "lock-survives-a-newer-version" Refused essential survives_a_newer_version
        "anybody who may write may put a newer version on top"
    "lock-survives-a-marker" Refused full survives_a_marker
        "hiding a key must not make its versions deletable"
    "lock-is-that-of-the-version" Refused essential of_the_version
        "a scrub and a hold ask for the lock of one version, and act on the answer"
    "lock-that-ended-lets-delete" Limit full lets_delete
        "what has expired is deleted by a janitor; where that cannot be, storage only grows"
    "governance-holds-without-bypass" Limit full governance
        "Holdfast locks in COMPLIANCE mode; a store that ignores GOVERNANCE takes locks lightly"
    "lock-holds-on-a-multipart-upload" Limit full multipart
        "Holdfast stores by plain PUTs only; what other tools upload in parts would be open"
    "lock-holds-on-a-copy" Limit full copy
        "Holdfast never copies within a store; what other tools copy would be open"
    "lock-in-the-past-is-refused" Limit full in_the_past
        "a lock that is over before it begins is a mistake that a store should name"
    "lock-without-an-end-is-refused" Limit full without_an_end
        "a mode without an end is a mistake that a store should name"
    "lock-of-unknown-mode-is-refused" Limit full unknown_mode
        "a mode that the store does not know is a mistake that it should name"
    "unlocked-version-is-told-apart" Limit full unlocked
        "a scrub reports a version without a lock, and must not take an error for one"
}

async fn is_enabled(cx: &Cx) -> Tried {
    holds(cx.facts().object_lock, || "the bucket has no Object Lock".to_owned())
}

/// The lock of a version, which must be there.
pub(super) async fn lock_of(cx: &Cx, stored: &Stored) -> Tried<Retention> {
    match cx.retention(stored).await? {
        Some(lock) => Ok(lock),
        None => wrong("the version has no retention"),
    }
}

async fn is_stored(cx: &Cx) -> Tried {
    let stored = cx.stored("k", "locked").await?;
    lock_of(cx, &stored).await.map(|_| ())
}

async fn is_compliance(cx: &Cx) -> Tried {
    let stored = cx.stored("k", "locked").await?;
    let lock = lock_of(cx, &stored).await?;
    holds(lock.compliance, || "the retention read back is in GOVERNANCE mode".to_owned())
}

async fn no_sooner(cx: &Cx) -> Tried {
    let stored = cx.stored("k", "locked").await?;
    let lock = lock_of(cx, &stored).await?;
    holds(lock.until >= stored.until, || {
        format!("asked for until {:.0}, the lock ends at {}", stored.until, lock.until)
    })
}

async fn cannot_be_deleted(cx: &Cx) -> Tried {
    cx.may_delete().await?;
    let stored = cx.stored("k", "locked").await?;
    let reply = cx.ask(|| cx.raw().delete(&stored.key, Some(&stored.id), false)).await?;
    cx.withstood(&stored, "a deletion", &reply).await
}

async fn cannot_be_deleted_in_a_batch(cx: &Cx) -> Tried {
    cx.may_delete_batch().await?;
    let stored = cx.stored("k", "locked").await?;
    let reply = cx.ask(|| cx.raw().delete_batch(&stored.key, &stored.id)).await?;
    cx.withstood(&stored, "a deletion in a batch", &reply).await
}

async fn bypass(cx: &Cx) -> Tried {
    cx.may_bypass().await?;
    let stored = cx.stored("k", "locked").await?;
    let reply = cx.ask(|| cx.raw().delete(&stored.key, Some(&stored.id), true)).await?;
    cx.withstood(&stored, "a deletion that bypasses GOVERNANCE", &reply).await
}

async fn survives_a_newer_version(cx: &Cx) -> Tried {
    let stored = cx.stored("k", "locked").await?;
    let before = lock_of(cx, &stored).await?;
    cx.overwritten(&stored.key, "newer").await?;
    match cx.retention(&stored).await? {
        Some(after) if after.compliance == before.compliance && after.until >= before.until => Ok(()),
        Some(after) => {
            wrong(format!("under a newer version the lock ends at {} instead of {}", after.until, before.until))
        }
        None => wrong("under a newer version the lock is gone"),
    }
}

async fn survives_a_marker(cx: &Cx) -> Tried {
    cx.may_delete().await?;
    let stored = cx.stored("k", "locked").await?;
    cx.hidden(&stored.key).await?;
    let reply = cx.ask(|| cx.raw().delete(&stored.key, Some(&stored.id), false)).await?;
    cx.withstood(&stored, "a deletion behind a delete marker", &reply).await
}

async fn of_the_version(cx: &Cx) -> Tried {
    let put = cx.create_of("the older");
    let earlier = Put { until: Some(cx.now() + std::time::Duration::from_secs(60)), ..put };
    let stored = cx.stored_as("k", earlier).await?;
    let own = lock_of(cx, &stored).await?.until;
    cx.overwritten(&stored.key, "the newer, locked longer").await?;
    let told = lock_of(cx, &stored).await?.until;
    holds(told == own, || {
        format!("the older version's lock ends at {own}, and is told as {told} once there is a newer one")
    })
}

async fn lets_delete(cx: &Cx) -> Tried {
    cx.may_delete().await?;
    let put = Put { until: Some(cx.briefly_locked()), ..cx.create_of("locked for a moment") };
    let stored = cx.stored_as("k", put).await?;
    cx.wait_until(lock_of(cx, &stored).await?.until).await?;
    let reply = cx.ask(|| cx.raw().delete(&stored.key, Some(&stored.id), false)).await?;
    if let Err(refusal) = reply.said {
        return wrong(format!("a second after the end of its lock a version cannot be deleted ({refusal})"));
    }
    let gone = cx.versions(&stored.key).await?.iter().all(|version| version.id != stored.id);
    holds(gone, || "the deletion was agreed to, and the version is still listed".to_owned())
}

async fn governance(cx: &Cx) -> Tried {
    cx.may_delete().await?;
    let put = Put { mode: Some("GOVERNANCE"), ..cx.create_of("locked in GOVERNANCE mode") };
    let stored = cx.stored_as("k", put).await?;
    let reply = cx.ask(|| cx.raw().delete(&stored.key, Some(&stored.id), false)).await?;
    cx.withstood(&stored, "a deletion under GOVERNANCE", &reply).await
}

async fn multipart(cx: &Cx) -> Tried {
    let (key, until, body) = (cx.key("k"), cx.locked(), bytes::Bytes::from_static(b"uploaded in one part"));
    let upload = needed("begin an upload in parts", cx.ask(|| cx.raw().begin_upload(&key, until)).await?)?;
    let tag = needed("upload a part", cx.ask(|| cx.raw().upload_part(&key, &upload, &body)).await?)?;
    needed("complete an upload", cx.ask(|| cx.raw().complete_upload(&key, &upload, &tag, false)).await?)?;
    locked_until(cx, key, until).await
}

async fn copy(cx: &Cx) -> Tried {
    let source = cx.stored("source", "to be copied").await?;
    let (key, until) = (cx.key("copy"), cx.locked());
    needed("copy an object", cx.ask(|| cx.raw().copy(&source.key, &key, until)).await?)?;
    locked_until(cx, key, until).await
}

/// The newest version of a key is locked until then.
async fn locked_until(cx: &Cx, key: String, until: jiff::Timestamp) -> Tried {
    let id = cx.oldest(&key).await?.id;
    let stored = Stored { key, id, body: bytes::Bytes::new(), until, at: None };
    let lock = lock_of(cx, &stored).await?;
    // A copy's header tells whole seconds.
    holds(lock.compliance && lock.until.as_second() >= until.as_second(), || {
        format!("the lock is {lock:?}, asked for until {until:.0}")
    })
}

/// Sends a PUT whose lock makes no sense, which must be refused.
async fn nonsense(cx: &Cx, change: impl Fn(Put) -> Put, what: &str) -> Tried {
    if let Some(default) = cx.default_retention().await? {
        // What is accepted without its lock would be locked so long.
        return untried(format!("the bucket's default retention would lock the object for {default}"));
    }
    let (key, put) = (cx.key("k"), change(cx.create_of("locked in a way that makes no sense")));
    refused(what, cx.ask(|| cx.raw().put(&key, &put)).await?).map(|_| ())
}

async fn in_the_past(cx: &Cx) -> Tried {
    let past = cx.now() - std::time::Duration::from_secs(24 * 60 * 60);
    nonsense(cx, |put| Put { until: Some(past), ..put }, "lock an object until yesterday").await
}

async fn without_an_end(cx: &Cx) -> Tried {
    nonsense(cx, |put| Put { until: None, ..put }, "lock an object without an end").await
}

async fn unknown_mode(cx: &Cx) -> Tried {
    nonsense(cx, |put| Put { mode: Some("CUSTODY"), ..put }, "lock an object in a mode that does not exist").await
}

async fn unlocked(cx: &Cx) -> Tried {
    if let Some(default) = cx.default_retention().await? {
        return untried(format!("the bucket's default retention would lock the object for {default}"));
    }
    let put = Put { mode: None, until: None, ..cx.create_of("not locked") };
    let stored = cx.stored_as("k", put).await?;
    match cx.retention(&stored).await? {
        None => Ok(()),
        Some(lock) => wrong(format!("a version stored without a lock is told to be locked until {}", lock.until)),
    }
}
