//! Listings of keys: a hint and never the truth, but one that catalogues, scrubs and copies go by.

use super::attempt::{Cx, Tried, holds, needed, wrong};
use crate::store::List;

super::declare! { Listing:
    "list-shows-a-new-key-at-once" Limit full at_once
        "a listing that lags behind shows a database or a backup late; nothing is decided by it"
    "list-is-sorted" Refused essential sorted
        "a walk goes on after the last key of a page; keys in no order are skipped"
    "list-starts-after-a-key" Refused essential starts_after
        "a walk that was interrupted goes on where it stood, and the newest index is looked for from a known one"
    "list-pages-are-complete" Refused essential pages
        "a backup or segment that no page shows is as good as lost to a catalogue, a copy and a scrub"
    "list-keeps-to-the-prefix" Refused essential prefix
        "databases and vaults share a bucket; what belongs to another must not be taken for one's own"
    "list-gives-folders" Refused essential folders
        "databases are found as the folders below a prefix"
    "list-goes-on-after-a-folder" Limit full after_a_folder
        "with many databases their folders come in pages"
    "list-of-nothing-is-empty" Refused full nothing
        "a vault begins with empty listings, which are no errors"
    "list-keeps-to-its-limit" Limit full limit
        "pages that are longer than asked for take memory"
    "list-leaves-out-hidden-keys" Limit full hidden
        "a key behind a delete marker is hidden from other tools; Holdfast lists versions"
    "list-tells-sizes" Limit full sizes
        "costs and progress are computed from the listing's sizes"
    "list-goes-on-by-token" Limit full by_token
        "other tools page by token; Holdfast by the last key"
    "list-sorts-odd-names-by-bytes" Limit full odd_names
        "keys in one folder of a vault are of one length; where names begin with each other, a walk by the last key may skip some"
    "list-sorts-folders-by-bytes" Limit full odd_folders
        "a walk over several databases whose names begin with each other (lab, lab-2) may skip one; walk them one by one"
    "lists-of-versions-keep-to-the-prefix" Refused full version_prefix
        "the versions of one key are listed by the prefix that it is"
}

/// Names as those of a vault: all of one length.
const NAMES: [&str; 6] = ["a000", "a001", "a002", "a00f", "b000", "c000"];
/// Names that are each other's beginning, which files and folders sort otherwise than bytes.
const ODD: [&str; 6] = ["a", "a-b", "a.b", "a0", "b", "c"];

async fn several(cx: &Cx) -> Tried<Vec<String>> {
    for name in NAMES {
        cx.stored(name, name).await?;
    }
    Ok(NAMES.iter().map(|name| cx.key(name)).collect())
}

/// The keys and folders of a page, and whether there are more.
async fn page(cx: &Cx, list: &List<'_>) -> Tried<(Vec<String>, Vec<String>, Option<String>)> {
    let output = needed("list keys", cx.ask(|| cx.raw().list(list)).await?)?;
    let keys = output.contents().iter().filter_map(|object| object.key().map(str::to_owned)).collect();
    let folders = output.common_prefixes().iter().filter_map(|folder| folder.prefix().map(str::to_owned)).collect();
    let next = match output.is_truncated() {
        Some(true) => Some(output.next_continuation_token().unwrap_or_default().to_owned()),
        _ => None,
    };
    Ok((keys, folders, next))
}

fn below(cx: &Cx) -> List<'_> {
    List { prefix: cx.folder(), ..List::default() }
}

async fn at_once(cx: &Cx) -> Tried {
    for n in 0..3 {
        let stored = cx.stored(&format!("k{n}"), "x").await?;
        let (keys, ..) = page(cx, &below(cx)).await?;
        holds(keys.contains(&stored.key), || "a key that was just created is not listed".to_owned())?;
    }
    Ok(())
}

