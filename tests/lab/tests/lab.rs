//! What stories rely on: that the lab's walls are walls, that its faults are faults, and that nothing
//! is left of it, however it ends. One test for all of it: there is one lab at a time.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use holdfast_lab::wait::until;
use holdfast_lab::{BUCKET, Bucket, BucketKind, CLOUD_IP, Existing, Lab, Options, Result, S3_PORT, Site, SiteHandle};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const LIMIT: Duration = Duration::from_secs(60);

const PODS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: { name: trial, labels: { pod-security.kubernetes.io/enforce: restricted } }
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: { name: disk, namespace: trial }
spec: { accessModes: [ReadWriteOnce], resources: { requests: { storage: 1Gi } } }
---
apiVersion: v1
kind: Pod
metadata: { name: patient, namespace: trial, labels: { app: patient } }
spec:
  terminationGracePeriodSeconds: 0
  securityContext: { runAsNonRoot: true, runAsUser: 999, seccompProfile: { type: RuntimeDefault } }
  containers:
    - name: shell
      image: postgres:15
      command: [sleep, infinity]
      securityContext: { allowPrivilegeEscalation: false, capabilities: { drop: [ALL] } }
      volumeMounts: [{ name: disk, mountPath: /disk }]
  volumes: [{ name: disk, persistentVolumeClaim: { claimName: disk } }]
"#;

const ONLY_DNS_AND_BUCKET: &str = r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: only-dns-and-bucket, namespace: trial }
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
  egress:
    - to: [{ ipBlock: { cidr: 10.77.0.1/32 } }]
      ports: [{ port: 8333 }]
    - to: [{ namespaceSelector: { matchLabels: { kubernetes.io/metadata.name: kube-system } } }]
      ports: [{ port: 53, protocol: UDP }, { port: 53, protocol: TCP }]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_lab_does_what_stories_rely_on() -> Result<()> {
    interrupted().await?;
    kept_until_its_end().await?;
    match tokio::spawn(a_test_that_panics()).await {
        Err(panicked) if panicked.is_panic() => {
            let said = panicked.into_panic();
            let said = said.downcast_ref::<String>().map(String::as_str).or(said.downcast_ref::<&str>().copied());
            assert_eq!(said, Some(WELL));
        }
        ended => panic!("it did not end as it should: {ended:?}"),
    }
    nothing_is_left();
    Ok(())
}

/// With a lab that is up whole.
async fn a_test_that_panics() -> Result<()> {
    let lab = Lab::up(options(Existing::Refuse)).await?;
    faults_are_faults(&lab).await?;
    waits_with_a_message("waiting for the lab, which process");
    panic!("{WELL}");
}

const WELL: &str = "all is well, and this test panics on purpose";

fn options(existing: Existing) -> Options {
    Options { existing, build: false, ..Options::default() }
}

fn nothing_is_left() {
    assert_eq!(holdfast_lab::leftovers().expect("a look at what is left"), Vec::<String>::new());
    assert!(!Path::new("/run/lock/holdfast-lab").exists(), "the lock's file is left");
    let guards = guards();
    assert!(guards.is_empty(), "guards are left: {guards:?}");
}

/// `cargo lab`, without cargo.
fn lab(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast-lab"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Ends with the test, also with one that fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).expect("a process to send a signal to");
}

/// Guard processes, by number.
fn guards() -> Vec<i32> {
    let is_guard = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).nth(1) == Some(b"__guard")
    };
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_guard).collect()
}

/// A start that is broken off when a site has its first process: by Ctrl-C, by kill -9, and by kill -9 of all who could
/// clean up.
async fn interrupted() -> Result<()> {
    for (how, with_guard) in [(Signal::SIGINT, false), (Signal::SIGKILL, false), (Signal::SIGKILL, true)] {
        let mut up = Running(lab(&["up", "--fresh", "--no-build"]).spawn().expect("holdfast-lab"));
        until("a site to begin", LIMIT, || async {
            let begun = holdfast_lab::leftovers().map_err(|error| error.to_string())?;
            if begun.iter().any(|left| left.starts_with("process")) { Ok(()) } else { Err(begun.join(", ")) }
        })
        .await?;
        if with_guard {
            for guard in guards() {
                signal(guard, Signal::SIGKILL);
            }
        }
        signal(up.0.id() as i32, how);
        let status = up.0.wait().expect("the end of holdfast-lab");
        assert!(!status.success(), "{how}: {status}");
        if with_guard {
            assert_ne!(holdfast_lab::leftovers()?, Vec::<String>::new(), "nothing to clean up: this proves nothing");
            assert!(lab(&["down"]).status().expect("holdfast-lab").success());
        }
        until("the guard to have cleaned up", LIMIT, || async {
            let left = holdfast_lab::leftovers().map_err(|error| error.to_string())?;
            if left.is_empty() && guards().is_empty() { Ok(()) } else { Err(left.join(", ")) }
        })
        .await?;
        nothing_is_left();
    }
    Ok(())
}

