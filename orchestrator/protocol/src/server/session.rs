//! One connection: start-up, log-in, and commands until it ends.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use holdfast_wal::{Lsn, TimelineId};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use super::auth::{Authentication, ScramServer, put_mechanisms};
use super::command::{self, Command, CommandError};
use super::reply::{self, BYTEA, Column, INT8, TEXT};
use super::source::{SourceError, WalSource};
use super::stream::{self, Ended};
use super::{ClientProgress, ServeOptions};
use crate::client::notice_dead_peers;
use crate::frame::{Cursor, FrameError, FrameReader, put_frame};

/// PostgreSQL's own limit for what comes before the log-in.
const LONGEST_STARTUP: usize = 10_000;
/// Commands and statuses are short.
const LONGEST_MESSAGE: usize = 64 * 1024;
const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;
/// Encryption requests that are answered before a client is taken for broken.
const MOST_REFUSALS: usize = 4;

/// Why a connection ended before its time.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    #[error("not PostgreSQL's replication protocol: {0}")]
    Protocol(String),
    #[error("refused: {0}")]
    Refused(String),
    #[error("no answer from the standby for {0:?}")]
    Silent(std::time::Duration),
    #[error("the source failed: {0}")]
    Source(#[from] SourceError),
}

impl From<FrameError> for SessionError {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Io(error) => SessionError::Io(error),
            FrameError::Length { .. } => SessionError::Protocol(error.to_string()),
        }
    }
}

/// One standby's connection.
pub(super) struct Session<S, O> {
    pub(super) frames: FrameReader<OwnedReadHalf>,
    pub(super) writer: OwnedWriteHalf,
    pub(super) options: Arc<ServeOptions>,
    pub(super) observer: Arc<O>,
    pub(super) progress: ClientProgress,
    source: S,
}