async fn sorted(cx: &Cx) -> Tried {
    let expected = several(cx).await?;
    let look = || async {
        let (keys, ..) = page(cx, &below(cx)).await?;
        let in_order = keys.is_sorted();
        holds(in_order && keys.len() + 1 >= expected.len(), || match in_order {
            true => format!("of {} keys {} are listed", expected.len(), keys.len()),
            false => format!("keys are listed in this order: {}", short(cx, &keys)),
        })
    };
    cx.settled(look).await
}

fn short(cx: &Cx, keys: &[String]) -> String {
    keys.iter().map(|key| key.strip_prefix(cx.folder()).unwrap_or(key)).collect::<Vec<_>>().join(", ")
}

async fn starts_after(cx: &Cx) -> Tried {
    let expected = several(cx).await?;
    let after = List { after: Some(&expected[2]), ..below(cx) };
    let look = || async {
        let (keys, ..) = page(cx, &after).await?;
        let right = keys.first() == Some(&expected[3]);
        holds(right, || format!("after {} these are listed: {}", NAMES[2], short(cx, &keys)))
    };
    cx.settled(look).await?;
    // A key that does not exist is a place too.
    let between = cx.key("a009");
    let (keys, ..) = page(cx, &List { after: Some(&between), ..below(cx) }).await?;
    holds(keys.first() == Some(&expected[3]), || format!("after a009 these are listed: {}", short(cx, &keys)))
}

async fn pages(cx: &Cx) -> Tried {
    let expected = several(cx).await?;
    let look = || async {
        let all = walked(cx, 2).await?;
        holds(all == expected, || format!("pages of two show: {}", short(cx, &all)))
    };
    cx.settled(look).await
}

/// All keys, in pages of so many, each beginning after the last key of the one before.
async fn walked(cx: &Cx, limit: i32) -> Tried<Vec<String>> {
    let (mut all, mut last): (Vec<String>, String) = (Vec::new(), String::new());
    for _ in 0..10 {
        let after = Some(&*last).filter(|last| !last.is_empty());
        let (keys, _, next) = page(cx, &List { after, limit: Some(limit), ..below(cx) }).await?;
        // As the vault does: what is not behind the last key is not looked at.
        all.extend(keys.into_iter().filter(|key| *key > last));
        match (next, all.last()) {
            (Some(_), Some(key)) if *key != last => last = key.clone(),
            _ => break,
        }
    }
    Ok(all)
}

async fn odd_names(cx: &Cx) -> Tried {
    for name in ODD {
        cx.stored(name, name).await?;
    }
    let expected: Vec<_> = ODD.iter().map(|name| cx.key(name)).collect();
    let look = || async {
        let all = walked(cx, 2).await?;
        holds(all == expected, || format!("of {} pages of two show: {}", ODD.join(", "), short(cx, &all)))
    };
    cx.settled(look).await
}

async fn odd_folders(cx: &Cx) -> Tried {
    for name in ["lab-2/1", "lab-2/2", "lab/1", "lab/2"] {
        cx.stored(name, name).await?;
    }
    let expected = ["lab-2/1", "lab-2/2", "lab/1", "lab/2"].map(|name| cx.key(name));
    let look = || async {
        let all = walked(cx, 1).await?;
        holds(all == expected, || format!("of {} pages of one show: {}", short(cx, &expected), short(cx, &all)))
    };
    cx.settled(look).await
}

async fn prefix(cx: &Cx) -> Tried {
    several(cx).await?;
    let prefix = cx.key("a");
    let look = || async {
        let (keys, ..) = page(cx, &List { prefix: &prefix, ..List::default() }).await?;
        match keys.iter().find(|key| !key.starts_with(&prefix)) {
            Some(other) => wrong(format!("a listing of {prefix} shows {other}")),
            None => holds(keys.len() == 4, || format!("four keys begin with a, and {} are listed", keys.len())),
        }
    };
    cx.settled(look).await
}

