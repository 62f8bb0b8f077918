//! The store's clock. Locks are computed from it, and what counts as recent is judged by it.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::attempt::{Cx, Stored, Tried, holds, needed, wrong};
use crate::check::in_sync;
use crate::store::{Get, Retention};

/// How far the clocks of a store's parts, which keep whole seconds, may be apart.
const TOLERANCE: Duration = Duration::from_secs(5);

super::declare! { Time:
    "answers-carry-a-date" Refused essential carry_a_date
        "retentions are computed from the store's clock, so that a wrong local one cannot shorten them"
    "store-clock-runs-forward" Refused essential runs_forward
        "a clock that jumps back makes the next lock too short; what counts as recent is judged by it too"
    "store-clock-is-near-ours" Limit full near_ours
        "locks are right all the same; most stores refuse every request once the clocks are 15 minutes apart"
    "last-modified-is-when-it-was-stored" Refused essential when_stored
        "the age of a seal, and whether a revoked writer stored something before its end, is told by Last-Modified"
    "last-modified-stays" Refused full stays
        "an object that seems young for ever never expires, and a revoked writer's objects come back"
    "last-modified-survives-an-extension" Limit full survives_an_extension
        "a hold extends every lock; where that makes objects look new, a key that is revoked from a time before the hold takes its good objects with it"
    "last-modified-is-the-same-in-lists" Refused essential same_in_lists
        "a janitor and a scrub take the time from listings, readers from GET"
    "overwriting-keeps-the-older-time" Refused full keeps_the_older
        "a newer version put by an attacker must not change the time of the oldest"
}

async fn carry_a_date(cx: &Cx) -> Tried {
    let stored = cx.stored("k", "dated").await?;
    let got = cx.ask(|| cx.raw().get(&stored.key, Get::default())).await?.at;
    let key = cx.key("nothing");
    let absent = cx.ask(|| cx.raw().get(&key, Get::default())).await?.at;
    for (at, answer) in [(stored.at, "to a PUT"), (got, "to a GET"), (absent, "of 404")] {
        holds(at.is_some(), || format!("the answer {answer} carries no Date"))?;
    }
    Ok(())
}

async fn runs_forward(cx: &Cx) -> Tried {
    // A key at which nothing stands: a store whose clock jumps may refuse everything as signed at a wrong time.
    let key = cx.key("nothing");
    let (began, mut first, mut last) = (Instant::now(), None::<Timestamp>, None::<Timestamp>);
    for _ in 0..16 {
        let Some(date) = cx.ask(|| cx.raw().head(&key, None)).await?.at else {
            return wrong("an answer carries no Date");
        };
        let (start, before) = (*first.get_or_insert(date), last.unwrap_or(date));
        holds(date + TOLERANCE >= before, || format!("a Date of {date} came after one of {before}"))?;
        holds(date <= start + began.elapsed() + TOLERANCE, || {
            format!("the Date went from {start} to {date} within {:?}", began.elapsed())
        })?;
        last = Some(date);
    }
    Ok(())
}

async fn near_ours(cx: &Cx) -> Tried {
    let stored = cx.stored("k", "dated").await?;
    let Some(date) = cx.ask(|| cx.raw().head(&stored.key, None)).await?.at else {
        return wrong("the answer carries no Date");
    };
    let skew = date.as_second() - Timestamp::now().as_second();
    holds(in_sync(skew), || format!("the store's clock is {skew} s from this machine's"))
}

/// Last-Modified of a version, which must be there.
async fn modified(cx: &Cx, stored: &Stored) -> Tried<Timestamp> {
    match cx.read_version(&stored.key, &stored.id).await?.modified {
        Some(at) => Ok(at),
        None => wrong("the answer has no Last-Modified"),
    }
}

async fn when_stored(cx: &Cx) -> Tried {
    let began = Instant::now();
    let stored = cx.stored("k", "dated").await?;
    let Some(date) = stored.at else { return wrong("the answer to a PUT carries no Date") };
    let at = modified(cx, &stored).await?;
    let earliest = date - began.elapsed() - TOLERANCE;
    holds((earliest..=date + TOLERANCE).contains(&at), || {
        format!("the answer to a PUT was of {date}, and Last-Modified is {at}")
    })
}

async fn stays(cx: &Cx) -> Tried {
    let stored = cx.stored("k", "dated").await?;
    let first = modified(cx, &stored).await?;
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let second = modified(cx, &stored).await?;
    holds(first == second, || format!("Last-Modified was {first}, and two seconds later {second}"))
}

async fn survives_an_extension(cx: &Cx) -> Tried {
    let stored = cx.stored("k", "dated").await?;
    let before = modified(cx, &stored).await?;
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let longer = Retention { compliance: true, until: stored.until + Duration::from_secs(5) };
    let reply = cx.ask(|| cx.raw().retain(&stored.key, &stored.id, Some(&longer), false)).await?;
    needed("set a later end of a lock", reply)?;
    let after = modified(cx, &stored).await?;
    holds(before == after, || format!("Last-Modified was {before}, and after an extension {after}"))
}

async fn same_in_lists(cx: &Cx) -> Tried {
    let stored = cx.stored("k", "dated").await?;
    let at = modified(cx, &stored).await?;
    let look = || async {
        let versions = cx.versions(&stored.key).await?;
        let listed = versions.iter().find(|version| version.id == stored.id).and_then(|v| v.last_modified);
        // Whole seconds here, finer ones there: rounding may be either way.
        let same = listed.is_some_and(|listed| (listed.as_second() - at.as_second()).abs() <= 1);
        holds(same, || format!("GET tells {at}, the listing of versions {listed:?}"))
    };
    cx.settled(look).await
}

async fn keeps_the_older(cx: &Cx) -> Tried {
    let stored = cx.stored("k", "the older").await?;
    let before = modified(cx, &stored).await?;
    tokio::time::sleep(Duration::from_millis(2100)).await;
    cx.overwritten(&stored.key, "the newer").await?;
    let after = modified(cx, &stored).await?;
    holds(before == after, || format!("Last-Modified of the older version was {before}, and is now {after}"))
}
