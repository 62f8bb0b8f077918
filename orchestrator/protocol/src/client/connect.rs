//! From a host and a port to an authenticated replication connection.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use super::error::{ClientError, ServerError};
use crate::config::ConnectConfig;
use crate::frame::{Cursor, Frame, FrameReader, put_cstr, put_frame, put_untagged};

/// Protocol 3.0.
const PROTOCOL_VERSION: u32 = 3 << 16;
/// No message of a server is longer; a history file or a data row may be long, WAL is at most 128 KiB.
const LONGEST_MESSAGE: usize = 16 * 1024 * 1024;
/// A peer that is gone is noticed within about half a minute, also when nothing is being sent.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 4;
const UNACKNOWLEDGED_LIMIT: Duration = Duration::from_secs(30);

/// A connection that is ready for commands.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) incoming: Incoming,
    pub(super) writer: OwnedWriteHalf,
    /// For an answer that needs no work.
    limit: Duration,
}

/// What the server sends.
#[derive(Debug)]
pub(super) struct Incoming {
    frames: FrameReader<OwnedReadHalf>,
    /// What the server reported: server_version, integer_datetimes, ...
    pub(super) parameters: BTreeMap<String, String>,
}

impl Incoming {
    /// The next message that means something here; notices and parameters are taken care of.
    pub(super) async fn receive(&mut self) -> Result<Frame, ClientError> {
        loop {
            let frame = self.frames.next().await?.ok_or_else(ClientError::closed)?;
            match frame.tag {
                b'N' => log_notice(frame),
                b'S' => self.keep_parameter(frame),
                b'E' => return Err(ClientError::Server(ServerError::read(frame.body))),
                _ => return Ok(frame),
            }
        }
    }

    fn keep_parameter(&mut self, frame: Frame) {
        // Servers report about 14 of them.
        let mut cursor = Cursor(frame.body);
        if let (Some(name), Some(value), true) = (cursor.cstr(), cursor.cstr(), self.parameters.len() < 64) {
            self.parameters.insert(name, value);
        }
    }
}

impl Connection {
    pub(super) async fn open(config: &ConnectConfig) -> Result<Connection, ClientError> {
        let opened = within(config.connect_timeout, "connecting", async {
            let stream = dial(config).await?;
            let (reader, writer) = stream.into_split();
            let frames = FrameReader::new(reader, LONGEST_MESSAGE);
            let incoming = Incoming { frames, parameters: BTreeMap::new() };
            let mut connection = Connection { incoming, writer, limit: config.connect_timeout };
            connection.log_in(config).await?;
            Ok(connection)
        });
        opened.await
    }

    /// How long the server may take for an answer that needs no work.
    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    pub(super) async fn send(&mut self, message: &[u8]) -> Result<(), ClientError> {
        Ok(self.writer.write_all(message).await?)
    }

    async fn log_in(&mut self, config: &ConnectConfig) -> Result<(), ClientError> {
        self.send(&startup_message(config)).await?;
        let refused = |error| match error {
            ClientError::Server(error) => login_error(&config.user, error),
            other => other,
        };
        self.authenticate(config).await.map_err(refused)?;
        loop {
            // BackendKeyData is for cancelling queries, which are not cancelled here.
            match self.incoming.receive().await.map_err(refused)?.tag {
                b'Z' => return Ok(()),
                b'K' => {}
                tag => return Err(unexpected(tag, "logging in")),
            }
        }
    }

    async fn authenticate(&mut self, config: &ConnectConfig) -> Result<(), ClientError> {
        loop {
            let (code, mut body) = self.authentication_request().await?;
            let unsupported = |method: &str| ClientError::UnsupportedAuthentication { method: method.into() };
            match code {
                0 => return Ok(()),
                3 => self.send_password(password(config)?).await?,
                5 => {
                    let salt = [body.u8(), body.u8(), body.u8(), body.u8()].map(Option::unwrap_or_default);
                    let hash = md5_hash(config.user.as_bytes(), password(config)?.as_bytes(), salt);
                    self.send_password(&hash).await?;
                }
                7 | 8 => return Err(unsupported("GSSAPI")),
                9 => return Err(unsupported("SSPI")),
                10 => self.scram(body, password(config)?, &config.user).await?,
                other => return Err(unsupported(&format!("unknown ({other})"))),
            }
        }
    }

    async fn authentication_request(&mut self) -> Result<(i32, Cursor), ClientError> {
        let frame = self.incoming.receive().await?;
        if frame.tag != b'R' {
            return Err(unexpected(frame.tag, "authenticating"));
        }
        let mut body = Cursor(frame.body);
        let code = body.i32().ok_or_else(|| ClientError::protocol("a short authentication request"))?;
        Ok((code, body))
    }

