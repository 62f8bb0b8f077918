//! Work for the hospital: writers that register patients and bill and examine them, follow the
//! hospital to the other site when it fails over, and record what they were promised.

mod client;
mod stats;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::ledger::{Entry, Ledger, LedgerEnd, LedgerError};
use crate::record::Site;

use client::Client;
pub(crate) use client::reason;
use stats::Meter;
pub use stats::{ServiceStats, Stats};
use writer::Writer;

const PUBLISH_EVERY: Duration = Duration::from_millis(250);

/// What load to make.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// In the order in which they are tried; the one that works is kept.
    pub sites: Vec<Site>,
    pub writers: usize,
    /// Where the ledger is written; the file must not exist.
    pub ledger: PathBuf,
    /// Stop after this many patients, each with an invoice and a result.
    pub patients: Option<u64>,
    /// Stop after this time.
    pub duration: Option<Duration>,
    /// How long each writer rests between two patients.
    pub pause: Duration,
    pub connect_timeout: Duration,
    /// Longer than the services' commit time-out, so that they can say "unknown" themselves.
    pub request_timeout: Duration,
}

impl LoadOptions {
    /// `writers` writers on `sites` without an end of their own.
    pub fn new(sites: Vec<Site>, writers: usize, ledger: impl Into<PathBuf>) -> Self {
        Self {
            sites,
            writers,
            ledger: ledger.into(),
            patients: None,
            duration: None,
            pause: Duration::ZERO,
            connect_timeout: Duration::from_millis(500),
            request_timeout: Duration::from_secs(2),
        }
    }
}

/// Why the load could not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("a load needs at least one site")]
    NoSite,
    #[error("a load needs at least one writer")]
    NoWriter,
    #[error("cannot prepare the HTTP client: {detail}")]
    HttpClient { detail: String },
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("a writer stopped unexpectedly: {detail}")]
    WriterStopped { detail: String },
}

/// A running load. Dropping it stops the writers without waiting for them.
#[derive(Debug)]
pub struct Load {
    stats: watch::Receiver<Stats>,
    stop: CancellationToken,
    running: JoinHandle<Result<Stats, LoadError>>,
}

impl Load {
    /// Starts the writers.
    pub fn start(options: LoadOptions) -> Result<Self, LoadError> {
        if options.sites.is_empty() {
            return Err(LoadError::NoSite);
        }
        if options.writers == 0 {
            return Err(LoadError::NoWriter);
        }
        let client = Arc::new(Client::new(&options)?);
        let meter = Arc::new(Meter::new(Instant::now()));
        let observer = meter.clone();
        let (ledger, end) = Ledger::create(&options.ledger, move |entry| observer.observe(entry))?;
        let (publish, stats) = watch::channel(Stats::default());
        let stop = CancellationToken::new();
        let crew = Crew {
            writers: Writer {
                client: client.clone(),
                ledger,
                meter: meter.clone(),
                clock: Clock::start(),
                budget: options.patients.map(|count| Arc::new(AtomicU64::new(count))),
                pause: options.pause,
                stop: stop.child_token(),
            },
            end,
            publish,
            options,
        };
        let running = tokio::spawn(crew.run(meter, client));
        Ok(Self { stats, stop, running })
    }

    /// Figures that change while the load runs, about four times a second.
    pub fn stats(&self) -> watch::Receiver<Stats> {
        self.stats.clone()
    }

    /// A token that stops the load when it is cancelled.
    pub fn stopper(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Waits for the load's own end (count, duration, or its stopper).
    pub async fn wait(mut self) -> Result<Stats, LoadError> {
        joined((&mut self.running).await)
    }

    /// Lets the requests in flight finish, closes the ledger and returns the last figures.
    pub async fn stop(self) -> Result<Stats, LoadError> {
        self.stop.cancel();
        self.wait().await
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn joined<T>(result: Result<Result<T, LoadError>, tokio::task::JoinError>) -> Result<T, LoadError> {
    result.unwrap_or_else(|error| Err(LoadError::WriterStopped { detail: error.to_string() }))
}

struct Crew {
    writers: Writer,
    end: LedgerEnd,
    publish: watch::Sender<Stats>,
    options: LoadOptions,
}

impl Crew {
    async fn run(self, meter: Arc<Meter>, client: Arc<Client>) -> Result<Stats, LoadError> {
        let stop = self.writers.stop.clone();
        let begin = Entry::Begin {
            at_us: self.writers.clock.now_us(),
            sites: self.options.sites.iter().map(Site::to_string).collect(),
            writers: self.options.writers,
        };
        self.writers.ledger.append(begin).await?;
        let mut tasks = JoinSet::new();
        for _ in 0..self.options.writers {
            tasks.spawn(self.writers.clone().work());
        }
        // Only the writers hold the ledger now, so its end is their end.
        drop(self.writers);

        let mut outcome = Ok(());
        let mut publish = tokio::time::interval(PUBLISH_EVERY);
        let deadline = tokio::time::sleep(self.options.duration.unwrap_or(Duration::MAX));
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                _ = publish.tick() => {
                    self.publish.send_replace(meter.figures(&client));
                }
                () = &mut deadline, if !stop.is_cancelled() => stop.cancel(),
                done = tasks.join_next() => match done {
                    None => break,
                    Some(result) => if let Err(error) = joined(result) {
                        stop.cancel();
                        outcome = outcome.and(Err(error));
                    }
                },
            }
        }
        // The ledger's own error says more than the writers' "it has stopped".
        self.end.wait().await?;
        outcome?;
        let last = meter.figures(&client);
        self.publish.send_replace(last.clone());
        Ok(last)
    }
}

/// Wall-clock time that does not run backwards when the machine's clock is set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started: Instant,
    started_us: u64,
}

impl Clock {
    fn start() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { started: Instant::now(), started_us: micros(since) }
    }

    pub(crate) fn now_us(&self) -> u64 {
        self.started_us + micros(self.started.elapsed())
    }
}

pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
