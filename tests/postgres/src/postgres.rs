//! A PostgreSQL server of a test's own.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::process::{end, free_port, short_temp_dir, wait_until};

/// Where Debian puts the binaries of the version that is tested.
const DEBIAN_BIN: &str = "/usr/lib/postgresql/15/bin";
/// `nobody` and `nogroup` of Debian: who runs the server when the test is root.
const NOBODY: u32 = 65534;
const PASSWORD: &str = "postgres-password";
/// Generous: the machine may be busy with builds.
const START_LIMIT: Duration = Duration::from_secs(120);

/// How a server is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Roll back, write a checkpoint, exit.
    Fast,
    /// As in a crash: the next start recovers.
    Immediate,
}

/// A running PostgreSQL 15, removed with all its data when dropped.
///
/// The superuser is `postgres`; its password is asked for on TCP, also for replication, and not on
/// the socket that [`psql`](Self::psql) uses.
#[derive(Debug)]
pub struct TestPostgres {
    dir: TempDir,
    port: u16,
    settings: Vec<(String, String)>,
    child: Option<Child>,
}

impl TestPostgres {
    /// Makes a new system (`initdb`) and starts it with `settings` on top of small defaults.
    pub fn start(settings: &[(&str, &str)]) -> TestPostgres {
        let mut server = TestPostgres::prepare(settings);
        server.initdb(&[]);
        server.start_child();
        server
    }

    /// Like [`start`](Self::start), with arguments for `initdb`, as `--wal-segsize=1`.
    pub fn start_with_initdb(initdb: &[&str], settings: &[(&str, &str)]) -> TestPostgres {
        let mut server = TestPostgres::prepare(settings);
        server.initdb(initdb);
        server.start_child();
        server
    }

    /// Starts a server on a data directory that `fill` writes (a restored backup, a standby).
    ///
    /// Owner and permissions are put right afterwards. `settings` win over what is in the directory.
    pub fn start_from(settings: &[(&str, &str)], fill: impl FnOnce(&Path)) -> TestPostgres {
        let mut server = TestPostgres::spawn_from(settings, fill);
        server.wait_until_ready();
        server
    }

    /// Like [`start_from`](Self::start_from), for a server that is not expected to accept connections.
    pub fn spawn_from(settings: &[(&str, &str)], fill: impl FnOnce(&Path)) -> TestPostgres {
        let mut server = TestPostgres::prepare(settings);
        let data = server.data_dir();
        fs::create_dir(&data).expect("cannot make a data directory");
        fill(&data);
        give_away(&data);
        fs::set_permissions(&data, Permissions::from_mode(0o700)).expect("cannot set permissions");
        server.spawn();
        server
    }

    fn prepare(settings: &[(&str, &str)]) -> TestPostgres {
        assert!(
            Path::new(DEBIAN_BIN).join("postgres").exists(),
            "this test needs PostgreSQL 15 in {DEBIAN_BIN}: apt-get install postgresql-15"
        );
        let dir = short_temp_dir();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("cannot set permissions");
        give_away(dir.path());
        let settings = settings.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        TestPostgres { dir, port: free_port(), settings, child: None }
    }

    fn initdb(&self, arguments: &[&str]) {
        let password_file = self.dir.path().join("password");
        fs::write(&password_file, PASSWORD).expect("cannot write a password file");
        let mut command = self.command("initdb");
        command.arg("--no-sync").args(["--username=postgres", "--encoding=UTF8", "--locale=C"]);
        command.args(["--auth-local=trust", "--auth-host=scram-sha-256"]);
        command.arg(format!("--pwfile={}", password_file.display()));
        command.arg(format!("--pgdata={}", self.data_dir().display())).args(arguments);
        run(command);
    }

    fn start_child(&mut self) {
        self.spawn();
        self.wait_until_ready();
    }

    fn spawn(&mut self) {
        let log = File::create(self.log_file()).expect("cannot make a log file");
        let socket_dir = self.dir.path().display().to_string();
        let port = self.port.to_string();
        let defaults = [
            ("port", port.as_str()),
            ("listen_addresses", "127.0.0.1"),
            ("unix_socket_directories", &socket_dir),
            ("fsync", "off"),
            ("shared_buffers", "16MB"),
            ("max_wal_size", "1GB"),
            ("wal_keep_size", "256MB"),
            ("logging_collector", "off"),
        ];
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data_dir());
        let settings = self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in defaults.into_iter().chain(settings) {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        command.stdout(log.try_clone().expect("cannot share a log file")).stderr(log);
        self.child = Some(command.spawn().expect("cannot run postgres"));
    }

