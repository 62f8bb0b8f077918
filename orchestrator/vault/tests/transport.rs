//! How the vault reaches its store: when it is away, when an answer is lost, through a proxy, and under an authority of
//! one's own.

mod common;

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{Fixture, append, create_bucket, durable, small_segments, wal};
use holdfast_test_postgres::SeaweedFS;
use holdfast_vault::store::{Lock, S3Store, Store};
use holdfast_vault::{CredentialsSource, LogReader, Proxy, ReadEvent, Vault, VaultConfig};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const BUCKET: &str = "holdfast";

async fn server() -> SeaweedFS {
    let weed = SeaweedFS::start();
    create_bucket(&weed, BUCKET).await;
    weed
}

fn config(weed: &SeaweedFS, endpoint: &str) -> VaultConfig {
    let keys = CredentialsSource::Static {
        access_key_id: weed.access_key().into(),
        secret_access_key: weed.secret_key().into(),
    };
    VaultConfig {
        endpoint: Some(endpoint.parse().unwrap()),
        retention_days: 2,
        chunk_retention_days: 2,
        ..VaultConfig::new(BUCKET, keys)
    }
}

/// Reads so much WAL, whatever the store does meanwhile.
async fn read_through(mut reader: LogReader, len: usize) -> Vec<u8> {
    let mut read = Vec::new();
    while read.len() < len {
        match reader.next().await {
            Ok(ReadEvent::Wal { data, .. }) => read.extend_from_slice(&data),
            Ok(_) => {}
            Err(error) => assert!(!error.is_permanent(), "{error}"),
        }
    }
    read
}

/// Longer than anybody's patience with one request: every retry loop has begun anew and waits as long as it ever does, so
/// that an hour would be no other than this.
#[tokio::test(flavor = "multi_thread")]
async fn a_real_store_that_is_stopped_and_started_costs_no_data_and_no_restart() {
    let mut weed = server().await;
    let endpoint = weed.endpoint();
    let vault = Vault::open(config(&weed, &endpoint)).unwrap();
    let fixture = Fixture::new(vault.clone(), small_segments()).await;
    let (start, writer) = fixture.writer().await;
    let middle = append(&writer, start, 100_000, 4000, 0).await;
    durable(&writer, middle).await;
    let reading = tokio::spawn(read_through(fixture.reader(start).await, 500_000));
    let journal = vault.journal("run-1").unwrap();
    journal.append(0, &json!({"step": 0})).await.unwrap();
    tokio::task::block_in_place(|| weed.kill());
    let end = append(&writer, middle, 400_000, 4000, 0).await;
    let began = Instant::now();
    let error = journal.append(1, &json!({"step": 1})).await.unwrap_err();
    assert!(!error.is_permanent(), "{error}");
    assert!(began.elapsed() > Duration::from_secs(15), "it asked for {:?} only", began.elapsed());
    let state = writer.state().borrow().clone();
    assert!(state.durable == middle && state.fenced.is_none() && state.store_problem.is_some(), "{state:?}");
    tokio::task::block_in_place(|| weed.restart());
    let back = Instant::now();
    journal.append(1, &json!({"step": 1})).await.unwrap();
    durable(&writer, end).await;
    let read = tokio::time::timeout(Duration::from_secs(60), reading).await.unwrap().unwrap();
    println!("away for {:?}; all stored and read {:?} after it was back", began.elapsed(), back.elapsed());
    assert!(read == wal(start, 500_000, 0), "the bytes differ");
    assert_eq!(fixture.database.tip().await.unwrap().tip, end);
    assert_eq!(journal.load().await.unwrap().len(), 2);
}

/// Passes bytes on to a server, and can lose answers.
struct Relay {
    address: SocketAddr,
    /// The next connection that is answered never gets it.
    lose: Arc<AtomicBool>,
    connections: Arc<AtomicUsize>,
}

impl Relay {
    async fn to(server: String) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (lose, connections) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (losing, count) = (lose.clone(), connections.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let server = TcpStream::connect(server.clone()).await.unwrap();
                tokio::spawn(pass(client, server, losing.clone()));
            }
        });
        Relay { address, lose, connections }
    }
}

async fn pass(client: impl AsyncRead + AsyncWrite, server: TcpStream, lose: Arc<AtomicBool>) {
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (tokio::io::split(client), server.into_split());
    let up = async { tokio::io::copy(&mut from_client, &mut to_server).await };
    let down = async {
        let (mut buffer, mut lost) = (vec![0; 64 * 1024], false);
        loop {
            let read = from_server.read(&mut buffer).await?;
            lost = lost || (read > 0 && lose.swap(false, Ordering::SeqCst));
            if read == 0 {
                return std::io::Result::Ok(());
            }
            if !lost {
                to_client.write_all(&buffer[..read]).await?;
            }
        }
    };
    tokio::select! {
        _ = up => {}
        _ = down => {}
    }
}

