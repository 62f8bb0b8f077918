//! What the tests of both ends share.
// Each test binary uses a part of it.
#![allow(dead_code, unreachable_pub)]

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, stream};
use holdfast_protocol::client::{
    BaseBackupEvent, BaseBackupOptions, ReplicationClient, ReplicationEvent, ReplicationReader, ReplicationWriter,
};
use holdfast_protocol::server::{ClientProgress, ServeOptions, SourceError, WalPiece, WalSource, serve_with};
use holdfast_protocol::{ConnectConfig, IdentifySystem};
use holdfast_test_postgres::TestPostgres;
use holdfast_wal::history::TimelineHistory;
use holdfast_wal::{Lsn, SEGMENT_SIZE_DEFAULT, SystemId, TimelineId};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const FIRST: TimelineId = TimelineId(1);
pub const COUNT: &str = "SELECT count(*) FROM patient";
pub const LIMIT: Duration = Duration::from_secs(60);

pub fn config(port: u16, user: &str, password: Option<&str>) -> ConnectConfig {
    ConnectConfig {
        host: "127.0.0.1".into(),
        port,
        user: user.into(),
        password: password.map(Into::into),
        database: None,
        application_name: "holdfast_test".into(),
        connect_timeout: Duration::from_secs(10),
    }
}

pub async fn connect(server: &TestPostgres) -> ReplicationClient {
    let config = config(server.port(), server.user(), Some(server.password()));
    ReplicationClient::connect(&config).await.expect("a replication connection")
}

pub fn lsn(server: &TestPostgres, sql: &str) -> Lsn {
    server.psql(sql).parse().expect("an LSN")
}

pub fn flushed(server: &TestPostgres) -> Lsn {
    lsn(server, "SELECT pg_current_wal_flush_lsn()")
}

/// WAL in memory.
#[derive(Clone)]
pub struct MemorySource {
    system_id: SystemId,
    timelines: Arc<Mutex<BTreeMap<TimelineId, Timeline>>>,
    changed: watch::Sender<()>,
}

#[derive(Clone)]
struct Timeline {
    start: Lsn,
    bytes: Vec<u8>,
    history: TimelineHistory,
    /// What follows, and from where on.
    next: Option<(TimelineId, Lsn)>,
    failure: Option<SourceError>,
}

impl MemorySource {
    pub fn new(system_id: SystemId) -> MemorySource {
        MemorySource { system_id, timelines: Arc::default(), changed: watch::Sender::new(()) }
    }

    pub fn add_timeline(&self, history: TimelineHistory, start: Lsn) {
        let timeline = Timeline { start, bytes: Vec::new(), history: history.clone(), next: None, failure: None };
        self.timelines.lock().unwrap().insert(history.timeline, timeline);
        self.changed.send_replace(());
    }

    pub fn append(&self, timeline: TimelineId, start: Lsn, data: &[u8]) {
        self.change(timeline, |timeline| {
            assert_eq!(start, timeline.end());
            timeline.bytes.extend_from_slice(data);
        });
    }

    /// Ends a timeline; what was appended beyond the switch is forgotten.
    pub fn end(&self, timeline: TimelineId, next: TimelineId, switch: Lsn) {
        self.change(timeline, |timeline| {
            timeline.bytes.truncate((switch.0 - timeline.start.0) as usize);
            timeline.next = Some((next, switch));
        });
    }

    pub fn fail(&self, timeline: TimelineId, failure: SourceError) {
        self.change(timeline, |timeline| timeline.failure = Some(failure));
    }

    /// The WAL from the start up to `upto`, as a source of its own that ends there.
    pub fn cut(&self, timeline: TimelineId, upto: Lsn) -> MemorySource {
        let mut known = self.timelines.lock().unwrap()[&timeline].clone();
        known.bytes.truncate((upto.0 - known.start.0) as usize);
        let cut = MemorySource::new(self.system_id);
        cut.timelines.lock().unwrap().insert(timeline, known);
        cut
    }

    /// All bytes of a timeline and the position of the first.
    pub fn wal(&self, timeline: TimelineId) -> (Lsn, Vec<u8>) {
        let known = &self.timelines.lock().unwrap()[&timeline];
        (known.start, known.bytes.clone())
    }

