//! Recovery by hand, as `docs/recover-by-hand.md` tells a person to do it: the objects are fetched with the AWS CLI, opened
//! with `age` and `zstd` by `recover/holdfast_recover.py`, and PostgreSQL starts on what comes out. None of our code
//! touches the bucket after the database has died.
//!
//! Steps 2 to 4 are the page's own commands, taken from it.
//!
//! `HOLDFAST_KEEP_BUCKET=FOLDER` keeps what was fetched, and the key, to try the page by hand.

mod common;

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::later::after_the_janitor;
use common::takeover::{standby, successor, take_over};
use common::{Cloud, Load, Role, make_ledger, missing, wait};
use holdfast_dataplane::status::AgentState;
use holdfast_test_postgres::{Stop, TestPostgres};
use holdfast_vault::WriterKey;
use holdfast_wal::Lsn;

const PAGE: &str = include_str!("../../../docs/recover-by-hand.md");
const NAME: &str = "registration";
const LOG: &str = "hospital/v1/db/registration/log";
const SEGMENTS: &str = "hospital/v1/db/registration/segment";

/// What a person has: the bucket's objects in a folder, the list of all versions, and the escrow key.
struct Desk {
    folder: tempfile::TempDir,
    environment: Vec<(&'static str, String)>,
}

impl Desk {
    fn new(cloud: &Cloud) -> Self {
        Self::of(cloud, "vault")
    }