fn address(weed: &SeaweedFS) -> String {
    weed.endpoint().trim_start_matches("http://").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_whose_answer_is_lost_is_sent_again_before_its_time_is_out() {
    let weed = server().await;
    let relay = Relay::to(address(&weed)).await;
    let store = S3Store::new(config(&weed, &format!("http://{}", relay.address))).unwrap();
    for n in 0..20 {
        assert!(store.create(&format!("warm-{n}"), Bytes::from_static(b"x"), Lock::Short).await.unwrap().is_stored());
    }
    assert_eq!(store.traffic().hedged, 0);
    relay.lose.store(true, Ordering::SeqCst);
    let began = Instant::now();
    let body = Bytes::from_static(b"the only bytes");
    let created = store.create("lost", body.clone(), Lock::Short).await.unwrap();
    let took = began.elapsed();
    println!("a PUT whose answer was lost: {took:?}");
    // The first took effect: the second finds it.
    assert!(!created.is_stored(), "{created:?}");
    assert_eq!(store.get("lost").await.unwrap().unwrap().bytes, body);
    assert_eq!(store.versions("lost").await.unwrap().len(), 1);
    assert!(took < Duration::from_secs(5), "{took:?}: as long as a time-out");
    let traffic = store.traffic();
    assert_eq!((traffic.puts, traffic.hedged, traffic.hedges_won, traffic.failed), (21, 1, 1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_of_one_s_own_is_trusted_when_it_is_named() {
    let weed = server().await;
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let tls = tokio_rustls::rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("https://{}", listener.local_addr().unwrap());
    let server = address(&weed);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (acceptor, server) = (acceptor.clone(), server.clone());
            tokio::spawn(async move {
                let Ok(client) = acceptor.accept(client).await else { return };
                pass(client, TcpStream::connect(server).await.unwrap(), Arc::default()).await;
            });
        }
    });
    let named = VaultConfig { ca_bundle: Some(made.cert.pem()), ..config(&weed, &endpoint) };
    Vault::open(named).unwrap().check().await.unwrap();
    let store = S3Store::new(config(&weed, &endpoint)).unwrap();
    let error = store.get("k").await.unwrap_err();
    assert!(!error.is_permanent() && error.detail.contains("certificate"), "{error}");
}

/// What the proxy is comes from the environment, which only another process can have changed.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_of_the_environment_is_used_but_for_what_is_excepted() {
    let weed = server().await;
    let proxy = Relay::to(address(&weed)).await;
    let run = |no_proxy: &str| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "--ignored", "a_client_behind_a_proxy"]);
        command.env("HTTP_PROXY", format!("http://{}", proxy.address)).env("NO_PROXY", no_proxy);
        tokio::task::block_in_place(|| command.output().unwrap().status.success())
    };
    assert!(run(""));
    assert!(proxy.connections.load(Ordering::SeqCst) > 0);
    assert!(!run("store.invalid"), "the name leads nowhere without the proxy");

    // One that the configuration names, whatever the environment says.
    let before = proxy.connections.load(Ordering::SeqCst);
    let named = |no_proxy: &[&str]| {
        let no_proxy = no_proxy.iter().map(|host| (*host).to_owned()).collect();
        let proxy = Some(Proxy { url: format!("http://{}", proxy.address).parse().unwrap(), no_proxy });
        S3Store::new(VaultConfig { proxy, ..config(&weed, "http://store.invalid") }).unwrap()
    };
    assert!(named(&["other.invalid"]).bucket().await.unwrap().object_lock);
    assert!(proxy.connections.load(Ordering::SeqCst) > before);
    assert!(named(&[".invalid"]).bucket().await.is_err(), "the name leads nowhere without the proxy");
}

#[tokio::test]
#[ignore = "a part of a test, run by it"]
async fn a_client_behind_a_proxy() {
    let keys = CredentialsSource::Static {
        access_key_id: "holdfast-test".into(),
        secret_access_key: "holdfast-test-secret".into(),
    };
    let endpoint = Some("http://store.invalid".parse().unwrap());
    let store = S3Store::new(VaultConfig { endpoint, ..VaultConfig::new(BUCKET, keys) }).unwrap();
    assert!(store.bucket().await.unwrap().object_lock);
    assert!(store.create("proxied", Bytes::from_static(b"x"), Lock::Short).await.unwrap().is_stored());
}
