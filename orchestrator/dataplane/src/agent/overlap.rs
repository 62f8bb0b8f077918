//! Rule 12: before anything is appended, the last stored stretch is received again from the server and compared.
//!
//! A server that was restored from a snapshot has the right system identifier and timeline, and may have gone on
//! differently. The agent cannot decrypt what it stored, but every chunk carries the digest of its plain bytes.

use std::time::Duration;

use holdfast_protocol::client::{ClientError, ReplicationClient, ReplicationEvent, ReplicationReader};
use holdfast_vault::StoredStretch;
use holdfast_wal::{Lsn, TimelineId};
use sha2::{Digest, Sha256};

use crate::agent::preflight::{replication_problem, wal_gone};
use crate::agent::stop::Stop;
use crate::instance::replication;
use crate::problem::code;
use crate::sql::Target;
use crate::status::Problem;

const ANSWER_WITHIN: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_secs(300);

/// How far a comparison came.
enum Compared {
    /// Up to here, and all of it is the same.
    Same {
        upto: Lsn,
    },
    Different {
        stretch: StoredStretch,
    },
    /// The server's timeline ends inside the stretch.
    Ended {
        at: Lsn,
    },
}

/// Compares; returns what `/status` says about it. Where the server no longer has the WAL, the first new record is compared
/// with `last_record` before it is stored (`Intake` does so in any case).
pub(crate) async fn check(
    target: &Target,
    slot: &str,
    stretches: &[StoredStretch],
    last_record: Option<Lsn>,
) -> Result<String, Stop> {
    let Some(first) = stretches.first() else {
        return Ok("nothing is stored yet: there is nothing to compare".to_owned());
    };
    let mut upto = first.start;
    for run in stretches.chunk_by(|a, b| a.timeline == b.timeline && a.end == b.start) {
        match compare(target, slot, run).await {
            Ok(Compared::Same { upto: end }) => upto = end,
            Ok(Compared::Different { stretch }) => return Err(diverged(target, &stretch)),
            Ok(Compared::Ended { at }) => {
                return Ok(format!(
                    "{} to {at} received again and the same as far as the server's timeline goes",
                    first.start
                ));
            }
            Err(error) if wal_gone(&error) => {
                let gone = format!("the server no longer has the WAL from {}", run[0].start);
                return Ok(match last_record {
                    Some(last) => format!("{gone}: that its next record follows the one at {last} is compared instead"),
                    None => format!("not made: {gone}, and where the last stored record begins nobody wrote down"),
                });
            }
            Err(error) => return Err(Stop::Retry(replication_problem(target, &error))),
        }
    }
    Ok(format!("{} to {upto} received again and the same", first.start))
}

fn diverged(target: &Target, stretch: &StoredStretch) -> Stop {
    let problem = Problem::new(
        code::DIVERGED,
        format!(
            "PostgreSQL at {}:{} has other WAL from {} to {} on timeline {} than what is stored: it was restored from an older copy, or is not this database",
            target.host, target.port, stretch.start, stretch.end, stretch.timeline
        ),
        "nothing was appended and nothing is lost in the vault. If this copy is meant to go on, protect it under a new name; if not, attach the agent to the right server",
    );
    Stop::Refused { problem, look_again: LOOK_AGAIN }
}

async fn compare(target: &Target, slot: &str, run: &[StoredStretch]) -> Result<Compared, ClientError> {
    let (start, timeline): (Lsn, TimelineId) = (run[0].start, run[0].timeline);
    let client = ReplicationClient::connect(&replication(target, &format!("{slot}_check"))).await?;
    // Keeping the writing half open keeps the connection.
    let (mut reader, _writer) = client.start_replication(None, start, timeline).await?;
    let mut rest = Vec::new();
    let mut at = start;
    for stretch in run {
        let mut digest = Sha256::new();
        let mut left = stretch.end.0 - stretch.start.0;
        while left > 0 {
            if rest.is_empty() {
                match next_wal(&mut reader).await? {
                    Some(data) => rest = data,
                    None => return Ok(Compared::Ended { at }),
                }
            }
            let take = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            digest.update(&rest[..take]);
            rest.drain(..take);
            left -= take as u64;
            at = Lsn(at.0 + take as u64);
        }
        if digest.finalize()[..] != stretch.plain_sha256.0[..] {
            return Ok(Compared::Different { stretch: *stretch });
        }
    }
    Ok(Compared::Same { upto: at })
}

/// The next bytes; none when the server's timeline ends.
async fn next_wal(reader: &mut ReplicationReader) -> Result<Option<Vec<u8>>, ClientError> {
    loop {
        let event = tokio::time::timeout(ANSWER_WITHIN, reader.next())
            .await
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
        match event {
            ReplicationEvent::Wal { data, .. } => return Ok(Some(data.to_vec())),
            ReplicationEvent::Keepalive { .. } => {}
            ReplicationEvent::EndOfTimeline { .. } => return Ok(None),
        }
    }
}