async fn folders(cx: &Cx) -> Tried {
    for name in ["x/1", "x/2", "y/1", "z"] {
        cx.stored(name, name).await?;
    }
    let look = || async {
        let (_, folders, _) = page(cx, &List { folders: true, ..below(cx) }).await?;
        holds(folders == [cx.key("x/"), cx.key("y/")], || {
            format!("the folders x and y are listed as: {}", short(cx, &folders))
        })
    };
    cx.settled(look).await
}

async fn after_a_folder(cx: &Cx) -> Tried {
    for name in ["x/1", "x/2", "y/1", "z/1"] {
        cx.stored(name, name).await?;
    }
    let after = cx.key("x/");
    let look = || async {
        // What Holdfast does: from a folder on, the folder itself left out if the store gives it again.
        let (_, folders, _) = page(cx, &List { folders: true, after: Some(&after), ..below(cx) }).await?;
        let rest: Vec<_> = folders.iter().filter(|folder| **folder != after).cloned().collect();
        holds(rest == [cx.key("y/"), cx.key("z/")], || format!("after the folder x these: {}", short(cx, &folders)))
    };
    cx.settled(look).await
}

async fn nothing(cx: &Cx) -> Tried {
    let (keys, folders, next) = page(cx, &below(cx)).await?;
    holds(keys.is_empty() && folders.is_empty() && next.is_none(), || format!("nothing is listed as: {keys:?}"))
}

async fn limit(cx: &Cx) -> Tried {
    several(cx).await?;
    let look = || async {
        let (keys, _, next) = page(cx, &List { limit: Some(4), ..below(cx) }).await?;
        holds(keys.len() == 4 && next.is_some(), || {
            format!("of 6 keys at most 4 were asked for, and {} came", keys.len())
        })
    };
    cx.settled(look).await
}

async fn hidden(cx: &Cx) -> Tried {
    let keys = several(cx).await?;
    cx.hidden(&keys[1]).await?;
    let look = || async {
        let (listed, ..) = page(cx, &below(cx)).await?;
        holds(!listed.contains(&keys[1]), || "a key behind a delete marker is listed".to_owned())
    };
    cx.settled(look).await
}

async fn sizes(cx: &Cx) -> Tried {
    cx.stored("k", vec![7; 12_345]).await?;
    let list = below(cx);
    let look = || async {
        let output = needed("list keys", cx.ask(|| cx.raw().list(&list)).await?)?;
        let size = output.contents().first().and_then(|object| object.size());
        holds(size == Some(12_345), || format!("12345 bytes are listed as {size:?}"))
    };
    cx.settled(look).await
}

async fn by_token(cx: &Cx) -> Tried {
    let expected = several(cx).await?;
    let look = || async {
        let (mut all, mut token): (Vec<String>, Option<String>) = (Vec::new(), None);
        for _ in 0..10 {
            let (keys, _, next) = page(cx, &List { token: token.clone(), limit: Some(2), ..below(cx) }).await?;
            all.extend(keys);
            token = next;
            if token.is_none() {
                break;
            }
        }
        holds(all == expected, || format!("pages of two, by token, show: {}", short(cx, &all)))
    };
    cx.settled(look).await
}

async fn version_prefix(cx: &Cx) -> Tried {
    for name in ["k", "k1", "l"] {
        cx.stored(name, name).await?;
    }
    let prefix = cx.key("k");
    let look = || async {
        let page = needed("list versions", cx.ask(|| cx.raw().versions(&prefix, None, None)).await?)?;
        let other = page.versions.iter().find(|version| !version.key.starts_with(&prefix));
        holds(other.is_none(), || format!("the versions of {prefix} include one of {}", other.map_or("", |v| &v.key)))?;
        // Of the key itself first: what is asked for must not be on a later page.
        let first = page.versions.first().map(|version| version.key.as_str());
        holds(first == Some(&*prefix), || format!("the first version listed is one of {first:?}"))
    };
    cx.settled(look).await
}
