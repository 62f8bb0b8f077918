//! Takes WAL from the database into the writer, and tells the database what is stored.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use holdfast_protocol::IdentifySystem;
use holdfast_protocol::client::{
    ClientError, ReplicationClient, ReplicationEvent, ReplicationReader, ReplicationWriter,
};
use holdfast_vault::{AppendError, RunningWriter, WriterState};
use holdfast_wal::history::TimelineHistory;
use holdfast_wal::{Lsn, SystemId, TimelineId};
use tokio::sync::{Notify, watch};

use crate::agent::intake::Intake;
use crate::agent::metrics::AgentMetrics;
use crate::agent::preflight::{beyond_the_server, make_slot, replication_problem, wal_gone};
use crate::agent::stop::Stop;
use crate::backoff::Backoff;
use crate::board::Board;
use crate::config::ConnectionConfig;
use crate::instance::replication;
use crate::lag::Lag;
use crate::problem::code;
use crate::sql::{self, Sql, Target};
use crate::status::{AgentState, AgentStatus, Problem};

/// A status goes out at least this often, so that the server does not give us up while the vault is away.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// Each new look opens an epoch.
const LOOK_AGAIN: Duration = Duration::from_secs(300);
const OBJECT_IN_USE: &str = "55006";
const NOT_IN_STATE: &str = "55000";

/// How a connection ended.
enum Ended {
    Stop(Stop),
    /// The log was on an older timeline of the server; it goes on on the next one.
    NextTimeline,
}

/// The flow of one epoch.
pub(crate) struct Flow<'a> {
    pub(crate) connection: &'a ConnectionConfig,
    pub(crate) slot: &'a str,
    pub(crate) writer: &'a RunningWriter,
    pub(crate) system_id: SystemId,
    /// The server's own history: the log may still be on an older timeline of it.
    pub(crate) history: &'a TimelineHistory,
    pub(crate) segment_size: u64,
    /// Where the last record begins that is stored, if that is known: the first new one must follow it.
    pub(crate) last_record: Option<Lsn>,
    pub(crate) caught_up: watch::Sender<bool>,
    pub(crate) board: &'a Board<AgentStatus>,
    pub(crate) metrics: &'a AgentMetrics,
    pub(crate) lag: Mutex<Lag>,
}

