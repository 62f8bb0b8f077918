//! Versions and delete markers: what hides an object must never be able to take its place.

use std::collections::BTreeSet;

use super::attempt::{Cx, Tried, holds, needed, untried, wrong};
use crate::store::{Answer, Forbidden, Get, ListedVersion, StoreError, VersionsMarker};

pub(super) const ENABLED: &str = "versioning-is-enabled";
/// The one check that changes the bucket's settings for a moment, if they can be changed at all.
pub(super) const SUSPENSION: &str = "versioning-cannot-be-suspended";

super::declare! { Versions:
    "versioning-is-enabled" Refused essential is_enabled
        "without versions whoever may write may destroy"
    "overwritten-version-is-kept" Refused essential overwritten_is_kept
        "whoever stole the credentials may PUT over an object; the version before must stay"
    "version-ids-differ" Refused essential ids_differ
        "readers and locks name a version by its id"
    "version-is-read-by-its-id" Refused essential read_by_id
        "the oldest version is the object, and is read by its id when there are newer ones"
    "read-names-the-version" Limit full read_names_it
        "a reader that knows which version it read notices a newer one without a listing"
    "all-versions-are-listed" Refused essential all_listed
        "who wins a seal and who meets an absence lists the versions of the key: one that is not listed is lost"
    "new-version-is-listed-at-once" Refused essential listed_at_once
        "a seal is won or lost by the listing that follows it"
    "versions-are-listed-newest-first" Refused essential newest_first
        "within a second only the order of the listing tells which version is the oldest"
    "newest-version-is-flagged" Limit full newest_flagged
        "people and tools look at IsLatest; Holdfast does not"
    "versions-are-listed-page-by-page" Refused full page_by_page
        "a catalogue and a janitor go through all versions; a page that repeats or skips misleads both"
    "many-versions-of-a-key-are-listed" Limit full many_versions
        "an attacker can pile up versions on a key; the oldest must still be found"
    "marker-hides-the-key" Limit full marker_hides
        "a store whose GET looks through delete markers is unusual; readers look through them by themselves"
    "marker-is-listed" Refused full marker_listed
        "a 404 that hides a delete marker is tampering and no absence; only the listing tells"
    "marker-keeps-older-versions-listed" Refused full marker_keeps_listed
        "what a marker hides is found again in the listing of versions"
    "marker-keeps-older-versions-readable" Refused full marker_keeps_readable
        "what a marker hides is read by its version id"
    "marker-is-told-in-the-404" Limit full marker_told
        "without it a listing is needed to tell a hidden key from an absent one"
    "marker-can-be-removed" Limit full marker_removed
        "after an attack the markers are removed, so that other tools see the objects again"
    "delete-without-a-version-removes-nothing" Refused full delete_removes_nothing
        "the one deletion that S3 lets everybody do must only hide"
    "versioning-cannot-be-suspended" Refused full cannot_be_suspended
        "with versioning suspended the next PUT replaces an object"
}

async fn is_enabled(cx: &Cx) -> Tried {
    holds(cx.facts().versioning, || "the bucket has no versioning".to_owned())
}

async fn overwritten_is_kept(cx: &Cx) -> Tried {
    let stored = cx.stored("k", "the older").await?;
    cx.overwritten(&stored.key, "the newer").await?;
    let get = || cx.raw().get(&stored.key, Get { version: Some(&stored.id), ..Get::default() });
    match cx.ask(get).await?.said {
        Ok(_) => Ok(()),
        Err(refusal) => wrong(format!("the older version is gone ({refusal})")),
    }
}

async fn ids_differ(cx: &Cx) -> Tried {
    let stored = cx.stored("k", "0").await?;
    for n in 1..4 {
        cx.overwritten(&stored.key, n.to_string()).await?;
    }
    let versions = cx.versions(&stored.key).await?;
    let ids: BTreeSet<_> = versions.iter().map(|version| &version.id).collect();
    holds(ids.len() == versions.len() && ids.len() >= 4, || {
        format!("{} versions are listed with {} ids, after four PUTs", versions.len(), ids.len())
    })
}

async fn read_by_id(cx: &Cx) -> Tried {
    let stored = cx.stored("k", "the older").await?;
    cx.overwritten(&stored.key, "the newer").await?;
    cx.intact(&stored).await
}

