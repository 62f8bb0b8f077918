//! A PostgreSQL server made by the samples' own script, and the hospital's services in this process.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use holdfast_hospital::service::{self, DatabaseConfig, ServiceConfig};
use holdfast_hospital::{Service, Site};
use holdfast_test_postgres::free_port;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_postgres::NoTls;
use tokio_util::sync::{CancellationToken, DropGuard};
use url::Url;

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../manifests/samples/databases/scripts");
const DEBIAN_BINARIES: &str = "/usr/lib/postgresql/15/bin";
/// With characters that a script could trip over.
const PASSWORD: &str = r#"a'b"c $d\e"#;

/// A PostgreSQL server with the roles and the database of the samples.
pub(crate) struct Database {
    folder: TempDir,
    server: Child,
    port: u16,
}

impl Database {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for name in ["initialise.sh", "roles.sql", "run.sh"] {
            std::fs::copy(Path::new(SCRIPTS).join(name), folder.path().join(name)).expect("the samples' scripts");
        }
        let user = unprivileged();
        if let Some((uid, gid)) = user {
            chown(folder.path(), Some(uid), Some(gid)).expect("giving the folder away");
        }
        let output = as_user(user, "sh", folder.path()).arg("initialise.sh").output().expect("running sh");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "initialise.sh failed; is PostgreSQL 15 installed?\n{text}");

        let port = free_port();
        let log = std::fs::File::create(folder.path().join("log")).expect("a log file");
        let server = as_user(user, "postgres", folder.path())
            .args(["-D", "data", "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-p", &port.to_string()])
            .stderr(log)
            .spawn()
            .expect("starting postgres");
        let database = Self { folder, server, port };
        let deadline = Instant::now() + Duration::from_secs(20);
        while database.connect("holdfast", "postgres").await.is_err() {
            assert!(Instant::now() < deadline, "PostgreSQL did not start: {}", database.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        database
    }

    pub(crate) fn config(&self) -> DatabaseConfig {
        DatabaseConfig {
            host: "127.0.0.1".to_owned(),
            port: self.port,
            name: "hospital".to_owned(),
            user: "hospital".to_owned(),
            password: PASSWORD.to_owned(),
            connections: 4,
        }
    }

    async fn connect(&self, user: &str, name: &str) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(self.port).user(user).password(PASSWORD).dbname(name);
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Sets a parameter as Holdfast's role does: with the privileges that the sample grants.
    pub(crate) async fn set(&self, parameter: &str, value: &str) {
        let holdfast = self.connect("holdfast", "postgres").await.expect("logging in as holdfast");
        let sql = format!("ALTER SYSTEM SET {parameter} = '{value}'");
        holdfast.batch_execute(&sql).await.expect("ALTER SYSTEM");
        holdfast.batch_execute("SELECT pg_reload_conf()").await.expect("pg_reload_conf");
        // The reload reaches the sessions a moment later.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }

    /// Runs `sql` as the hospital's role and returns the first column of the first row.
    pub(crate) async fn number(&self, sql: &str) -> i64 {
        let hospital = self.connect("hospital", "hospital").await.expect("logging in as hospital");
        hospital.query_one(sql, &[]).await.expect(sql).get(0)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // SIGQUIT: stop at once, and take the children along, which SIGKILL would not.
        let pid = self.server.id().to_string();
        let told = Command::new("kill").args(["-QUIT", &pid]).status();
        if !told.is_ok_and(|status| status.success()) {
            drop(self.server.kill());
        }
        drop(self.server.wait());
    }
}

/// PostgreSQL refuses to run as root.
fn unprivileged() -> Option<(u32, u32)> {
    let uid = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").expect("/proc"));
    (uid == 0).then_some((65534, 65534))
}

fn as_user(user: Option<(u32, u32)>, program: &str, folder: &Path) -> Command {
    let mut command = match user {
        None => Command::new(program),
        Some((uid, gid)) => {
            let mut command = Command::new("setpriv");
            command.args([format!("--reuid={uid}"), format!("--regid={gid}")]);
            command.args(["--clear-groups", "--pdeathsig=QUIT", program]);
            command
        }
    };
    let path = std::env::var("PATH").unwrap_or_default();
    command
        .current_dir(folder)
        .env("PATH", format!("{DEBIAN_BINARIES}:{path}"))
        .env("PGDATA", folder.join("data"))
        .env("PGHOST", folder)
        .env("HOSPITAL_USER", "hospital")
        .env("HOSPITAL_PASSWORD", PASSWORD)
        .env("HOLDFAST_USER", "holdfast")
        .env("HOLDFAST_PASSWORD", PASSWORD)
        .stdin(Stdio::null());
    command
}

/// The three services in this process; they stop when this is dropped.
pub(crate) struct Hospital {
    pub(crate) site: Site,
    _stop: DropGuard,
}

impl Hospital {
    /// Starts all three on `database` and waits until they are ready.
    pub(crate) async fn open(database: &Database) -> Self {
        let hospital = Self::begin(database.config()).await;
        for service in Service::ALL {
            hospital.wait_ready(service).await;
        }
        hospital
    }

    /// Starts all three without waiting.
    pub(crate) async fn begin(database: DatabaseConfig) -> Self {
        let stop = CancellationToken::new();
        let registration = start(Service::Registration, &database, None, &stop).await;
        let billing = start(Service::Billing, &database, Some(&registration), &stop).await;
        let lab = start(Service::Lab, &database, Some(&registration), &stop).await;
        Self { site: Site::of(registration, billing, lab), _stop: stop.drop_guard() }
    }

    pub(crate) async fn readiness(&self, service: Service) -> (u16, String) {
        get(&self.site.url(service, "readyz")).await
    }

    pub(crate) async fn wait_ready(&self, service: Service) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match self.readiness(service).await {
                (200, _) => return,
                (_, why) => assert!(Instant::now() < deadline, "{service} is not ready: {why}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) async fn post(&self, service: Service, body: &serde_json::Value) -> (u16, serde_json::Value) {
        let url = self.site.url(service, service.collection());
        let response = reqwest::Client::new().post(url).json(body).send().await.expect("an answer");
        (response.status().as_u16(), response.json().await.expect("JSON"))
    }
}

/// Starts one service on a port of its own and returns its address.
pub(crate) async fn start(
    role: Service,
    database: &DatabaseConfig,
    registration: Option<&Url>,
    stop: &CancellationToken,
) -> Url {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    let config = ServiceConfig {
        role,
        database: database.clone(),
        registration: registration.cloned(),
        commit_timeout: Duration::from_millis(800),
    };
    tokio::spawn(service::serve(config, listener, stop.clone()));
    Url::parse(&format!("http://{address}")).expect("a URL")
}

pub(crate) async fn get(url: &str) -> (u16, String) {
    let response = reqwest::get(url).await.expect("an answer");
    (response.status().as_u16(), response.text().await.expect("a body"))
}

/// A place for a ledger.
pub(crate) fn ledger(folder: &TempDir, name: &str) -> PathBuf {
    folder.path().join(name)
}
