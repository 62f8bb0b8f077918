//! Finding the pods that the operator made, and saying why one does not run.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::api::ListParams;

use crate::{Context, Error};

/// Label of everything that the operator makes for an object: the object's name.
pub const NAME_LABEL: &str = "holdfast.dev/name";
/// Label that says which part a pod is.
pub const COMPONENT_LABEL: &str = "app.kubernetes.io/component";
/// Label of everything that the operator makes.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";

/// A part of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Component {
    /// Writes the log.
    Agent,
    /// Serves the log to a standby.
    Relay,
    /// Puts the log together to segments.
    Archiver,
    /// The PostgreSQL server of a StandbyDatabase.
    Postgres,
}

impl Component {
    /// The value of [`COMPONENT_LABEL`].
    pub fn label(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Relay => "relay",
            Self::Archiver => "archiver",
            Self::Postgres => "postgres",
        }
    }
}

/// IP addresses of pods that answered, so that a poll costs one HTTP request.
#[derive(Default)]
pub(crate) struct AddressCache(Mutex<HashMap<(String, String, Component), IpAddr>>);

impl Context {
    /// The pods of one part of the database object `name`.
    ///
    /// # Errors
    /// [`Error::Kube`].
    pub async fn pods(&self, namespace: &str, name: &str, component: Component) -> Result<Vec<Pod>, Error> {
        let label = component.label();
        let selector = format!("{NAME_LABEL}={name},{COMPONENT_LABEL}={label}");
        let params = ListParams::default().labels(&selector).match_any();
        let pods = self
            .api::<Pod>(namespace)
            .list(&params)
            .await
            .map_err(Error::kube(format!("list the {label} pods of {namespace}/{name}")))?;
        Ok(pods.items)
    }

    /// The IP address of the running pod of this part, or why there is none.
    ///
    /// # Errors
    /// [`Error::Kube`].
    pub async fn pod_ip(
        &self,
        namespace: &str,
        name: &str,
        component: Component,
    ) -> Result<Result<IpAddr, NotRunning>, Error> {
        let key = (namespace.to_owned(), name.to_owned(), component);
        if let Some(ip) = self.addresses.lock().get(&key) {
            return Ok(Ok(*ip));
        }
        let pods = self.pods(namespace, name, component).await?;
        let found = running_ip(&pods);
        if let Ok(ip) = &found {
            self.addresses.lock().insert(key, *ip);
        }
        Ok(found)
    }

    /// Forgets the address of a pod that did not answer.
    pub fn forget_pod(&self, namespace: &str, name: &str, component: Component) {
        let key = (namespace.to_owned(), name.to_owned(), component);
        self.addresses.lock().remove(&key);
    }
}

impl AddressCache {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String, Component), IpAddr>> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Why no pod of a part runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotRunning {
    /// What the kubelet or the scheduler says.
    pub message: String,
    /// False while the pod may still be on its way up; true when something is in its way.
    pub is_stuck: bool,
}

/// The address of the pod that runs.
pub fn running_ip(pods: &[Pod]) -> Result<IpAddr, NotRunning> {
    let living = pods.iter().filter(|p| p.metadata.deletion_timestamp.is_none());
    let mut reason = NotRunning { message: "no pod has been created yet".to_owned(), is_stuck: false };
    for pod in living {
        let status = pod.status.as_ref();
        let running = status.and_then(|s| s.phase.as_deref()) == Some("Running");
        let ip = status.and_then(|s| s.pod_ip.as_deref()?.parse().ok());
        match ip {
            Some(ip) if running => return Ok(ip),
            _ => reason = why_not_running(pod),
        }
    }
    Err(reason)
}

/// What keeps a pod from running, in the words of the kubelet or the scheduler.
pub fn why_not_running(pod: &Pod) -> NotRunning {
    let name = pod.metadata.name.as_deref().unwrap_or("?");
    let Some(status) = &pod.status else {
        return waiting(format!("pod {name} is new"));
    };
    let unscheduled = status.conditions.iter().flatten().find(|c| c.type_ == "PodScheduled" && c.status == "False");
    if let Some(condition) = unscheduled {
        let message = condition.message.as_deref().unwrap_or_default();
        return stuck(format!("pod {name} cannot be scheduled: {message}"));
    }
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    for container in containers {
        if let Some(reason) = why_container_waits(name, container) {
            return reason;
        }
    }
    waiting(format!("pod {name} is starting"))
}

fn why_container_waits(pod: &str, container: &ContainerStatus) -> Option<NotRunning> {
    let waiting_for = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting_for.reason.as_deref().unwrap_or_default();
    if matches!(reason, "" | "PodInitializing" | "ContainerCreating") {
        return None;
    }
    let message = waiting_for.message.as_deref().unwrap_or_default();
    let name = &container.name;
    Some(stuck(format!("pod {pod}, container {name}: {reason}: {message}")))
}

/// What the container `name` wrote to its termination log when it ended last without success.
pub fn termination_message<'a>(pods: &'a [Pod], name: &str) -> Option<&'a str> {
    pods.iter()
        .filter_map(|p| p.status.as_ref())
        .flat_map(|s| s.init_container_statuses.iter().chain(&s.container_statuses))
        .flatten()
        .filter(|c| c.name == name)
        .find_map(|c| {
            let ended = |s: &'a Option<k8s_openapi::api::core::v1::ContainerState>| s.as_ref()?.terminated.as_ref();
            let terminated = ended(&c.state).or_else(|| ended(&c.last_state))?;
            (terminated.exit_code != 0).then_some(terminated.message.as_deref())?
        })
}

fn waiting(message: String) -> NotRunning {
    NotRunning { message, is_stuck: false }
}

fn stuck(message: String) -> NotRunning {
    NotRunning { message, is_stuck: true }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).unwrap()
    }

    #[test]
    fn the_running_pod_is_found_or_the_reason_is_said() {
        let running = pod(json!({"phase": "Running", "podIP": "10.0.0.7"}));
        let pending = pod(json!({"phase": "Pending"}));
        let no_node = pod(json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"}]}));
        let no_image = pod(json!({"phase": "Pending", "containerStatuses": [{
            "name": "agent", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}]}));
        assert_eq!(running_ip(&[pending.clone(), running]), Ok("10.0.0.7".parse().unwrap()));
        let cases = [
            (vec![], "no pod has been created yet", false),
            (vec![pending], "pod p is starting", false),
            (vec![no_node], "pod p cannot be scheduled: 0/1 nodes are available", true),
            (vec![no_image], "pod p, container agent: ErrImagePull: not found", true),
        ];
        for (pods, message, is_stuck) in cases {
            let expected = NotRunning { message: message.into(), is_stuck };
            assert_eq!(running_ip(&pods), Err(expected));
        }
    }

    #[test]
    fn a_termination_message_is_that_of_a_failure() {
        let ended = |code: i32| {
            pod(json!({"initContainerStatuses": [{
                "name": "restore", "image": "x", "imageID": "", "ready": false, "restartCount": 1,
                "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {"terminated": {"exitCode": code, "message": "{}"}}}]}))
        };
        assert_eq!(termination_message(&[ended(1)], "restore"), Some("{}"));
        assert_eq!(termination_message(&[ended(0)], "restore"), None);
        assert_eq!(termination_message(&[ended(1)], "postgres"), None);
    }
}
