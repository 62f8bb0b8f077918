//! Recovery by hand, as `docs/recover-by-hand.md` tells a person to do it: the objects are fetched with the AWS CLI, opened
//! with `age` and `zstd` by `recover/holdfast_recover.py`, and PostgreSQL starts on what comes out. None of our code
//! touches the bucket after the database has died.
//!
//! `HOLDFAST_KEEP_BUCKET=FOLDER` keeps what was fetched, and the key, to try the page by hand.

mod common;

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::takeover::{standby, successor, take_over};
use common::{Cloud, Load, Role, make_ledger, missing, wait};
use holdfast_dataplane::status::AgentState;
use holdfast_test_postgres::{Stop, TestPostgres};
use holdfast_wal::Lsn;

const NAME: &str = "registration";
const LOG: &str = "hospital/v1/db/registration/log";

/// What a person has: the bucket's objects in a folder, the list of all versions, and the escrow key.
struct Desk {
    folder: tempfile::TempDir,
    environment: Vec<(&'static str, String)>,
}

impl Desk {
    fn new(cloud: &Cloud) -> Self {
        let environment = vec![
            ("AWS_ACCESS_KEY_ID", cloud.weed.access_key().to_owned()),
            ("AWS_SECRET_ACCESS_KEY", cloud.weed.secret_key().to_owned()),
            ("AWS_DEFAULT_REGION", "us-east-1".to_owned()),
            ("AWS_ENDPOINT_URL", cloud.weed.endpoint()),
            ("ENDPOINT", cloud.weed.endpoint()),
            ("BUCKET", "vault".to_owned()),
        ];
        let folder = tempfile::tempdir().expect("a folder");
        fs::copy(cloud.folder.path().join("identity"), folder.path().join("escrow.txt")).expect("the key");
        Self { folder, environment }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a shell command line as the page shows it; the folder is the working directory.
    fn shell(&self, line: &str) -> Output {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../recover/holdfast_recover.py");
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", line]).current_dir(self.folder.path()).env("RECOVER", script);
        // A profile of the machine's user must not decide where this goes.
        command.env("AWS_CONFIG_FILE", "/nonexistent").env("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent");
        command.envs(self.environment.iter().map(|(name, value)| (*name, value.as_str())));
        let output = command.output().expect("bash runs");
        println!("$ {line}\n{}{}", text(&output.stdout), text(&output.stderr));
        output
    }

    fn must(&self, line: &str) -> String {
        let output = self.shell(line);
        assert!(output.status.success(), "{line}\n{}", text(&output.stderr));
        text(&output.stdout)
    }

    fn fails(&self, line: &str) -> String {
        let output = self.shell(line);
        assert!(!output.status.success(), "must fail: {line}\n{}", text(&output.stdout));
        text(&output.stderr)
    }

    /// Step 2 of the page: every object, then every version, then the oldest where there are several.
    fn fetch(&self) -> String {
        self.must("aws --endpoint-url $ENDPOINT s3 cp --recursive --quiet s3://$BUCKET bucket");
        self.must(
            "aws --endpoint-url $ENDPOINT s3api list-object-versions --bucket $BUCKET --output json > versions.json",
        );
        let report = self.must(
            "python3 $RECOVER versions versions.json --bucket $BUCKET --folder bucket > oldest.sh; cat oldest.sh",
        );
        self.must("bash -eu oldest.sh");
        report
    }

    fn recover(&self, arguments: &str) -> String {
        self.must(&format!("python3 $RECOVER restore bucket --identity escrow.txt {arguments}"))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Starts PostgreSQL on what was recovered, with nothing but a port of its own.
fn start(folder: &Path) -> TestPostgres {
    let server = TestPostgres::start_from(&[], |data| {
        let rules = folder.join("data/pg_hba.conf");
        fs::write(&rules, "local all all trust\n").expect("writable");
        fs::rename(folder.join("data"), data).expect("the same file system");
        make_readable(folder);
    });
    server.wait_for("SELECT pg_is_in_recovery()", "f", common::LIMIT);
    server
}

/// The page has the folder given to the user who runs PostgreSQL; here that user is whoever the test server runs as.
fn make_readable(folder: &Path) {
    let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
    folder.ancestors().take_while(|path| *path != std::env::temp_dir()).for_each(|path| open(path, 0o755));
    open(&folder.join("wal"), 0o755);
    for file in fs::read_dir(folder.join("wal")).expect("a folder") {
        open(&file.expect("a file").path(), 0o644);
    }
}

/// A database with a history: a backup, two writers one after another, and rows with a moment between them.
struct Past {
    acknowledged: Vec<i64>,
    /// A position with exactly `rows_then` rows before it.
    then: Lsn,
    rows_then: String,
    tip: Lsn,
}

async fn live_and_die(cloud: &Cloud) -> Past {
    let mut server = TestPostgres::start(&[("fsync", "on")]);
    make_ledger(&server);
    let config = cloud.agent_config(&server, NAME);
    let agent = Role::agent(config.clone());
    agent.wait_protected().await;
    let mut load = Load::start(&server, 4, 0);
    load.wait_for_more(100).await;
    let mut acknowledged = load.stop().acknowledged;
    // A commit that still waits for the agent is in the log and not yet visible: its row would be one too many later.
    let others =
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
    tokio::task::block_in_place(|| server.wait_for(others, "0", common::LIMIT));
    server.psql("SELECT pg_switch_wal()");
    let rows_then = server.psql("SELECT count(*) FROM ledger");
    let then: Lsn = server.psql("SELECT pg_current_wal_insert_lsn()").parse().expect("a position");

    // Another incarnation claims the log; more than one segment of WAL, by bytes that zstd cannot fold away.
    agent.kill().await;
    let agent = Role::agent(config);
    agent.wait_state(AgentState::Streaming).await;
    server.psql(
        "INSERT INTO ledger SELECT -i, string_agg(md5(random()::text), '') \
         FROM generate_series(1, 12000) i, generate_series(1, 60) GROUP BY i",
    );
    let mut load = Load::start(&server, 4, 100_000_000);
    load.wait_for_more(100).await;
    acknowledged.extend(load.stop().acknowledged);
    let tip: Lsn = server.psql("SELECT pg_current_wal_flush_lsn()").parse().expect("a position");
    agent.wait_agent("all stored", |status| status.durable >= Some(tip)).await;
    agent.kill().await;
    tokio::task::block_in_place(|| server.stop(Stop::Immediate));
    Past { acknowledged, then, rows_then, tip }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_bucket_and_the_escrow_key_are_enough() {
    let cloud = Cloud::start().await;
    let past = live_and_die(&cloud).await;
    let desk = Desk::new(&cloud);
    tokio::task::block_in_place(|| {
        assert_eq!(desk.fetch().lines().filter(|line| line.contains("get-object")).count(), 0, "nothing was touched");
        keep(&desk, "plain");
        let listed = desk.must("python3 $RECOVER list bucket");
        assert!(listed.contains(NAME) && listed.contains("backup "), "{listed}");

        let report = desk.recover(&format!("--database {NAME} --output all"));
        assert!(report.contains("pg_ctl"), "it ends with the next command: {report}");
        let server = start(&desk.path("all"));
        assert_eq!(missing(&server, &past.acknowledged), Vec::<i64>::new());
        server.psql("INSERT INTO ledger VALUES (-999999, 'it takes writes, and nothing holds them up')");

        desk.recover(&format!("--database {NAME} --output then --to {} --all", past.then));
        let server = start(&desk.path("then"));
        assert_eq!(server.psql("SELECT count(*) FROM ledger"), past.rows_then);
    });
    assert!(past.then < past.tip);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_damaged_is_named_and_what_was_covered_is_found() {
    let cloud = Cloud::start().await;
    let past = live_and_die(&cloud).await;
    let keys = wait("chunks", || cloud.keys(LOG), |keys| keys.len() > 4).await;
    let chunk = keys[keys.len() / 2].clone();

    // Somebody with the writer's credentials puts rubbish over an object and a delete marker over another.
    let marked = keys[keys.len() / 2 + 1].clone();
    cloud.put(&chunk, b"rubbish").await;
    let desk = Desk::new(&cloud);
    tokio::task::block_in_place(|| {
        desk.must(&format!("aws --endpoint-url $ENDPOINT s3api delete-object --bucket $BUCKET --key {marked}"));
        let report = desk.fetch();
        assert!(report.contains("TAMPERING") && report.contains(&chunk) && report.contains(&marked), "{report}");
        desk.recover(&format!("--database {NAME} --output good"));
        assert_eq!(missing(&start(&desk.path("good")), &past.acknowledged), Vec::<i64>::new());

        // The last byte of a body, on the disk of the person who recovers.
        let file = desk.path("bucket").join(&chunk);
        let whole = fs::read(&file).expect("fetched");
        flip(&file, whole.len() as u64 - 1);
        let restore = format!("python3 $RECOVER restore bucket --identity escrow.txt --database {NAME} --output bad");
        let error = desk.fails(&restore);
        assert!(error.contains(&chunk) && error.contains("digest"), "{error}");
        assert!(!desk.path("bad").exists(), "nothing half done is left under the name that was asked for");
        // A byte of the header, with the signature over it.
        fs::write(&file, &whole).expect("writable");
        flip(&file, 40);
        let error = desk.fails(&restore);
        assert!(error.contains(&chunk), "{error}");
        // Gone: a hole is never stepped over, and with objects behind it it is not taken for the end.
        fs::remove_file(&file).expect("there");
        let error = desk.fails(&restore);
        assert!(error.contains(&chunk) && error.contains("missing"), "{error}");
        // Another key than the one that was sealed to.
        fs::write(&file, &whole).expect("writable");
        fs::write(desk.path("other.txt"), holdfast_vault::generate_identity().0).expect("writable");
        let error = desk.fails(&restore.replace("escrow.txt", "other.txt"));
        assert!(error.contains("identity"), "{error}");
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_backup_from_before_a_failover_leads_across_it() {
    let cloud = Cloud::start().await;
    let primary = TestPostgres::start(&[("fsync", "on")]);
    make_ledger(&primary);
    let agent = Role::agent(cloud.agent_config(&primary, NAME));
    agent.wait_protected().await;
    let mut load = Load::start(&primary, 4, 0);
    load.wait_for_more(100).await;
    let (standby, relay) = standby(&cloud, NAME).await;
    let successor = successor(&cloud, NAME, &standby);
    successor.wait_state(AgentState::Standby).await;
    let branch = take_over(&cloud.database(NAME), &cloud, &standby).await;
    let mut acknowledged = load.stop().acknowledged;
    successor.wait_state(AgentState::Streaming).await;
    successor.wait_agent("synchronous", |status| status.synchronous).await;
    let mut load = Load::start(&standby, 4, 500_000_000);
    load.wait_for_more(100).await;
    acknowledged.extend(load.stop().acknowledged);
    for role in [agent, relay, successor] {
        role.kill().await;
    }
    let old = cloud.database(NAME).backups().await.expect("listed").first().expect("one").meta.id.clone();
    tokio::task::block_in_place(|| {
        drop((primary, standby));
        let desk = Desk::new(&cloud);
        desk.fetch();
        keep(&desk, "failover");
        desk.recover(&format!("--database {NAME} --backup {old} --output across --all"));
        let history = fs::read_to_string(desk.path("across/wal/00000002.history")).expect("a history file");
        assert!(history.starts_with("1\t"), "{history}");
        let server = start(&desk.path("across"));
        assert_eq!(missing(&server, &acknowledged), Vec::<i64>::new());
        // The timeline after 1 and 2, which left 1 where the promotion did.
        let switch =
            server.psql("SELECT pg_walfile_name(pg_current_wal_lsn()), pg_read_file('pg_wal/00000003.history')");
        assert!(switch.starts_with("00000003") && switch.contains(&format!("1\t{branch}")), "{switch} {branch}");
    });
}

fn flip(file: &Path, offset: u64) {
    let open = fs::OpenOptions::new().read(true).write(true).open(file).expect("there");
    let mut byte = [0];
    open.read_exact_at(&mut byte, offset).expect("long enough");
    open.write_all_at(&[byte[0] ^ 1], offset).expect("writable");
}

fn keep(desk: &Desk, name: &str) {
    let Some(folder) = std::env::var_os("HOLDFAST_KEEP_BUCKET") else { return };
    let folder = Path::new(&folder).join(name);
    fs::create_dir_all(&folder).expect("writable");
    let copy = Command::new("cp").arg("-a").arg(desk.folder.path().join(".")).arg(folder).status().expect("cp runs");
    assert!(copy.success());
}
