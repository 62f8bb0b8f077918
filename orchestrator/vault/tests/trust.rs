//! Whose objects count: vouchers, revocation by the store's time, rotation, strangers.

mod common;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{Fixture, append, durable, origin, small_segments, wal};
use holdfast_test_postgres::SeaweedFS;
use holdfast_vault::store::{MemoryStore, S3Store, Store};
use holdfast_vault::{
    ArchiveOptions, ArchiveStep, BackupMeta, CensusOptions, ClaimError, CredentialsSource, Distrust, Identities,
    JournalError, ObjectError, ReadError, ReadEvent, RunningWriter, TakeoverError, TakeoverOptions, TakerState, Trust,
    TrustedWriter, Vault, VaultConfig, VaultError, WriterKey, generate_identity,
};
use holdfast_wal::{Lsn, TimelineId};
use jiff::Timestamp;
use serde_json::json;

/// A store whose time can pass.
struct World {
    store: Arc<dyn Store>,
    /// Its clock can be moved; else it is waited for.
    memory: Option<Arc<MemoryStore>>,
    _server: Option<SeaweedFS>,
}

impl World {
    fn memory() -> World {
        let memory = Arc::new(MemoryStore::default());
        World { store: memory.clone(), memory: Some(memory), _server: None }
    }

    async fn seaweedfs() -> World {
        let server = SeaweedFS::start();
        let credentials = CredentialsSource::Static {
            access_key_id: server.access_key().into(),
            secret_access_key: server.secret_key().into(),
        };
        let endpoint = Some(server.endpoint().parse().unwrap());
        let config = VaultConfig { endpoint, retention_days: 1, ..VaultConfig::new("holdfast", credentials) };
        common::create_bucket(&server, &config.bucket).await;
        let store = Arc::new(S3Store::new(config).unwrap());
        World { store, memory: None, _server: Some(server) }
    }

    /// Lets so much time pass that the store's clock, which counts seconds, shows it.
    async fn pass(&self) {
        match &self.memory {
            Some(memory) => memory.advance(Duration::from_secs(60)),
            None => tokio::time::sleep(Duration::from_millis(2100)).await,
        }
    }

    async fn now(&self) -> Timestamp {
        self.store.bucket().await.unwrap().now.unwrap()
    }

    /// A site with this key that trusts these writers.
    fn site(&self, key: Option<&WriterKey>, trust: Trust) -> Vault {
        let vault = Vault::with_store(self.store.clone(), "holdfast", "t").with_trust(trust);
        key.map_or(vault.clone(), |key| vault.with_writer_key(key.clone()))
    }
}

fn only(writers: &[(&str, &WriterKey, Option<Timestamp>)]) -> Trust {
    let entry = |(name, key, not_after): &(&str, &WriterKey, _)| TrustedWriter {
        name: (*name).into(),
        public_key: key.public(),
        not_after: *not_after,
    };
    Trust::only(writers.iter().map(entry).collect())
}

/// The same database and keys, seen by another site.
fn seen(fixture: &Fixture, vault: Vault) -> Fixture {
    let database = vault.database("billing").unwrap();
    let (identities, recipients) = (fixture.identities.clone(), fixture.recipients.clone());
    Fixture { vault, database, identities, recipients }
}

async fn write(writer: &RunningWriter, start: Lsn, len: usize) -> Lsn {
    let end = append(writer, start, len, 500, 0).await;
    durable(writer, end).await;
    end
}

async fn store_backup(fixture: &Fixture, id: &str, at: Lsn) {
    let meta = BackupMeta {
        id: id.into(),
        start: at,
        timeline: TimelineId(1),
        server_version: "17".into(),
        label: id.into(),
        started: Timestamp::UNIX_EPOCH,
        settings: Default::default(),
        tablespaces: Vec::new(),
    };
    let mut backup = fixture.database.begin_backup(meta, fixture.recipients.clone()).await.unwrap();
    backup.part(vec![Bytes::from(id.to_owned())]).await.unwrap();
    backup.finish(at, Timestamp::UNIX_EPOCH).await.unwrap();
}

