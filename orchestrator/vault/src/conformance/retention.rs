//! How the lock of a version may change: it can grow, and nothing else.

use std::time::Duration;

use super::attempt::{Cx, Stored, Tried, holds, needed, untried, wrong};
use super::lock::lock_of;
use crate::store::{Put, Reply, Retention};

super::declare! { Retention:
    "retention-cannot-be-shortened" Refused full shortened
        "whoever stole the credentials would end every lock now"
    "compliance-cannot-become-governance" Refused full downgraded
        "a downgraded lock can be bypassed"
    "retention-cannot-be-removed" Refused full removed
        "an empty retention is the shortest way to no lock"
    "retention-can-be-extended" Refused full extended
        "what a kept backup needs, and everything when an attack is suspected, is locked longer"
    "extended-lock-holds" Refused full extended_holds
        "an extension that is only noted down ends with the first lock"
    "newest-extension-counts" Limit full newest_extension
        "archivers and a hold may extend the same lock at the same time; the later end must stay"
    "head-tells-the-lock" Limit full head_tells
        "people and tools look at the lock by HEAD; Holdfast asks for the retention itself"
}

/// That these credentials may set a retention at all: a refusal before is the lock's only then.
async fn may_extend(cx: &Cx, stored: &Stored) -> Tried {
    let longer = Retention { compliance: true, until: stored.until + Duration::from_secs(10) };
    let reply = cx.ask(|| cx.raw().retain(&stored.key, &stored.id, Some(&longer), false)).await?;
    match reply.said {
        Ok(()) => Ok(()),
        Err(refusal) => untried(format!("these credentials may not set a retention at all ({refusal})")),
    }
}

/// Tries to weaken a lock; judged by what is read back.
async fn weakened(cx: &Cx, to: impl Fn(&Stored) -> Option<Retention>, what: &str) -> Tried {
    let stored = cx.stored("k", "locked").await?;
    let before = lock_of(cx, &stored).await?;
    let to = to(&stored);
    let reply: Reply<()> = cx.ask(|| cx.raw().retain(&stored.key, &stored.id, to.as_ref(), true)).await?;
    let after = cx.retention(&stored).await?;
    let held = after.as_ref().is_some_and(|after| after.compliance && after.until >= before.until);
    holds(held, || match &after {
        Some(after) => format!("{what}: {:?} became {after:?}", before),
        None => format!("{what}: the lock is gone"),
    })?;
    match reply.said {
        Ok(()) => Ok(()),
        Err(_) => may_extend(cx, &stored).await,
    }
}

async fn shortened(cx: &Cx) -> Tried {
    let sooner = cx.now() + Duration::from_secs(30);
    weakened(cx, |_| Some(Retention { compliance: true, until: sooner }), "an earlier end").await
}

async fn downgraded(cx: &Cx) -> Tried {
    let governance = |stored: &Stored| Some(Retention { compliance: false, until: stored.until });
    weakened(cx, governance, "GOVERNANCE instead of COMPLIANCE").await
}

async fn removed(cx: &Cx) -> Tried {
    weakened(cx, |_| None, "no retention").await
}

async fn extended(cx: &Cx) -> Tried {
    let stored = cx.stored("k", "locked").await?;
    let longer = Retention { compliance: true, until: stored.until + Duration::from_secs(10) };
    let reply = cx.ask(|| cx.raw().retain(&stored.key, &stored.id, Some(&longer), false)).await?;
    needed("set a later end of a lock", reply)?;
    let lock = lock_of(cx, &stored).await?;
    holds(lock.compliance && lock.until >= longer.until, || {
        format!("asked for until {:.0}, the lock ends at {}", longer.until, lock.until)
    })
}

async fn extended_holds(cx: &Cx) -> Tried {
    cx.may_delete().await?;
    let put = Put { until: Some(cx.briefly_locked()), ..cx.create_of("locked for a moment") };
    let mut stored = cx.stored_as("k", put).await?;
    let (first, longer) = (stored.until, Retention { compliance: true, until: cx.now() + Duration::from_secs(60) });
    let reply = cx.ask(|| cx.raw().retain(&stored.key, &stored.id, Some(&longer), false)).await?;
    needed("set a later end of a lock", reply)?;
    stored.until = longer.until;
    cx.wait_until(first).await?;
    let reply = cx.ask(|| cx.raw().delete(&stored.key, Some(&stored.id), false)).await?;
    cx.withstood(&stored, "a deletion after the first end of an extended lock", &reply).await
}

async fn newest_extension(cx: &Cx) -> Tried {
    let stored = cx.stored("k", "locked").await?;
    let ends: Vec<_> = (1..=4).map(|n| stored.until + Duration::from_secs(n)).collect();
    let extend = |until: jiff::Timestamp| {
        let (to, stored) = (Retention { compliance: true, until }, &stored);
        async move { cx.ask(|| cx.raw().retain(&stored.key, &stored.id, Some(&to), false)).await }
    };
    // Some come too late and are refused as a shortening: the longest must win.
    let replies = futures::future::join_all(ends.iter().copied().map(extend)).await;
    let mut any = false;
    for reply in replies {
        any |= reply?.said.is_ok();
    }
    if !any {
        return untried("these credentials may not set a retention at all");
    }
    let lock = lock_of(cx, &stored).await?;
    let last = ends[ends.len() - 1];
    holds(lock.until >= last, || format!("four extensions at once, the last until {last:.0}, left {}", lock.until))
}

async fn head_tells(cx: &Cx) -> Tried {
    let stored = cx.stored("k", "locked").await?;
    let reply = cx.ask(|| cx.raw().head(&stored.key, Some(&stored.id))).await?;
    let head = needed("ask for an object's headers", reply)?;
    let until = head.object_lock_retain_until_date().copied().and_then(crate::store::seconds);
    if until.is_none() {
        return wrong("HEAD tells no lock");
    }
    let lock = lock_of(cx, &stored).await?;
    holds(until == Some(lock.until), || format!("HEAD tells {until:?}, the retention {}", lock.until))
}
