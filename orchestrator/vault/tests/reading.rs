//! Scrub and copy: what is damaged is named with what it costs, and a copy is as good as the vault.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{Fixture, ORIGIN, append, durable, origin, read_until, small_segments, wal};
use holdfast_vault::store::{ListRequest, MemoryStore, Store, UrlStore};
use holdfast_vault::{
    ArchiveOptions, ArchiveStep, BackupManifest, Budget, CopyOptions, CopyProblemKind, FindingKind, Identities,
    ReadOptions, TakeoverOptions, TakerState, Vault, VaultConfig, VaultError, Verdict, Verifier, VerifyOptions,
    VerifyState, generate_identity,
};
use holdfast_wal::Lsn;
use jiff::Timestamp;

const PIECE: usize = 64 * 1024;
const LOG: &str = "p/v1/db/billing/log/";

async fn fixture() -> (Arc<MemoryStore>, Fixture) {
    let store = Arc::new(MemoryStore::default());
    let vault = Vault::with_store(store.clone(), "memory", "p");
    (store, Fixture::new(vault, small_segments()).await)
}

/// Three megabytes of WAL with a backup in the first and one in the third.
async fn hospital(fixture: &Fixture) -> (Lsn, [BackupManifest; 2]) {
    let (start, writer) = fixture.writer().await;
    let end = append(&writer, start, 3 << 20, PIECE, 7).await;
    durable(&writer, end).await;
    let first = fixture.backup("a", start, Lsn(start.0 + 0x1_0000)).await;
    let second = fixture.backup("b", Lsn(start.0 + 0x20_0000), Lsn(start.0 + 0x21_0000)).await;
    (end, [first, second])
}

async fn scrub(fixture: &Fixture, identities: Option<Identities>) -> Verdict {
    let mut verifier = Verifier::begin(&fixture.database, identities, VerifyOptions::default()).await.unwrap();
    while !verifier.step(Budget { bytes: 1 << 20, requests: 7 }).await.unwrap() {}
    verifier.verdict()
}

/// The key of the chunk that holds a position.
fn chunk_with(store: &MemoryStore, at: Lsn) -> String {
    let keys = store.keys();
    let epoch = format!("{LOG}{:016X}/", 1);
    let before = keys.iter().rev().find(|key| key.starts_with(&epoch) && **key <= format!("{epoch}{}", at.hex16()));
    before.unwrap().clone()
}