/// Reads from the origin until something is refused.
async fn read_to_refusal(fixture: &Fixture) -> (Vec<u8>, VaultError) {
    let mut reader = fixture.reader(common::ORIGIN).await;
    let mut read = Vec::new();
    loop {
        match tokio::time::timeout(Duration::from_secs(60), reader.next()).await.expect("an event in time") {
            Ok(ReadEvent::Wal { data, .. }) => read.extend_from_slice(&data),
            Ok(_) => {}
            Err(ReadError::Vault(error)) => return (read, error),
            Err(other) => panic!("{other}"),
        }
    }
}

fn refused(error: &VaultError) -> (&str, &Distrust) {
    let VaultError::Damaged { key, error: ObjectError::Untrusted(why) } = error else { panic!("{error:?}") };
    assert_eq!(error.reason(), "Untrusted");
    (key, why)
}

fn log_key(epoch: u64, start: Lsn) -> String {
    format!("t/v1/db/billing/log/{epoch:016X}/{}", start.hex16())
}

/// Before T all of A's objects count, after T none: neither the chunks of an epoch that A's seal opened before T, nor
/// its seals, manifests, records and plans.
async fn revocation(world: World) {
    let a = WriterKey::generate();
    let trusted = only(&[("a", &a, None)]);
    let fixture = Fixture::new(world.site(Some(&a), trusted.clone()), small_segments()).await;
    let (start, writer) = fixture.writer().await;
    let end = write(&writer, start, 3000).await;
    store_backup(&fixture, "honest", end).await;
    let journal = fixture.vault.journal("run").unwrap();
    journal.append(0, &json!("honest")).await.unwrap();
    fixture.vault.put_plan("plan", "1", "honest".into()).await.unwrap();
    world.pass().await;
    let t = world.now().await;
    world.pass().await;
    // What is stolen: the process that owns the epoch, and then the site's key.
    let late = write(&writer, end, 1000).await;
    let (claimed, thief) = fixture.writer().await;
    assert_eq!(claimed, late);
    write(&thief, late, 1000).await;
    store_backup(&fixture, "stolen", late).await;
    journal.append(1, &json!("stolen")).await.unwrap();
    fixture.vault.put_plan("plan", "2", "stolen".into()).await.unwrap();
    // Unrevoked, all of it counts.
    assert_eq!(fixture.read(start, Lsn(late.0 + 1000)).await.len(), 5000);

    let b = WriterKey::generate();
    let reader = seen(&fixture, world.site(Some(&b), only(&[("a", &a, Some(t)), ("b", &b, None)])));
    let (read, error) = read_to_refusal(&reader).await;
    assert!(read == wal(start, 3000, 0), "{} bytes before {error}", read.len());
    let (key, why) = refused(&error);
    assert_eq!(key, log_key(1, end));
    assert!(matches!(why, Distrust::Revoked { name, stored: Some(at), .. } if name == "a" && *at > t), "{why:?}");
    let backups = reader.database.backups().await.unwrap();
    assert_eq!(backups.iter().map(|backup| backup.meta.id.as_str()).collect::<Vec<_>>(), ["honest"]);
    let mut parts = reader.database.read_backup(&backups[0], reader.identities.clone());
    assert_eq!(parts.next().await.unwrap().as_deref(), Some(&b"honest"[..]));
    let error = reader.vault.journal("run").unwrap().load().await.unwrap_err();
    assert_eq!(refused(&error).0, "t/v1/run/run/00000001");
    assert_eq!(reader.vault.plan("plan", "1").await.unwrap().as_deref(), Some(&b"honest"[..]));
    assert_eq!(refused(&reader.vault.plan("plan", "2").await.unwrap_err()).0, "t/v1/plan/plan/2");
    // Nobody builds on it either: the taker is told the same, and no record follows the thief's.
    let taken = reader.database.takeover(&TakerState::generate("run"), &TakeoverOptions::default()).await.unwrap_err();
    let TakeoverError::Vault(error) = taken else { panic!("{taken:?}") };
    assert_eq!(refused(&error).0, log_key(1, end));
    let claimed = reader.claim(&origin()).await.unwrap_err();
    assert!(matches!(&claimed, ClaimError::Vault(error) if refused(error).0 == log_key(1, end)), "{claimed:?}");
    let appended = reader.vault.journal("run").unwrap().append(2, &json!("next")).await.unwrap_err();
    assert!(matches!(appended, JournalError::Vault(error) if refused(&error).0 == "t/v1/run/run/00000001"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_counts_that_a_revoked_key_signed_later() {
    revocation(World::memory()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_counts_that_a_revoked_key_signed_later_on_a_real_store() {
    revocation(World::seaweedfs().await).await;
}

/// A seal after T ends the log where it stands, though its epoch looks like the newest.
async fn stolen_claim(world: World) {
    let (a, b) = (WriterKey::generate(), WriterKey::generate());
    let fixture = Fixture::new(world.site(Some(&a), only(&[("a", &a, None)])), small_segments()).await;
    let (start, writer) = fixture.writer().await;
    let end = write(&writer, start, 2000).await;
    writer.close().await;
    world.pass().await;
    let t = world.now().await;
    world.pass().await;
    let (_, thief) = fixture.writer().await;
    write(&thief, end, 1000).await;
    let reader = seen(&fixture, world.site(Some(&b), only(&[("a", &a, Some(t)), ("b", &b, None)])));
    let (read, error) = read_to_refusal(&reader).await;
    assert!(read == wal(start, 2000, 0), "{} bytes before {error}", read.len());
    assert_eq!(refused(&error).0, log_key(1, end));
    assert_eq!(refused(&reader.database.tip().await.unwrap_err()).0, log_key(1, end));
    // The site that still has the revoked key is stopped before it writes.
    let own = seen(&fixture, world.site(Some(&a), only(&[("a", &a, Some(t)), ("b", &b, None)])));
    let refusal = own.claim(&origin()).await.unwrap_err();
    let revoked = |error: &ClaimError| {
        matches!(error, ClaimError::Vault(VaultError::WriterNotTrusted { distrust: Distrust::Revoked { .. } }))
    };
    assert!(revoked(&refusal), "{refusal:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_with_a_revoked_key_ends_the_log() {
    stolen_claim(World::memory()).await;
}

/// A hands over to B while both are listed; then A is revoked, and nothing is lost.
async fn rotation(world: World) {
    let (a, b) = (WriterKey::generate(), WriterKey::generate());
    let fixture = Fixture::new(world.site(Some(&a), only(&[("a", &a, None)])), small_segments()).await;
    let (start, writer) = fixture.writer().await;
    let handed_over = write(&writer, start, 2000).await;
    writer.close().await;
    world.pass().await;
    let next = seen(&fixture, world.site(Some(&b), only(&[("a", &a, None), ("b", &b, None)])));
    let (claimed, writer) = next.writer().await;
    assert_eq!(claimed, handed_over);
    world.pass().await;
    let t = world.now().await;
    world.pass().await;
    let end = write(&writer, handed_over, 2000).await;
    let after = seen(&fixture, world.site(Some(&b), only(&[("a", &a, Some(t)), ("b", &b, None)])));
    assert!(after.read(start, end).await == wal(start, 4000, 0), "the bytes differ");
    // Which keys the vault depends on is seen in the vault itself.
    let census = after.vault.key_census(Some(&after.identities), CensusOptions { one_in: 1 }, |_| {}).await.unwrap();
    let signers = census.signers.iter().map(|signer| (signer.name.as_deref(), signer.objects, signer.untrusted));
    let mut signers: Vec<_> = signers.collect();
    signers.sort();
    // A made the identity and a claim, B a claim.
    assert_eq!(signers, [(Some("a"), 2, 0), (Some("b"), 1, 0)]);
    let [chunks] = &census.recipients[..] else { panic!("{census:?}") };
    assert_eq!((chunks.kind, chunks.recipients), ("chunk", 1));
    assert_eq!(chunks.opened_by, after.identities.recipients().public_keys());
    assert_eq!((census.objects, census.looked_at), (chunks.objects + 3, chunks.objects + 3));
    let (stranger, _) = generate_identity();
    let stranger = Identities::parse(&stranger).unwrap();
    let census = after.vault.key_census(Some(&stranger), CensusOptions::default(), |_| {}).await.unwrap();
    assert!(census.recipients.iter().all(|chunks| chunks.opened_by.is_empty()), "{census:?}");
    // The standby takes over with the new key, and promotes nothing less than all.
    let state = TakerState::generate("run");
    let taken = after.database.takeover(&state, &TakeoverOptions::default()).await.unwrap();
    assert_eq!(taken.sealed, end);
    // A reader that was never told of B stops where B began, and names it.
    let behind = seen(&fixture, world.site(None, only(&[("a", &a, None)])));
    let (read, error) = read_to_refusal(&behind).await;
    assert_eq!((read.len(), refused(&error).0), (2000, log_key(1, handed_over).as_str()));
    assert_eq!(*refused(&error).1, Distrust::Unknown { writer: b.public() });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_key_is_rotated_without_loss() {
    rotation(World::memory()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_key_is_rotated_without_loss_on_a_real_store() {
    rotation(World::seaweedfs().await).await;
}

/// What a stolen key wrote is in segments by the time that anybody notices, and its chunks are gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_segment_counts_as_long_as_the_chunks_that_it_is_made_of() {
    let world = World::memory();
    let (a, b) = (WriterKey::generate(), WriterKey::generate());
    let until = |until| only(&[("a", &a, until), ("b", &b, None)]);
    let segment = small_segments() as usize;
    let fixture = Fixture::new(world.site(Some(&a), until(None)), small_segments()).await;
    let (start, writer) = fixture.writer().await;
    let honest = write(&writer, start, 2 * segment + 1000).await;
    world.pass().await;
    let t = world.now().await;
    world.pass().await;
    let end = write(&writer, honest, 2 * segment).await;
    writer.close().await;
    // Of the theft the archiver, which has a key of its own, was not told.
    let archiving = seen(&fixture, world.site(Some(&b), until(None)));
    let (identities, recipients) = (fixture.identities.clone(), fixture.recipients.clone());
    let options = ArchiveOptions { look_every: Duration::from_millis(50), ..ArchiveOptions::default() };
    let mut archiver = archiving.database.archiver(identities, recipients, options).await.unwrap();
    while !matches!(archiver.step().await.unwrap(), ArchiveStep::AtEnd(_)) {}
    archiver.finish().await.unwrap();

    // While the chunks stand, what was stored by T counts to the byte.
    let told = seen(&fixture, world.site(Some(&b), until(Some(t))));
    let (read, error) = read_to_refusal(&told).await;
    assert!(read == wal(start, 2 * segment + 1000, 0), "{} bytes before {error}", read.len());
    assert_eq!(refused(&error).0, log_key(1, honest));
    // When they are gone, all segments do that hold nothing that was stored later.
    let memory = world.memory.as_ref().unwrap();
    memory.advance(Duration::from_secs(9 * 24 * 60 * 60));
    let swept = archiving.database.sweep(&**memory, false, &|_, _| {}).await.unwrap();
    assert!(swept.deleted().0 > 4, "{swept:?}");
    assert!(archiving.read(start, end).await == wal(start, 4 * segment + 1000, 0), "unrevoked, all of it counts");
    let (read, error) = read_to_refusal(&told).await;
    assert!(read == wal(start, 2 * segment, 0), "{} bytes before {error}", read.len());
    let third = Lsn(start.0 + 2 * small_segments());
    let key = format!("t/v1/db/billing/segment/{:016X}-{:08X}/{}", 0, 1, third.hex16());
    let (named, why) = refused(&error);
    assert_eq!(named, key);
    assert!(matches!(why, Distrust::Revoked { name, stored: Some(at), .. } if name == "a" && *at > t), "{why:?}");
    // A position before it is restored as if nothing had happened.
    assert!(told.read(start, third).await == wal(start, 2 * segment, 0), "before the theft");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_ends_later_writes_until_then() {
    let world = World::memory();
    let a = WriterKey::generate();
    let later = world.now().await + Duration::from_secs(3600);
    let trust = only(&[("a", &a, Some(later))]);
    let fixture = Fixture::new(world.site(Some(&a), trust), small_segments()).await;
    let (start, writer) = fixture.writer().await;
    let end = write(&writer, start, 1000).await;
    assert_eq!(fixture.read(start, end).await.len(), 1000);
    // From then on it reports nothing, because no reader would count it, and it cannot claim anew.
    (0..61).for_each(|_| world.memory.as_ref().unwrap().advance(Duration::from_secs(60)));
    writer.append(end, wal(end, 1000, 0)).await.unwrap();
    let mut state = writer.state();
    state.wait_for(|state| state.renew).await.unwrap();
    assert_eq!(state.borrow().durable, end);
    let refused = fixture.claim(&origin()).await.unwrap_err();
    assert_eq!(refused.reason(), "WriterNotTrusted");
}

#[tokio::test]
async fn strangers_are_refused_by_name() {
    let world = World::memory();
    let (a, stranger) = (WriterKey::generate(), WriterKey::generate());
    let trusted = only(&[("a", &a, None)]);
    let fixture = Fixture::new(world.site(Some(&a), trusted.clone()), small_segments()).await;
    let (start, writer) = fixture.writer().await;
    let end = write(&writer, start, 1000).await;
    writer.close().await;
    // With the list, a site does not even begin to write what nobody would believe.
    for (key, text) in [(None, "no writer key"), (Some(&stranger), &stranger.public().to_string()[..])] {
        let site = seen(&fixture, world.site(key, trusted.clone()));
        let errors = [
            site.claim(&origin()).await.unwrap_err().to_string(),
            site.vault.put_plan("p", "1", "x".into()).await.unwrap_err().to_string(),
            site.database
                .takeover(&TakerState::generate("r"), &TakeoverOptions::default())
                .await
                .unwrap_err()
                .to_string(),
        ];
        assert!(errors.iter().all(|error| error.contains(text)), "{errors:?}");
    }
    assert_eq!(fixture.database.tip().await.unwrap().tip, end);
    // Without it, what a stranger puts there is named by whoever has the list.
    let (_, thief) = seen(&fixture, world.site(Some(&stranger), Trust::anyone())).writer().await;
    write(&thief, end, 1000).await;
    let (read, error) = read_to_refusal(&fixture).await;
    assert!(read == wal(start, 1000, 0), "{} bytes before {error}", read.len());
    let (key, why) = refused(&error);
    assert_eq!((key, why), (log_key(1, end).as_str(), &Distrust::Unknown { writer: stranger.public() }));
    assert!(error.to_string().contains(&stranger.public().to_string()), "{error}");
}

#[tokio::test]
async fn a_site_without_a_key_is_believed_only_by_those_who_believe_anyone() {
    let world = World::memory();
    let fixture = Fixture::new(world.site(None, Trust::anyone()), small_segments()).await;
    let (start, writer) = fixture.writer().await;
    let end = write(&writer, start, 1000).await;
    assert_eq!(fixture.read(start, end).await.len(), 1000);
    let a = WriterKey::generate();
    let strict = seen(&fixture, world.site(Some(&a), only(&[("a", &a, None)])));
    let error = strict.database.tip().await.unwrap_err();
    assert_eq!(refused(&error), ("t/v1/db/billing/identity", &Distrust::Unvouched));
}
