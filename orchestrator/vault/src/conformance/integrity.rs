//! Bytes as they were sent, and checksums that are looked at.

use bytes::Bytes;

use super::attempt::{Cx, Tried, holds, needed, refused, wrong};
use crate::store::{Get, Put, Sum, Tamper};

super::declare! { Integrity:
    "bytes-read-as-stored" Refused essential read_as_stored
        "chain, signature and digest hold over exact bytes; one that is missing or changed ends the log there"
    "empty-object-is-kept" Limit full empty_object
        "Holdfast stores none, but what others put into the bucket must not break listings"
    "wrong-sha256-is-refused" Refused essential wrong_sha256
        "the checksum is what keeps a body that was damaged on the way from being acknowledged as stored"
    "body-refused-by-checksum-is-not-stored" Refused essential refused_is_not_stored
        "a damaged body that is stored all the same is the oldest version of its key, for ever"
    "wrong-crc32c-is-refused" Limit full wrong_crc32c
        "Holdfast sends SHA-256; tools that send CRC32C would store damaged bytes unnoticed"
    "wrong-md5-is-refused" Limit full wrong_md5
        "Holdfast sends SHA-256; tools that send Content-MD5 would store damaged bytes unnoticed"
    "altered-body-is-refused" Limit full altered_body
        "a body that differs from its signed hash was changed on the way; Holdfast's own checksum finds it too"
    "locked-put-without-checksum-is-refused" Limit full without_checksum
        "S3 asks for a checksum with a lock; Holdfast sends one, other tools may be used to being reminded"
    "checksum-is-given-back" Limit full given_back
        "with it a scrub could compare without reading bodies"
    "metadata-is-kept" Limit full metadata
        "a copy of a vault keeps the first store's time in an object's metadata"
}

/// Bytes of every value, without a period that a block size could hide.
pub(super) fn pattern(len: usize) -> Bytes {
    (0..len).map(|n| ((n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u8).collect()
}

async fn read_as_stored(cx: &Cx) -> Tried {
    for len in [1, 4096, 300_001] {
        let stored = cx.stored(&format!("k{len}"), pattern(len)).await?;
        let got = cx.read(&stored.key).await?.bytes;
        if got.len() != len {
            return wrong(format!("{len} bytes were stored and {} read", got.len()));
        }
        if let Some(place) = got.iter().zip(&stored.body).position(|(read, put)| read != put) {
            return wrong(format!("byte {place} of {len} reads otherwise than it was stored"));
        }
    }
    Ok(())
}

async fn empty_object(cx: &Cx) -> Tried {
    let stored = cx.stored("k", "").await?;
    let got = cx.read(&stored.key).await?;
    holds(got.bytes.is_empty(), || format!("no bytes were stored and {} read", got.bytes.len()))
}

/// Sends a PUT whose checksum or signature does not fit, which must be refused.
async fn misfit(cx: &Cx, name: &str, change: impl Fn(Put) -> Put, what: &str) -> Tried {
    let (key, put) = (cx.key(name), change(cx.create_of("a body that does not fit its checksum")));
    refused(what, cx.ask(|| cx.raw().put(&key, &put)).await?).map(|_| ())
}

async fn wrong_sha256(cx: &Cx) -> Tried {
    misfit(cx, "k", |put| Put { sum: Sum::WrongSha256, ..put }, "store a body with another's SHA-256").await
}

async fn refused_is_not_stored(cx: &Cx) -> Tried {
    wrong_sha256(cx).await?;
    let key = cx.key("k");
    let reply = cx.ask(|| cx.raw().get(&key, Get::default())).await?;
    holds(reply.said.is_err(), || "a body that was refused for its checksum can be read".to_owned())?;
    let versions = cx.versions(&key).await?.len();
    holds(versions == 0, || format!("{versions} versions are listed after a refusal"))
}

async fn wrong_crc32c(cx: &Cx) -> Tried {
    misfit(cx, "k", |put| Put { sum: Sum::WrongCrc32c, ..put }, "store a body with another's CRC32C").await
}

async fn wrong_md5(cx: &Cx) -> Tried {
    misfit(cx, "k", |put| Put { sum: Sum::WrongMd5, ..put }, "store a body with another's Content-MD5").await
}

async fn altered_body(cx: &Cx) -> Tried {
    if let Some(default) = cx.default_retention().await? {
        // What is accepted would be locked so long: without a checksum there can be no lock of its own.
        return super::attempt::untried(format!("the bucket's default retention would lock the object for {default}"));
    }
    let other = Tamper::Body(Bytes::from_static(b"A BODY THAT DOES NOT FIT ITS CHECKSUM"));
    let change = |put| Put { sum: Sum::None, mode: None, until: None, tamper: other.clone(), ..put };
    misfit(cx, "k", change, "store a body that was changed after it was signed").await
}

async fn without_checksum(cx: &Cx) -> Tried {
    misfit(cx, "k", |put| Put { sum: Sum::None, ..put }, "lock an object that came without a checksum").await
}

async fn given_back(cx: &Cx) -> Tried {
    use sha2::Digest;
    let stored = cx.stored("k", "with a checksum").await?;
    let get = || cx.raw().get(&stored.key, Get { with_checksum: true, ..Get::default() });
    let got = needed("read an object", cx.ask(get).await?)?;
    let sum = aws_smithy_types::base64::encode(sha2::Sha256::digest(&stored.body));
    holds(got.sha256.as_ref() == Some(&sum), || match &got.sha256 {
        Some(other) => format!("the checksum given back is {other}, not {sum}"),
        None => "no checksum is given back".to_owned(),
    })
}

async fn metadata(cx: &Cx) -> Tried {
    let value = "2026-11-24T12:00:00Z";
    let put = Put { metadata: Some(("holdfaststored", value.to_owned())), ..cx.create_of("with metadata") };
    let stored = cx.stored_as("k", put).await?;
    let got = cx.read(&stored.key).await?;
    let found = got.metadata.iter().any(|(name, text)| name == "holdfaststored" && text == value);
    holds(found, || format!("the metadata read back are {:?}", got.metadata))
}
