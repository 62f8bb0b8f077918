//! What both servers need: a directory, free ports, a child that does not outlive its test.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Child;
use std::sync::{Mutex, Once};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// SeaweedFS listens at a port and, for gRPC, at that port and so many.
pub(crate) const GRPC_OFFSET: u16 = 10_000;
/// Test servers listen from here on; with [`GRPC_OFFSET`] twice it stays below 32768, where the kernel's own ports begin.
const LOWEST_PORT: u16 = 12_000;

/// Begins the names of all directories of test servers.
const PREFIX: &str = "/tmp/hf";
/// In each of them: the process that it belongs to, and its PID namespace.
const OWNER: &str = "owner";

/// A directory whose path is short enough for a socket (108 bytes) wherever TMPDIR points.
pub(crate) fn short_temp_dir() -> TempDir {
    static SWEPT: Once = Once::new();
    SWEPT.call_once(sweep);
    let made = tempfile::Builder::new().prefix("hf").rand_bytes(5).tempdir_in("/tmp");
    let dir = made.expect("cannot make a directory in /tmp for a test server");
    fs::write(dir.path().join(OWNER), format!("{}\n{}", std::process::id(), pid_namespace()))
        .expect("cannot write into a directory of its own");
    dir
}

/// Removes what tests left that were killed before they could: their servers and directories.
fn sweep() {
    for entry in fs::read_dir("/tmp").into_iter().flatten().flatten() {
        let dir = entry.path();
        if dir.to_string_lossy().starts_with(PREFIX) && is_orphan(&dir) {
            kill_below(&dir);
            // Another test process may sweep at the same time.
            let _ = fs::remove_dir_all(&dir);
        }
    }
}

fn is_orphan(dir: &Path) -> bool {
    let owner = fs::read_to_string(dir.join(OWNER)).unwrap_or_default();
    owner.split_once('\n').is_some_and(|(pid, namespace)| {
        // Processes of another namespace cannot be seen from here.
        let known = !namespace.is_empty() && namespace == pid_namespace();
        known && pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists()
    })
}

/// Servers run in their directory or in their data below it.
fn kill_below(dir: &Path) {
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_string_lossy().parse().map(Pid::from_raw);
        let inside = fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir));
        if let (Ok(pid), true) = (pid, inside) {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

fn pid_namespace() -> String {
    fs::read_link("/proc/self/ns/pid").map(|link| link.display().to_string()).unwrap_or_default()
}

/// A port of 127.0.0.1 that is free now, with its companion for gRPC, and that no other test of this process got. Both are below the range
/// that the kernel takes ports for outgoing connections from: one of those would be in the way a moment later.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let is_free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    for _ in 0..1000 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("no free port on 127.0.0.1");
        let random = listener.local_addr().expect("a bound socket has an address").port();
        let port = LOWEST_PORT + random % GRPC_OFFSET;
        let free = is_free(port) && is_free(port + GRPC_OFFSET);
        let mut given = GIVEN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if free && given.insert(port) {
            return port;
        }
    }
    panic!("no two free ports on 127.0.0.1 that are {GRPC_OFFSET} apart");
}

/// Polls until `ready` says so. Fails with the end of the child's log when it exits or time is up.
pub(crate) fn wait_until(
    child: &mut Child,
    limit: Duration,
    what: &str,
    log: &Path,
    mut ready: impl FnMut() -> bool,
) -> Result<(), String> {
    let deadline = Instant::now() + limit;
    while !ready() {
        let exited = child.try_wait().expect("cannot wait for a child");
        if exited.is_some() || Instant::now() > deadline {
            let _ = child.kill();
            let log = fs::read_to_string(log).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(30).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            return Err(format!(
                "{what} did not start ({exited:?}, limit {limit:?}). The end of its log:\n{}",
                tail.join("\n")
            ));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Ends a child with `signal`, and with SIGKILL when it has not gone within `limit`.
pub(crate) fn end(child: &mut Child, signal: Signal, limit: Duration) {
    let pid = i32::try_from(child.id()).map(Pid::from_raw);
    if let Ok(pid) = pid {
        // It may be gone already.
        let _ = kill(pid, signal);
    }
    let deadline = Instant::now() + limit;
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