    pub fn tip(&self, timeline: TimelineId) -> Lsn {
        self.timelines.lock().unwrap()[&timeline].end()
    }

    pub async fn wait_for_tip(&self, timeline: TimelineId, tip: Lsn) {
        let mut changed = self.changed.subscribe();
        let wait = changed.wait_for(|()| self.tip(timeline) >= tip);
        tokio::time::timeout(LIMIT, wait).await.expect("WAL does not come").unwrap();
    }

    fn change(&self, timeline: TimelineId, change: impl FnOnce(&mut Timeline)) {
        change(self.timelines.lock().unwrap().get_mut(&timeline).expect("a known timeline"));
        self.changed.send_replace(());
    }

    fn get(&self, timeline: TimelineId) -> Result<Timeline, SourceError> {
        let known = self.timelines.lock().unwrap().get(&timeline).cloned();
        known.ok_or(SourceError::UnknownTimeline { timeline })
    }

    fn piece(&self, timeline: TimelineId, at: Lsn) -> Option<Result<WalPiece, SourceError>> {
        let timelines = self.timelines.lock().unwrap();
        let timeline = &timelines[&timeline];
        let bytes = &timeline.bytes[(at.0 - timeline.start.0) as usize..];
        if let Some(failure) = &timeline.failure {
            return Some(Err(failure.clone()));
        }
        if !bytes.is_empty() {
            // Odd pieces, so that nothing depends on how WAL is cut.
            let data = Bytes::copy_from_slice(&bytes[..bytes.len().min(300_001)]);
            return Some(Ok(WalPiece::Wal { start: at, data }));
        }
        let (timeline, switch) = timeline.next?;
        Some(Ok(WalPiece::EndOfTimeline { timeline, switch }))
    }
}

impl Timeline {
    fn end(&self) -> Lsn {
        Lsn(self.start.0 + self.bytes.len() as u64)
    }
}

impl WalSource for MemorySource {
    type Stream = Pin<Box<dyn Stream<Item = Result<WalPiece, SourceError>> + Send>>;

    async fn identify(&self) -> Result<IdentifySystem, SourceError> {
        let timelines = self.timelines.lock().unwrap();
        let (timeline, newest) = timelines.last_key_value().expect("a timeline");
        Ok(IdentifySystem { system_id: self.system_id, timeline: *timeline, flush_lsn: newest.end() })
    }

    async fn timeline_history(&self, timeline: TimelineId) -> Result<TimelineHistory, SourceError> {
        Ok(self.get(timeline)?.history)
    }

    async fn stream(&self, start: Lsn, timeline: TimelineId) -> Result<Self::Stream, SourceError> {
        let known = self.get(timeline)?;
        if start < known.start || start > known.end() {
            return Err(SourceError::NotStored { timeline, start });
        }
        let state = (self.clone(), self.changed.subscribe(), start);
        Ok(Box::pin(stream::unfold(state, move |(source, mut changed, at)| async move {
            loop {
                changed.borrow_and_update();
                if let Some(piece) = source.piece(timeline, at) {
                    let length = match &piece {
                        Ok(WalPiece::Wal { data, .. }) => data.len() as u64,
                        _ => 0,
                    };
                    return Some((piece, (source, changed, Lsn(at.0 + length))));
                }
                changed.changed().await.ok()?;
            }
        })))
    }
}

/// A server of ours that runs until it is dropped.
pub struct OurServer {
    pub address: SocketAddr,
    pub progress: watch::Receiver<Option<ClientProgress>>,
    shutdown: CancellationToken,
}

impl OurServer {
    pub async fn start(source: impl WalSource, options: ServeOptions) -> OurServer {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let (sender, progress) = watch::channel(None);
        let observer = move |progress| {
            sender.send_replace(Some(progress));
        };
        tokio::spawn(serve_with(listener, source, options, observer, shutdown.clone()));
        OurServer { address, progress, shutdown }
    }

    /// A `primary_conninfo` that points here.
    pub fn conninfo(&self, name: &str) -> String {
        format!("host=127.0.0.1 port={} user=follower application_name={name}", self.address.port())
    }

    pub async fn wait_for(&mut self, reached: impl Fn(&ClientProgress) -> bool) -> ClientProgress {
        let wait = self.progress.wait_for(|progress| progress.as_ref().is_some_and(&reached));
        let progress = tokio::time::timeout(LIMIT, wait).await.expect("the standby does not get there").unwrap();
        progress.clone().unwrap()
    }
}