impl Flow<'_> {
    /// Receives until something stops it for good; a lost connection is made again and goes on where it was.
    pub(crate) async fn run(&self, start: Lsn) -> Stop {
        let mut intake = Intake::new(start, self.segment_size, self.last_record);
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        loop {
            let before = intake.end();
            let problem = match self.connection(&mut intake).await {
                Ended::NextTimeline => continue,
                Ended::Stop(Stop::Retry(problem)) => problem,
                Ended::Stop(stop) => return stop,
            };
            if intake.end() > before {
                backoff.reset();
            }
            self.lag().out_of_touch(Instant::now());
            self.board.update(|status| {
                status.set_state(AgentState::Retrying);
                status.set_problem(Some(problem));
            });
            self.publish(&self.writer.state().borrow());
            tokio::time::sleep(backoff.delay()).await;
        }
    }

    async fn connection(&self, intake: &mut Intake) -> Ended {
        let target = match sql::target(self.connection) {
            Ok(target) => target,
            Err(error) => return Ended::Stop(Stop::Retry(error.problem())),
        };
        let (reader, writer) = match self.open(&target, intake).await {
            Ok(halves) => halves,
            Err(stop) => return Ended::Stop(stop),
        };
        self.board.update(|status| {
            status.set_state(AgentState::Streaming);
            status.set_problem(None);
        });
        let wake = Notify::new();
        tokio::select! {
            // What the server says comes before what its closed connection does to a report.
            biased;
            ended = self.receive(&target, reader, intake, &wake) => ended,
            error = self.report(writer, &wake) => Ended::Stop(Stop::Retry(replication_problem(&target, &error))),
        }
    }

    async fn open(&self, target: &Target, intake: &mut Intake) -> Result<(ReplicationReader, ReplicationWriter), Stop> {
        let failed = |error: ClientError| Stop::Retry(replication_problem(target, &error));
        let mut client = ReplicationClient::connect(&replication(target, self.slot)).await.map_err(failed)?;
        let identity = client.identify_system().await.map_err(failed)?;
        let in_recovery = client.show("in_hot_standby").await.map_err(failed)? == "on";
        self.same_server(&identity, in_recovery, intake.end())?;
        let (from, timeline) = begin(self.history, intake.ask_from(), intake.end(), self.segment_size);
        match client.start_replication(Some(self.slot), from, timeline).await {
            Ok(halves) => Ok(halves),
            Err(error) => Err(self.cannot_go_on(target, &error, intake).await),
        }
    }

    fn same_server(&self, identity: &IdentifySystem, in_recovery: bool, received: Lsn) -> Result<(), Stop> {
        if identity.system_id != self.system_id || identity.timeline != self.history.timeline || in_recovery {
            tracing::warn!(system_id = %identity.system_id, timeline = %identity.timeline, in_recovery, "another server answers now");
            return Err(Stop::ServerChanged);
        }
        match beyond_the_server(identity, received) {
            Some(problem) => Err(Stop::Refused { problem, look_again: LOOK_AGAIN }),
            None => Ok(()),
        }
    }

    /// The server refuses, at once or after it began to stream.
    async fn cannot_go_on(&self, target: &Target, error: &ClientError, intake: &mut Intake) -> Stop {
        let problem = replication_problem(target, error);
        if wal_gone(error) {
            // Perhaps only the bytes that were to be compared are gone: go on without them.
            let again = intake.forget_tail();
            return if again { Stop::Retry(problem) } else { Stop::Refused { problem, look_again: LOOK_AGAIN } };
        }
        match error {
            ClientError::Server(server) if server.sqlstate == OBJECT_IN_USE => self.end_predecessor(target).await,
            ClientError::Server(server) if server.sqlstate == NOT_IN_STATE && server.message.contains("slot") => {
                self.renew_slot(target).await;
            }
            _ => {}
        }
        Stop::Retry(problem)
    }

    /// The slot is held by a connection of an agent that is gone; the claim made it void.
    async fn end_predecessor(&self, target: &Target) {
        let statement = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1::name AND active_pid IS NOT NULL";
        if let Ok(sql) = Sql::connect(target).await
            && let Err(error) = sql.rows(statement, &[&self.slot]).await
        {
            tracing::info!(%error, "the slot is held by an older connection; waiting for the server to notice that it is gone");
        }
    }

    /// A slot that the server has invalidated holds nothing; a new one does, if it is not too late.
    async fn renew_slot(&self, target: &Target) {
        let renewed = async {
            let sql = Sql::connect(target).await?;
            sql.rows("SELECT pg_drop_replication_slot($1::name)", &[&self.slot]).await?;
            make_slot(&sql, self.slot).await
        };
        match renewed.await {
            Ok(()) => tracing::warn!(slot = self.slot, "the server had invalidated the slot; it was made anew"),
            Err(error) => tracing::warn!(%error, "the server has invalidated the slot, and it could not be made anew"),
        }
    }

    async fn receive(
        &self,
        target: &Target,
        mut reader: ReplicationReader,
        intake: &mut Intake,
        wake: &Notify,
    ) -> Ended {
        loop {
            match reader.next().await {
                Ok(ReplicationEvent::Wal { start, server_end, data }) => {
                    self.metrics.received_bytes.inc_by(data.len() as u64);
                    self.lag().server_at(server_end.max(Lsn(start.0 + data.len() as u64)), Instant::now());
                    let piece = match intake.accept(start, &data) {
                        Ok(piece) => piece,
                        Err(error) => return Ended::Stop(differs(target, &error.to_string())),
                    };
                    if let Some((start, data)) = piece
                        && let Err(error) = self.append(start, data).await
                    {
                        return Ended::Stop(append_failed(error));
                    }
                }
                Ok(ReplicationEvent::Keepalive { server_end, reply_requested }) => {
                    self.lag().server_at(server_end, Instant::now());
                    if reply_requested {
                        wake.notify_one();
                    }
                }
                Ok(ReplicationEvent::EndOfTimeline { next_timeline, next_start }) => {
                    let expected = self.history.timeline_at(next_start) == next_timeline && next_start <= intake.end();
                    return if expected { Ended::NextTimeline } else { Ended::Stop(Stop::ServerChanged) };
                }
                Err(error) => return Ended::Stop(self.cannot_go_on(target, &error, intake).await),
            }
        }
    }

    /// Appends what the writer does not have yet: an append that was cut off by a lost connection may have been taken.
    async fn append(&self, start: Lsn, data: bytes::Bytes) -> Result<(), AppendError> {
        let received = self.writer.state().borrow().received;
        let known = usize::try_from(received.saturating_sub(start)).unwrap_or(usize::MAX).min(data.len());
        let new = data.slice(known..);
        if new.is_empty() {
            return Ok(());
        }
        self.writer.append(Lsn(start.0 + known as u64), new).await
    }

    /// Tells the server at once what is newly stored, and now and then that we live. Nothing after a fence.
    async fn report(&self, server: ReplicationWriter, wake: &Notify) -> ClientError {
        let mut state = self.writer.state();
        let mut tick = tokio::time::interval(REPORT_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let now = state.borrow_and_update().clone();
            self.publish(&now);
            if now.fenced.is_some() {
                std::future::pending::<()>().await;
            }
            if let Err(error) = server.send_status(now.durable, now.durable, Lsn::INVALID, false).await {
                return error;
            }
            tokio::select! {
                changed = state.changed() => if changed.is_err() { std::future::pending::<()>().await },
                _ = tick.tick() => {}
                () = wake.notified() => {}
            }
        }
    }

    fn publish(&self, state: &WriterState) {
        let (lag_bytes, lag_seconds, caught_up) = {
            let mut lag = self.lag();
            let (bytes, seconds) = lag.measure(state.durable, Instant::now());
            (bytes, seconds, lag.caught_up(state.durable))
        };
        if caught_up {
            self.caught_up.send_if_modified(|already| !std::mem::replace(already, true));
        }
        self.metrics.writer(state);
        self.board.update(|status| {
            status.written = Some(state.received);
            status.durable = Some(state.durable);
            status.lag_bytes = lag_bytes;
            status.lag_seconds = lag_seconds;
            if status.state == AgentState::Streaming {
                status.set_problem(state.store_problem.as_ref().map(|problem| {
                    let code =
                        if problem.reason.starts_with("Store") { code::VAULT_UNREACHABLE } else { &problem.reason };
                    Problem::new(code, &problem.message, &problem.hint)
                }));
            }
        });
    }

    fn lag(&self) -> std::sync::MutexGuard<'_, Lag> {
        self.lag.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where to begin on which timeline: the one that the next new byte is on, whose first segment holds what leads to it.