async fn read_names_it(cx: &Cx) -> Tried {
    let stored = cx.stored("k", "x").await?;
    let version = cx.read(&stored.key).await?.version;
    holds(version.as_ref() == Some(&stored.id), || match version {
        Some(other) => format!("GET names version {other}, not {}", stored.id),
        None => "GET names no version".to_owned(),
    })
}

/// Three versions of a key, by the first bytes of each.
async fn three(cx: &Cx) -> Tried<(String, Vec<ListedVersion>)> {
    let stored = cx.stored("k", "1").await?;
    for body in ["22", "333"] {
        cx.overwritten(&stored.key, body).await?;
    }
    let versions = cx.versions(&stored.key).await?;
    Ok((stored.key, versions))
}

async fn all_listed(cx: &Cx) -> Tried {
    let (_, versions) = three(cx).await?;
    let sizes: BTreeSet<_> = versions.iter().map(|version| version.size).collect();
    holds([1, 2, 3].iter().all(|size| sizes.contains(size)), || {
        format!("three versions were stored, and {} are listed", versions.len())
    })
}

async fn listed_at_once(cx: &Cx) -> Tried {
    for n in 0..3 {
        let stored = cx.stored(&format!("k{n}"), "x").await?;
        let listed = cx.versions(&stored.key).await?;
        holds(listed.iter().any(|version| version.id == stored.id), || {
            "a version that was just stored is not listed".to_owned()
        })?;
    }
    Ok(())
}

async fn newest_first(cx: &Cx) -> Tried {
    let (_, versions) = three(cx).await?;
    // A PUT whose answer got lost may stand there twice: from the oldest on, each first appearance counts.
    let mut order = Vec::new();
    for size in versions.iter().rev().map(|version| version.size) {
        if !order.contains(&size) {
            order.push(size);
        }
    }
    holds(order == [1, 2, 3], || format!("from the last line to the first, versions 1, 2, 3 stand as {order:?}"))
}

async fn newest_flagged(cx: &Cx) -> Tried {
    let (_, versions) = three(cx).await?;
    let latest: Vec<_> = versions.iter().filter(|version| version.is_latest).map(|version| version.size).collect();
    holds(latest == [3], || format!("of the versions 1, 2, 3 these are flagged as the newest: {latest:?}"))
}

/// Every version below a prefix, in pages of two.
async fn paged(cx: &Cx, prefix: &str) -> Tried<Vec<ListedVersion>> {
    let (mut all, mut after): (Vec<ListedVersion>, Option<VersionsMarker>) = (Vec::new(), None);
    for _ in 0..50 {
        let ask = || cx.raw().versions(prefix, after.as_ref(), Some(2));
        let page = needed("list versions", cx.ask(ask).await?)?;
        if page.versions.len() > 2 {
            return wrong(format!("a page of at most 2 versions has {}", page.versions.len()));
        }
        all.extend(page.versions);
        match page.next {
            None => return Ok(all),
            next => after = next,
        }
    }
    wrong("pages of two versions do not come to an end")
}

async fn page_by_page(cx: &Cx) -> Tried {
    for name in ["a", "b"] {
        let stored = cx.stored(name, "1").await?;
        cx.overwritten(&stored.key, "22").await?;
        cx.overwritten(&stored.key, "333").await?;
    }
    cx.stored("c", "1").await?;
    let look = || async {
        let all = needed("list versions", cx.ask(|| cx.raw().versions(cx.folder(), None, None)).await?)?.versions;
        let paged = paged(cx, cx.folder()).await?;
        let ids = |versions: &[ListedVersion]| -> BTreeSet<(String, String)> {
            versions.iter().map(|version| (version.key.clone(), version.id.clone())).collect()
        };
        holds(paged.len() >= 7 && paged.len() == all.len() && ids(&paged) == ids(&all), || {
            format!("of {} versions, pages of two show {}", all.len(), ids(&paged).len())
        })
    };
    cx.settled(look).await
}