impl Drop for OurServer {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Keeps `source` filled with what the server writes on `timeline`, until the timeline ends.
pub async fn feed(
    source: MemorySource,
    timeline: TimelineId,
    mut reader: ReplicationReader,
    writer: ReplicationWriter,
) -> ReplicationEvent {
    loop {
        match reader.next().await {
            Ok(ReplicationEvent::Wal { start, data, .. }) => {
                source.append(timeline, start, &data);
                let end = reader.position();
                // The server may be stopping.
                let _ = writer.send_status(end, end, Lsn::INVALID, false).await;
            }
            Ok(ReplicationEvent::Keepalive { .. }) => {
                let end = reader.position();
                let _ = writer.send_status(end, end, Lsn::INVALID, false).await;
            }
            Ok(ended @ ReplicationEvent::EndOfTimeline { .. }) => return ended,
            Err(_) => std::future::pending().await,
        }
    }
}

/// Takes a base backup and unpacks it; returns its start, its end and its manifest.
pub async fn unpack_base_backup(client: ReplicationClient, target: &Path) -> (Lsn, Lsn, Vec<u8>) {
    let options = BaseBackupOptions { label: "test".into(), fast_checkpoint: true, max_rate_kb: None };
    let mut backup = client.base_backup(&options).await.expect("a base backup");
    let (mut start, mut end) = (Lsn::INVALID, Lsn::INVALID);
    let (mut archives, mut manifest, mut in_manifest) = (Vec::<Vec<u8>>::new(), Vec::new(), false);
    while let Some(event) = backup.next().await.expect("the base backup goes on") {
        match event {
            BaseBackupEvent::Start { lsn, .. } => start = lsn,
            BaseBackupEvent::Archive { name, location } => {
                assert_eq!((name.as_str(), location), ("base.tar", None));
                archives.push(Vec::new());
            }
            BaseBackupEvent::Manifest => in_manifest = true,
            BaseBackupEvent::Data(data) if in_manifest => manifest.extend_from_slice(&data),
            BaseBackupEvent::Data(data) => archives.last_mut().expect("an archive").extend_from_slice(&data),
            BaseBackupEvent::Progress(_) => {}
            BaseBackupEvent::End { lsn, .. } => end = lsn,
        }
    }
    let archive = archives.first().expect("an archive");
    tar::Archive::new(archive.as_slice()).unpack(target).expect("a tar archive");
    (start, end, manifest)
}

/// A primary whose WAL goes into memory, and a base backup of it.
pub struct Site {
    pub primary: TestPostgres,
    pub source: MemorySource,
    pub feeding: JoinHandle<ReplicationEvent>,
    pub backup: tempfile::TempDir,
}

impl Site {
    pub async fn start() -> Site {
        let primary = TestPostgres::start(&[("restore_command", "false")]);
        let mut client = connect(&primary).await;
        let system = client.identify_system().await.unwrap();
        let source = MemorySource::new(system.system_id);
        let start = system.flush_lsn.segment_start(SEGMENT_SIZE_DEFAULT);
        source.add_timeline(TimelineHistory::initial(FIRST), start);
        let (reader, writer) = client.start_replication(None, start, FIRST).await.unwrap();
        let feeding = tokio::spawn(feed(source.clone(), FIRST, reader, writer));
        primary.psql("CREATE TABLE patient (mrn int)");
        let backup = tempfile::tempdir().unwrap();
        unpack_base_backup(connect(&primary).await, backup.path()).await;
        Site { primary, source, feeding, backup }
    }

    /// A standby that has the base backup and follows `conninfo`.
    pub fn standby(&self, conninfo: &str) -> TestPostgres {
        let settings =
            [("primary_conninfo", conninfo), ("wal_retrieve_retry_interval", "100ms"), ("restore_command", "")];
        TestPostgres::start_from(&settings, |data| {
            copy(self.backup.path(), data);
            fs::write(data.join("standby.signal"), "").unwrap();
        })
    }

    pub fn insert(&self, rows: u32) {
        self.primary.psql(&format!("INSERT INTO patient SELECT generate_series(1, {rows})"));
    }
}

pub fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status().unwrap();
    assert!(copied.success());
}