impl<S: WalSource, O: Fn(ClientProgress) + Send + Sync + 'static> Session<S, O> {
    pub(super) fn new(
        stream: TcpStream,
        peer: SocketAddr,
        source: S,
        options: Arc<ServeOptions>,
        observer: Arc<O>,
    ) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        notice_dead_peers(&stream)?;
        let (reader, writer) = stream.into_split();
        let frames = FrameReader::new(reader, LONGEST_STARTUP);
        let progress = ClientProgress {
            peer,
            application_name: String::new(),
            timeline: TimelineId::default(),
            sent: Lsn::INVALID,
            written: Lsn::INVALID,
            flushed: Lsn::INVALID,
            applied: Lsn::INVALID,
            connected: true,
        };
        Ok(Session { frames, writer, options, observer, progress, source })
    }

    pub(super) async fn run(mut self) -> Result<(), SessionError> {
        let limit = self.options.login_timeout;
        let logged_in = timeout(limit, self.log_in()).await.map_err(|_| SessionError::Silent(limit))??;
        if !logged_in {
            return Ok(());
        }
        self.frames.set_limit(LONGEST_MESSAGE);
        while let Some(frame) = self.frames.next().await? {
            match frame.tag {
                b'Q' => self.answer(frame.body).await?,
                b'X' => return Ok(()),
                // What is left of a copy stream that this end left early.
                b'd' | b'c' | b'f' => {}
                tag => {
                    let what = format!("a message of type `{}` instead of a command", tag.escape_ascii());
                    self.fail("08P01", &what).await?;
                    return Err(SessionError::Protocol(what));
                }
            }
        }
        Ok(())
    }

    pub(super) async fn send(&mut self, message: &[u8]) -> Result<(), SessionError> {
        Ok(self.writer.write_all(message).await?)
    }

    /// Tells the peer why the connection is about to be closed.
    async fn fail(&mut self, sqlstate: &str, message: &str) -> Result<(), SessionError> {
        let mut out = BytesMut::new();
        reply::put_error(&mut out, "FATAL", sqlstate, message);
        self.send(&out).await
    }

    /// False when the peer only came to leave.
    async fn log_in(&mut self) -> Result<bool, SessionError> {
        let Some(startup) = self.startup_packet().await? else { return Ok(false) };
        let startup = Startup::read(startup);
        if let Err((sqlstate, message)) = startup.check() {
            self.fail(sqlstate, message).await?;
            return Err(SessionError::Refused(message.into()));
        }
        self.progress.application_name = startup.application_name;
        self.authenticate(&startup.user).await?;
        let mut out = BytesMut::new();
        reply::put_authentication(&mut out, 0, |_| ());
        let parameters = [
            ("server_version", self.options.server_version.as_str()),
            ("server_encoding", "UTF8"),
            ("client_encoding", "UTF8"),
            ("application_name", self.progress.application_name.as_str()),
            ("is_superuser", "off"),
            ("DateStyle", "ISO, MDY"),
            ("IntervalStyle", "postgres"),
            ("TimeZone", "UTC"),
            ("integer_datetimes", "on"),
            ("standard_conforming_strings", "on"),
        ];
        for (name, value) in parameters {
            reply::put_parameter(&mut out, name, value);
        }
        // There is nothing to cancel: any key will do.
        put_frame(&mut out, b'K', |out| out.put_u64(0));
        reply::put_ready(&mut out);
        self.send(&out).await?;
        Ok(true)
    }

    /// The start-up packet behind any requests for encryption, which is not offered.
    async fn startup_packet(&mut self) -> Result<Option<Bytes>, SessionError> {
        for _ in 0..MOST_REFUSALS {
            let Some(packet) = self.frames.next_untagged().await? else { return Ok(None) };
            match Cursor(packet.clone()).u32() {
                Some(SSL_REQUEST | GSS_REQUEST) => self.send(b"N").await?,
                Some(CANCEL_REQUEST) => return Ok(None),
                Some(_) => return Ok(Some(packet)),
                None => return Err(SessionError::Protocol("a start-up packet that is too short".into())),
            }
        }
        Err(SessionError::Protocol("asks for encryption again and again".into()))
    }

    async fn authenticate(&mut self, user: &str) -> Result<(), SessionError> {
        let Authentication::Password(password) = &self.options.authentication else { return Ok(()) };
        let scram = ScramServer::new(password);
        if let Some(scram) = scram
            && self.exchange(&scram).await?.is_some()
        {
            return Ok(());
        }
        let message = format!("password authentication failed for user \"{user}\"");
        self.fail("28P01", &message).await?;
        Err(SessionError::Refused(message))
    }

    /// `None` when the client did not prove that it knows the password.
    async fn exchange(&mut self, scram: &ScramServer) -> Result<Option<()>, SessionError> {
        let mut out = BytesMut::new();
        reply::put_authentication(&mut out, 10, put_mechanisms);
        self.send(&out).await?;
        let Some(challenge) = self.password_message().await?.and_then(|body| scram.challenge(body)) else {
            return Ok(None);
        };
        out.clear();
        reply::put_authentication(&mut out, 11, |out| out.put_slice(challenge.message().as_bytes()));
        self.send(&out).await?;
        let Some(proof) = self.password_message().await?.and_then(|body| scram.verify(&challenge, &body)) else {
            return Ok(None);
        };
        out.clear();
        reply::put_authentication(&mut out, 12, |out| out.put_slice(proof.as_bytes()));
        self.send(&out).await.map(Some)
    }

    async fn password_message(&mut self) -> Result<Option<Bytes>, SessionError> {
        let frame = self.frames.next().await?;
        Ok(frame.filter(|frame| frame.tag == b'p').map(|frame| frame.body))
    }

    /// Runs one command and answers it, errors included.
    async fn answer(&mut self, body: Bytes) -> Result<(), SessionError> {
        let text = Cursor(body).cstr().unwrap_or_default();
        tracing::debug!(peer = %self.progress.peer, command = text, "command");
        let mut out = BytesMut::new();
        match command::parse(&text) {
            Ok(Command::StartReplication { start, timeline }) => return self.replicate(start, timeline).await,
            Ok(command) => match self.rows(&command, &mut out).await {
                Ok(tag) => reply::put_command_complete(&mut out, tag),
                Err(error) => {
                    tracing::warn!(peer = %self.progress.peer, %error, "cannot answer {text}");
                    reply::put_error(&mut out, "ERROR", error.sqlstate(), &error.to_string());
                }
            },
            Err(CommandError::Syntax) => {
                reply::put_error(&mut out, "ERROR", "42601", "not a command of physical replication");
            }
            Err(CommandError::Unsupported(why)) => reply::put_error(&mut out, "ERROR", "0A000", why),
        }
        reply::put_ready(&mut out);
        self.send(&out).await
    }

    async fn rows(&self, command: &Command, out: &mut BytesMut) -> Result<&'static str, SourceError> {
        match command {
            Command::IdentifySystem => {
                let system = self.source.identify().await?;
                let (id, timeline) = (system.system_id.to_string(), system.timeline.to_string());
                let position = system.flush_lsn.to_string();
                reply::put_row(
                    out,
                    &[
                        Column::new("systemid", TEXT, &id),
                        Column::new("timeline", INT8, &timeline),
                        Column::new("xlogpos", TEXT, &position),
                        Column { name: "dbname", oid: TEXT, value: None },
                    ],
                );
                Ok("IDENTIFY_SYSTEM")
            }
            Command::TimelineHistory(timeline) => {
                let history = self.source.timeline_history(*timeline).await?;
                let (name, content) = (history.file_name(), history.render());
                reply::put_row(out, &[Column::new("filename", TEXT, &name), Column::new("content", BYTEA, &content)]);
                Ok("TIMELINE_HISTORY")
            }
            Command::Show(setting) => {
                let value = self.setting(setting)?;
                reply::put_row(out, &[Column::new(setting, TEXT, &value)]);
                Ok("SHOW")
            }
            // Answered by `replicate`.
            Command::StartReplication { .. } => Ok("START_REPLICATION"),
        }
    }

    fn setting(&self, name: &str) -> Result<String, SourceError> {
        match name {
            "wal_segment_size" => Ok(format!("{}MB", self.options.segment_size >> 20)),
            "server_version" => Ok(self.options.server_version.clone()),
            "data_directory_mode" => Ok("0700".into()),
            _ => Err(SourceError::Failed { message: format!("setting `{name}` is not known here") }),
        }
    }

    async fn replicate(&mut self, start: Lsn, timeline: Option<TimelineId>) -> Result<(), SessionError> {
        let mut out = BytesMut::new();
        let opened = self.open_stream(start, timeline).await;
        let (timeline, wal) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                tracing::warn!(peer = %self.progress.peer, %error, %start, "cannot stream");
                reply::put_error(&mut out, "ERROR", error.sqlstate(), &error.to_string());
                reply::put_ready(&mut out);
                return self.send(&out).await;
            }
        };
        let (peer, name) = (self.progress.peer, &self.progress.application_name);
        tracing::info!(%peer, name, %start, %timeline, "streaming");
        (self.progress.timeline, self.progress.sent) = (timeline, start);
        (self.observer)(self.progress.clone());
        reply::put_copy_both(&mut out);
        self.send(&out).await?;

        let ended = stream::run(self, start, wal).await;
        self.progress.connected = false;
        (self.observer)(self.progress.clone());
        self.progress.connected = true;
        match ended {
            Ok(ended) => self.finish(ended).await,
            Err(SessionError::Source(error)) => {
                self.fail(error.sqlstate(), &error.to_string()).await?;
                Err(SessionError::Source(error))
            }
            Err(error) => Err(error),
        }
    }

    async fn open_stream(
        &self,
        start: Lsn,
        timeline: Option<TimelineId>,
    ) -> Result<(TimelineId, S::Stream), SourceError> {
        let timeline = match timeline {
            Some(timeline) => timeline,
            None => self.source.identify().await?.timeline,
        };
        Ok((timeline, self.source.stream(start, timeline).await?))
    }

    /// Ends the answer to START_REPLICATION behind the copy stream.
    async fn finish(&mut self, ended: Ended) -> Result<(), SessionError> {
        let mut out = BytesMut::new();
        match ended {
            Ended::Closed => return Ok(()),
            Ended::ByStandby => {}
            Ended::OfTimeline { next, switch } => {
                let (next, switch) = (next.to_string(), switch.to_string());
                reply::put_row(
                    &mut out,
                    &[Column::new("next_tli", INT8, &next), Column::new("next_tli_startpos", TEXT, &switch)],
                );
                reply::put_command_complete(&mut out, "START_STREAMING");
            }
        }
        // A walreceiver wants this one too: PostgreSQL sends both.
        reply::put_command_complete(&mut out, "START_REPLICATION");
        reply::put_ready(&mut out);
        self.send(&out).await
    }
}

