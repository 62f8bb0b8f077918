//! Requests at the same time: what holds alone must hold in a race.

use futures::future::{join, join_all};

use super::attempt::{Cx, Ended, Tried, holds, wrong};
use super::integrity::pattern;
use crate::store::Get;

/// How many race, and how often.
#[derive(Clone, Copy, Debug)]
pub(super) struct Races {
    pub(super) racers: usize,
    pub(super) rounds: usize,
}

impl Races {
    pub(super) const THOROUGH: Races = Races { racers: 16, rounds: 4 };
    /// At a Vault's set-up. A store may let losers wait for seconds, one after another.
    pub(super) const BRIEF: Races = Races { racers: 4, rounds: 1 };
}

super::declare! { Concurrency:
    "one-of-many-creates-wins" Refused essential one_wins
        "a writer and a standby that takes over race for one key; two winners are two primaries"
    "losers-of-a-race-read-the-winner" Refused essential losers_read
        "who lost learns from what it reads who won"
    "race-leaves-one-version" Refused essential one_version
        "a loser that stored a version all the same looks like tampering"
    "creates-of-many-keys-all-succeed" Refused full many_keys
        "several PUTs are in flight at once; one that is acknowledged and not there ends the log"
    "object-appears-as-a-whole" Refused full as_a_whole
        "a standby asks for a key while it is being stored, and must see all of it or nothing"
    "parallel-reads-agree" Refused full parallel_reads
        "restores read in parallel"
    "race-behind-a-marker-keeps-the-oldest" Limit full behind_a_marker
        "behind a delete marker a create may win; the oldest version must still be read by its id"
}

/// Many create one key at once, each with bytes of its own. Gives the key, who won, and how often.
async fn race(cx: &Cx, name: &str) -> Tried<(String, Vec<usize>)> {
    let (key, racers) = (cx.key(name), cx.races().racers);
    // Connections first, so that what follows is one moment.
    let warm = async |_: usize| cx.ask(|| cx.raw().head(&key, None)).await;
    join_all((0..racers).map(warm)).await;
    let run = async |n: usize| cx.create(&key, &cx.create_of(format!("racer {n}"))).await;
    let mut winners = Vec::new();
    for (n, ended) in join_all((0..racers).map(run)).await.into_iter().enumerate() {
        if let Ended::Stored { .. } = ended? {
            winners.push(n);
        }
    }
    Ok((key, winners))
}

async fn one_wins(cx: &Cx) -> Tried {
    let Races { racers, rounds } = cx.races();
    for round in 0..rounds {
        let (_, winners) = race(cx, &format!("k{round}")).await?;
        holds(winners.len() == 1, || format!("of {racers} creates of one key {} succeeded", winners.len()))?;
    }
    Ok(())
}

async fn losers_read(cx: &Cx) -> Tried {
    let (key, winners) = race(cx, "k").await?;
    for _ in 0..3 {
        let got = cx.read(&key).await?.bytes;
        let told = winners.iter().any(|n| got == format!("racer {n}").as_bytes());
        holds(told && winners.len() == 1, || {
            format!("after a race that {} won, `{}` is read", winners.len(), String::from_utf8_lossy(&got))
        })?;
    }
    Ok(())
}

async fn one_version(cx: &Cx) -> Tried {
    let (key, racers) = (race(cx, "k").await?.0, cx.races().racers);
    let versions = cx.versions(&key).await?.len();
    holds(versions == 1, || format!("a race of {racers} creates left {versions} versions"))
}

async fn many_keys(cx: &Cx) -> Tried {
    let put = async |n: usize| cx.stored(&format!("k{n}"), format!("object {n}")).await;
    let stored: Vec<_> = join_all((0..32).map(put)).await.into_iter().collect::<Tried<_>>()?;
    for stored in &stored {
        let got = cx.read(&stored.key).await?;
        holds(got.bytes == stored.body, || format!("{} reads as another object", stored.key))?;
    }
    Ok(())
}

async fn as_a_whole(cx: &Cx) -> Tried {
    let body = pattern(4 << 20);
    let (key, put) = (cx.key("k"), cx.create_of(body.clone()));
    let writing = cx.create(&key, &put);
    let watching = async {
        for _ in 0..400 {
            match cx.ask(|| cx.raw().get(&key, Get::default())).await?.said {
                Ok(got) if got.bytes == body => return Ok(()),
                Ok(got) => {
                    return wrong(format!(
                        "of {} bytes {} were there, as if that were all",
                        body.len(),
                        got.bytes.len()
                    ));
                }
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
            }
        }
        Ok(())
    };
    let (written, watched) = join(writing, watching).await;
    written?;
    watched?;
    let got = cx.read(&key).await?;
    holds(got.bytes == body, || "the object reads otherwise than it was stored".to_owned())
}

async fn parallel_reads(cx: &Cx) -> Tried {
    let stored = cx.stored("k", pattern(200_000)).await?;
    let read = async |_: usize| cx.read(&stored.key).await;
    let readers = cx.races().racers;
    for got in join_all((0..readers).map(read)).await {
        holds(got?.bytes == stored.body, || format!("of {readers} reads at once one gave other bytes"))?;
    }
    Ok(())
}

async fn behind_a_marker(cx: &Cx) -> Tried {
    let stored = cx.stored("k", "the oldest").await?;
    cx.hidden(&stored.key).await?;
    race(cx, "k").await?;
    cx.intact(&stored).await?;
    let oldest = cx.oldest(&stored.key).await?;
    holds(oldest.id == stored.id, || "another version is the oldest now".to_owned())
}
