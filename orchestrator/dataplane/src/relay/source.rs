//! The vault as something that a walsender serves from. Each standby has a reader of its own; a reader holds a few
//! chunks, and reads on only as fast as its standby takes.

use std::collections::VecDeque;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use holdfast_protocol::IdentifySystem;
use holdfast_protocol::server::{SourceError, WalPiece, WalSource};
use holdfast_vault::{DatabaseVault, Identities, LogReader, ReadError, ReadEvent, ReadOptions, Tip, VaultError};
use holdfast_wal::history::TimelineHistory;
use holdfast_wal::{Lsn, SystemId, TimelineId};

use crate::config::Until;
use crate::relay::cursor::{Cursor, NotHere, certain};
use crate::relay::view::View;

/// Bounds the relay's memory together with the number of connections.
const PREFETCH_BYTES: u64 = 6 * 1024 * 1024;
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// The log of one database.
#[derive(Clone)]
pub(crate) struct VaultSource {
    pub(crate) database: DatabaseVault,
    pub(crate) identities: Identities,
    pub(crate) system_id: SystemId,
    pub(crate) until: Option<Until>,
    pub(crate) view: View,
}

impl VaultSource {
    async fn look(&self) -> Result<Tip, SourceError> {
        match self.database.believed_tip().await {
            Ok((tip, refused)) => {
                self.view.tip(&tip);
                // Said, and what stands before it is served.
                if let Some(refused) = refused {
                    self.view.vault_failed(&refused);
                }
                Ok(tip)
            }
            Err(error) => {
                self.view.vault_failed(&error);
                Err(failed(&error))
            }
        }
    }
}

impl WalSource for VaultSource {
    type Stream = BoxStream<'static, Result<WalPiece, SourceError>>;

    async fn identify(&self) -> Result<IdentifySystem, SourceError> {
        self.view.metrics.requested("IDENTIFY_SYSTEM");
        let (history, end) = certain(&self.look().await?, self.until);
        Ok(IdentifySystem { system_id: self.system_id, timeline: history.timeline, flush_lsn: end })
    }

    async fn timeline_history(&self, timeline: TimelineId) -> Result<TimelineHistory, SourceError> {
        self.view.metrics.requested("TIMELINE_HISTORY");
        let (history, _) = certain(&self.look().await?, self.until);
        ancestor(&history, timeline).ok_or(SourceError::UnknownTimeline { timeline })
    }

    async fn stream(&self, start: Lsn, timeline: TimelineId) -> Result<Self::Stream, SourceError> {
        self.view.metrics.requested("START_REPLICATION");
        let (history, _) = certain(&self.look().await?, self.until);
        let cursor = Cursor::new(timeline, start, history, self.until).map_err(|error| match error {
            NotHere::Timeline(timeline) => SourceError::UnknownTimeline { timeline },
            NotHere::Beyond { .. } => SourceError::NotStored { timeline, start },
        })?;
        let options = ReadOptions { prefetch_bytes: PREFETCH_BYTES, ..ReadOptions::default() };
        let reader =
            self.database.reader(self.identities.clone(), start, options).await.map_err(|error| failed(&error))?;
        let feed = Feed {
            reader,
            cursor,
            ready: VecDeque::new(),
            view: self.view.clone(),
            asked: (timeline, start),
            failed: false,
        };
        Ok(futures::stream::unfold(feed, Feed::next).boxed())
    }
}

/// The history of a timeline on the branch that `history` describes.
pub(crate) fn ancestor(history: &TimelineHistory, timeline: TimelineId) -> Option<TimelineHistory> {
    if timeline == history.timeline {
        return Some(history.clone());
    }
    let place = history.entries.iter().position(|entry| entry.timeline == timeline)?;
    Some(TimelineHistory { timeline, entries: history.entries[..place].to_vec() })
}

/// One standby's stream.
struct Feed {
    reader: LogReader,
    cursor: Cursor,
    ready: VecDeque<WalPiece>,
    view: View,
    asked: (TimelineId, Lsn),
    failed: bool,
}

impl Feed {
    async fn next(mut self) -> Option<(Result<WalPiece, SourceError>, Self)> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                if let WalPiece::Wal { data, .. } = &piece {
                    self.view.metrics.served_bytes.inc_by(data.len() as u64);
                }
                return Some((Ok(piece), self));
            }
            if self.failed || self.cursor.finished() {
                return None;
            }
            match self.reader.next().await {
                Ok(event) => self.take(event),
                Err(error) => {
                    self.view.read_failed(&error);
                    if !error.is_permanent() {
                        tokio::time::sleep(TRY_AGAIN).await;
                        continue;
                    }
                    self.failed = true;
                    let error = self.refuse(&error);
                    return Some((Err(error), self));
                }
            }
        }
    }

    fn take(&mut self, event: ReadEvent) {
        match event {
            ReadEvent::Wal { timeline, start, data } => {
                self.view.wal(Lsn(start.0 + data.len() as u64));
                self.ready.extend(self.cursor.wal(timeline, start, &data));
            }
            ReadEvent::Seal(seal) => {
                self.view.seal(&seal);
                self.ready.extend(self.cursor.seal(&seal));
            }
            ReadEvent::AtEnd { tip, epoch } => {
                self.view.at_end(tip, epoch);
                self.ready.push_back(self.cursor.tip(tip));
            }
            // What was cut is beyond the switch of the new history, which the cursor keeps to.
            ReadEvent::Cut { from, to } => tracing::warn!(%from, %to, "the log was cut"),
            ReadEvent::Tampering(tampering) => self.view.tampering(&tampering),
        }
    }

    fn refuse(&self, error: &ReadError) -> SourceError {
        match error {
            ReadError::BeforeOrigin { .. } | ReadError::Archived { .. } => {
                SourceError::NotStored { timeline: self.asked.0, start: self.asked.1 }
            }
            ReadError::Vault(error) => failed(error),
            ReadError::EndsBefore { .. } | ReadError::Stopped => SourceError::Failed { message: error.to_string() },
        }
    }
}

fn failed(error: &VaultError) -> SourceError {
    SourceError::Failed { message: format!("{error}; {}", error.hint()) }
}