async fn many_versions(cx: &Cx) -> Tried {
    let stored = cx.stored("k", "the oldest").await?;
    for n in 0..30 {
        cx.overwritten(&stored.key, format!("newer {n}")).await?;
    }
    let (oldest, count) = (cx.oldest(&stored.key).await?, cx.versions(&stored.key).await?.len());
    holds(oldest.id == stored.id && count >= 31, || {
        format!("of 31 versions {count} are listed, the oldest last or not")
    })
}

async fn marker_hides(cx: &Cx) -> Tried {
    let stored = cx.stored("k", "x").await?;
    cx.hidden(&stored.key).await?;
    let reply = cx.ask(|| cx.raw().get(&stored.key, Get::default())).await?;
    holds(reply.said.is_err(), || "behind a delete marker GET gives the object".to_owned())
}

async fn marker_listed(cx: &Cx) -> Tried {
    let stored = cx.stored("k", "x").await?;
    cx.hidden(&stored.key).await?;
    let listed = cx.versions(&stored.key).await?.iter().any(|version| version.is_delete_marker);
    holds(listed, || "the delete marker is not listed".to_owned())
}

async fn marker_keeps_listed(cx: &Cx) -> Tried {
    let stored = cx.stored("k", "x").await?;
    cx.hidden(&stored.key).await?;
    let listed = cx.versions(&stored.key).await?.iter().any(|version| version.id == stored.id);
    holds(listed, || "behind a delete marker the older version is not listed".to_owned())
}

async fn marker_keeps_readable(cx: &Cx) -> Tried {
    let stored = cx.stored("k", "x").await?;
    cx.hidden(&stored.key).await?;
    let get = || cx.raw().get(&stored.key, Get { version: Some(&stored.id), ..Get::default() });
    match cx.ask(get).await?.said {
        Ok(got) => holds(got.bytes == stored.body, || "the older version reads otherwise".to_owned()),
        Err(refusal) => wrong(format!("behind a delete marker the older version cannot be read ({refusal})")),
    }
}

async fn marker_told(cx: &Cx) -> Tried {
    let stored = cx.stored("k", "x").await?;
    cx.hidden(&stored.key).await?;
    match cx.ask(|| cx.raw().get(&stored.key, Get::default())).await?.said {
        Ok(_) => wrong("behind a delete marker GET gives the object"),
        Err(refusal) => holds(refusal.marker, || format!("the {refusal} has no x-amz-delete-marker")),
    }
}

async fn marker_removed(cx: &Cx) -> Tried {
    let stored = cx.stored("k", "x").await?;
    cx.hidden(&stored.key).await?;
    for marker in cx.versions(&stored.key).await?.iter().filter(|version| version.is_delete_marker) {
        let reply = cx.ask(|| cx.raw().delete(&stored.key, Some(&marker.id), false)).await?;
        needed("delete a delete marker", reply)?;
    }
    let reply = cx.ask(|| cx.raw().get(&stored.key, Get::default())).await?;
    holds(reply.said.is_ok(), || "with its delete marker removed the key stays hidden".to_owned())
}

async fn delete_removes_nothing(cx: &Cx) -> Tried {
    let stored = cx.stored("k", "the older").await?;
    let newer = cx.overwritten(&stored.key, "the newer").await?;
    cx.hidden(&stored.key).await?;
    let versions = cx.versions(&stored.key).await?;
    let there = |id: &String| versions.iter().any(|version| version.id == *id);
    holds(there(&stored.id) && newer.as_ref().is_none_or(there), || "a DELETE without a version removed one".to_owned())
}

async fn cannot_be_suspended(cx: &Cx) -> Tried {
    let answer = crate::fetch::retrying(|| cx.store().forbidden(Forbidden::SuspendVersioning)).await;
    match answer.map_err(|error: StoreError| super::attempt::Miss::Untried(error.to_string()))? {
        Answer::Refused { said } if said.starts_with("403") => {
            untried(format!("these credentials may not change versioning ({said}), which is right for a vault's own"))
        }
        Answer::Refused { .. } => Ok(()),
        Answer::Accepted { left: None } => wrong("versioning was suspended under Object Lock, and put back at once"),
        Answer::Accepted { left: Some(left) } => wrong(format!("{left}, AND IT COULD NOT BE PUT BACK")),
        Answer::Untried { why } => untried(why),
    }
}
