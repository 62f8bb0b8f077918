//! How long, how large, how odd.

use super::attempt::{Cx, Tried, holds};
use super::integrity::pattern;
use crate::store::Put;

/// A little more than the largest object of a vault: a WAL segment, or a part of a backup, that nothing compresses.
const LARGE: usize = (16 << 20) + 70_000;

super::declare! { Limits:
    "key-of-500-bytes" Refused full key_of_500
        "prefix, database, place and name together may be that long"
    "key-of-1024-bytes" Limit full key_of_1024
        "S3 takes keys of 1024 bytes; a vault below a very long prefix would need them"
    "key-with-a-name-of-250-bytes" Limit full long_name
        "stores that keep a file for each object often stop at 255"
    "key-characters-of-a-vault" Refused essential plain_characters
        "keys of a vault have lower-case letters, digits, - _ . and /"
    "key-with-other-characters" Limit full other_characters
        "a prefix may have any character; those of a vault's own names are plain"
    "key-keeps-its-case" Limit full case
        "a store that folds case takes two names for one; a vault's own are all lower case"
    "key-of-twenty-folders" Limit full deep
        "a vault may stand deep in a shared bucket"
    "key-with-a-dot-segment" Limit full dots
        "a name may begin with a dot; a store that resolves it as a path mixes keys up"
    "key-with-two-slashes" Limit full two_slashes
        "a/b and a//b are two keys; a store that makes folders of them takes one for the other"
    "object-of-16-mib" Refused full large_object
        "a WAL segment that does not compress, with its header"
    "metadata-of-2-kib" Limit full large_metadata
        "S3 takes 2 KiB of metadata"
}

/// Stores at this key, reads back, and finds it in the listing of versions.
async fn round(cx: &Cx, key: String) -> Tried {
    let name = key.strip_prefix(cx.folder()).unwrap_or(&key).to_owned();
    let stored = cx.stored(&name, format!("at {name}")).await?;
    let got = cx.read(&stored.key).await?;
    holds(got.bytes == stored.body, || format!("the object at {name} reads otherwise"))?;
    let look = || async {
        let listed = cx.versions(&stored.key).await?.iter().any(|version| version.id == stored.id);
        holds(listed, || format!("the version at {name} is not listed"))
    };
    cx.settled(look).await
}

/// A key of so many bytes, in names of 60.
fn key_of(cx: &Cx, len: usize) -> String {
    let mut key = cx.folder().to_owned();
    let folder = key.len();
    while key.len() < len {
        let end_of_name = (key.len() - folder) % 60 == 59 && key.len() + 1 < len;
        key.push(if end_of_name { '/' } else { 'k' });
    }
    key
}

async fn key_of_500(cx: &Cx) -> Tried {
    round(cx, key_of(cx, 500)).await
}

async fn key_of_1024(cx: &Cx) -> Tried {
    round(cx, key_of(cx, 1024)).await
}

async fn long_name(cx: &Cx) -> Tried {
    round(cx, cx.key(&"n".repeat(250))).await
}

async fn plain_characters(cx: &Cx) -> Tried {
    round(cx, cx.key("abcdefghijklmnopqrstuvwxyz/0123456789-_.z")).await
}

async fn other_characters(cx: &Cx) -> Tried {
    for name in ["a b", "a+b", "a%20b", "a=b&c", "a(b)!*'", "Müller", "a:b@c,d;e$"] {
        round(cx, cx.key(name)).await?;
    }
    Ok(())
}

async fn case(cx: &Cx) -> Tried {
    let (lower, upper) = (cx.stored("case", "lower").await?, cx.stored("CASE", "upper").await?);
    cx.intact(&lower).await?;
    cx.intact(&upper).await?;
    let got = cx.read(&lower.key).await?;
    holds(got.bytes == lower.body, || "the upper-case key hides the lower-case one".to_owned())
}

async fn deep(cx: &Cx) -> Tried {
    round(cx, cx.key(&["d"; 20].join("/"))).await
}

async fn dots(cx: &Cx) -> Tried {
    for name in [".hidden", "a..b", "a/.b/c"] {
        round(cx, cx.key(name)).await?;
    }
    Ok(())
}

async fn two_slashes(cx: &Cx) -> Tried {
    round(cx, cx.key("a//b")).await
}

async fn large_object(cx: &Cx) -> Tried {
    let stored = cx.stored("k", pattern(LARGE)).await?;
    let got = cx.read(&stored.key).await?;
    holds(got.bytes == stored.body, || format!("of {LARGE} bytes {} came back, or others", got.bytes.len()))
}

async fn large_metadata(cx: &Cx) -> Tried {
    let value = "v".repeat(2000);
    let put = Put { metadata: Some(("holdfast", value.clone())), ..cx.create_of("with metadata") };
    let stored = cx.stored_as("k", put).await?;
    let got = cx.read(&stored.key).await?;
    holds(got.metadata.iter().any(|(_, text)| *text == value), || {
        "2000 bytes of metadata are not given back".to_owned()
    })
}
