//! Create-if-absent: the one decision that everything rests on.

use super::attempt::{Cx, Ended, Tried, holds, needed, refused, wrong};
use crate::store::{Get, Put};

super::declare! { Create:
    "create-on-a-free-key" Refused essential on_a_free_key
        "every object of a vault is stored by If-None-Match: *, and must read back byte for byte"
    "create-is-refused-where-an-object-stands" Refused essential is_refused
        "two writers are told apart by this alone; a store that lets the second one through lets them overwrite each other"
    "create-is-refused-with-412" Refused essential is_refused_with_412
        "a writer knows by 412, and by nothing else, that it must read what stands there and may be fenced"
    "refused-create-stores-nothing" Refused essential refused_stores_nothing
        "a newer version behind a refusal is reported as tampering at every retry"
    "created-object-is-read-at-once" Refused essential read_at_once
        "a position is reported as flushed, and a seal as won, on what is read right after a create"
    "created-object-is-read-after-a-miss" Refused essential read_after_a_miss
        "a standby asks for the next key until it is there; an absence that is remembered hides a seal"
    "refused-create-leaves-the-object" Refused full leaves_the_object
        "after many refused creates the first object must still be the one that is read"
    "create-is-refused-for-the-same-bytes" Limit full refused_for_the_same_bytes
        "a retry of one's own PUT is told apart by its nonce and need not be refused, but a store that folds equal bytes is unusual"
    "create-behind-a-marker-keeps-the-oldest" Refused full behind_a_marker
        "a create may succeed behind a delete marker; who holds the key is then decided by the oldest version"
    "create-by-multipart-is-refused-where-an-object-stands" Limit full by_multipart
        "Holdfast stores by plain PUTs only; other tools that upload in parts could put newer versions over its objects"
    "created-version-is-named" Limit full version_is_named
        "the version in the answer saves a listing"
    "create-beside-a-longer-key" Limit full beside_a_longer_key
        "keys are names and no folders; a store that makes folders of them cannot hold both a/b and a/b/c"
}

async fn on_a_free_key(cx: &Cx) -> Tried {
    let stored = cx.stored("k", "the first object of this key").await?;
    let got = cx.read(&stored.key).await?;
    holds(got.bytes == stored.body, || format!("{} bytes were stored and {} read", stored.body.len(), got.bytes.len()))
}

async fn is_refused(cx: &Cx) -> Tried {
    let stored = cx.stored("k", "the first").await?;
    let put = cx.create_of("the second");
    let reply = cx.ask(|| cx.raw().put(&stored.key, &put)).await?;
    refused("create a second object at the same key", reply).map(|_| ())
}

async fn is_refused_with_412(cx: &Cx) -> Tried {
    let stored = cx.stored("k", "the first").await?;
    let put = cx.create_of("the second");
    let refusal = refused("create a second object", cx.ask(|| cx.raw().put(&stored.key, &put)).await?)?;
    holds(refusal.status == 412, || format!("the refusal is {refusal}"))
}

async fn refused_stores_nothing(cx: &Cx) -> Tried {
    let stored = cx.stored("k", "the first").await?;
    let put = cx.create_of("the second");
    refused("create a second object", cx.ask(|| cx.raw().put(&stored.key, &put)).await?)?;
    let versions = cx.versions(&stored.key).await?.len();
    holds(versions == 1, || format!("{versions} versions are listed after one create and one refusal"))
}

async fn read_at_once(cx: &Cx) -> Tried {
    for n in 0..5 {
        let stored = cx.stored(&format!("k{n}"), format!("object {n}")).await?;
        let reply = cx.ask(|| cx.raw().get(&stored.key, Get::default())).await?;
        if let Err(refusal) = reply.said {
            return wrong(format!("an object that was just created is not there ({refusal})"));
        }
    }
    Ok(())
}

async fn read_after_a_miss(cx: &Cx) -> Tried {
    let key = cx.key("k");
    let reply = cx.ask(|| cx.raw().get(&key, Get::default())).await?;
    refused("read a key at which nothing stands", reply)?;
    cx.stored("k", "after the miss").await?;
    let reply = cx.ask(|| cx.raw().get(&key, Get::default())).await?;
    match reply.said {
        Ok(_) => Ok(()),
        Err(refusal) => wrong(format!("asked for in vain before, it stays absent after its create ({refusal})")),
    }
}

async fn leaves_the_object(cx: &Cx) -> Tried {
    let stored = cx.stored("k", "the first").await?;
    for n in 0..5 {
        let put = cx.create_of(format!("another, number {n}"));
        refused("create a second object", cx.ask(|| cx.raw().put(&stored.key, &put)).await?)?;
    }
    let got = cx.read(&stored.key).await?;
    holds(got.bytes == stored.body, || "the object is another one now".to_owned())
}

async fn refused_for_the_same_bytes(cx: &Cx) -> Tried {
    let stored = cx.stored("k", "the same").await?;
    let put = cx.create_of(stored.body.clone());
    refused("create it again", cx.ask(|| cx.raw().put(&stored.key, &put)).await?).map(|_| ())
}

async fn behind_a_marker(cx: &Cx) -> Tried {
    let stored = cx.stored("k", "the oldest").await?;
    cx.hidden(&stored.key).await?;
    let put = cx.create_of("behind the marker");
    // Both are good: what matters is what stands there afterwards.
    if let Ended::Stored { .. } = cx.create(&stored.key, &put).await? {
        let oldest = cx.oldest(&stored.key).await?;
        holds(oldest.id == stored.id, || "the object before the marker is not the oldest version any more".to_owned())?;
    }
    cx.intact(&stored).await
}

async fn by_multipart(cx: &Cx) -> Tried {
    let stored = cx.stored("k", "the first").await?;
    let (key, until, body) = (&*stored.key, cx.locked(), bytes::Bytes::from_static(b"the second, in parts"));
    let upload = needed("begin an upload in parts", cx.ask(|| cx.raw().begin_upload(key, until)).await?)?;
    let tag = needed("upload a part", cx.ask(|| cx.raw().upload_part(key, &upload, &body)).await?)?;
    let reply = cx.ask(|| cx.raw().complete_upload(key, &upload, &tag, true)).await?;
    if reply.said.is_err() {
        let _ = cx.ask(|| cx.raw().abort_upload(key, &upload)).await;
    }
    refused("complete an upload over an object", reply).map(|_| ())
}

async fn version_is_named(cx: &Cx) -> Tried {
    let (key, put) = (cx.key("k"), cx.create_of("named"));
    let Ended::Stored { version: Some(version), .. } = cx.create(&key, &put).await? else {
        return wrong("the answer to a create names no version");
    };
    let oldest = cx.oldest(&key).await?;
    holds(oldest.id == version, || format!("the answer names version {version}, the listing {}", oldest.id))
}

async fn beside_a_longer_key(cx: &Cx) -> Tried {
    let short = cx.stored("a/b", "the shorter key").await?;
    let long = cx.stored("a/b/c", "the longer key").await?;
    let put = Put { body: "the shortest key".into(), ..cx.create_of("") };
    let shortest = cx.stored_as("a", put).await?;
    for stored in [&short, &long, &shortest] {
        let got = cx.read(&stored.key).await?;
        holds(got.bytes == stored.body, || format!("{} reads as another object", stored.key))?;
    }
    Ok(())
}
