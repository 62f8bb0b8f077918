//! The proof that a drill cannot touch production: connections from inside the drill that must fail, beside
//! connections that must succeed so that a failure means something.
//!
//! A network may police a new pod only a moment after it starts. So every workload of a drill begins with an init
//! container that waits until its pod is closed in, and the proof says how long that took.

use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::api::ObjectMeta;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::restricted::{HOLDFAST_UID, container_security, pod_spec, resources};

/// The pod, and its container.
pub const POD_NAME: &str = "isolation-probe";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a network may take to close a new pod in.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(20);
const SETTLE_PAUSE: Duration = Duration::from_millis(200);
/// What must be reached may need a moment (DNS, a policy that is being installed).
const CONTROL_ATTEMPTS: u32 = 5;
const CONTROL_PAUSE: Duration = Duration::from_millis(500);

/// One attempt to reach something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Host and port.
    pub target: String,
    /// Whether it must be reached (the control) or must not.
    pub must_reach: bool,
    /// Whether it was reached.
    pub reached: bool,
    /// What the attempt ended with.
    pub outcome: String,
    /// For how long, after the pod's start, it could still be reached although it must not be; in milliseconds.
    #[serde(default)]
    pub settled_after_ms: u64,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Every attempt.
    pub attempts: Vec<Attempt>,
}

impl Report {
    /// Whether every attempt ended as it must, with at least one of each kind: a probe that could reach nothing
    /// at all proves nothing.
    pub fn isolated(&self) -> bool {
        let kinds = |must| self.attempts.iter().filter(move |a| a.must_reach == must);
        let held = |must| kinds(must).count() > 0 && kinds(must).all(|a| a.reached == must);
        held(true) && held(false)
    }
}

/// Tries every target (`host:port`) by TCP: first what must be reached, so that the pod's network is known to work,
/// then what must not be, until it cannot be.
pub async fn probe(must_fail: Vec<String>, must_pass: Vec<String>) -> Report {
    let controls = join_all(must_pass.into_iter().map(control)).await;
    let mut attempts = join_all(must_fail.into_iter().map(|target| forbidden(target, SETTLE_TIMEOUT))).await;
    attempts.extend(controls);
    Report { attempts }
}

async fn forbidden(target: String, settle: Duration) -> Attempt {
    let started = Instant::now();
    let mut settled_after_ms = 0;
    loop {
        let attempt = attempt(target.clone(), false).await;
        if !attempt.reached || started.elapsed() >= settle {
            return Attempt { settled_after_ms, ..attempt };
        }
        sleep(SETTLE_PAUSE).await;
        settled_after_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    }
}

async fn control(target: String) -> Attempt {
    let mut last = attempt(target.clone(), true).await;
    for _ in 1..CONTROL_ATTEMPTS {
        if last.reached {
            break;
        }
        sleep(CONTROL_PAUSE).await;
        last = attempt(target.clone(), true).await;
    }
    last
}

async fn attempt(target: String, must_reach: bool) -> Attempt {
    let outcome = reach(&target).await;
    let reached = outcome.is_ok();
    let outcome = outcome.err().unwrap_or_else(|| "connected".to_owned());
    Attempt { target, must_reach, reached, outcome, settled_after_ms: 0 }
}

/// Connects once.
///
/// # Errors
/// What went wrong.
pub async fn reach(target: &str) -> Result<(), String> {
    match timeout(CONNECT_TIMEOUT, TcpStream::connect(target)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs())),
    }
}

/// The container that tries. It ends with success when its pod is isolated.
pub fn container(name: &str, image: &str, must_fail: &[String], must_pass: &[String]) -> Container {
    let option =
        |name: &str, targets: &[String]| targets.iter().flat_map(|t| [name.to_owned(), t.clone()]).collect::<Vec<_>>();
    let mut args = vec!["isolation-probe".to_owned()];
    args.extend(option("--must-fail", must_fail));
    args.extend(option("--must-pass", must_pass));
    Container {
        name: name.to_owned(),
        image: Some(image.to_owned()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(vec!["holdfast".to_owned()]),
        args: Some(args),
        resources: Some(resources("10m", "16Mi", Some("64Mi"))),
        security_context: Some(container_security()),
        ..Container::default()
    }
}

/// The pod that tries, from inside the drill.
pub fn pod(namespace: &str, image: &str, must_fail: &[String], must_pass: &[String]) -> Pod {
    let mut spec = pod_spec(HOLDFAST_UID);
    spec.restart_policy = Some("Never".to_owned());
    spec.containers = vec![container(POD_NAME, image, must_fail, must_pass)];
    Pod {
        metadata: ObjectMeta {
            name: Some(POD_NAME.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        status: None,
    }
}

/// What the pod found, once it has ended: its termination message is the report.
///
/// # Errors
/// What it ended with instead of a report.
pub fn report_of(pod: &Pod) -> Option<Result<Report, String>> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let ended = statuses.iter().find(|c| c.name == POD_NAME)?.state.as_ref()?.terminated.as_ref()?;
    let message = ended.message.as_deref().unwrap_or_default();
    let parsed = serde_json::from_str(message);
    Some(parsed.map_err(|_| format!("it ended with exit code {} and without a report: {message}", ended.exit_code)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restricted::violations;
    use serde_json::json;

    fn attempt_of(must_reach: bool, reached: bool) -> Attempt {
        Attempt { target: "t:1".into(), must_reach, reached, outcome: String::new(), settled_after_ms: 0 }
    }

    #[test]
    fn isolated_needs_every_probe_and_a_control() {
        let table = [
            (vec![], false),
            (vec![attempt_of(false, false)], false),
            (vec![attempt_of(true, true)], false),
            (vec![attempt_of(false, false), attempt_of(true, true)], true),
            (vec![attempt_of(false, true), attempt_of(true, true)], false),
            (vec![attempt_of(false, false), attempt_of(true, false)], false),
        ];
        for (attempts, expected) in table {
            let report = Report { attempts };
            assert_eq!(report.isolated(), expected, "{report:?}");
        }
    }

    #[tokio::test]
    async fn a_probe_tells_what_it_reaches() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap().to_string();
        let closed = {
            let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            other.local_addr().unwrap().to_string()
        };
        assert!(probe(vec![closed.clone()], vec![open.clone()]).await.isolated());
        let attempts = vec![forbidden(open.clone(), Duration::ZERO).await, control(open).await];
        assert!(!Report { attempts }.isolated());
    }

    #[tokio::test]
    async fn a_network_that_closes_after_a_moment_is_waited_for() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap().to_string();
        let closes = async {
            sleep(Duration::from_millis(300)).await;
            drop(listener);
        };
        let (attempt, ()) = tokio::join!(forbidden(target, Duration::from_secs(20)), closes);
        assert!(!attempt.reached && attempt.settled_after_ms >= 200, "{attempt:?}");
    }

    #[test]
    fn the_pod_is_restricted_and_its_report_is_read() {
        let mut pod = pod("d", "holdfast:0.1.0", &["10.0.0.1:5432".into()], &["db:5432".into()]);
        assert_eq!(violations(pod.spec.as_ref().unwrap()), Vec::<String>::new());
        assert_eq!(report_of(&pod), None);
        let report = Report { attempts: vec![attempt_of(false, false)] };
        let message = serde_json::to_string(&report).unwrap();
        pod.status = serde_json::from_value(json!({"containerStatuses": [{
            "name": POD_NAME, "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 1, "message": message}}}]}))
        .unwrap();
        assert_eq!(report_of(&pod), Some(Ok(report)));
    }
}
