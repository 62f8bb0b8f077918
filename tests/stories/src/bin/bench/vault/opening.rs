//! How long it takes to find the end of a log of 30 days in a store far away.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use holdfast_vault::store::{MemoryStore, Toxics};
use holdfast_vault::{
    Attached, ClaimOptions, DatabaseVault, Identities, Identity, IndexWritten, LogReader, ORIGIN, ReadOptions,
    Recipients, RunningWriter, StoredIndex, Vault, WriterLimits,
};
use holdfast_wal::history::TimelineHistory;
use holdfast_wal::{Lsn, TimelineId};
use jiff::Timestamp;

use super::{Row, SYSTEM};

const HOURS: u32 = 30 * 24;
const HOUR: Duration = Duration::from_secs(60 * 60);
const CHUNK_BYTES: u64 = 64;
const SEGMENT_BYTES: u64 = 1 << 20;
const LATENCY: Duration = Duration::from_millis(20);
/// Openings, each with more chunks behind the newest index; half of them with a claim among them.
const TAILS: u32 = 12;

/// A log that grows in a store whose clock is ours: a writer that claims daily, and a reader that writes an index hourly.
struct Log {
    store: Arc<MemoryStore>,
    database: DatabaseVault,
    recipients: Recipients,
    writer: Option<RunningWriter>,
    reader: Option<LogReader>,
    index: Option<StoredIndex>,
    end: Lsn,
}

/// Opens a log of so many chunks, some of them behind the newest index.
pub(super) async fn opening(chunks: u32) -> Result<[Row; 2]> {
    eprintln!("writing a log of {chunks} chunks …");
    let mut log = Log::new().await?;
    let hourly = chunks.div_ceil(HOURS).max(1);
    for hour in 0..HOURS {
        if hour % 24 == 0 {
            log.claim().await?;
        }
        log.write(hourly).await?;
        log.index().await?;
        log.store.advance(HOUR);
    }
    log.reader = None;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (mut requests, mut longest) = (Vec::new(), Duration::ZERO);
    for tail in 0..TAILS {
        if tail == TAILS / 2 {
            log.claim().await?;
        }
        log.write_in_flight(hourly.div_ceil(TAILS)).await?;
        let (asked, took) = log.open().await?;
        requests.push(asked);
        longest = longest.max(took);
    }
    let (least, most) = (requests.iter().min(), requests.iter().max());
    let (least, most) = least.zip(most).context("nothing was opened")?;
    let row = |what, reached, wanted| Row::Reached { what, reached, wanted };
    let what = format!("open a log of {} chunks, 20 ms a request", hourly * HOURS);
    Ok([
        row(format!("{what}: requests"), format!("{least} to {most} in {TAILS} openings"), "<= 12"),
        row(format!("{what}: longest"), format!("{:.2} s", longest.as_secs_f64()), "<= 1 s"),
    ])
}

impl Log {
    async fn new() -> Result<Log> {
        let store = Arc::new(MemoryStore::default());
        let database = Vault::with_store(store.clone(), "bench", "").database("log")?;
        let (secret, recipient) = holdfast_vault::generate_identity();
        let (origin, history) = (Lsn(SEGMENT_BYTES), TimelineHistory::initial(TimelineId(1)));
        let (segment_size, created) = (SEGMENT_BYTES, Timestamp::UNIX_EPOCH);
        database.register(Identity { system_id: SYSTEM, history, segment_size, origin, created }).await?;
        // Nobody else asks this store: looking often costs nothing.
        let poll = (Duration::from_millis(1), Duration::from_millis(5));
        let options = ReadOptions { poll, ..ReadOptions::default() };
        let reader = database.archive_reader(Identities::parse(&secret)?, None, options).await?;
        let recipients = Recipients::parse(&[recipient])?;
        Ok(Log { store, database, recipients, writer: None, reader: Some(reader), index: None, end: origin })
    }

    async fn claim(&mut self) -> Result<()> {
        if let Some(writer) = self.writer.take() {
            writer.close().await;
        }
        let (history, by) = (TimelineHistory::initial(TimelineId(1)), "the benchmark".to_owned());
        let attached = Attached { instance_id: ORIGIN.to_owned(), system_id: SYSTEM, history, flushed: self.end, by };
        let writer = self.database.claim(&attached, &self.recipients, ClaimOptions::default()).await?;
        // It does not look around while it is idle: who opens the log is to be the only one who asks.
        let limits =
            WriterLimits { max_chunk_bytes: CHUNK_BYTES as usize, idle_check: HOUR, ..WriterLimits::default() };
        self.writer = Some(writer.into_running(limits)?);
        Ok(())
    }

    /// So many chunks, and waits until all of them are stored.
    async fn write(&mut self, chunks: u32) -> Result<()> {
        let Some(writer) = &self.writer else { anyhow::bail!("nobody has claimed the log") };
        let before = writer.state().borrow().chunks;
        for _ in 0..chunks {
            writer.append(self.end, Bytes::from_static(&[7; CHUNK_BYTES as usize])).await?;
            self.end = Lsn(self.end.0 + CHUNK_BYTES);
        }
        let end = self.end;
        let state = writer.state().wait_for(|state| state.durable >= end || state.fenced.is_some()).await?.clone();
        ensure!(state.durable >= end, "the log was fenced");
        ensure!(state.chunks - before >= u64::from(chunks), "only {} chunks were made", state.chunks - before);
        Ok(())
    }

    /// The same, to a store so far away that as many as may be are under way at the end.
    async fn write_in_flight(&mut self, chunks: u32) -> Result<()> {
        self.store.set_toxics(Toxics { latency: LATENCY, ..Toxics::default() });
        let written = self.write(chunks).await;
        self.store.set_toxics(Toxics::default());
        written
    }

    /// Reads to the end and writes down where that is.
    async fn index(&mut self) -> Result<()> {
        let Some(reader) = &mut self.reader else { anyhow::bail!("nobody reads the log any more") };
        while reader.place().is_none_or(|place| place.position().start < self.end) {
            reader.next().await?;
        }
        let Some(place) = reader.place() else { anyhow::bail!("the reader stands nowhere") };
        self.index = match self.database.write_index(self.index.as_ref(), place, None).await? {
            IndexWritten::Stored(index) => Some(index),
            IndexWritten::Lost(_) => anyhow::bail!("somebody else wrote an index"),
        };
        Ok(())
    }

    /// By somebody who never saw it before: requests, and how long it took.
    async fn open(&self) -> Result<(u64, Duration)> {
        let database = Vault::with_store(self.store.clone(), "bench", "").database("log")?;
        self.store.set_toxics(Toxics { latency: LATENCY, ..Toxics::default() });
        let (before, began) = (self.store.requests(), Instant::now());
        let tip = database.tip().await?;
        let (requests, took) = (self.store.requests() - before, began.elapsed());
        self.store.set_toxics(Toxics::default());
        ensure!(tip.tip == self.end, "the log ends at {} and not at {}", tip.tip, self.end);
        Ok((requests, took))
    }
}