/// What a person has started is not taken away by tests, not by another user, and not because a site is down.
async fn kept_until_its_end() -> Result<()> {
    assert!(lab(&["up", "--no-build"]).status().expect("holdfast-lab").success());
    let refused = Lab::up(options(Existing::Refuse)).await.expect_err("a lab that is in use is replaced").to_string();
    assert!(refused.contains("`cargo lab down`"), "{refused}");
    waits_with_a_message("waiting for the lab with its files in");
    for (action, mends) in [
        (["kill", "primary"], ["restore", "primary"]),
        (["cut", "standby"], ["heal", "standby"]),
        (["cloud", "stop"], ["cloud", "start"]),
    ] {
        assert!(lab(&action).status().expect("holdfast-lab").success());
        let up = lab(&["up", "--no-build"]).output().expect("holdfast-lab");
        let said = String::from_utf8_lossy(&up.stderr).into_owned();
        assert!(!up.status.success() && said.contains(&format!("`cargo lab {}`", mends.join(" "))), "{said}");
        assert!(lab(&mends).status().expect("holdfast-lab").success());
    }
    let again = lab(&["up", "--no-build"]).output().expect("holdfast-lab");
    let said = String::from_utf8_lossy(&again.stdout).into_owned();
    assert!(again.status.success() && said.contains("up already"), "{said}");
    let start = Instant::now();
    assert!(lab(&["down"]).status().expect("holdfast-lab").success());
    println!("down after {:.1} s", start.elapsed().as_secs_f64());
    nothing_is_left();
    Ok(())
}

/// Another user, with files elsewhere, does not disturb the lab that is up.
fn waits_with_a_message(message: &str) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // What asks for much disk is there already.
    std::fs::create_dir_all(folder.path().join("holdfast/lab/components")).expect("a folder");
    let mut other = lab(&["up", "--no-build"]);
    other.env("XDG_CACHE_HOME", folder.path()).stderr(Stdio::piped());
    let mut other = Running(other.spawn().expect("holdfast-lab"));
    let mut said = String::new();
    BufReader::new(other.0.stderr.take().expect("a pipe")).read_line(&mut said).expect("a line");
    assert!(said.starts_with(message), "{said}");
}

async fn faults_are_faults(lab: &Lab) -> Result<()> {
    let primary = lab.site(Site::Primary);
    walls(lab).await?;
    bucket(lab).await?;
    primary.apply_yaml(PODS).await?;
    primary.wait_for("trial", "pod/patient", "condition=Ready", LIMIT).await?;
    policy_is_enforced(primary).await?;
    container_is_killed(primary).await?;
    cuts(primary).await?;
    power(primary).await?;
    server(lab).await?;
    dump(lab).await
}

/// Can a program at the site's machine connect?
async fn reaches(site: &SiteHandle, ip: &str, port: u16) -> bool {
    let connect = format!("exec 3<>/dev/tcp/{ip}/{port}");
    site.run_inside("timeout", &["2", "bash", "-c", &connect]).await.is_ok()
}

/// Can a program in the pod connect?
async fn pod_reaches(site: &SiteHandle, host: &str, port: u16) -> bool {
    let connect = format!("exec 3<>/dev/tcp/{host}/{port}");
    let exec = ["exec", "-n", "trial", "patient", "--", "timeout", "2", "bash", "-c", &connect];
    site.kubectl(&exec).await.is_ok()
}

async fn walls(lab: &Lab) -> Result<()> {
    for (here, there) in [(Site::Primary, Site::Standby), (Site::Standby, Site::Primary)] {
        let here = lab.site(here);
        assert!(reaches(here, &here.ip(), 6443).await, "{here:?} does not reach itself");
        assert!(reaches(here, CLOUD_IP, S3_PORT).await, "{here:?} does not reach the cloud");
        assert!(!reaches(here, &there.ip(), 6443).await, "{here:?} reaches {there}");
        for store in [27001, 27002, 27003, 37003] {
            assert!(reaches_from_here(store), "nothing listens on {store}: the next line proves nothing");
            assert!(!reaches(here, CLOUD_IP, store).await, "{here:?} reaches the store behind S3");
        }
    }
    Ok(())
}

fn reaches_from_here(port: u16) -> bool {
    std::net::TcpStream::connect((CLOUD_IP, port)).is_ok()
}