fn begin(history: &TimelineHistory, wish: Lsn, next: Lsn, segment_size: u64) -> (Lsn, TimelineId) {
    let timeline = history.timeline_at(next);
    let parent = history.entries.iter().rfind(|entry| entry.timeline < timeline);
    let first = parent.map_or(Lsn::INVALID, |parent| parent.switch.segment_start(segment_size));
    (wish.max(first), timeline)
}

fn differs(target: &Target, what: &str) -> Stop {
    let problem = Problem::new(
        code::DIVERGED,
        format!(
            "PostgreSQL at {}:{} came back with another history: {what}. It was restored from an older copy",
            target.host, target.port
        ),
        "nothing of it was stored. If this copy is meant to go on, protect it under a new name; if not, attach the agent to the right server",
    );
    Stop::Refused { problem, look_again: LOOK_AGAIN }
}

fn append_failed(error: AppendError) -> Stop {
    match error {
        AppendError::Fenced(_) => Stop::Lost,
        error => Stop::Retry(Problem::new(
            code::REPLICATION_FAILED,
            format!("the log's writer does not go on: {error}"),
            "it is started again; if this comes back, report it",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_byte_decides_the_timeline_and_its_first_segment_the_start() {
        let segment = 1 << 20;
        let first = TimelineHistory::initial(TimelineId(1));
        let switch = Lsn(5 * segment + 700);
        let second = first.branch(TimelineId(2), switch, "");
        let before = Lsn(5 * segment - 9000);
        assert_eq!(begin(&first, before, Lsn(5 * segment), segment), (before, TimelineId(1)));
        assert_eq!(begin(&second, before, Lsn(switch.0 - 1), segment), (before, TimelineId(1)));
        assert_eq!(begin(&second, before, switch, segment), (Lsn(5 * segment), TimelineId(2)));
        assert_eq!(begin(&second, Lsn(switch.0 - 10), switch, segment), (Lsn(switch.0 - 10), TimelineId(2)));
    }
}
