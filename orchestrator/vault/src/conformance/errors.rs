//! Errors that say what is wrong, and who may ask at all.

use rand::RngExt;

use super::attempt::{Cx, Miss, Tried, holds, needed, refused, untried, wrong};
use crate::store::{Get, Tamper};

super::declare! { Errors:
    "unsigned-request-is-refused" Refused essential unsigned
        "a bucket that answers everybody keeps nothing to itself"
    "wrong-signature-is-refused" Refused essential wrong_signature
        "a store that does not look at signatures knows nobody"
    "unsigned-put-is-refused" Refused full unsigned_put
        "whoever can put without a signature can put seals"
    "absent-bucket-is-named" Limit full absent_bucket
        "a mistake in the bucket's name should be told from an empty vault"
    "absent-key-has-a-code" Limit full code
        "a code tells an absent key from other things that are not found"
    "deleting-an-absent-version-is-no-error" Limit full absent_version
        "a janitor whose answer got lost deletes again"
}

async fn unsigned(cx: &Cx) -> Tried {
    let stored = cx.stored("k", "not for everybody").await?;
    let get = || cx.raw().get(&stored.key, Get { tamper: Tamper::NoSignature, ..Get::default() });
    refused("read without a signature", cx.ask(get).await?).map(|_| ())
}

async fn wrong_signature(cx: &Cx) -> Tried {
    let stored = cx.stored("k", "not for everybody").await?;
    let get = || cx.raw().get(&stored.key, Get { tamper: Tamper::WrongSignature, ..Get::default() });
    refused("read with a wrong signature", cx.ask(get).await?).map(|_| ())
}

async fn unsigned_put(cx: &Cx) -> Tried {
    let key = cx.key("k");
    let put = crate::store::Put { tamper: Tamper::NoSignature, ..cx.create_of("from nobody") };
    refused("store without a signature", cx.ask(|| cx.raw().put(&key, &put)).await?).map(|_| ())
}

async fn absent_bucket(cx: &Cx) -> Tried {
    let name = format!("holdfast-conformance-{:016x}", rand::rng().random::<u64>());
    let other = cx.raw().other_bucket(name);
    let refusal = refused("read from a bucket that does not exist", cx.ask(|| other.get("k", Get::default())).await?)?;
    match refusal.status {
        401 | 403 => untried(format!("these credentials may not ask other buckets ({refusal})")),
        _ => holds(refusal.code == "NoSuchBucket", || format!("an absent bucket is {refusal}")),
    }
}

async fn code(cx: &Cx) -> Tried {
    let key = cx.key("nothing");
    let refusal = refused("read a key at which nothing stands", cx.ask(|| cx.raw().get(&key, Get::default())).await?)?;
    holds(refusal.code == "NoSuchKey", || format!("an absent key is {refusal}"))
}

async fn absent_version(cx: &Cx) -> Tried {
    cx.may_delete().await?;
    let gone = cx.unlocked("k").await?;
    let delete = || cx.raw().delete(&gone.key, Some(&gone.id), false);
    needed("delete a version", cx.ask(delete).await?)?;
    match cx.ask(delete).await?.said {
        Ok(()) => Ok(()),
        Err(refusal) if refusal.status == 404 => Ok(()),
        Err(refusal) => match refusal.kind() {
            crate::store::StoreErrorKind::Denied => Err(Miss::Untried(refusal.to_string())),
            _ => wrong(format!("deleting a version again is {refusal}")),
        },
    }
}
