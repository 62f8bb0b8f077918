//! The commands of replication that a standby sends.

use holdfast_wal::{Lsn, TimelineId};

/// A command that this server knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    IdentifySystem,
    TimelineHistory(TimelineId),
    Show(String),
    /// Slots are accepted by any name and mean nothing: nothing that is stored is ever removed for
    /// want of a slot.
    StartReplication {
        start: Lsn,
        timeline: Option<TimelineId>,
    },
}

/// Why a command cannot be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CommandError {
    /// Not in the grammar.
    Syntax,
    /// Known to PostgreSQL, and not to this server.
    Unsupported(&'static str),
}

/// Reads a command; the grammar is that of `repl_gram.y`, as far as physical replication goes.
pub(super) fn parse(text: &str) -> Result<Command, CommandError> {
    let words = split(text).ok_or(CommandError::Syntax)?;
    let mut words = words.iter().map(String::as_str);
    let keyword = words.next().unwrap_or_default().to_ascii_uppercase();
    let command = match keyword.as_str() {
        "IDENTIFY_SYSTEM" => Command::IdentifySystem,
        "TIMELINE_HISTORY" => Command::TimelineHistory(timeline(words.next())?),
        "SHOW" => Command::Show(words.next().ok_or(CommandError::Syntax)?.to_ascii_lowercase()),
        "START_REPLICATION" => start_replication(&mut words)?,
        "BASE_BACKUP" => return Err(CommandError::Unsupported("this server has WAL, and no data directory")),
        "CREATE_REPLICATION_SLOT" | "DROP_REPLICATION_SLOT" | "READ_REPLICATION_SLOT" => {
            return Err(CommandError::Unsupported("this server has no slots and needs none: all WAL is kept"));
        }
        _ => return Err(CommandError::Syntax),
    };
    words.next().map_or(Ok(command), |_| Err(CommandError::Syntax))
}

fn start_replication<'a>(words: &mut impl Iterator<Item = &'a str>) -> Result<Command, CommandError> {
    let mut word = words.next().ok_or(CommandError::Syntax)?;
    if word.eq_ignore_ascii_case("SLOT") {
        words.next().ok_or(CommandError::Syntax)?;
        word = words.next().ok_or(CommandError::Syntax)?;
    }
    if word.eq_ignore_ascii_case("LOGICAL") {
        return Err(CommandError::Unsupported("logical replication"));
    }
    if word.eq_ignore_ascii_case("PHYSICAL") {
        word = words.next().ok_or(CommandError::Syntax)?;
    }
    let start = word.parse().map_err(|_| CommandError::Syntax)?;
    let timeline = match words.next() {
        None => None,
        Some(word) if word.eq_ignore_ascii_case("TIMELINE") => Some(timeline(words.next())?),
        Some(_) => return Err(CommandError::Syntax),
    };
    Ok(Command::StartReplication { start, timeline })
}

fn timeline(word: Option<&str>) -> Result<TimelineId, CommandError> {
    let number = word.and_then(|word| word.parse().ok()).filter(|number| *number > 0);
    number.map(TimelineId).ok_or(CommandError::Syntax)
}

/// Splits at blanks; "quoted names" are one word, without their quotes.
fn split(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut rest = text.trim().trim_end_matches(';').trim_end();
    while !rest.is_empty() {
        let (word, after) = match rest.strip_prefix('"') {
            Some(quoted) => split_quoted(quoted)?,
            None => {
                let end = rest.find(|c: char| c.is_whitespace() || c == '"').unwrap_or(rest.len());
                (rest[..end].to_owned(), &rest[end..])
            }
        };
        words.push(word);
        rest = after.trim_start();
    }
    Some(words)
}

fn split_quoted(text: &str) -> Option<(String, &str)> {
    let mut word = String::new();
    let mut rest = text;
    loop {
        let (part, after) = rest.split_once('"')?;
        word.push_str(part);
        match after.strip_prefix('"') {
            // A doubled quote stands for one.
            Some(more) => {
                word.push('"');
                rest = more;
            }
            None => return Some((word, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(start: u64, timeline: Option<u32>) -> Result<Command, CommandError> {
        Ok(Command::StartReplication { start: Lsn(start), timeline: timeline.map(TimelineId) })
    }

    #[test]
    fn what_a_walreceiver_sends() {
        assert_eq!(parse("IDENTIFY_SYSTEM"), Ok(Command::IdentifySystem));
        assert_eq!(parse("TIMELINE_HISTORY 12"), Ok(Command::TimelineHistory(TimelineId(12))));
        assert_eq!(parse("START_REPLICATION 0/3000000 TIMELINE 1"), start(0x300_0000, Some(1)));
        assert_eq!(parse("START_REPLICATION SLOT \"a b\" 1/0 TIMELINE 2"), start(1 << 32, Some(2)));
    }

    #[test]
    fn what_other_clients_send() {
        assert_eq!(parse(" identify_system ; "), Ok(Command::IdentifySystem));
        assert_eq!(parse("SHOW \"wal_segment_size\""), Ok(Command::Show("wal_segment_size".into())));
        assert_eq!(parse("start_replication slot x physical 0/1"), start(1, None));
        for text in ["CREATE_REPLICATION_SLOT x", "BASE_BACKUP (LABEL 'x')", "START_REPLICATION SLOT x LOGICAL 0/0"] {
            assert!(matches!(parse(text), Err(CommandError::Unsupported(_))), "{text}");
        }
    }

    #[test]
    fn everything_else_is_a_syntax_error() {
        for text in [
            "",
            ";",
            "SELECT 1",
            "IDENTIFY_SYSTEM 1",
            "TIMELINE_HISTORY",
            "TIMELINE_HISTORY 0",
            "TIMELINE_HISTORY -1",
            "TIMELINE_HISTORY 99999999999",
            "START_REPLICATION",
            "START_REPLICATION SLOT",
            "START_REPLICATION SLOT \"x 0/1",
            "START_REPLICATION 0/1 TIMELINE",
            "START_REPLICATION 0/1 TIMELINE 1 x",
            "START_REPLICATION PHYSICAL",
            "SHOW",
        ] {
            assert_eq!(parse(text), Err(CommandError::Syntax), "{text:?}");
        }
    }
}
