//! Legal holds. Holdfast sets none; people in an investigation do.

use super::attempt::{Cx, Stored, Tried, holds, needed, untried, wrong};
use super::lock::lock_of;
use crate::store::Put;

super::declare! { Hold:
    "legal-hold-is-stored" Limit full is_stored
        "people who investigate an attack put holds on what they need"
    "legal-hold-refuses-delete" Limit full refuses_delete
        "a hold that does not hold is worse than none"
    "legal-hold-by-put-is-stored" Limit full by_put
        "a hold may come with the object"
    "legal-hold-can-be-lifted" Limit full can_be_lifted
        "what is held for ever is paid for for ever"
}

async fn set(cx: &Cx, stored: &Stored, on: bool) -> Tried {
    let what = if on { "put a legal hold" } else { "lift a legal hold" };
    needed(what, cx.ask(|| cx.raw().hold(&stored.key, &stored.id, on)).await?)
}

async fn is_on(cx: &Cx, stored: &Stored) -> Tried<bool> {
    needed("read a legal hold", cx.ask(|| cx.raw().held(&stored.key, &stored.id)).await?)
}

/// An object whose lock ends soon, with a hold on it.
async fn held(cx: &Cx) -> Tried<Stored> {
    let put = Put { until: Some(cx.briefly_locked()), ..cx.create_of("held") };
    let stored = cx.stored_as("k", put).await?;
    set(cx, &stored, true).await?;
    Ok(stored)
}

async fn is_stored(cx: &Cx) -> Tried {
    let stored = held(cx).await?;
    let on = is_on(cx, &stored).await;
    set(cx, &stored, false).await?;
    holds(on?, || "a legal hold that was accepted is told to be off".to_owned())
}

async fn refuses_delete(cx: &Cx) -> Tried {
    cx.may_delete().await?;
    let stored = held(cx).await?;
    cx.wait_until(lock_of(cx, &stored).await?.until).await?;
    let reply = cx.ask(|| cx.raw().delete(&stored.key, Some(&stored.id), false)).await?;
    if reply.said.is_ok() {
        return wrong("a version under a legal hold was deleted");
    }
    set(cx, &stored, false).await?;
    match cx.ask(|| cx.raw().delete(&stored.key, Some(&stored.id), false)).await?.said {
        Ok(()) => Ok(()),
        Err(refusal) => untried(format!("without the hold the version cannot be deleted either ({refusal})")),
    }
}

async fn by_put(cx: &Cx) -> Tried {
    let put = Put { until: Some(cx.briefly_locked()), hold: true, ..cx.create_of("held from the start") };
    let stored = cx.stored_as("k", put).await?;
    let on = is_on(cx, &stored).await;
    set(cx, &stored, false).await?;
    holds(on?, || "a legal hold that came with the object is told to be off".to_owned())
}

async fn can_be_lifted(cx: &Cx) -> Tried {
    let stored = held(cx).await?;
    set(cx, &stored, false).await?;
    let on = is_on(cx, &stored).await?;
    holds(!on, || "a legal hold that was lifted is told to be on".to_owned())
}
