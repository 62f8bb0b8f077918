//! A bucket, keys, an agent and a relay as tasks, and writers that keep a ledger.
#![allow(dead_code, reason = "each test binary uses a part of this")]

pub(crate) mod later;
pub(crate) mod takeover;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_credential_types::Credentials;
use aws_sdk_s3::config::{BehaviorVersion, Region};
use holdfast_dataplane::config::{
    AgentConfig, ArchiverConfig, ConnectionConfig, Durability, PrimaryAddress, RelayConfig, RestoreConfig, Until,
    slot_name,
};
use holdfast_dataplane::instance::Target;
use holdfast_dataplane::status::{AgentState, AgentStatus, ArchiverStatus, RelayStatus};
use holdfast_dataplane::{agent, archiver, relay};
use holdfast_test_postgres::{SeaweedFS, TestPostgres, free_port};
use holdfast_vault::{
    CredentialsSource, DatabaseVault, Identities, TrustedWriter, Vault, VaultConfig, generate_identity,
};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const LIMIT: Duration = Duration::from_secs(90);

/// A bucket server, a folder for secrets, and keys.
pub(crate) struct Cloud {
    pub(crate) weed: SeaweedFS,
    pub(crate) folder: tempfile::TempDir,
    secret: String,
    recipient: String,
    /// Vouches for what is written; no key at first.
    pub(crate) writer_key_file: Option<PathBuf>,
    /// Whose objects count; nobody listed: everybody's.
    pub(crate) writers: Vec<TrustedWriter>,
}

impl Cloud {
    pub(crate) async fn start() -> Self {
        let _ = tracing_subscriber::fmt().with_env_filter(filter()).with_test_writer().try_init();
        let weed = SeaweedFS::start();
        let (secret, recipient) = generate_identity();
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("identity"), &secret).expect("writable");
        let cloud = Self { weed, folder, secret, recipient, writer_key_file: None, writers: Vec::new() };
        cloud.bucket("vault", true).await;
        cloud
    }

    /// Makes a bucket, with versioning and Object Lock or with neither.
    pub(crate) async fn bucket(&self, name: &str, lock: bool) {
        let create = self.s3().create_bucket().bucket(name).object_lock_enabled_for_bucket(lock);
        let deadline = Instant::now() + LIMIT;
        while let Err(error) = create.clone().send().await {
            assert!(Instant::now() < deadline, "cannot make a bucket: {error:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn s3(&self) -> aws_sdk_s3::Client {
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(aws_smithy_http_client::tls::Provider::Rustls(
                aws_smithy_http_client::tls::rustls_provider::CryptoMode::Ring,
            ))
            .build_https();
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .force_path_style(true)
            .http_client(http)
            .endpoint_url(self.weed.endpoint())
            .credentials_provider(Credentials::new(self.weed.access_key(), self.weed.secret_key(), None, None, "test"))
            .build();
        aws_sdk_s3::Client::from_conf(config)
    }

    /// The keys of the vault's bucket that begin so.
    pub(crate) async fn keys(&self, prefix: &str) -> Vec<String> {
        let pages = self.s3().list_objects_v2().bucket("vault").prefix(prefix).into_paginator().send();
        let pages: Vec<_> = pages.collect::<Result<_, _>>().await.expect("a listing");
        pages.iter().flat_map(|page| page.contents()).filter_map(|object| object.key().map(str::to_owned)).collect()
    }

    /// Puts bytes as somebody could who has the keys of the bucket.
    pub(crate) async fn put(&self, key: &str, bytes: &'static [u8]) {
        let body = aws_sdk_s3::primitives::ByteStream::from_static(bytes);
        self.s3().put_object().bucket("vault").key(key).body(body).send().await.expect("stored");
    }

    pub(crate) fn vault_config(&self, bucket: &str) -> VaultConfig {
        VaultConfig {
            url: None,
            endpoint: Some(self.weed.endpoint().parse().expect("an URL")),
            region: "us-east-1".to_owned(),
            bucket: bucket.to_owned(),
            prefix: "hospital".to_owned(),
            retention_days: 1,
            chunk_retention_days: 1,
            credentials: CredentialsSource::Static {
                access_key_id: self.weed.access_key().to_owned(),
                secret_access_key: self.weed.secret_key().to_owned(),
            },
            ca_bundle: None,
            writers: self.writers.clone(),
            proxy: None,
            writer_key_file: self.writer_key_file.clone(),
        }
    }

    pub(crate) fn database(&self, name: &str) -> DatabaseVault {
        Vault::open(self.vault_config("vault")).expect("opens").database(name).expect("a name")
    }

    pub(crate) fn identities(&self) -> Identities {
        Identities::parse(&self.secret).expect("just made")
    }

    /// A mounted Secret.
    pub(crate) fn credentials(&self, username: &str, password: &str) -> PathBuf {
        let folder = self.folder.path().join(format!("credentials-{username}-{password}"));
        std::fs::create_dir_all(&folder).expect("writable");
        std::fs::write(folder.join("username"), format!("{username}\n")).expect("writable");
        std::fs::write(folder.join("password"), password).expect("writable");
        folder
    }

    pub(crate) fn agent_config(&self, server: &TestPostgres, name: &str) -> AgentConfig {
        AgentConfig {
            vault: self.vault_config("vault"),
            recipients: vec![self.recipient.clone()],
            name: name.to_owned(),
            instance_id: "origin".to_owned(),
            connection: ConnectionConfig {
                host: "127.0.0.1".to_owned(),
                port: server.port(),
                database: "postgres".to_owned(),
                credentials_dir: self.credentials(server.user(), server.password()),
            },
            durability: Durability::Synchronous,
            base_backup_interval_hours: 24,
            listen: free_address(),
            reclaim: false,
        }
    }

    pub(crate) fn archiver_config(&self, name: &str) -> ArchiverConfig {
        ArchiverConfig {
            vault: self.vault_config("vault"),
            identity_file: self.folder.path().join("identity"),
            recipients: vec![self.recipient.clone()],
            name: name.to_owned(),
            listen: free_address(),
            index_segments: 1,
            rolling: true,
        }
    }

    /// Copies what `keep` says to another bucket, as if the rest had expired; returns how many objects stayed behind.
    pub(crate) async fn copy(&self, to: &str, keep: impl Fn(&str, &[u8]) -> bool) -> usize {
        let s3 = self.s3();
        let mut left = 0;
        for key in self.keys("").await {
            let object = s3.get_object().bucket("vault").key(&key).send().await.expect("an object");
            let bytes = object.body.collect().await.expect("its bytes").into_bytes();
            if keep(&key, &bytes) {
                s3.put_object().bucket(to).key(&key).body(bytes.into()).send().await.expect("stored");
            } else {
                left += 1;
            }
        }
        left
    }

    pub(crate) fn relay_config(&self, name: &str, until: Option<Until>) -> RelayConfig {
        RelayConfig {
            vault: self.vault_config("vault"),
            identity_file: self.folder.path().join("identity"),
            name: name.to_owned(),
            listen: free_address(),
            serve: free_address(),
            password_file: None,
            until,
        }
    }

    pub(crate) fn restore_config(
        &self,
        name: &str,
        target: &Path,
        relay: SocketAddr,
        instance_id: &str,
    ) -> RestoreConfig {
        RestoreConfig {
            vault: self.vault_config("vault"),
            identity_file: self.folder.path().join("identity"),
            name: name.to_owned(),
            target: target.to_owned(),
            backup: None,
            until: None,
            primary: PrimaryAddress { host: relay.ip().to_string(), port: relay.port(), password_file: None },
            instance_id: instance_id.to_owned(),
            synchronous_standby: Some(slot_name(name)),
            socket_directory: "/tmp".into(),
        }
    }
}

fn filter() -> tracing_subscriber::EnvFilter {
    tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into())
}

