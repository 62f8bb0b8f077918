//! Both ends against each other, and each end against a peer that sends nonsense.

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::{LIMIT, MemorySource, OurServer, config};
use holdfast_protocol::client::{
    BaseBackupOptions, ClientError, ReplicationClient, ReplicationEvent, ReplicationReader, ReplicationWriter,
};
use holdfast_protocol::server::{Authentication, ServeOptions, SourceError};
use holdfast_wal::history::TimelineHistory;
use holdfast_wal::{Lsn, SEGMENT_SIZE_DEFAULT, SystemId, TimelineId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const FIRST: TimelineId = TimelineId(1);
const SECOND: TimelineId = TimelineId(2);
const START: Lsn = Lsn(SEGMENT_SIZE_DEFAULT);

fn source() -> MemorySource {
    let source = MemorySource::new(SystemId(7_357_812_345_678_901_234));
    source.add_timeline(TimelineHistory::initial(FIRST), START);
    source
}

async fn follow(address: SocketAddr, start: Lsn) -> (ReplicationReader, ReplicationWriter) {
    let client = ReplicationClient::connect(&config(address.port(), "follower", None)).await.unwrap();
    client.start_replication(Some("any"), start, FIRST).await.unwrap()
}

/// The next event that is no keepalive.
async fn next(reader: &mut ReplicationReader) -> Result<ReplicationEvent, ClientError> {
    let wait = async {
        loop {
            match reader.next().await {
                Ok(ReplicationEvent::Keepalive { .. }) => {}
                other => return other,
            }
        }
    };
    tokio::time::timeout(LIMIT, wait).await.expect("something must come")
}

#[tokio::test]
async fn a_large_piece_arrives_in_order_and_whole() {
    let source = source();
    let ours = OurServer::start(source.clone(), ServeOptions::default()).await;
    let data: Vec<u8> = (0..3_000_000u32).map(|i| (i % 241) as u8).collect();
    source.append(FIRST, START, &data[..10]);
    let (mut reader, _writer) = follow(ours.address, Lsn(START.0 + 5)).await;
    source.append(FIRST, Lsn(START.0 + 10), &data[10..]);
    let mut received = Vec::new();
    while received.len() < data.len() - 5 {
        match next(&mut reader).await.unwrap() {
            ReplicationEvent::Wal { start, server_end, data } => {
                assert_eq!(start.0, START.0 + 5 + received.len() as u64);
                assert!(server_end.0 >= start.0 + data.len() as u64 && data.len() <= 128 * 1024);
                received.extend_from_slice(&data);
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(received == data[5..]);
}

#[tokio::test]
async fn commands_answer_and_errors_leave_the_connection_usable() {
    let source = source();
    let history = TimelineHistory::initial(FIRST).branch(SECOND, Lsn(START.0 + 8), "a test");
    source.add_timeline(history.clone(), START);
    let ours = OurServer::start(source, ServeOptions::default()).await;
    let mut client = ReplicationClient::connect(&config(ours.address.port(), "follower", None)).await.unwrap();
    let system = client.identify_system().await.unwrap();
    assert_eq!((system.system_id.0, system.timeline), (7_357_812_345_678_901_234, SECOND));
    assert_eq!(client.timeline_history(SECOND).await.unwrap(), history);
    assert_eq!(client.timeline_history(TimelineId(9)).await.unwrap_err().sqlstate(), Some("58P01"));
    assert_eq!(client.create_physical_slot("x", true).await.unwrap_err().sqlstate(), Some("0A000"));
    assert!(client.show("shared_buffers").await.is_err());
    assert_eq!(client.wal_segment_size().await.unwrap(), SEGMENT_SIZE_DEFAULT);
    let error = client.start_replication(None, Lsn(1), FIRST).await.unwrap_err();
    assert_eq!(error.sqlstate(), Some("58P01"));
    let client = ReplicationClient::connect(&config(ours.address.port(), "follower", None)).await.unwrap();
    let mut backup = client.base_backup(&BaseBackupOptions::default()).await.unwrap();
    assert!(matches!(backup.next().await, Err(ClientError::Server(_))));
}

#[tokio::test]
async fn the_end_of_a_timeline_is_handed_over() {
    let source = source();
    let ours = OurServer::start(source.clone(), ServeOptions::default()).await;
    let (mut reader, _writer) = follow(ours.address, START).await;
    source.append(FIRST, START, &[1; 100]);
    source.end(FIRST, SECOND, Lsn(START.0 + 64));
    let wal = next(&mut reader).await.unwrap();
    assert!(matches!(wal, ReplicationEvent::Wal { data, .. } if data.len() == 64));
    let end = ReplicationEvent::EndOfTimeline { next_timeline: SECOND, next_start: Lsn(START.0 + 64) };
    assert_eq!(next(&mut reader).await.unwrap(), end);
    assert!(reader.next().await.is_err());
}

#[tokio::test]
async fn a_failing_source_is_reported_to_the_standby() {
    let source = source();
    let mut ours = OurServer::start(source.clone(), ServeOptions::default()).await;
    let (mut reader, writer) = follow(ours.address, START).await;
    writer.send_status(START, START, Lsn::INVALID, false).await.unwrap();
    ours.wait_for(|progress| progress.connected).await;
    let message = "object v1/db/registration/log/0 is damaged";
    source.fail(FIRST, SourceError::Failed { message: message.into() });
    let error = next(&mut reader).await.unwrap_err();
    assert!(error.to_string().contains(message), "{error}");
    ours.wait_for(|progress| !progress.connected).await;
}

#[tokio::test]
async fn a_silent_standby_is_asked_and_then_dropped() {
    let options = ServeOptions {
        keepalive_interval: Duration::from_millis(20),
        silence_limit: Duration::from_millis(600),
        ..ServeOptions::default()
    };
    let ours = OurServer::start(source(), options).await;
    let (mut reader, writer) = follow(ours.address, START).await;
    // Answers keep it: three limits long.
    let patience = tokio::time::Instant::now() + Duration::from_millis(1800);
    let mut asked = 0;
    while tokio::time::Instant::now() < patience {
        if let ReplicationEvent::Keepalive { reply_requested: true, .. } = reader.next().await.unwrap() {
            asked += 1;
            writer.send_status(START, START, START, false).await.unwrap();
        }
    }
    assert!(asked >= 5, "asked {asked} times");
    // Silence ends it.
    let dropped = tokio::time::timeout(LIMIT, async { while reader.next().await.is_ok() {} });
    dropped.await.expect("a silent standby must be dropped");
}

#[tokio::test]
async fn a_status_that_was_cut_short_does_not_harm_the_stream() {
    let mut ours = OurServer::start(source(), ServeOptions::default()).await;
    let (_reader, writer) = follow(ours.address, START).await;
    for step in 0..200 {
        let status = writer.send_status(Lsn(START.0 + step), START, START, false);
        // Dropped at its first or second await point, or not at all.
        let _ = tokio::time::timeout(Duration::from_nanos(step % 3), status).await;
    }
    writer.send_status(Lsn(START.0 + 1000), START, START, false).await.unwrap();
    ours.wait_for(|progress| progress.written == Lsn(START.0 + 1000)).await;
}

#[tokio::test]
async fn passwords_are_asked_for_and_checked() {
    let options = ServeOptions { authentication: Authentication::Password("secret".into()), ..ServeOptions::default() };
    let ours = OurServer::start(source(), options).await;
    let log_in = async |password| {
        let connected = ReplicationClient::connect(&config(ours.address.port(), "follower", password)).await;
        connected.map(|_| ())
    };
    assert!(log_in(Some("secret")).await.is_ok());
    for password in [Some("wrong"), Some(""), None] {
        let error = log_in(password).await.unwrap_err();
        assert!(matches!(error, ClientError::AuthenticationFailed { .. }), "{error}");
    }
}

#[tokio::test]
async fn shutting_down_ends_connections_and_frees_the_port() {
    let ours = OurServer::start(source(), ServeOptions::default()).await;
    let (mut reader, _writer) = follow(ours.address, START).await;
    let address = ours.address;
    drop(ours);
    tokio::time::timeout(LIMIT, async { while reader.next().await.is_ok() {} }).await.expect("must be closed");
    let refused = async { while TcpStream::connect(address).await.is_ok() {} };
    tokio::time::timeout(LIMIT, refused).await.expect("the port must be free");
}

#[tokio::test]
async fn too_many_connections_are_refused_and_places_come_free() {
    let ours = OurServer::start(source(), ServeOptions { max_connections: 2, ..ServeOptions::default() }).await;
    let port = ours.address.port();
    let first = follow(ours.address, START).await;
    let _second = follow(ours.address, START).await;
    assert!(ReplicationClient::connect(&config(port, "follower", None)).await.is_err());
    drop(first);
    let third = async { while ReplicationClient::connect(&config(port, "follower", None)).await.is_err() {} };
    tokio::time::timeout(LIMIT, third).await.expect("a place must come free");
}

/// A generator of numbers that looks random and is the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    fn damage(&mut self, mut bytes: Vec<u8>) -> Vec<u8> {
        for _ in 0..self.roll(4) + 1 {
            let at = self.roll(bytes.len() as u64) as usize;
            match self.roll(4) {
                0 => bytes.truncate(at.max(1)),
                1 => bytes[at] = self.roll(256) as u8,
                2 => bytes.insert(at, [0, 0xFF, 0x7F, b'Q'][self.roll(4) as usize]),
                _ => bytes[at] ^= 0x80,
            }
        }
        bytes
    }
}

fn message(tag: &[u8], body: &[u8]) -> Vec<u8> {
    [tag, &(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

/// A standby's whole conversation, as bytes.
fn standby_conversation() -> Vec<u8> {
    let startup = message(b"", b"\0\x03\0\0user\0x\0replication\0true\0application_name\0y\0\0");
    let mut status = vec![b'r'];
    status.extend([0; 33]);
    [
        message(b"", &80_877_103u32.to_be_bytes()),
        startup,
        message(b"Q", b"IDENTIFY_SYSTEM\0"),
        message(b"Q", b"TIMELINE_HISTORY 2\0"),
        message(b"Q", b"START_REPLICATION SLOT \"x\" 0/1000000 TIMELINE 1\0"),
        message(b"d", &status),
        message(b"c", b""),
        message(b"X", b""),
    ]
    .concat()
}

/// Sends `bytes`, closes, and returns what came back.
async fn exchange(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut answer = Vec::new();
    // The server may have hung up before everything was sent.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let read = tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer)).await;
    let _ = read.expect("a closed connection must be answered by its end");
    answer
}

#[tokio::test]
async fn nonsense_from_a_standby_harms_nobody() {
    // A panic in a connection's task would end that task and nothing else: it must be counted.
    let panics = Arc::new(AtomicUsize::new(0));
    let (counter, report) = (Arc::clone(&panics), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |info| {
        counter.fetch_add(1, Ordering::Relaxed);
        report(info);
    }));
    let source = source();
    source.append(FIRST, START, &[7; 100]);
    let ours = OurServer::start(source, ServeOptions::default()).await;
    let answer = exchange(ours.address, &standby_conversation()).await;
    assert_eq!(answer[0], b'N');
    assert!(answer.ends_with(&message(b"Z", b"I")), "the whole conversation is understood");

    let mut dice = Dice(1);
    let lengths = [0u32, 3, 4, 5, 10_001, 0x7FFF_FFFF, u32::MAX];
    let mut conversations: Vec<Vec<u8>> = lengths.map(|length| length.to_be_bytes().to_vec()).to_vec();
    conversations.extend((0..400).map(|_| dice.damage(standby_conversation())));
    for conversation in conversations {
        exchange(ours.address, &conversation).await;
    }
    follow(ours.address, START).await;
    assert_eq!(panics.load(Ordering::Relaxed), 0);
}

/// A server's whole conversation, as bytes: log-in, then whatever the client asks for.
fn server_conversation() -> Vec<u8> {
    let mut wal = vec![b'w'];
    wal.extend(START.0.to_be_bytes());
    wal.extend([0; 16]);
    wal.extend([9; 64]);
    let mut keepalive = vec![b'k'];
    keepalive.extend([0; 17]);
    let row = b"\0\x02\0\0\0\x012\0\0\0\x070/10000";
    [
        message(b"R", &[0; 4]),
        message(b"S", b"server_version\x0015.0\0"),
        message(b"K", &[0; 8]),
        message(b"Z", b"I"),
        message(b"W", b"\0\0\0"),
        message(b"d", &wal),
        message(b"d", &keepalive),
        message(b"c", b""),
        message(b"T", b"\0\0"),
        message(b"D", row),
        message(b"C", b"START_STREAMING\0"),
        message(b"Z", b"I"),
    ]
    .concat()
}

#[tokio::test]
async fn a_server_that_says_nothing_is_not_waited_for() {
    // Logged in, and then stopped.
    let ready = server_conversation().windows(6).position(|bytes| bytes == b"Z\0\0\0\x05I").unwrap() + 6;
    for upto in [0, ready] {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let mut config = config(listener.local_addr().unwrap().port(), "x", None);
        config.connect_timeout = Duration::from_millis(300);
        let stopped = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(&server_conversation()[..upto]).await.unwrap();
            std::future::pending::<()>().await;
            drop(stream);
        });
        let asked = async { ReplicationClient::connect(&config).await?.identify_system().await };
        let error = tokio::time::timeout(LIMIT, asked).await.expect("must give up").unwrap_err();
        assert!(matches!(error, ClientError::TimedOut { .. }) && !error.is_permanent(), "{error}");
        stopped.abort();
    }
}

/// Talks to a server that says `bytes`, whatever it is asked.
async fn listen_to(bytes: Vec<u8>) -> Result<Vec<ReplicationEvent>, ClientError> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let conversation = async {
        let client = ReplicationClient::connect(&config(port, "x", Some("secret"))).await?;
        let (mut reader, _writer) = client.start_replication(None, START, FIRST).await?;
        let mut events = Vec::new();
        loop {
            let event = reader.next().await?;
            let last = matches!(event, ReplicationEvent::EndOfTimeline { .. });
            events.push(event);
            if last {
                return Ok(events);
            }
        }
    };
    tokio::time::timeout(LIMIT, conversation).await.expect("a closed connection must be an error")
}

#[tokio::test]
async fn nonsense_from_a_server_is_an_error() {
    let events = listen_to(server_conversation()).await.unwrap();
    assert_eq!(events.len(), 3);
    let wal = ReplicationEvent::Wal { start: START, server_end: Lsn(0), data: Bytes::from_static(&[9; 64]) };
    assert_eq!(events[0], wal);

    let mut dice = Dice(2);
    for _ in 0..400 {
        let _ = listen_to(dice.damage(server_conversation())).await;
    }
    // Not PostgreSQL at all.
    let error = listen_to(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".to_vec()).await.unwrap_err();
    assert!(matches!(error, ClientError::Protocol { .. }) && error.is_permanent(), "{error}");
    // WAL from elsewhere.
    let mut elsewhere = server_conversation();
    let at = elsewhere.windows(9).position(|bytes| bytes[0] == b'w' && bytes[1..] == START.0.to_be_bytes());
    elsewhere[at.unwrap() + 8] = 8;
    let error = listen_to(elsewhere).await.unwrap_err();
    assert!(error.to_string().contains("should follow"), "{error}");
}