async fn bucket(lab: &Lab) -> Result<()> {
    let ours = lab.cloud().bucket_as(BUCKET, lab.credentials(Site::Primary));
    ours.put("a/1", "one").await?;
    ours.put("a/1", "two").await?;
    ours.delete("a/1").await?;
    assert_eq!(ours.list("a/").await?, Vec::<String>::new());
    let versions = ours.versions("a/").await?;
    assert_eq!(versions.len(), 3, "{versions:?}");
    assert!(versions.iter().any(|version| version.is_delete_marker && version.is_latest));

    ours.put("a/2", vec![7; 5000]).await?;
    ours.damage("a/2").await?;
    let damaged = ours.get("a/2").await?.unwrap_or_default();
    let differs = damaged.iter().filter(|byte| **byte != 7).count();
    assert_eq!((damaged.len(), differs), (5000, 1));

    assert!(ours.create(BucketKind::Plain).await.is_err(), "a site makes buckets");
    for (name, kind) in [("holdfast-plain", BucketKind::Plain), ("holdfast-versioned", BucketKind::Versioned)] {
        let bucket = lab.cloud().create_bucket(name, kind).await?;
        bucket.put("x", "1").await?;
        bucket.put("x", "2").await?;
        let kept = if kind == BucketKind::Plain { 1 } else { 2 };
        assert_eq!(bucket.versions("x").await?.len(), kept, "{name}");
        assert!(!locks(&bucket).await, "{name} has Object Lock");
    }
    assert!(locks(&ours).await, "{BUCKET} has no Object Lock");
    Ok(())
}

async fn locks(bucket: &Bucket) -> bool {
    let question = bucket.client().get_object_lock_configuration().bucket(bucket.name());
    question.send().await.is_ok()
}

async fn policy_is_enforced(site: &SiteHandle) -> Result<()> {
    assert!(pod_reaches(site, "kubernetes.default", 443).await, "no policy, no way");
    site.apply_yaml(ONLY_DNS_AND_BUCKET).await?;
    until("the policy to be enforced", LIMIT, || async {
        match pod_reaches(site, "kubernetes.default", 443).await {
            true => Err("the pod still reaches the API server".to_owned()),
            false => Ok(()),
        }
    })
    .await?;
    assert!(pod_reaches(site, "s3.cloud", S3_PORT).await, "the pod does not reach the bucket");
    Ok(())
}

async fn container_is_killed(site: &SiteHandle) -> Result<()> {
    site.kill9("trial", "patient", None).await?;
    let restarts = "jsonpath={.status.containerStatuses[0].restartCount}=1";
    site.wait_for("trial", "pod/patient", restarts, LIMIT).await?;
    site.wait_for("trial", "pod/patient", "condition=Ready", LIMIT).await
}

async fn cuts(site: &SiteHandle) -> Result<()> {
    site.cut_from_cloud().await?;
    assert!(!pod_reaches(site, "s3.cloud", S3_PORT).await, "the bucket is not cut off");
    assert!(site.client().await?.apiserver_version().await.is_ok(), "users are cut off, too");
    site.cut().await?;
    assert!(site.client().await?.apiserver_version().await.is_err(), "users are not cut off");
    site.kubectl(&["get", "nodes"]).await?;
    site.heal().await?;
    assert!(site.client().await?.apiserver_version().await.is_ok(), "not healed");
    assert!(pod_reaches(site, "s3.cloud", S3_PORT).await, "not healed");
    Ok(())
}

async fn power(site: &SiteHandle) -> Result<()> {
    let shell = ["exec", "-n", "trial", "patient", "--", "sh", "-c"];
    site.kubectl(&[&shell[..], &["echo kept > /disk/file"]].concat()).await?;
    site.kill().await?;
    assert!(site.process().is_none());
    assert!(!reaches_address(&site.ip()), "a site without power answers");
    site.restore().await?;
    let what = "the pod's disk after the power cut";
    let text = until(what, LIMIT, || async {
        let read = site.kubectl(&[&shell[..], &["cat /disk/file"]].concat()).await;
        read.map_err(|error| error.to_string())
    })
    .await?;
    assert_eq!(text, "kept\n");
    Ok(())
}

fn reaches_address(ip: &str) -> bool {
    let address = (ip.parse::<std::net::IpAddr>().expect("an address"), 6443).into();
    std::net::TcpStream::connect_timeout(&address, Duration::from_secs(2)).is_ok()
}

async fn server(lab: &Lab) -> Result<()> {
    let cloud = lab.cloud();
    cloud.bucket(BUCKET).put("b/1", "kept").await?;
    cloud.stop().await?;
    assert!(!cloud.is_running() && !reaches_from_here(S3_PORT));
    cloud.start().await?;
    assert_eq!(cloud.bucket(BUCKET).get("b/1").await?.as_deref(), Some(&b"kept"[..]));
    Ok(())
}

async fn dump(lab: &Lab) -> Result<()> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    lab.dump(folder.path()).await?;
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap_or_default();
    assert!(read("primary/pods.txt").contains("patient"), "{}", read("primary/pods.txt"));
    assert!(Path::new(&folder.path().join("standby/site-kubelet.log")).is_file());
    Ok(())
}