#[expect(clippy::ptr_arg, reason = "the store hands over the whole object, which may also be cut short")]
fn flip(bytes: &mut Vec<u8>) {
    *bytes.last_mut().unwrap() ^= 1;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_vault_is_found_sound() {
    let (store, fixture) = fixture().await;
    let (end, _) = hospital(&fixture).await;
    let verdict = scrub(&fixture, Some(fixture.identities.clone())).await;
    assert_eq!(verdict.findings, []);
    assert_eq!((verdict.tip.lsn, verdict.lost.len()), (end, 0));
    let window = (verdict.restorable[0].from.lsn, verdict.restorable[0].to.lsn);
    assert_eq!(window, (Lsn(ORIGIN.0 + 0x1_0000), end));
    let totals = verdict.totals;
    assert_eq!(totals.objects, store.keys().len() as u64);
    assert_eq!((totals.bodies, totals.locks), (totals.objects, totals.objects));
    // All but the identity, the claim and the two manifests are sealed.
    assert_eq!(totals.opened, totals.objects - 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_chunk_is_named_with_the_moments_that_it_costs() {
    let (store, fixture) = fixture().await;
    let (end, _) = hospital(&fixture).await;
    let key = chunk_with(&store, Lsn(ORIGIN.0 + 0x10_0000));
    store.damage(&key, flip);
    let verdict = scrub(&fixture, None).await;
    let [finding] = verdict.findings.as_slice() else { panic!("{:?}", verdict.findings) };
    assert_eq!((finding.key.as_str(), finding.what), (key.as_str(), FindingKind::Damaged));
    let span = finding.span.unwrap();
    assert_eq!(key, format!("{LOG}{:016X}/{}", 1, span.from.hex16()));
    // From the damage to the end of the next backup, and nothing after it.
    let lost: Vec<_> = verdict.lost.iter().map(|lost| (lost.from.lsn, lost.to.lsn)).collect();
    assert_eq!(lost, [(span.from, Lsn(ORIGIN.0 + 0x21_0000))]);
    assert_eq!(finding.costs, verdict.lost);
    assert_eq!(finding.costs[0].backup.as_deref(), Some("a"));
    let text = finding.costs[0].to_string();
    assert!(text.starts_with("backup a: no restore to moments between 1970-01-01T00:00:00Z ("), "{text}");
    assert_eq!(verdict.restorable.last().unwrap().to.lsn, end);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_gone_is_named_too() {
    let (store, fixture) = fixture().await;
    hospital(&fixture).await;
    store.set_enforce_lock(false);
    let key = chunk_with(&store, Lsn(ORIGIN.0 + 0x10_0000));
    let id = store.versions(&key).await.unwrap()[0].id.clone();
    assert!(store.try_delete_version(&key, &id).await.unwrap());
    // So soon a chunk before others may be under way: where the log is being written, nothing is missing yet.
    let verdict = scrub(&fixture, None).await;
    let start = key.rsplit('/').next().and_then(|name| u64::from_str_radix(name, 16).ok()).map(Lsn).unwrap();
    assert_eq!((verdict.findings, verdict.tip.lsn), (vec![], start));
    store.advance(Duration::from_secs(3600));
    let verdict = scrub(&fixture, None).await;
    let [finding] = verdict.findings.as_slice() else { panic!("{:?}", verdict.findings) };
    assert_eq!((finding.key.as_str(), finding.what), (key.as_str(), FindingKind::Missing));
    let lost = (finding.costs[0].from.lsn, finding.costs[0].to.lsn);
    assert_eq!(lost, (finding.span.unwrap().from, Lsn(ORIGIN.0 + 0x21_0000)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_part_costs_its_backup() {
    let (store, fixture) = fixture().await;
    hospital(&fixture).await;
    store.damage("p/v1/db/billing/backup/a/00000001", |bytes| bytes.truncate(bytes.len() / 2));
    store.damage("p/v1/db/billing/backup/b/manifest", flip);
    let verdict = scrub(&fixture, None).await;
    let named: Vec<_> = verdict.findings.iter().map(|f| (&f.key[23..], f.what, f.backup.as_deref().unwrap())).collect();
    let expected = [("a/00000001", FindingKind::Damaged, "a"), ("b/manifest", FindingKind::Damaged, "b")];
    assert_eq!(named, expected);
    assert!(!verdict.backups[0].sound && verdict.restorable.is_empty(), "{verdict:?}");
    assert_eq!(verdict.findings[0].costs.len(), 1, "all from its end on: {:?}", verdict.findings[0].costs);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_part_and_an_unfinished_backup_are_told_apart() {
    let (store, fixture) = fixture().await;
    hospital(&fixture).await;
    fixture.backup("c", Lsn(ORIGIN.0 + 0x22_0000), Lsn(ORIGIN.0 + 0x23_0000)).await;
    store.set_enforce_lock(false);
    for key in ["b/00000002", "c/manifest", "c/00000000"] {
        let key = format!("p/v1/db/billing/backup/{key}");
        let id = store.versions(&key).await.unwrap()[0].id.clone();
        assert!(store.try_delete_version(&key, &id).await.unwrap());
    }
    let verdict = scrub(&fixture, None).await;
    let [finding] = verdict.findings.as_slice() else { panic!("{:?}", verdict.findings) };
    assert_eq!((&finding.key[23..], finding.what), ("b/00000002", FindingKind::Missing));
    assert_eq!(finding.costs, [], "the first backup reaches all of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_seal_loses_its_epoch_and_the_next_is_found_again() {
    let (store, fixture) = fixture().await;
    let (start, writer) = fixture.writer().await;
    let first = append(&writer, start, 1 << 20, PIECE, 7).await;
    durable(&writer, first).await;
    drop(writer);
    // A new incarnation: epoch 2, and another: epoch 3.
    let writer = fixture.claim(&origin()).await.unwrap().into_running(common::limits()).unwrap();
    let second = append(&writer, first, 1 << 20, PIECE, 7).await;
    durable(&writer, second).await;
    drop(writer);
    let writer = fixture.claim(&origin()).await.unwrap().into_running(common::limits()).unwrap();
    let third = append(&writer, second, 1 << 20, PIECE, 7).await;
    durable(&writer, third).await;
    fixture.backup("a", start, Lsn(start.0 + 0x1_0000)).await;
    let seal = format!("{LOG}{:016X}/{}", 1, first.hex16());
    store.damage(&seal, |bytes| bytes[40] ^= 1);
    let verdict = scrub(&fixture, None).await;
    let [finding] = verdict.findings.as_slice() else { panic!("{:?}", verdict.findings) };
    assert_eq!(finding.key, seal);
    let span = finding.span.unwrap();
    assert_eq!((span.from, span.to), (first, second), "the chunks of epoch 2 have no owner that is known");
    assert_eq!((verdict.tip.lsn, verdict.lost[0].from.lsn, verdict.lost[0].to.lsn), (third, first, third));
}

#[tokio::test(flavor = "multi_thread")]
async fn tampering_and_missing_locks_cost_nothing_and_are_told() {
    let (store, fixture) = fixture().await;
    let (end, _) = hospital(&fixture).await;
    let (hidden, covered) = (chunk_with(&store, Lsn(ORIGIN.0 + 0x8_0000)), chunk_with(&store, Lsn(end.0 - 1)));
    store.put_delete_marker(&hidden);
    store.overwrite(&covered, Bytes::from_static(b"rubbish"));
    store.overwrite("p/v1/db/billing/backup/c/00000000", Bytes::from_static(b"rubbish, and not locked"));
    let verdict = scrub(&fixture, None).await;
    let tampered = |key: &String| verdict.findings.iter().any(|f| f.key == *key && f.what == FindingKind::Tampered);
    assert!(tampered(&hidden) && tampered(&covered), "{:?}", verdict.findings);
    let unlocked = verdict.findings.iter().find(|f| f.what == FindingKind::Unlocked).unwrap();
    assert!(unlocked.key.ends_with("c/00000000"), "{unlocked:?}");
    assert_eq!((verdict.findings.len(), verdict.lost.len()), (3, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_opens_nothing_is_told() {
    let (_, fixture) = fixture().await;
    hospital(&fixture).await;
    let stranger = Identities::parse(&generate_identity().0).unwrap();
    let verdict = scrub(&fixture, Some(stranger)).await;
    assert!(verdict.findings.iter().all(|f| f.what == FindingKind::Unreadable), "{:?}", verdict.findings[0]);
    assert!(verdict.restorable.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_put_behind_a_seal_are_beside_the_chain() {
    let (_, fixture) = fixture().await;
    let (end, _) = hospital(&fixture).await;
    let taker = TakerState::generate("test");
    let taken = fixture.database.takeover(&taker, &TakeoverOptions::default()).await.unwrap();
    let verdict = scrub(&fixture, None).await;
    assert_eq!((verdict.findings.len(), verdict.tip.lsn, taken.sealed), (0, end, end), "{:?}", verdict.findings);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_goes_on_from_its_state() {
    let (store, fixture) = fixture().await;
    hospital(&fixture).await;
    store.damage(&chunk_with(&store, Lsn(ORIGIN.0 + 0x10_0000)), flip);
    let whole = scrub(&fixture, None).await;
    let mut kept: Option<VerifyState> = None;
    let mut rounds = 0;
    let verdict = loop {
        let options = VerifyOptions::default();
        let mut verifier = match kept.take() {
            None => Verifier::begin(&fixture.database, None, options).await.unwrap(),
            Some(state) => Verifier::resume(&fixture.database, None, options, state).await.unwrap(),
        };
        rounds += 1;
        if verifier.step(Budget { bytes: u64::MAX, requests: 4 }).await.unwrap() {
            break verifier.verdict();
        }
        kept = Some(serde_json::from_str(&serde_json::to_string(verifier.state()).unwrap()).unwrap());
    };
    assert!(rounds > 3, "{rounds} rounds");
    assert_eq!((verdict.findings, verdict.lost), (whole.findings, whole.lost));
    let other = fixture.vault.database("lab").unwrap();
    other.register(common::identity(small_segments())).await.unwrap();
    let state = Verifier::begin(&fixture.database, None, VerifyOptions::default()).await.unwrap().state().clone();
    let error = Verifier::resume(&other, None, VerifyOptions::default(), state).await.unwrap_err();
    assert!(matches!(error, VaultError::BadConfig { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_ends_although_the_log_grows_faster_than_it_reads() {
    let (store, fixture) = fixture().await;
    let (start, writer) = fixture.writer().await;
    let end = append(&writer, start, 1 << 20, PIECE, 7).await;
    durable(&writer, end).await;
    let mut verifier = Verifier::begin(&fixture.database, None, VerifyOptions::default()).await.unwrap();
    let (mut grown, mut steps) = (end, 0);
    while !verifier.step(Budget { bytes: u64::MAX, requests: 2 }).await.unwrap() {
        store.advance(Duration::from_secs(1));
        grown = append(&writer, grown, 1 << 20, PIECE, 7).await;
        durable(&writer, grown).await;
        steps += 1;
        assert!(steps < 60, "it follows the log for ever: {:?}", verifier.totals());
    }
    assert!(steps > 3, "{steps} steps");
    let verdict = verifier.verdict();
    assert_eq!((verdict.findings, verdict.tip.lsn), (vec![], end));
    let next = scrub(&fixture, None).await;
    assert_eq!((next.findings, next.tip.lsn), (vec![], grown));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_reads_every_header() {
    let (store, fixture) = fixture().await;
    hospital(&fixture).await;
    let options = VerifyOptions { sample_percent: 0.0, ..VerifyOptions::default() };
    let mut verifier = Verifier::begin(&fixture.database, None, options.clone()).await.unwrap();
    assert!(verifier.step(Budget::unlimited()).await.unwrap());
    assert_eq!((verifier.totals().bodies, verifier.findings().len()), (0, 0));
    // A header is one of them; a body is not.
    store.damage(&chunk_with(&store, Lsn(ORIGIN.0 + 0x10_0000)), flip);
    store.damage(&chunk_with(&store, Lsn(ORIGIN.0 + 0x18_0000)), |bytes| bytes[40] ^= 1);
    store.damage("p/v1/db/billing/backup/a/00000002", |bytes| bytes.truncate(bytes.len() - 1));
    let mut verifier = Verifier::begin(&fixture.database, None, options).await.unwrap();
    assert!(verifier.step(Budget::unlimited()).await.unwrap());
    assert_eq!(verifier.findings().len(), 2, "{:?}", verifier.findings());
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_take_the_place_of_chunks() {
    let (store, fixture) = fixture().await;
    let (end, _) = hospital(&fixture).await;
    let (identities, recipients) = (fixture.identities.clone(), fixture.recipients.clone());
    let options = ArchiveOptions { look_every: Duration::from_millis(50), ..ArchiveOptions::default() };
    let mut archiver = fixture.database.archiver(identities, recipients, options).await.unwrap();
    while !matches!(archiver.step().await.unwrap(), ArchiveStep::AtEnd(_)) {}
    archiver.finish().await.unwrap();
    let verdict = scrub(&fixture, Some(fixture.identities.clone())).await;
    assert_eq!(verdict.findings, [], "chunks and segments");

    // A damaged chunk costs nothing: a segment holds the same WAL. Nor does it cost anything that chunks are gone.
    let at = Lsn(ORIGIN.0 + 0x10_0000);
    store.damage(&chunk_with(&store, at), flip);
    let verdict = scrub(&fixture, None).await;
    assert_eq!((verdict.findings.len(), &verdict.findings[0].costs, verdict.lost.len()), (1, &vec![], 0));
    store.set_enforce_lock(false);
    for key in store.keys().iter().filter(|key| key.starts_with(&format!("{LOG}{:016X}/", 1))) {
        let id = store.versions(key).await.unwrap()[0].id.clone();
        assert!(store.try_delete_version(key, &id).await.unwrap());
    }
    let verdict = scrub(&fixture, Some(fixture.identities.clone())).await;
    assert_eq!((verdict.findings, verdict.lost.len()), (vec![], 0), "segments alone");
    assert_eq!(verdict.restorable[0].to.lsn, end);

    // Now a segment is all that there is.
    let segments: Vec<_> = store.keys().into_iter().filter(|key| key.contains("/segment/")).collect();
    let second = segments.iter().find(|key| key.ends_with(&at.hex16())).unwrap();
    store.damage(second, flip);
    let verdict = scrub(&fixture, None).await;
    let [finding] = verdict.findings.as_slice() else { panic!("{:?}", verdict.findings) };
    let lost = (finding.costs[0].from.lsn, finding.costs[0].to.lsn);
    assert_eq!((&finding.key, lost), (second, (at, Lsn(ORIGIN.0 + 0x21_0000))));
    let id = store.versions(second).await.unwrap()[0].id.clone();
    assert!(store.try_delete_version(second, &id).await.unwrap());
    let verdict = scrub(&fixture, None).await;
    let [finding] = verdict.findings.as_slice() else { panic!("{:?}", verdict.findings) };
    assert_eq!((finding.what, finding.span.unwrap().from), (FindingKind::Missing, at));
    assert_eq!(verdict.lost.len(), 1);
}

async fn archive(fixture: &Fixture) {
    let (identities, recipients) = (fixture.identities.clone(), fixture.recipients.clone());
    let options = ArchiveOptions { look_every: Duration::from_millis(50), ..ArchiveOptions::default() };
    let mut archiver = fixture.database.archiver(identities, recipients, options).await.unwrap();
    while !matches!(archiver.step().await.unwrap(), ArchiveStep::AtEnd(_)) {}
    archiver.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_expired_is_no_finding_and_what_ended_too_early_is() {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let (store, fixture) = fixture().await;
    let (end, _) = hospital(&fixture).await;
    archive(&fixture).await;
    // One more index, so that an old one stands beside the newest.
    let writer = fixture.claim(&origin()).await.unwrap().into_running(common::limits()).unwrap();
    let end = append(&writer, end, 1 << 20, PIECE, 7).await;
    durable(&writer, end).await;
    drop(writer);
    archive(&fixture).await;
    store.advance(50 * DAY);
    fixture.database.hold_recovery(90 * DAY).await.unwrap();
    store.advance(50 * DAY);
    let verdict = scrub(&fixture, None).await;
    assert_eq!(verdict.findings, [], "the old backup, its segments, chunks and the first index wait for the janitor");
    // What a recovery needs must stay locked.
    store.advance(50 * DAY);
    let verdict = scrub(&fixture, None).await;
    let unlocked = |verdict: &Verdict, part: &str| {
        let of = |finding: &&holdfast_vault::Finding| finding.what == FindingKind::Unlocked;
        verdict.findings.iter().filter(of).filter(|finding| finding.key.contains(part)).count()
    };
    let index = format!("/index/{:016X}", 1);
    for (part, count) in [("/identity", 1), ("/backup/b/", 4), ("/backup/a/", 0), ("/index/", 1), (index.as_str(), 1)] {
        assert_eq!(unlocked(&verdict, part), count, "{part}: {:?}", verdict.findings);
    }
    assert!(unlocked(&verdict, "/segment/") > 0 && unlocked(&verdict, "/log/") == 0, "{:?}", verdict.findings);

    // A store that locks for half of what it is asked for.
    let (store, fixture) = self::fixture().await;
    store.set_shortened_locks(true);
    hospital(&fixture).await;
    archive(&fixture).await;
    store.advance(5 * DAY);
    let verdict = scrub(&fixture, None).await;
    // All chunks: those of the one epoch that has any. Their writer chose how many.
    let epoch = format!("{LOG}0000000000000001/");
    let request = ListRequest { prefix: &epoch, after: "", limit: 1000, folders: false };
    let chunks = store.list(request).await.unwrap().entries.len();
    assert!(chunks > 0);
    assert_eq!((unlocked(&verdict, "/log/"), verdict.findings.len()), (chunks, chunks), "{:?}", verdict.findings);
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_and_the_identity_are_checked_too() {
    let (store, fixture) = fixture().await;
    let (end, _) = hospital(&fixture).await;
    archive(&fixture).await;
    let writer = fixture.claim(&origin()).await.unwrap().into_running(common::limits()).unwrap();
    let end = append(&writer, end, 1 << 20, PIECE, 7).await;
    durable(&writer, end).await;
    archive(&fixture).await;
    let index = |n: u64| format!("p/v1/db/billing/index/{n:016X}");
    // Sound, and at another number: readers pass it over.
    let moved = store.get(&index(0)).await.unwrap().unwrap().bytes;
    store.create(&index(2), moved, holdfast_vault::store::Lock::Long).await.unwrap();
    store.create(&index(9), "rubbish".into(), holdfast_vault::store::Lock::Long).await.unwrap();
    let mut verifier = Verifier::begin(&fixture.database, None, VerifyOptions::default()).await.unwrap();
    store.damage("p/v1/db/billing/identity", flip);
    while !verifier.step(Budget::unlimited()).await.unwrap() {}
    let verdict = verifier.verdict();
    let named: Vec<_> = verdict.findings.iter().map(|f| (f.key.as_str(), f.what)).collect();
    let (second, ninth) = (index(2), index(9));
    let damaged = FindingKind::Damaged;
    assert_eq!(named, [(second.as_str(), damaged), (ninth.as_str(), damaged), ("p/v1/db/billing/identity", damaged)]);
    assert!(verdict.findings[0].detail.contains("index 0, where index 2 belongs"), "{:?}", verdict.findings);
}

#[tokio::test(flavor = "multi_thread")]
async fn journals_plans_and_evidence_are_scrubbed() {
    let (store, fixture) = fixture().await;
    let vault = &fixture.vault;
    vault.put_plan("hospital", "abc", Bytes::from_static(b"plan")).await.unwrap();
    let evidence = vault.put_evidence("lock-probe", &serde_json::json!({ "n": 1 })).await.unwrap();
    for run in ["run-1", "run-2", "run-3"] {
        let journal = vault.journal(run).unwrap();
        for n in 0..4 {
            journal.append(n, &serde_json::json!({ "step": n })).await.unwrap();
        }
    }
    let options = VerifyOptions::default();
    let verdict = vault.verify_shared(&options).await.unwrap();
    assert_eq!((verdict.findings.clone(), verdict.totals.objects, verdict.totals.locks), (vec![], 14, 14));
    assert!(verdict.is_clean());
    // Step by step it comes to the same, and no step takes much more than its budget.
    let (mut paced, mut steps) = (vault.shared_verifier(options.clone()), 0);
    loop {
        let before = *paced.totals();
        let through = paced.step(Budget { bytes: u64::MAX, requests: 2 }).await.unwrap();
        assert!(paced.totals().requests - before.requests <= 2 + 2, "{:?}", paced.totals());
        steps += 1;
        if through {
            break;
        }
    }
    let by_steps = paced.verdict();
    assert!(steps > 7, "{steps}");
    let seen = (by_steps.totals.objects, by_steps.totals.bytes, by_steps.totals.locks);
    assert_eq!(seen, (verdict.totals.objects, verdict.totals.bytes, verdict.totals.locks));
    assert_eq!(by_steps.findings, [], "the chain of a journal holds across steps");

    let record = |run: &str, n: u64| format!("p/v1/run/{run}/{n:08}");
    store.damage(&record("run-1", 1), flip);
    store.set_enforce_lock(false);
    let gone = record("run-2", 2);
    let id = store.versions(&gone).await.unwrap()[0].id.clone();
    assert!(store.try_delete_version(&gone, &id).await.unwrap());
    // A record of another journal, and a plan under another's hash.
    let last = record("run-3", 4);
    let foreign = store.get(&record("run-2", 3)).await.unwrap().unwrap().bytes;
    store.create(&last, foreign, holdfast_vault::store::Lock::Long).await.unwrap();
    let plan = store.get("p/v1/plan/hospital/abc").await.unwrap().unwrap().bytes;
    store.create("p/v1/plan/hospital/abd", plan, holdfast_vault::store::Lock::Long).await.unwrap();
    store.put_delete_marker(&evidence);
    let verdict = vault.verify_shared(&options).await.unwrap();
    let named: Vec<_> = verdict.findings.iter().map(|f| (f.key.clone(), f.what)).collect();
    let expected = [
        (record("run-1", 1), FindingKind::Damaged),
        (gone, FindingKind::Missing),
        (last, FindingKind::Damaged),
        ("p/v1/plan/hospital/abd".to_owned(), FindingKind::Damaged),
        (evidence, FindingKind::Tampered),
    ];
    assert_eq!(named, expected, "{:?}", verdict.findings);
    // Nobody of a list made them.
    let strict = vault.clone().with_trust(holdfast_vault::Trust::only(Vec::new()));
    let verdict = strict.verify_shared(&options).await.unwrap();
    assert!(verdict.findings.iter().filter(|f| f.what == FindingKind::Untrusted).count() > 8, "{:?}", verdict.findings);
}

fn url(folder: &Path) -> url::Url {
    url::Url::from_directory_path(folder).unwrap()
}

/// The vault in a folder.
fn in_folder(folder: &Path) -> Vault {
    // As it stands in the configuration of a role.
    let config = serde_json::json!({ "url": url(folder), "prefix": "p" });
    let config: VaultConfig = serde_json::from_value(config).unwrap();
    Vault::open(config).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_in_a_folder_restores_what_the_vault_restores() {
    let (store, fixture) = fixture().await;
    let (end, [manifest, _]) = hospital(&fixture).await;
    fixture.vault.put_plan("hospital", "abc", Bytes::from_static(b"plan")).await.unwrap();
    let journal = fixture.vault.journal("run-1").unwrap();
    journal.append(0, &serde_json::json!({"step": "seal"})).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let target = Arc::new(UrlStore::create(&url(&folder.path().join("copy"))).unwrap());
    let report = fixture.vault.copy_to(target.clone(), &CopyOptions::default(), |_| {}).await.unwrap();
    assert_eq!((report.copied, report.present, report.problems.len()), (store.keys().len() as u64, 0, 0));

    let copy = Fixture { vault: in_folder(&folder.path().join("copy")), ..fixture };
    let copy = Fixture { database: copy.vault.database("billing").unwrap(), ..copy };
    assert_eq!(copy.vault.databases().await.unwrap(), ["billing"]);
    let verdict = scrub(&copy, Some(copy.identities.clone())).await;
    assert_eq!((verdict.findings, verdict.tip.lsn, verdict.totals.locks), (vec![], end, 0));
    let mut reader = copy.database.reader(copy.identities.clone(), ORIGIN, ReadOptions::default()).await.unwrap();
    let read = read_until(&mut reader, ORIGIN, end).await;
    assert!(read == wal(ORIGIN, (end.0 - ORIGIN.0) as usize, 7), "the same WAL");
    let mut parts = copy.database.read_backup(&manifest, copy.identities.clone());
    for n in 0..3 {
        assert_eq!(parts.next().await.unwrap().unwrap(), wal(Lsn(n << 20), 200_000, 9));
    }
    assert!(parts.next().await.unwrap().is_none());
    assert_eq!(copy.vault.plan("hospital", "abc").await.unwrap(), Some(Bytes::from_static(b"plan")));
    assert_eq!(copy.vault.journal("run-1").unwrap().load().await.unwrap().len(), 1);
    assert_eq!(copy.database.tip().await.unwrap().tip, end);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_copy_takes_only_what_is_new_and_overwrites_nothing() {
    let (store, fixture) = fixture().await;
    let (start, writer) = fixture.writer().await;
    let end = append(&writer, start, 1 << 20, PIECE, 7).await;
    durable(&writer, end).await;
    let folder = tempfile::tempdir().unwrap();
    let target = Arc::new(UrlStore::create(&url(folder.path())).unwrap());
    let options = CopyOptions::default();
    let before = fixture.vault.copy_to(target.clone(), &options, |_| {}).await.unwrap();
    let end = append(&writer, end, 1 << 20, PIECE, 7).await;
    durable(&writer, end).await;
    let requests = store.requests();
    let after = fixture.vault.copy_to(target.clone(), &options, |_| {}).await.unwrap();
    assert_eq!((after.present, after.copied), (before.copied, store.keys().len() as u64 - before.copied));
    // One GET for each new object, and the listings.
    assert!(store.requests() - requests < after.copied + 10, "{} requests", store.requests() - requests);

    // A file that was changed is named and left as it is; so is one of another length.
    let (same, shorter) = (chunk_with(&store, start), chunk_with(&store, Lsn(end.0 - 1)));
    let path = |key: &str| folder.path().join(key);
    let mut bytes = std::fs::read(path(&same)).unwrap();
    flip(&mut bytes);
    std::fs::write(path(&same), &bytes).unwrap();
    std::fs::write(path(&shorter), b"short").unwrap();
    let quick = fixture.vault.copy_to(target.clone(), &options, |_| {}).await.unwrap();
    let named: Vec<_> = quick.problems.iter().map(|p| (p.key.clone(), p.what)).collect();
    assert_eq!(named, [(shorter.clone(), CopyProblemKind::Differs)]);
    let options = CopyOptions { compare: true, ..options };
    let careful = fixture.vault.copy_to(target.clone(), &options, |_| {}).await.unwrap();
    let mut named: Vec<_> = careful.problems.iter().map(|p| p.key.clone()).collect();
    named.sort();
    assert_eq!(named, [same.clone(), shorter.clone()]);
    assert_eq!(std::fs::read(path(&same)).unwrap(), bytes, "left as it is");
    // And the scrub of the copy names both.
    let copy = Fixture { database: in_folder(folder.path()).database("billing").unwrap(), ..fixture };
    let verdict = scrub(&copy, None).await;
    let named: Vec<_> = verdict.findings.iter().map(|f| (f.key.clone(), f.what)).collect();
    assert_eq!(named, [(same, FindingKind::Damaged), (shorter, FindingKind::Damaged)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_takes_the_oldest_version_and_no_rubbish() {
    let (store, fixture) = fixture().await;
    let (end, _) = hospital(&fixture).await;
    let (covered, damaged) = (chunk_with(&store, ORIGIN), chunk_with(&store, Lsn(end.0 - 1)));
    store.overwrite(&covered, Bytes::from_static(b"rubbish"));
    store.damage(&damaged, flip);
    let target = Arc::new(MemoryStore::default());
    let report = fixture.vault.copy_to(target.clone(), &CopyOptions::default(), |_| {}).await.unwrap();
    assert_eq!(report.tampered, std::slice::from_ref(&covered));
    let named: Vec<_> = report.problems.iter().map(|p| (p.key.as_str(), p.what)).collect();
    assert_eq!(named, [(damaged.as_str(), CopyProblemKind::SourceDamaged)]);
    assert!(target.get(&covered).await.unwrap().unwrap().bytes.starts_with(b"HOLDFAST"));
    assert!(target.get(&damaged).await.unwrap().is_none());
}

#[tokio::test]
async fn the_time_of_the_first_store_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let store = UrlStore::create(&url(folder.path())).unwrap();
    let stored: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
    store.create_copy("v1/k", Bytes::from_static(b"x"), Some(stored)).await.unwrap();
    assert_eq!(store.get("v1/k").await.unwrap().unwrap().last_modified, Some(stored));
    assert!(store.get("v1/absent").await.unwrap().is_none());
    let front = store.get_front("v1/k", 4096).await.unwrap().unwrap();
    assert_eq!((&front.bytes[..], front.total_len), (&b"x"[..], 1));
    assert!(store.get("../outside").await.is_err());
    let missing = UrlStore::open(&url(&folder.path().join("none"))).unwrap_err();
    assert_eq!(missing.reason(), "BadConfig");
    let unknown = UrlStore::open(&"ftp://host/x".parse().unwrap()).unwrap_err();
    assert!(unknown.to_string().contains("file:///"), "{unknown}");
}
