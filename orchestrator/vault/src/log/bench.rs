//! What a small chunk costs. Run by hand: `cargo test -p holdfast-vault --lib -- --ignored --nocapture cost`.

use std::hint::black_box;
use std::time::Instant;

use bytes::Bytes;
use holdfast_wal::{Lsn, SystemId, TimelineId};

use crate::keys::Position;
use crate::log::incarnation::Incarnation;
use crate::log::storing::seal_chunk;
use crate::object::{Chunk, Hash, Link, Subject, decode};
use crate::seal::{Identities, Sealer, generate_identity, open};

fn subject(len: u64) -> Subject {
    let at = Position { epoch: 3, start: Lsn(0x300_0000) };
    Subject::Chunk(Chunk {
        database: "billing".into(),
        system_id: SystemId(7_357_812_345_678_901_234),
        epoch: 3,
        start: at.start,
        end: Lsn(at.start.0 + len),
        timeline: TimelineId(1),
        lineage: "origin".into(),
        opened_by: at,
        prev: vec![Link { at, hash: Hash::of(b"x") }],
        stored: None,
        last_record: None,
    })
}

#[test]
#[ignore = "a measurement"]
fn cost() {
    let (secret, _) = generate_identity();
    let identities = Identities::parse(&secret).unwrap();
    let (mut sealer, me) = (Sealer::new(identities.recipients()).unwrap(), Incarnation::random());
    for (len, rounds) in [(1024_u64, 2000), (8192, 2000), (1 << 20, 50)] {
        let plain: Vec<u8> = (0..len).map(|n| (n * n % 251 / 3) as u8).collect();
        let began = Instant::now();
        let mut last = Bytes::new();
        for _ in 0..rounds {
            last = seal_chunk(&mut sealer, &me, me.header(subject(len)), black_box(&plain)).unwrap().0;
        }
        let seal = began.elapsed() / rounds;
        let began = Instant::now();
        for _ in 0..rounds {
            let (decoded, body) = decode(black_box(&last)).unwrap();
            black_box(open(&decoded.header.body.unwrap(), &body, &identities).unwrap());
        }
        println!("{len} bytes: sealed in {seal:?}, opened in {:?}, {} stored", began.elapsed() / rounds, last.len());
    }
}
