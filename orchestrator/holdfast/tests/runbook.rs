//! The runbook's section "By hand", block by block as `holdfast runbook` prints it: bash, the real binary, a real
//! PostgreSQL and a real S3 server. Only what the page tells a person to put in is put in, and its ports and folders are
//! moved to where nothing else is.

use std::collections::HashSet;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use holdfast_api::VaultSpec;
use holdfast_dataplane::config::{AgentConfig, ConnectionConfig, Durability};
use holdfast_dataplane::status::{AgentState, AgentStatus};
use holdfast_operator::runbook::Page;
use holdfast_operator::vault_access::vault_config;
use holdfast_test_postgres::{SeaweedFS, TestPostgres, free_port};
use holdfast_vault::{CredentialsSource, WriterKey, generate_identity};
use serde_json::json;
use tokio_postgres::{Client, NoTls};

const HOLDFAST: &str = env!("CARGO_BIN_EXE_holdfast");
const LIMIT: Duration = Duration::from_secs(180);
const PASSWORD: &str = "holdfast-password";
/// What the samples give the role that the page comes in by.
const ROLES: &str = include_str!("../../../manifests/samples/databases/scripts/roles.sql");

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_way_by_hand_loses_nothing_that_was_acknowledged() {
    a_lost_site_is_recovered(Desk::new(), |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_copy_in_another_bucket_recovers_everything_when_the_bucket_is_lost_too() {
    a_lost_site_is_recovered(Desk::new(), Desk::lose_the_bucket_but_for_a_copy).await;
}

/// A primary site with load on it is lost, `also` happens, and the page is followed with what the desk then has.
async fn a_lost_site_is_recovered(mut desk: Desk, also: fn(&mut Desk)) {
    let root = Command::new("id").arg("-u").output().expect("id runs").stdout == b"0\n";
    assert!(root, "the page is for root, as the lab is: run this test as root");
    let source = TestPostgres::start(&[("fsync", "on")]);
    make_database(&source);
    let mut agent = desk.protect(&source).await;
    let load = Load::start(&source.connection_string(), 4);
    load.wait_for_more(200).await;

    // The site is lost: no commit is acknowledged from here on, whoever still tries.
    agent.0.kill().expect("kill -9");
    agent.0.wait().expect("gone");
    tokio::task::block_in_place(|| also(&mut desk));
    let page = desk.page().render();
    let blocks = blocks(&page);
    assert_eq!(blocks.len(), 8, "files, env, restore, start, takeover, replay, promote, protect: {blocks:#?}");
    let mut port = None;
    for block in blocks {
        let block = desk.fill_in(&block, &mut port);
        tokio::task::block_in_place(|| desk.carry_out(&block));
    }

    let acknowledged = load.stop();
    let restored = connect(port.expect("the page starts PostgreSQL"), source.user(), source.password()).await;
    restored.execute("INSERT INTO ledger (id) VALUES (-1)", &[]).await.expect("acknowledged");
    let sync = restored.query_one("SELECT application_name, sync_state FROM pg_stat_replication", &[]).await;
    let sync = sync.expect("one agent, which commits wait for");
    assert_eq!((sync.get(0), sync.get(1)), ("holdfast_registration", "sync"));
    let rows = restored.query("SELECT id FROM ledger", &[]).await.expect("readable");
    let stored: HashSet<i64> = rows.iter().map(|row| row.get(0)).collect();
    let lost: Vec<_> = acknowledged.iter().filter(|id| !stored.contains(id)).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    println!("{} acknowledged rows, none lost", acknowledged.len());
}

/// The bash blocks between the heading of the section and its part about services, without those for kubectl.
fn blocks(page: &str) -> Vec<String> {
    let section = page.split("## 6. By hand").nth(1).expect("the section");
    let section = section.split("### The way from the services").next().expect("its end");
    let blocks = section.split("```sh\n").skip(1).map(|rest| rest.split("```\n").next().expect("an end").to_owned());
    blocks.filter(|block| !block.starts_with("kubectl ")).collect()
}

/// What a person has, and where the page is followed.
struct Desk {
    weed: SeaweedFS,
    folder: tempfile::TempDir,
    vault: VaultSpec,
}

impl Drop for Desk {
    /// Ends what the page has started. Nobody else is in these folders.
    fn drop(&mut self) {
        let folder = self.folder.path().display();
        let end = format!(
            "for file in {folder}/work/*.pid; do kill -9 $(cat $file); done\n\
             kill -QUIT $(head -n 1 {folder}/data/registration/pgdata/postmaster.pid)\n\
             while [ -e {folder}/data/registration/pgdata/postmaster.pid ]; do sleep 0.1; done"
        );
        let _ = Command::new("timeout").args(["30", "bash", "-c", &end]).stderr(Stdio::null()).status();
        if std::thread::panicking() {
            let logs = format!("tail -n 40 {folder}/work/*.log {folder}/data/registration/log");
            let _ = Command::new("bash").args(["-c", &logs]).status();
        }
    }
}

impl Desk {
    fn new() -> Self {
        let weed = SeaweedFS::start();
        let folder = tempfile::Builder::new().prefix("hf-runbook").tempdir_in("/tmp").expect("a folder");
        // PostgreSQL's user comes through to its data.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("ours");
        let writers = ["primary", "standby"].map(|site| {
            let key = WriterKey::generate();
            fs::write(folder.path().join(format!("{site}-writer.key")), key.secret()).expect("writable");
            json!({ "name": site, "publicKey": key.public().to_string() })
        });
        let (secret, recipient) = generate_identity();
        fs::write(folder.path().join("safe.key"), secret).expect("writable");
        let vault = serde_json::from_value(json!({
            "endpoint": weed.endpoint(), "bucket": "vault", "prefix": "hospital", "retentionDays": 1,
            "credentials": { "secretName": "holdfast-vault" }, "encryption": { "recipients": [recipient] },
            "writers": writers, "signing": { "secretName": "holdfast-writer" },
        }));
        let desk = Self { weed, folder, vault: vault.expect("a Vault") };
        desk.make_bucket();
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn make_bucket(&self) {
        self.make_bucket_named("vault");
    }

    /// With Object Lock.
    fn make_bucket_named(&self, name: &str) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let made = self.s3api(&["create-bucket", "--bucket", name, "--object-lock-enabled-for-bucket"]);
            if made.status.success() {
                return;
            }
            assert!(Instant::now() < deadline, "no bucket: {}", text(&made.stderr));
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    fn s3api(&self, arguments: &[&str]) -> Output {
        let mut aws = Command::new("aws");
        aws.args(["--endpoint-url", &self.weed.endpoint(), "s3api"]).args(arguments);
        aws.env("AWS_DEFAULT_REGION", "us-east-1");
        aws.env("AWS_ACCESS_KEY_ID", self.weed.access_key()).env("AWS_SECRET_ACCESS_KEY", self.weed.secret_key());
        // A profile of the machine's user must not decide where this goes.
        aws.env("AWS_CONFIG_FILE", "/nonexistent").env("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent");
        aws.output().expect("aws runs")
    }

    /// `holdfast vault copy`, as README.md has it; from then on only the copy is known. Every object of it is locked by the
    /// bucket's own default.
    fn lose_the_bucket_but_for_a_copy(&mut self) {
        self.make_bucket_named("second");
        let lock =
            r#"{"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 1}}}"#;
        let set = ["put-object-lock-configuration", "--bucket", "second", "--object-lock-configuration", lock];
        let set = self.s3api(&set);
        assert!(set.status.success(), "{}", text(&set.stderr));
        let mut copy = Command::new(HOLDFAST);
        copy.args(["vault", "copy", "--to", "s3://second", "--bucket", "vault", "--prefix", "hospital", "-o", "json"]);
        copy.env("AWS_ENDPOINT_URL", self.weed.endpoint()).env("AWS_ALLOW_HTTP", "true").env("AWS_REGION", "us-east-1");
        copy.env("AWS_ACCESS_KEY_ID", self.weed.access_key()).env("AWS_SECRET_ACCESS_KEY", self.weed.secret_key());
        copy.env("AWS_CHECKSUM_ALGORITHM", "sha256");
        let copied = copy.output().expect("holdfast runs");
        println!("$ holdfast vault copy\n{}{}", text(&copied.stdout), text(&copied.stderr));
        assert!(copied.status.success(), "{}", text(&copied.stderr));
        let report: serde_json::Value = serde_json::from_slice(&copied.stdout).expect("JSON");
        assert!(report["copied"].as_u64().expect("a number") > 5, "{report}");
        let listed = self.s3api(&["list-objects-v2", "--bucket", "second", "--query", "Contents[].Key"]);
        let keys: Vec<String> = serde_json::from_slice(&listed.stdout).expect("keys");
        assert_eq!(keys.len() as u64, report["copied"].as_u64().expect("a number"));
        for key in keys {
            let lock = self.s3api(&["get-object-retention", "--bucket", "second", "--key", &key]);
            assert!(text(&lock.stdout).contains("COMPLIANCE"), "{key}: {}", text(&lock.stderr));
        }
        self.vault.bucket = "second".to_owned();
    }

    /// The primary site's agent, a process of its own, once commits wait for it and a base backup is stored.
    async fn protect(&self, source: &TestPostgres) -> Agent {
        let credentials = CredentialsSource::Static {
            access_key_id: self.weed.access_key().to_owned(),
            secret_access_key: self.weed.secret_key().to_owned(),
        };
        let mut vault = vault_config(&self.vault, credentials).expect("a configuration");
        vault.writer_key_file = Some(self.path("primary-writer.key"));
        let secret = self.path("database");
        fs::create_dir(&secret).expect("new");
        fs::write(secret.join("username"), "holdfast").expect("writable");
        fs::write(secret.join("password"), PASSWORD).expect("writable");
        let listen = (Ipv4Addr::LOCALHOST, free_port()).into();
        let config = AgentConfig {
            vault,
            recipients: self.vault.encryption.recipients.clone(),
            name: "registration".to_owned(),
            instance_id: "origin".to_owned(),
            connection: ConnectionConfig {
                host: "127.0.0.1".to_owned(),
                port: source.port(),
                database: "postgres".to_owned(),
                credentials_dir: secret,
            },
            durability: Durability::Synchronous,
            base_backup_interval_hours: 24,
            listen,
            reclaim: false,
        };
        let file = self.path("agent.json");
        fs::write(&file, serde_json::to_vec(&config).expect("JSON")).expect("writable");
        let log = fs::File::create(self.path("agent.log")).expect("writable");
        let mut command = Command::new(HOLDFAST);
        command.arg("agent").arg("--config").arg(&file).stderr(log);
        let agent = Agent(command.spawn().expect("holdfast runs"));
        let deadline = Instant::now() + LIMIT;
        loop {
            let seen = Command::new("curl").args(["-s", &format!("http://{listen}/status")]).output().expect("curl");
            let status = serde_json::from_slice::<AgentStatus>(&seen.stdout);
            let good = |s: &AgentStatus| s.state == AgentState::Streaming && s.synchronous && !s.backups.is_empty();
            if status.as_ref().is_ok_and(good) {
                return agent;
            }
            let log = fs::read_to_string(self.path("agent.log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "not protected: {status:?}\n{log}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn page(&self) -> Page {
        Page {
            namespace: "hospital".into(),
            plan: "hospital".into(),
            spec: serde_json::from_value(json!({
                "databases": [{ "name": "registration", "standby": "registration-db" }],
                "services": [{ "name": "registration", "databases": ["registration"], "workloads": [{ "name": "registration" }] }],
            }))
            .expect("a plan"),
            hash: "hash".into(),
            vault: Some(("vault".into(), self.vault.clone())),
            sources: [("registration-db".to_owned(), "registration".to_owned())].into(),
            live: None,
        }
    }

    /// What the page asks for by name, and folders and ports that are free. PostgreSQL listens to this machine only.
    fn fill_in(&self, block: &str, port: &mut Option<u16>) -> String {
        let port = *port.get_or_insert_with(free_port);
        let path = |name: &str| self.path(name).display().to_string();
        let table = [
            ("WRITERKEYFILE", path("standby-writer.key")),
            ("KEYFILE", path("safe.key")),
            ("'ID'", self.weed.access_key().to_owned()),
            ("'SECRET'", self.weed.secret_key().to_owned()),
            ("'PASSWORD'", PASSWORD.to_owned()),
            ("/root/recover", path("work")),
            ("/var/lib/recover", path("data")),
            ("-o '-p 5440'", format!("-o '-p {port} -c listen_addresses=127.0.0.1'")),
            ("5440", port.to_string()),
        ];
        let filled = table.iter().fold(block.to_owned(), |text, (old, new)| text.replace(old, new));
        self.ports().iter().fold(filled, |text, (old, new)| text.replace(old, new))
    }

    /// The other ports of the page, the same ones for every block.
    fn ports(&self) -> [(&'static str, String); 3] {
        let file = self.path("ports");
        if !file.exists() {
            fs::write(&file, [(); 3].map(|()| free_port().to_string()).join(" ")).expect("writable");
        }
        let text = fs::read_to_string(file).expect("just written");
        let mut given = text.split(' ').map(str::to_owned);
        ["8100", "8200", "5500"].map(|old| (old, given.next().expect("three")))
    }

    /// Runs one block and holds it to what the page says that it must show.
    fn carry_out(&self, block: &str) {
        let deadline = Instant::now() + LIMIT;
        let mut before = String::new();
        loop {
            let output = self.paste(block);
            let shown = text(&output.stdout);
            let done = if block.starts_with("psql ") {
                // Repeat it until the answer stays the same.
                let same = shown == before;
                std::thread::sleep(Duration::from_secs(1));
                same && output.status.success()
            } else {
                output.status.success() && must_show(block).iter().all(|words| shown.contains(words))
            };
            if done {
                return;
            }
            // What the page says may be repeated; anything else must go well at once.
            let repeated = ["psql ", "LSN=", "holdfast takeover "].iter().any(|start| block.starts_with(start));
            let failed = format!("{block}\n{shown}\n{}", text(&output.stderr));
            assert!(repeated && Instant::now() < deadline, "{failed}");
            before = shown;
        }
    }

    /// In a new terminal each time, as the page allows; what a block leaves running goes on.
    fn paste(&self, block: &str) -> Output {
        let env = self.path("work").join("env");
        let begin = if env.exists() { format!(". {}\n", env.display()) } else { String::new() };
        let path = std::env::var("PATH").unwrap_or_default();
        let beside = Path::new(HOLDFAST).parent().expect("a folder").display();
        let mut bash = Command::new("bash");
        bash.args(["-c", &format!("{begin}{block}")]).env("PATH", format!("{beside}:{path}"));
        let output = bash.stdin(Stdio::null()).output().expect("bash runs");
        println!("$ {block}{}{}", text(&output.stdout), text(&output.stderr));
        output
    }
}

/// What the page says that a block must show.
fn must_show(block: &str) -> &'static [&'static str] {
    let table: [(&str, &[&str]); 4] = [
        ("pg_ctl", &["server started", "\nt\n"]),
        ("holdfast takeover", &["sealed registration at "]),
        ("holdfast promote-seal", &["promote seal stored", "\nt\n"]),
        ("holdfast agent", &["\"state\":\"Streaming\""]),
    ];
    table.iter().find(|(word, _)| block.contains(word)).map_or(&[], |(_, shown)| shown)
}

/// Killed with the test.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The role of the samples, and a table.
fn make_database(server: &TestPostgres) {
    let lines: Vec<&str> = ROLES.lines().filter(|line| !line.starts_with("--") && !line.starts_with('\\')).collect();
    let table = [
        (":\"holdfast_user\"", "holdfast"),
        (":'holdfast_password'", "'holdfast-password'"),
        (":\"hospital_user\"", "hospital"),
        (":'hospital_password'", "'x'"),
    ];
    let sql = table.iter().fold(lines.join("\n"), |text, (old, new)| text.replace(old, new));
    for statement in sql.split(';').filter(|statement| !statement.trim().is_empty()) {
        server.psql(statement);
    }
    server.psql("CREATE TABLE ledger (id bigint PRIMARY KEY)");
}

async fn connect(port: u16, user: &str, password: &str) -> Client {
    let config = format!("host=127.0.0.1 port={port} user={user} password={password} dbname=postgres");
    let (client, connection) = tokio_postgres::connect(&config, NoTls).await.expect("connects");
    tokio::spawn(connection);
    client
}

/// Writers that each commit one row after another, and what they were told.
struct Load {
    acknowledged: Arc<Mutex<Vec<i64>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(server: &str, writers: i64) -> Self {
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let tasks = (0..writers).map(|writer| {
            let (server, acknowledged) = (server.to_owned(), Arc::clone(&acknowledged));
            tokio::spawn(async move {
                let (client, connection) = tokio_postgres::connect(&server, NoTls).await.expect("connects");
                tokio::spawn(connection);
                let mut id = writer * 1_000_000;
                while client.execute("INSERT INTO ledger (id) VALUES ($1)", &[&id]).await.is_ok() {
                    acknowledged.lock().expect("not poisoned").push(id);
                    id += 1;
                }
            })
        });
        let tasks = tasks.collect();
        Self { acknowledged, tasks }
    }

    async fn wait_for_more(&self, rows: usize) {
        let now = || self.acknowledged.lock().expect("not poisoned").len();
        let (wanted, deadline) = (now() + rows, Instant::now() + LIMIT);
        while now() < wanted {
            assert!(Instant::now() < deadline, "only {} acknowledged", now());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn stop(self) -> Vec<i64> {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
        self.acknowledged.lock().expect("not poisoned").clone()
    }
}