/// What a start-up packet says, as far as it matters here.
#[derive(Debug, Default, PartialEq, Eq)]
struct Startup {
    version: u32,
    user: String,
    replication: String,
    application_name: String,
}

impl Startup {
    fn read(packet: Bytes) -> Startup {
        let mut cursor = Cursor(packet);
        let mut startup = Startup { version: cursor.u32().unwrap_or_default(), ..Startup::default() };
        while let Some(name) = cursor.cstr().filter(|name| !name.is_empty()) {
            let value = cursor.cstr().unwrap_or_default();
            match name.as_str() {
                "user" => startup.user = value,
                "replication" => startup.replication = value.to_ascii_lowercase(),
                "application_name" => startup.application_name = printable(&value),
                _ => {}
            }
        }
        startup
    }

    /// The SQLSTATE and the message of what is wrong with it.
    fn check(&self) -> Result<(), (&'static str, &'static str)> {
        match (self.version, self.replication.as_str()) {
            (version, _) if version != 3 << 16 => Err(("0A000", "only protocol 3.0 is spoken here")),
            (_, "true" | "on" | "yes" | "1" | "t" | "y") if self.user.is_empty() => Err(("28000", "no user was named")),
            (_, "true" | "on" | "yes" | "1" | "t" | "y") => Ok(()),
            (_, "database") => Err(("0A000", "only physical replication is served here")),
            _ => Err(("0A000", "this server serves WAL to standbys and answers no SQL")),
        }
    }
}

/// Reads and judges a start-up packet, for `fuzz/`.
pub(super) fn fuzz_startup(packet: &Bytes) {
    let startup = Startup::read(packet.clone());
    let _ = startup.check();
    assert!(startup.application_name.len() < 64);
}

/// As PostgreSQL keeps names from clients: ASCII, 63 characters.
fn printable(text: &str) -> String {
    text.chars().take(63).map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect()
}