    async fn send_password(&mut self, password: &str) -> Result<(), ClientError> {
        let mut out = BytesMut::new();
        put_frame(&mut out, b'p', |out| put_cstr(out, password));
        self.send(&out).await
    }

    async fn scram(&mut self, mut mechanisms: Cursor, password: &str, user: &str) -> Result<(), ClientError> {
        let mut offered = Vec::new();
        while let Some(name) = mechanisms.cstr().filter(|name| !name.is_empty()) {
            offered.push(name);
        }
        if !offered.iter().any(|name| name == SCRAM_SHA_256) {
            return Err(ClientError::UnsupportedAuthentication { method: offered.join(", ") });
        }
        let mut scram = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        let mut out = BytesMut::new();
        put_frame(&mut out, b'p', |out| {
            put_cstr(out, SCRAM_SHA_256);
            out.put_u32(u32::try_from(scram.message().len()).unwrap_or_default());
            out.put_slice(scram.message());
        });
        self.send(&out).await?;

        let failed = |error: std::io::Error| ClientError::AuthenticationFailed {
            user: user.into(),
            message: format!("the SCRAM exchange failed: {error}"),
        };
        scram.update(&self.sasl_message(11).await?).map_err(failed)?;
        let mut out = BytesMut::new();
        put_frame(&mut out, b'p', |out| out.put_slice(scram.message()));
        self.send(&out).await?;
        // The server proves that it knows the password too: an impostor stops here.
        scram.finish(&self.sasl_message(12).await?).map_err(failed)
    }

    async fn sasl_message(&mut self, expected: i32) -> Result<bytes::Bytes, ClientError> {
        match self.authentication_request().await? {
            (code, body) if code == expected => Ok(body.rest()),
            (code, _) => Err(ClientError::protocol(format!("authentication code {code} instead of {expected}"))),
        }
    }
}

/// A server that is stopped, or a network that swallows packets, says nothing: so there is a limit.
/// After a time-out the connection is of no more use.
pub(super) async fn within<T>(
    after: Duration,
    doing: &'static str,
    work: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    timeout(after, work).await.map_err(|_| ClientError::TimedOut { doing, after })?
}

async fn dial(config: &ConnectConfig) -> Result<TcpStream, ClientError> {
    let unreachable = |source| ClientError::Unreachable { host: config.host.clone(), port: config.port, source };
    let stream = TcpStream::connect((config.host.as_str(), config.port)).await.map_err(unreachable)?;
    stream.set_nodelay(true).map_err(unreachable)?;
    notice_dead_peers(&stream).map_err(unreachable)?;
    Ok(stream)
}

/// Makes the kernel break a connection whose peer is gone without a word.
pub(crate) fn notice_dead_peers(stream: &TcpStream) -> std::io::Result<()> {
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_PROBES);
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_LIMIT))
}

fn startup_message(config: &ConnectConfig) -> BytesMut {
    let mut out = BytesMut::new();
    put_untagged(&mut out, |out| {
        out.put_u32(PROTOCOL_VERSION);
        let parameters = [
            ("user", config.user.as_str()),
            ("replication", "true"),
            ("application_name", config.application_name.as_str()),
        ];
        for (name, value) in parameters {
            put_cstr(out, name);
            put_cstr(out, value);
        }
        out.put_u8(0);
    });
    out
}

fn password(config: &ConnectConfig) -> Result<&str, ClientError> {
    config.password.as_deref().ok_or_else(|| ClientError::AuthenticationFailed {
        user: config.user.clone(),
        message: "the server asks for a password, and none is configured".into(),
    })
}

fn login_error(user: &str, error: ServerError) -> ClientError {
    let user = user.to_owned();
    match error.sqlstate.as_str() {
        // A walsender needs the REPLICATION attribute; nothing else asks for privileges so early.
        "42501" => ClientError::NoReplicationRole { user, message: error.message },
        "28000" | "28P01" => ClientError::AuthenticationFailed { user, message: error.message },
        _ => ClientError::Server(error),
    }
}

fn log_notice(frame: Frame) {
    let notice = ServerError::read(frame.body);
    tracing::debug!(severity = %notice.severity, sqlstate = %notice.sqlstate, "{}", notice.message);
}

pub(super) fn unexpected(tag: u8, doing: &str) -> ClientError {
    ClientError::protocol(format!("a message of type `{}` while {doing}", tag.escape_ascii()))
}
