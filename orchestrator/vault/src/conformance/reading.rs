//! GET, ranges of it, and HEAD.

use super::attempt::{Cx, Stored, Tried, holds, needed, refused, wrong};
use super::integrity::pattern;
use crate::store::{Get, Got};

super::declare! { Reading:
    "reads-agree" Refused essential agree
        "every read of an object must give the same bytes, or say that it failed"
    "read-is-whole" Refused essential whole
        "a read that is cut short without a word looks like a damaged object"
    "range-beyond-the-end-is-cut" Refused essential beyond
        "headers are read by a range that is longer than most objects"
    "range-has-the-right-bytes" Refused essential right_bytes
        "headers are read by ranges"
    "range-is-honoured" Limit full honoured
        "a store that sends the whole object for each header costs time and traffic"
    "range-tells-the-whole-length" Refused essential whole_length
        "how long an object is, is learnt from the answer to a range"
    "range-in-the-middle" Limit full middle
        "other tools read large objects in pieces"
    "range-of-a-version" Limit full of_a_version
        "the header of the oldest version, below newer ones"
    "absent-key-is-404" Refused essential absent
        "absence is the end of the log; it must not look like a failure, nor a failure like it"
    "absent-version-is-told" Limit full absent_version
        "a version that the janitor deleted is absent, and no failure"
    "head-agrees-with-get" Limit full head_agrees
        "people and tools ask by HEAD; Holdfast reads"
    "head-of-an-absent-key-is-404" Limit full head_absent
        "people and tools ask by HEAD; Holdfast reads"
}

/// An object that is read in parts.
async fn large(cx: &Cx) -> Tried<Stored> {
    cx.stored("k", pattern(100_000)).await
}

async fn part(cx: &Cx, stored: &Stored, range: &'static str) -> Tried<Got> {
    let get = || cx.raw().get(&stored.key, Get { range: Some(range), ..Get::default() });
    needed("read a range", cx.ask(get).await?)
}

async fn agree(cx: &Cx) -> Tried {
    let stored = large(cx).await?;
    for n in 1..=6 {
        let got = cx.read(&stored.key).await?;
        holds(got.bytes == stored.body, || format!("read number {n} gave other bytes than were stored"))?;
    }
    Ok(())
}

async fn whole(cx: &Cx) -> Tried {
    let stored = large(cx).await?;
    let len = cx.read(&stored.key).await?.bytes.len();
    holds(len == stored.body.len(), || format!("of {} bytes {len} came, as if that were all", stored.body.len()))
}

async fn beyond(cx: &Cx) -> Tried {
    let stored = cx.stored("k", "shorter than the range").await?;
    let got = part(cx, &stored, "bytes=0-65535").await?;
    holds(got.bytes == stored.body, || format!("of {} bytes the range gave {}", stored.body.len(), got.bytes.len()))
}

async fn right_bytes(cx: &Cx) -> Tried {
    let stored = large(cx).await?;
    let got = part(cx, &stored, "bytes=0-999").await?;
    // The whole object would do as well.
    let right = got.bytes == stored.body[..1000] || got.bytes == stored.body;
    holds(right, || format!("the first 1000 bytes were asked for, and {} others came", got.bytes.len()))
}

async fn honoured(cx: &Cx) -> Tried {
    let stored = large(cx).await?;
    let len = part(cx, &stored, "bytes=0-999").await?.bytes.len();
    holds(len == 1000, || format!("1000 bytes were asked for, and {len} came"))
}

async fn whole_length(cx: &Cx) -> Tried {
    let stored = large(cx).await?;
    let got = part(cx, &stored, "bytes=0-999").await?;
    let told = got.content_range.as_deref().and_then(|range| range.rsplit_once('/')).map(|(_, len)| len.to_owned());
    // Without a range in the answer, the body is the whole.
    let right = told.as_deref() == Some("100000") || (told.is_none() && got.bytes.len() == stored.body.len());
    holds(right, || format!("of 100000 bytes the answer to a range tells {:?}", got.content_range))
}

async fn middle(cx: &Cx) -> Tried {
    let stored = large(cx).await?;
    let got = part(cx, &stored, "bytes=50000-50999").await?;
    holds(got.bytes == stored.body[50_000..51_000], || "bytes 50000 to 50999 are others".to_owned())?;
    let got = part(cx, &stored, "bytes=-10").await?;
    holds(got.bytes == stored.body[99_990..], || "the last 10 bytes are others".to_owned())
}

async fn of_a_version(cx: &Cx) -> Tried {
    let stored = large(cx).await?;
    cx.overwritten(&stored.key, "newer").await?;
    let get =
        || cx.raw().get(&stored.key, Get { version: Some(&stored.id), range: Some("bytes=0-99"), ..Get::default() });
    let got = needed("read a range of a version", cx.ask(get).await?)?;
    holds(got.bytes == stored.body[..100], || "the first 100 bytes of the older version are others".to_owned())
}

async fn absent(cx: &Cx) -> Tried {
    let key = cx.key("nothing");
    for range in [None, Some("bytes=0-9")] {
        let reply = cx.ask(|| cx.raw().get(&key, Get { range, ..Get::default() })).await?;
        let refusal = refused("read a key at which nothing stands", reply)?;
        holds(refusal.status == 404 && refusal.code != "NoSuchBucket", || format!("an absent key is {refusal}"))?;
    }
    Ok(())
}

async fn absent_version(cx: &Cx) -> Tried {
    cx.may_delete().await?;
    let gone = cx.unlocked("k").await?;
    needed("delete a version", cx.ask(|| cx.raw().delete(&gone.key, Some(&gone.id), false)).await?)?;
    cx.overwritten(&gone.key, "another version").await?;
    let get = || cx.raw().get(&gone.key, Get { version: Some(&gone.id), ..Get::default() });
    match cx.ask(get).await?.said {
        Ok(_) => wrong("a version that was deleted can be read"),
        Err(refusal) => holds(refusal.status == 404, || format!("a version that was deleted is {refusal}")),
    }
}

async fn head_agrees(cx: &Cx) -> Tried {
    let stored = large(cx).await?;
    let head = needed("ask for headers", cx.ask(|| cx.raw().head(&stored.key, None)).await?)?;
    let got = cx.read(&stored.key).await?;
    let len = head.content_length().unwrap_or_default();
    holds(len == got.bytes.len() as i64, || format!("HEAD tells {len} bytes, GET gives {}", got.bytes.len()))?;
    let modified = head.last_modified().copied().and_then(crate::store::seconds);
    holds(modified == got.modified, || format!("HEAD tells {modified:?}, GET {:?}", got.modified))
}

async fn head_absent(cx: &Cx) -> Tried {
    let key = cx.key("nothing");
    let refusal = refused("find a key at which nothing stands", cx.ask(|| cx.raw().head(&key, None)).await?)?;
    holds(refusal.status == 404, || format!("an absent key is {refusal}"))
}