    fn wait_until_ready(&mut self) {
        let (pid_file, log) = (self.data_dir().join("postmaster.pid"), self.log_file());
        let child = self.child.as_mut().expect("the server was started");
        let ready = wait_until(child, START_LIMIT, "PostgreSQL", &log, || {
            // The last line says so once connections are accepted; the first is the process.
            let status = fs::read_to_string(&pid_file).unwrap_or_default();
            matches!(status.lines().nth(7).map(str::trim), Some("ready" | "standby"))
        });
        ready.unwrap_or_else(|why| panic!("{why}"));
    }

    /// A command of PostgreSQL, run as the server's user.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(Path::new(DEBIAN_BIN).join(program));
        command.current_dir(self.dir.path()).env("PGHOST", self.dir.path()).env("PGPORT", self.port.to_string());
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    /// The TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The superuser.
    pub fn user(&self) -> &'static str {
        "postgres"
    }

    /// The superuser's password.
    pub fn password(&self) -> &'static str {
        PASSWORD
    }

    /// A connection string (keywords and values) of the superuser, over TCP.
    pub fn connection_string(&self) -> String {
        format!("host=127.0.0.1 port={} user=postgres password={PASSWORD} dbname=postgres", self.port)
    }

    /// PGDATA.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Makes a directory of the server's own, beside its data (for a tablespace).
    pub fn make_dir(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir(&path).expect("cannot make a directory");
        give_away(&path);
        path
    }

    /// What the server has logged since its last start.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// Runs SQL as the superuser; columns of the answer are parted by `|`, rows by line ends.
    ///
    /// Panics when the server refuses it.
    pub fn psql(&self, sql: &str) -> String {
        self.try_psql(sql).unwrap_or_else(|error| panic!("psql: {sql}\n{error}"))
    }

    /// Like [`psql`](Self::psql), with the server's complaint as an error.
    pub fn try_psql(&self, sql: &str) -> Result<String, String> {
        let mut command = self.command("psql");
        command.args(["-XAtq", "-U", "postgres", "-d", "postgres", "-v", "ON_ERROR_STOP=1", "-c", sql]);
        let output = command.output().expect("cannot run psql");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Runs one of PostgreSQL's programs (`pg_waldump`, `pgbench`) and returns what it printed.
    ///
    /// Panics when it fails.
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = self.command(program);
        command.args(arguments);
        run(command)
    }

    /// Polls the log until it says `text`; panics when it does not within `limit`.
    pub fn wait_for_log(&self, text: &str, limit: Duration) {
        let deadline = std::time::Instant::now() + limit;
        while !self.log().contains(text) {
            if std::time::Instant::now() > deadline {
                panic!("PostgreSQL did not log {text:?} within {limit:?}, but:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Polls `sql` until it answers `expected`; panics when it does not within `limit`.
    pub fn wait_for(&self, sql: &str, expected: &str, limit: Duration) {
        let deadline = std::time::Instant::now() + limit;
        loop {
            let answer = self.try_psql(sql);
            if answer.as_deref() == Ok(expected) {
                return;
            }
            if std::time::Instant::now() > deadline {
                panic!("`{sql}` answers {answer:?} and not {expected:?} after {limit:?}. The log:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Stops the server; its data stay.
    pub fn stop(&mut self, how: Stop) {
        if let Some(mut child) = self.child.take() {
            let signal = match how {
                Stop::Fast => Signal::SIGINT,
                Stop::Immediate => Signal::SIGQUIT,
            };
            end(&mut child, signal, Duration::from_secs(60));
        }
    }

    /// Starts a stopped server, or restarts a running one (fast), at the same port.
    pub fn restart(&mut self) {
        self.stop(Stop::Fast);
        self.start_child();
    }
}

impl Drop for TestPostgres {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Shown by the test harness with the failure.
            println!("--- log of PostgreSQL at port {}\n{}", self.port, self.log());
        }
        self.stop(Stop::Immediate);
    }
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Makes `path` and all below it the server user's.
fn give_away(path: &Path) {
    if !is_root() {
        return;
    }
    // A tablespace may be a link; its target is not part of this directory.
    if path.is_symlink() {
        return;
    }
    chown(path, Some(NOBODY), Some(NOBODY)).unwrap_or_else(|error| panic!("cannot chown {}: {error}", path.display()));
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("cannot read a directory") {
            give_away(&entry.expect("cannot read a directory").path());
        }
    }
}

fn run(mut command: Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?} failed:\n{stdout}\n{stderr}");
    stdout.into_owned()
}
