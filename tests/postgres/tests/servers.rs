//! The helpers start real servers, and leave nothing behind.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use holdfast_test_postgres::{SeaweedFS, Stop, TestPostgres};

#[test]
fn postgresql_lives_crashes_and_goes() {
    let mut server = TestPostgres::start(&[("wal_level", "logical")]);
    server.psql("CREATE TABLE patient (mrn int); INSERT INTO patient VALUES (1)");
    assert_eq!(server.psql("SHOW wal_level"), "logical");
    server.stop(Stop::Immediate);
    server.restart();
    assert_eq!(server.psql("SELECT count(*) FROM patient"), "1");
    assert!(server.try_psql("SELECT nonsense").unwrap_err().contains("nonsense"));

    let (data, port) = (server.data_dir(), server.port());
    drop(server);
    assert!(!data.exists());
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[test]
fn a_copy_of_a_data_directory_starts() {
    let mut original = TestPostgres::start(&[]);
    original.psql("CREATE TABLE patient (mrn int)");
    original.stop(Stop::Fast);
    let copy = TestPostgres::start_from(&[], |data| {
        let copied = Command::new("cp").arg("-a").arg(original.data_dir().join(".")).arg(data).status();
        assert!(copied.unwrap().success());
    });
    assert_eq!(copy.psql("SELECT count(*) FROM patient"), "0");
}

#[test]
fn a_bucket_server_lives_and_goes() {
    let mut server = SeaweedFS::start();
    let address = server.endpoint().trim_start_matches("http://").to_owned();
    assert!(TcpStream::connect(&address).is_ok());
    server.kill();
    assert!(TcpStream::connect(&address).is_err());
    server.restart();
    assert!(TcpStream::connect(&address).is_ok());
    drop(server);
    assert!(TcpStream::connect(&address).is_err());
}

/// Not a test: started by the one below, and killed.
#[test]
#[ignore = "runs until it is killed"]
fn victim() {
    if std::env::var_os("HOLDFAST_TEST_VICTIM").is_none() {
        return;
    }
    let server = TestPostgres::start(&[]);
    println!("\n{}", server.data_dir().display());
    loop {
        std::thread::park();
    }
}

#[test]
fn what_a_killed_test_left_goes_with_the_next() {
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "victim", "--nocapture"])
        .env("HOLDFAST_TEST_VICTIM", "yes")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(victim.stdout.take().unwrap());
    let data = output.lines().map_while(Result::ok).find(|line| line.starts_with('/')).expect("the victim starts");
    let postmaster = std::fs::read_to_string(format!("{data}/postmaster.pid")).unwrap();
    let postmaster = Path::new("/proc").join(postmaster.lines().next().unwrap());
    victim.kill().unwrap();
    victim.wait().unwrap();
    assert!(postmaster.exists() && Path::new(&data).exists(), "nothing to sweep");

    // A process sweeps once: another one starts a server, and removes it.
    let next =
        Command::new(std::env::current_exe().unwrap()).args(["--exact", "a_bucket_server_lives_and_goes"]).output();
    assert!(next.unwrap().status.success());
    assert!(!Path::new(&data).exists());
    let deadline = Instant::now() + Duration::from_secs(10);
    while postmaster.exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!postmaster.exists());
}