pub(crate) fn free_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}

pub(crate) fn target(server: &TestPostgres) -> Target {
    Target {
        host: "127.0.0.1".to_owned(),
        port: server.port(),
        database: "postgres".to_owned(),
        username: server.user().to_owned(),
        password: server.password().to_owned(),
    }
}

/// A role as a task; gone at once when dropped, as with kill -9.
pub(crate) struct Role {
    pub(crate) http: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Role {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Role {
    pub(crate) fn agent(config: AgentConfig) -> Self {
        let http = config.listen;
        let task =
            tokio::spawn(async move { agent::run(config, CancellationToken::new()).await.expect("runs for ever") });
        Self { http, task }
    }

    pub(crate) fn relay(config: RelayConfig) -> Self {
        let http = config.listen;
        let task =
            tokio::spawn(async move { relay::run(config, CancellationToken::new()).await.expect("runs for ever") });
        Self { http, task }
    }

    pub(crate) fn archiver(config: ArchiverConfig) -> Self {
        let http = config.listen;
        let task =
            tokio::spawn(async move { archiver::run(config, CancellationToken::new()).await.expect("runs for ever") });
        Self { http, task }
    }

    pub(crate) async fn wait_archiver(&self, what: &str, good: impl Fn(&ArchiverStatus) -> bool) -> ArchiverStatus {
        wait(what, || self.get("/status"), good).await
    }

    /// Waits until it is really gone.
    pub(crate) async fn kill(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    pub(crate) async fn agent_status(&self) -> AgentStatus {
        self.get("/status").await
    }

    pub(crate) async fn relay_status(&self) -> RelayStatus {
        self.get("/status").await
    }

    pub(crate) async fn text(&self, path: &str) -> String {
        let deadline = Instant::now() + LIMIT;
        loop {
            match fetch(self.http, path).await {
                Ok(text) => return text,
                Err(error) => assert!(Instant::now() < deadline, "{path}: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The value of a metric without labels.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let text = self.text("/metrics").await;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or_else(|| panic!("no {name} in {text}"))
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        serde_json::from_str(&self.text(path).await).expect("JSON")
    }

    pub(crate) async fn wait_agent(&self, what: &str, good: impl Fn(&AgentStatus) -> bool) -> AgentStatus {
        wait(what, || self.agent_status(), good).await
    }

    pub(crate) async fn wait_relay(&self, what: &str, good: impl Fn(&RelayStatus) -> bool) -> RelayStatus {
        wait(what, || self.relay_status(), good).await
    }

    pub(crate) async fn wait_state(&self, state: AgentState) -> AgentStatus {
        self.wait_agent(&format!("{state:?}"), |status| status.state == state).await
    }

    pub(crate) async fn wait_problem(&self, code: &str) -> AgentStatus {
        self.wait_agent(code, |status| status.problem.as_ref().is_some_and(|problem| problem.code == code)).await
    }

    /// Streaming, with commits waiting for it and a base backup in the vault.
    pub(crate) async fn wait_protected(&self) -> AgentStatus {
        self.wait_agent("protected", |s| s.state == AgentState::Streaming && s.synchronous && !s.backups.is_empty())
            .await
    }
}

pub(crate) async fn wait<T, F>(what: &str, look: impl Fn() -> F, good: impl Fn(&T) -> bool) -> T
where
    T: std::fmt::Debug,
    F: Future<Output = T>,
{
    let deadline = Instant::now() + LIMIT;
    loop {
        let seen = look().await;
        if good(&seen) {
            return seen;
        }
        assert!(Instant::now() < deadline, "not {what} after {LIMIT:?}: {seen:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn fetch(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    if head.starts_with("HTTP/1.1 200") { Ok(body.to_owned()) } else { Err(std::io::Error::other(head.to_owned())) }
}

/// What writers were told, and how long each commit took.
#[derive(Default)]
pub(crate) struct Ledger {
    pub(crate) acknowledged: Vec<i64>,
    pub(crate) latencies: Vec<Duration>,
}

/// Writers that each commit one row after another.
pub(crate) struct Load {
    pub(crate) ledger: Arc<Mutex<Ledger>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    /// `first` tells the rows of one load from those of another.
    pub(crate) fn start(server: &TestPostgres, writers: i64, first: i64) -> Self {
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let tasks = (0..writers)
            .map(|writer| {
                tokio::spawn(write(server.connection_string(), first + writer * 1_000_000, Arc::clone(&ledger)))
            })
            .collect();
        Self { ledger, tasks }
    }

    pub(crate) fn acknowledged(&self) -> usize {
        self.ledger.lock().expect("not poisoned").acknowledged.len()
    }

    pub(crate) async fn wait_for_more(&self, rows: usize) {
        let wanted = self.acknowledged() + rows;
        wait("acknowledged", || async { self.acknowledged() }, |seen| *seen >= wanted).await;
    }

    /// Ends the writers where they are.
    pub(crate) fn stop(&mut self) -> Ledger {
        for task in &self.tasks {
            task.abort();
        }
        std::mem::take(&mut *self.ledger.lock().expect("not poisoned"))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn write(server: String, first: i64, ledger: Arc<Mutex<Ledger>>) {
    let mut id = first;
    loop {
        let Ok((client, connection)) = tokio_postgres::connect(&server, tokio_postgres::NoTls).await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let connection = tokio::spawn(connection);
        loop {
            id += 1;
            let began = Instant::now();
            let payload = format!("{id:0>100}");
            match client.execute("INSERT INTO ledger (id, payload) VALUES ($1, $2)", &[&id, &payload]).await {
                Ok(_) => {
                    let mut ledger = ledger.lock().expect("not poisoned");
                    ledger.acknowledged.push(id);
                    ledger.latencies.push(began.elapsed());
                }
                Err(_) => break,
            }
        }
        connection.abort();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) fn make_ledger(server: &TestPostgres) {
    server.psql("CREATE TABLE ledger (id bigint PRIMARY KEY, payload text NOT NULL)");
}

/// Those of `acknowledged` that `server` does not have.
pub(crate) fn missing(server: &TestPostgres, acknowledged: &[i64]) -> Vec<i64> {
    let stored: std::collections::HashSet<i64> =
        server.psql("SELECT id FROM ledger").lines().map(|line| line.parse().expect("a number")).collect();
    acknowledged.iter().copied().filter(|id| !stored.contains(id)).collect()
}

/// Starts a server on what a restore has left in `target`.
pub(crate) fn start_restored(target: &Path, settings: &[(&str, &str)]) -> TestPostgres {
    tokio::task::block_in_place(|| {
        TestPostgres::start_from(settings, |data| {
            // psql of the test comes by the socket, as another user of the system.
            let rules = target.join("pgdata/pg_hba.conf");
            let text = std::fs::read_to_string(&rules).expect("written by the restore");
            std::fs::write(&rules, text.replace("local all all peer", "local all all trust")).expect("writable");
            std::fs::rename(target.join("pgdata"), data).expect("the same file system");
        })
    })
}
