//! Backups, the journal, plans and the check, over a store in memory.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{Fixture, ORIGIN, small_segments};
use holdfast_vault::store::MemoryStore;
use holdfast_vault::{BackupMeta, JournalError, Vault, VaultError};
use holdfast_wal::{Lsn, TimelineId};
use jiff::Timestamp;
use serde_json::json;

async fn fixture() -> (Arc<MemoryStore>, Fixture) {
    let store = Arc::new(MemoryStore::default());
    let vault = Vault::with_store(store.clone(), "memory", "p");
    (store, Fixture::new(vault, small_segments()).await)
}

fn meta(id: &str) -> BackupMeta {
    BackupMeta {
        id: id.into(),
        start: ORIGIN,
        timeline: TimelineId(1),
        server_version: "15.8".into(),
        label: "holdfast".into(),
        started: Timestamp::UNIX_EPOCH,
        settings: BTreeMap::from([("max_connections".into(), "100".into())]),
        tablespaces: Vec::new(),
    }
}

async fn store_backup(fixture: &Fixture, id: &str, parts: &[Bytes], finished: i64) {
    let mut writer = fixture.database.begin_backup(meta(id), fixture.recipients.clone()).await.unwrap();
    for part in parts {
        writer.part(vec![part.clone()]).await.unwrap();
    }
    writer.finish(Lsn(ORIGIN.0 + 1), Timestamp::from_second(finished).unwrap()).await.unwrap();
}

#[tokio::test]
async fn backups_are_read_back_in_order() {
    let (store, fixture) = fixture().await;
    let parts: Vec<Bytes> = (0..7u8).map(|n| vec![n; 100_000 + usize::from(n)].into()).collect();
    store_backup(&fixture, "b", &parts, 100).await;
    // In the order of the store's clock.
    store.advance(Duration::from_secs(60));
    store_backup(&fixture, "a", &parts[..1], 200).await;
    // Without a manifest there is no backup.
    let mut half = fixture.database.begin_backup(meta("c"), fixture.recipients.clone()).await.unwrap();
    half.part(vec![parts[0].clone()]).await.unwrap();
    drop(half);
    let backups = fixture.database.backups().await.unwrap();
    let ids: Vec<&str> = backups.iter().map(|backup| backup.meta.id.as_str()).collect();
    assert_eq!(ids, ["b", "a"]);
    assert_eq!(backups[0].meta, meta("b"));
    let mut reader = fixture.database.read_backup(&backups[0], fixture.identities.clone());
    let mut read = Vec::new();
    while let Some(part) = reader.next().await.unwrap() {
        read.push(part);
    }
    assert_eq!(read, parts);
    // A part of another place is not taken for it.
    let key = |n: u32| format!("p/v1/db/billing/backup/b/{n:08}");
    let other = fixture.vault.database("billing").unwrap();
    let swapped = {
        let mut bytes = Vec::new();
        store.damage(&key(3), |found| bytes = found.clone());
        bytes
    };
    store.damage(&key(2), |found| *found = swapped);
    let mut reader = other.read_backup(&backups[0], fixture.identities.clone());
    let error = loop {
        match reader.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a swapped part was not noticed"),
            Err(error) => break error,
        }
    };
    assert!(matches!(&error, VaultError::Damaged { key: named, .. } if *named == key(2)), "{error}");
}

#[tokio::test]
async fn a_journal_has_one_writer_a_record() {
    let (_, fixture) = fixture().await;
    let (one, two) = (fixture.vault.journal("run-1").unwrap(), fixture.vault.journal("run-1").unwrap());
    assert!(one.load().await.unwrap().is_empty());
    one.append(0, &json!({"step": "seal"})).await.unwrap();
    let conflict = two.append(0, &json!({"step": "seal"})).await.unwrap_err();
    assert!(matches!(conflict, JournalError::Conflict { n: 0, .. }), "{conflict:?}");
    two.load().await.unwrap();
    two.append(1, &json!({"step": "promote"})).await.unwrap();
    assert!(matches!(one.append(1, &json!({})).await, Err(JournalError::Conflict { n: 1, .. })));
    assert!(matches!(one.append(7, &json!({})).await, Err(JournalError::Hole { n: 7, .. })));
    let records = one.load().await.unwrap();
    let steps: Vec<_> = records.iter().map(|record| record.entry["step"].clone()).collect();
    assert_eq!(steps, ["seal", "promote"]);
    assert_eq!(records[1].prev_sha256, Some(records[0].sha256));
}

#[tokio::test]
async fn a_journal_record_whose_answer_was_lost_is_found_again() {
    let (store, fixture) = fixture().await;
    let toxics = holdfast_vault::store::Toxics { lose_answer: 0.25, ..Default::default() };
    store.set_toxics(toxics);
    let journal = fixture.vault.journal("run-2").unwrap();
    for n in 0..4 {
        journal.append(n, &json!({ "n": n })).await.unwrap();
    }
    assert_eq!(journal.load().await.unwrap().len(), 4);
}

#[tokio::test]
async fn a_changed_journal_is_noticed() {
    let (store, fixture) = fixture().await;
    let journal = fixture.vault.journal("run-3").unwrap();
    for n in 0..3 {
        journal.append(n, &json!({ "n": n })).await.unwrap();
    }
    store.damage("p/v1/run/run-3/00000001", |bytes| *bytes.last_mut().unwrap() ^= 1);
    let error = journal.load().await.unwrap_err();
    assert!(matches!(&error, VaultError::Damaged { key, .. } if key.ends_with("00000001")), "{error}");
}

#[tokio::test]
async fn plans_are_kept_by_hash() {
    let (_, fixture) = fixture().await;
    let body = Bytes::from_static(b"plan");
    fixture.vault.put_plan("hospital", "abc", body.clone()).await.unwrap();
    fixture.vault.put_plan("hospital", "abc", body.clone()).await.unwrap();
    assert_eq!(fixture.vault.plan("hospital", "abc").await.unwrap(), Some(body));
    assert_eq!(fixture.vault.plan("hospital", "abd").await.unwrap(), None);
    assert!(fixture.vault.put_plan("hospital", "abc", Bytes::from_static(b"other")).await.is_err());
}

#[tokio::test]
async fn a_check_finds_each_lie() {
    let (store, fixture) = fixture().await;
    let check = fixture.vault.check().await.unwrap();
    assert!(check.locked_until > Timestamp::UNIX_EPOCH);
    let reason = async |store: &MemoryStore| {
        let found = fixture.vault.check().await.unwrap_err();
        store.set_bucket(true, true);
        store.set_enforce_lock(true);
        store.set_honour_condition(true);
        found.reason()
    };
    store.set_bucket(false, true);
    assert_eq!(reason(&store).await, "BucketWithoutVersioning");
    store.set_bucket(true, false);
    assert_eq!(reason(&store).await, "BucketWithoutObjectLock");
    store.set_enforce_lock(false);
    assert_eq!(reason(&store).await, "LockNotEnforced");
    store.set_honour_condition(false);
    assert_eq!(reason(&store).await, "ConditionNotHonoured");
    assert!(fixture.vault.check().await.is_ok());
}