    fn of(cloud: &Cloud, bucket: &str) -> Self {
        let environment = vec![
            ("AWS_ACCESS_KEY_ID", cloud.weed.access_key().to_owned()),
            ("AWS_SECRET_ACCESS_KEY", cloud.weed.secret_key().to_owned()),
            ("AWS_DEFAULT_REGION", "us-east-1".to_owned()),
            ("AWS_ENDPOINT_URL", cloud.weed.endpoint()),
            ("ENDPOINT", cloud.weed.endpoint()),
            ("BUCKET", bucket.to_owned()),
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

    /// Does what the page says in a step, word by word; returns what it printed. A block with `...` in it is an example
    /// that a person has to fill in.
    fn follow(&self, step: u32) -> String {
        let (_, section) = PAGE.split_once(&format!("\n## {step}. ")).expect("a step of the page");
        let section = section.split("\n## ").next().unwrap_or_default();
        let blocks = section.split("```sh\n").skip(1).filter_map(|rest| rest.split_once("```"));
        let blocks: Vec<_> = blocks.map(|(block, _)| block).filter(|block| !block.contains("...")).collect();
        assert!(!blocks.is_empty(), "step {step} of the page has no command");
        blocks.into_iter().map(|block| self.must(block)).collect()
    }

    /// Every object, then every version, then the oldest where there are several.
    fn fetch(&self) -> String {
        self.follow(2)
    }

    fn recover(&self, arguments: &str) -> String {
        self.must(&restoring(arguments))
    }

    /// The files of the bucket's objects whose keys begin so, in order.
    fn files(&self, prefix: &str) -> Vec<PathBuf> {
        let found = self.must(&format!("find bucket/{prefix} -type f | sort"));
        found.lines().map(|line| self.path(line)).collect()
    }
}

fn restoring(arguments: &str) -> String {
    format!("python3 $RECOVER restore bucket --database {NAME} --identity escrow.txt {arguments}")
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
    server.psql("SELECT pg_switch_wal()");
    let (then, rows_then) = quiet(&server);

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
        let listed = desk.follow(3);
        assert!(listed.contains(NAME) && listed.contains("restores every moment"), "{listed}");
        let report = desk.follow(4);
        assert!(report.contains("pg_ctl") && report.contains("backup successfully verified"), "{report}");
        let server = start(&desk.path(NAME));
        assert_eq!(missing(&server, &past.acknowledged), Vec::<i64>::new());
        server.psql("INSERT INTO ledger VALUES (-999999, 'it takes writes, and nothing holds them up')");

        desk.recover(&format!("--output then --to {} --all", past.then));
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
        desk.recover("--output good");
        assert_eq!(missing(&start(&desk.path("good")), &past.acknowledged), Vec::<i64>::new());

        // The last byte of a body, on the disk of the person who recovers.
        let file = desk.path("bucket").join(&chunk);
        let whole = fs::read(&file).expect("fetched");
        flip(&file, whole.len() as u64 - 1);
        let restore = restoring("--output bad");
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
        desk.recover(&format!("--backup {old} --output across --all"));
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

/// A database that moved to another site while an archiver was at work, with a base backup from before that.
struct Move {
    acknowledged: Vec<i64>,
    then: Lsn,
    rows_then: String,
    backup: String,
}

async fn live_and_move(cloud: &Cloud) -> Move {
    let primary = TestPostgres::start(&[("fsync", "on")]);
    make_ledger(&primary);
    let config = cloud.agent_config(&primary, NAME);
    let agent = Role::agent(config.clone());
    agent.wait_protected().await;
    let archiver = Role::archiver(cloud.archiver_config(NAME));
    let mut load = Load::start(&primary, 4, 0);
    load.wait_for_more(100).await;
    primary.psql("SELECT pg_switch_wal()");
    let mut acknowledged = load.stop().acknowledged;
    let (then, rows_then) = quiet(&primary);
    // Another incarnation, another epoch.
    agent.kill().await;
    let agent = Role::agent(config);
    agent.wait_state(AgentState::Streaming).await;
    let mut load = Load::start(&primary, 4, 100_000_000);
    load.wait_for_more(100).await;
    primary.psql("SELECT pg_switch_wal()");
    load.wait_for_more(100).await;

    let (standby, relay) = standby(cloud, NAME).await;
    let successor = successor(cloud, NAME, &standby);
    successor.wait_state(AgentState::Standby).await;
    take_over(&cloud.database(NAME), cloud, &standby).await;
    acknowledged.extend(load.stop().acknowledged);
    successor.wait_state(AgentState::Streaming).await;
    successor.wait_agent("synchronous", |status| status.synchronous).await;
    let mut load = Load::start(&standby, 4, 500_000_000);
    load.wait_for_more(100).await;
    let switched: Lsn = standby.psql("SELECT pg_switch_wal()").parse().expect("a position");
    load.wait_for_more(50).await;
    archiver.wait_archiver("past the switch", |s| s.indexed >= Some(switched)).await;
    archiver.kill().await;
    // The end of the log is in no segment.
    load.wait_for_more(100).await;
    acknowledged.extend(load.stop().acknowledged);
    for role in [agent, relay, successor] {
        role.kill().await;
    }
    let backup = cloud.database(NAME).backups().await.expect("listed").first().expect("one").meta.id.clone();
    Move { acknowledged, then, rows_then, backup }
}

/// A position, and how many rows there are before it.
fn quiet(server: &TestPostgres) -> (Lsn, String) {
    // A commit that still waits for the agent is in the log and not yet visible: its row would be one too many later.
    let others =
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
    tokio::task::block_in_place(|| server.wait_for(others, "0", common::LIMIT));
    let rows = server.psql("SELECT count(*) FROM ledger");
    (server.psql("SELECT pg_current_wal_insert_lsn()").parse().expect("a position"), rows)
}

/// A vault with the segments of another hospital's database of the same place in the log.
async fn archive_another(cloud: &Cloud) {
    let server = TestPostgres::start(&[("fsync", "on")]);
    let agent = Role::agent(cloud.agent_config(&server, "other"));
    agent.wait_protected().await;
    let archiver = Role::archiver(cloud.archiver_config("other"));
    let switched: Lsn = server.psql("SELECT pg_switch_wal()").parse().expect("a position");
    archiver.wait_archiver("past the switch", |s| s.indexed >= Some(switched)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_only_segments_hold_is_recovered_across_a_failover() {
    let mut cloud = Cloud::start().await;
    let writer = WriterKey::generate();
    let file = cloud.folder.path().join("writer");
    fs::write(&file, writer.secret()).expect("writable");
    cloud.writer_key_file = Some(file);
    let past = live_and_move(&cloud).await;
    archive_another(&cloud).await;
    let deleted = after_the_janitor(&cloud, NAME, "later").await;
    assert!(deleted > 100, "only {deleted} chunks had expired");
    let (whole, later) = (Desk::new(&cloud), Desk::of(&cloud, "later"));
    let (backup, trust) = (&past.backup, writer.public());
    tokio::task::block_in_place(|| {
        later.fetch();
        keep(&later, "later");
        let listed = later.must("python3 $RECOVER list bucket");
        assert!(listed.contains("in segments") && listed.contains(backup), "{listed}");
        later.recover(&format!("--backup {backup} --output all --trust {trust} --all"));
        assert_eq!(missing(&start(&later.path("all")), &past.acknowledged), Vec::<i64>::new());
        later.recover(&format!("--output then --to {}", past.then));
        assert_eq!(start(&later.path("then")).psql("SELECT count(*) FROM ledger"), past.rows_then);
        let stranger = WriterKey::generate().public();
        let error = later.fails(&restoring(&format!("--output bad --trust {stranger}")));
        assert!(error.contains("not among the trusted writers"), "{error}");

        // Chunks and segments hold the same bytes.
        whole.fetch();
        whole.must(&format!("mv bucket/hospital/v1/db/{NAME}/index ."));
        whole.recover(&format!("--backup {backup} --output all"));
        whole.must(&format!(
            "diff -r all/wal {}/wal && mv index bucket/hospital/v1/db/{NAME}/",
            later.path("all").display()
        ));

        // Where the chunks are still there, they take the place of a segment that is damaged, and of one that is gone.
        let lost = whole.files(SEGMENTS)[1].clone();
        flip(&lost, fs::metadata(&lost).expect("there").len() - 1);
        let warned = whole.shell(&restoring(&format!("--backup {backup} --output damaged")));
        assert!(warned.status.success() && text(&warned.stderr).contains("trying without it"));
        fs::remove_file(&lost).expect("there");
        whole.recover(&format!("--backup {backup} --output gone"));
        whole.must("diff -r all/wal damaged/wal && diff -r all/wal gone/wal");

        refuses_bad_segments(&later, backup);
    });
}

/// What a real database seldom does: cuts, and one timeline number twice.
#[test]
fn a_forged_log_is_read_as_the_format_says() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (script, empty) = (here.join("tests/forged/segments.py"), tempfile::tempdir().expect("a folder"));
    let status = Command::new("python3").args([&script, &here.join("../../recover")]).arg(empty.path()).status();
    assert!(status.expect("python3 runs").success());
}

/// What happens to a segment when no chunk can take its place.
fn refuses_bad_segments(desk: &Desk, backup: &str) {
    let restore = restoring(&format!("--backup {backup} --output bad"));
    let files = desk.files(SEGMENTS);
    let (last, before) = (&files[files.len() - 1], &files[files.len() - 2]);
    let (key, bytes) =
        (last.strip_prefix(desk.path("bucket")).expect("below").display(), fs::read(last).expect("there"));
    let refused = |why: &str| {
        let error = desk.fails(&restore);
        assert!(error.contains(&key.to_string()) && error.contains(why), "{why}: {error}");
        assert!(!desk.path("bad").exists(), "nothing half done is left under the name that was asked for");
    };
    flip(last, bytes.len() as u64 - 1);
    refused("digest");
    fs::write(last, &bytes).expect("writable");
    flip(last, 40);
    refused("");
    fs::copy(before, last).expect("copied");
    refused("belongs elsewhere");
    fs::copy(&desk.files("hospital/v1/db/other/segment")[0], last).expect("copied");
    refused("belongs elsewhere: database is 'other'");
    fs::remove_file(last).expect("there");
    refused("missing");
    // Who knows that it is lost gets what stands before it.
    let report = desk.shell(&format!("{restore} --stop-at-hole"));
    assert!(report.status.success() && text(&report.stderr).contains("is lost"), "{}", text(&report.stderr));
    fs::write(last, &bytes).expect("writable");
    // The newest index gone: the log would end early, and what stands behind says so.
    let indexes = desk.files("hospital/v1/db/registration/index");
    let newest = indexes.last().expect("one");
    let index = fs::read(newest).expect("there");
    fs::remove_file(newest).expect("there");
    let error = desk.fails(&restore.replace("bad", "old"));
    assert!(error.contains("missing") && error.contains("index/"), "{error}");
    // Rubbish behind it is passed over.
    fs::write(newest, &index).expect("writable");
    fs::write(newest.with_file_name("FFFFFFFFFFFFFFFF"), b"rubbish").expect("writable");
    desk.recover(&format!("--backup {backup} --output rubbish"));
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
