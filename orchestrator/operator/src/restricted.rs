//! Pods that meet the `restricted` Pod Security level, and the check that one does.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, EmptyDirVolumeSource, PodSecurityContext, PodSpec,
    ResourceRequirements, SeccompProfile, SecretVolumeSource, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The user of the holdfast image.
pub const HOLDFAST_UID: i64 = 65532;
/// The user of the PostgreSQL image.
pub const POSTGRES_UID: i64 = 999;

/// The pod-level security context of a pod that runs as `uid`.
pub fn pod_security(uid: i64) -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(uid),
        run_as_group: Some(uid),
        fs_group: Some(uid),
        fs_group_change_policy: Some("OnRootMismatch".to_owned()),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), ..SeccompProfile::default() }),
        ..PodSecurityContext::default()
    }
}

/// The security context of every container.
pub fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), ..Capabilities::default() }),
        ..SecurityContext::default()
    }
}

/// A pod that has no service account token and no environment of other Services.
pub fn pod_spec(uid: i64) -> PodSpec {
    PodSpec {
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        security_context: Some(pod_security(uid)),
        ..PodSpec::default()
    }
}

/// What a container asks for and may use at most. A CPU limit would only slow the vault down.
pub fn resources(cpu: &str, memory: &str, memory_limit: Option<&str>) -> ResourceRequirements {
    let quantity = |text: &str| Quantity(text.to_owned());
    ResourceRequirements {
        requests: Some(BTreeMap::from([("cpu".to_owned(), quantity(cpu)), ("memory".to_owned(), quantity(memory))])),
        limits: memory_limit.map(|m| BTreeMap::from([("memory".to_owned(), quantity(m))])),
        ..ResourceRequirements::default()
    }
}

/// A volume with the content of a Secret, readable by the pod's group alone.
pub fn secret_volume(name: &str, secret: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret.to_owned()),
            default_mode: Some(0o440),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    }
}

/// A volume with the content of a ConfigMap.
pub fn config_volume(name: &str, config_map: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        config_map: Some(ConfigMapVolumeSource { name: config_map.to_owned(), ..ConfigMapVolumeSource::default() }),
        ..Volume::default()
    }
}

/// An empty volume that lives as long as the pod.
pub fn empty_volume(name: &str) -> Volume {
    Volume { name: name.to_owned(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() }
}

/// Where a volume appears in a container.
pub fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: Some(read_only),
        ..VolumeMount::default()
    }
}

/// What the `restricted` Pod Security level has against a pod, and what we ask of our own beyond it.
pub fn violations(spec: &PodSpec) -> Vec<String> {
    let mut found = Vec::new();
    let pod = spec.security_context.clone().unwrap_or_default();
    if pod.run_as_non_root != Some(true) || pod.run_as_user.is_none_or(|uid| uid == 0) {
        found.push("pod: may run as root".to_owned());
    }
    if pod.seccomp_profile.map(|p| p.type_) != Some("RuntimeDefault".to_owned()) {
        found.push("pod: no RuntimeDefault seccomp profile".to_owned());
    }
    for on_host in [spec.host_network, spec.host_pid, spec.host_ipc] {
        if on_host == Some(true) {
            found.push("pod: shares a namespace with the host".to_owned());
        }
    }
    if spec.automount_service_account_token != Some(false) {
        found.push("pod: has a service account token".to_owned());
    }
    for volume in spec.volumes.iter().flatten() {
        let allowed = volume.secret.is_some()
            || volume.config_map.is_some()
            || volume.empty_dir.is_some()
            || volume.persistent_volume_claim.is_some()
            || volume.projected.is_some();
        if !allowed {
            found.push(format!("volume {}: type not allowed", volume.name));
        }
    }
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    found.extend(containers.flat_map(container_violations));
    found
}

fn container_violations(container: &Container) -> Vec<String> {
    let security = container.security_context.clone().unwrap_or_default();
    let capabilities = security.capabilities.unwrap_or_default();
    let checks = [
        (security.allow_privilege_escalation != Some(false), "may escalate its privileges"),
        (security.privileged == Some(true), "is privileged"),
        (security.read_only_root_filesystem != Some(true), "can write to its root file system"),
        (capabilities.drop != Some(vec!["ALL".to_owned()]) || capabilities.add.is_some(), "keeps capabilities"),
        (security.run_as_user == Some(0), "runs as root"),
        (container.ports.iter().flatten().any(|p| p.host_port.is_some()), "takes a port of the host"),
        (container.resources.as_ref().is_none_or(|r| r.requests.is_none()), "asks for no resources"),
    ];
    let name = &container.name;
    checks.into_iter().filter(|(violated, _)| *violated).map(|(_, what)| format!("container {name}: {what}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_pod_has_violations_and_a_restricted_one_has_none() {
        let container = Container { name: "c".to_owned(), ..Container::default() };
        let lax = PodSpec { containers: vec![container.clone()], ..PodSpec::default() };
        assert_eq!(violations(&lax).len(), 7, "{:?}", violations(&lax));
        let strict = PodSpec {
            containers: vec![Container {
                security_context: Some(container_security()),
                resources: Some(resources("10m", "32Mi", None)),
                ..container
            }],
            ..pod_spec(HOLDFAST_UID)
        };
        assert_eq!(violations(&strict), Vec::<String>::new());
    }
}
