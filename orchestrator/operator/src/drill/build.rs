//! What a drill's namespace consists of: pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use holdfast_api::standby_database::{Position, Purpose};
use holdfast_api::{StandbyDatabase, StandbyDatabaseSpec, Vault};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Container, Namespace, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::ResourceExt;
use kube::api::ObjectMeta;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::pod::MANAGED_BY_LABEL;

/// Label of a drill's namespace: the uid of the Drill that made it.
pub const DRILL_LABEL: &str = "holdfast.dev/drill";
/// The operator's service account, in the operator's namespace.
const SERVICE_ACCOUNT: &str = "holdfast-operator";

/// The name of a drill's namespace: the same at every attempt, and no other drill's.
pub fn namespace_name(drill: &str, uid: &str) -> String {
    let short: String = uid.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
    format!("drill-{drill}-{short}").to_lowercase().replace('.', "-")
}

/// A typed object from JSON that is known to be well formed.
fn typed<T: DeserializeOwned>(value: Value) -> Result<T, serde_json::Error> {
    serde_json::from_value(value)
}

/// The namespace, with the `restricted` Pod Security level enforced.
///
/// # Errors
/// Never, unless this code is wrong.
pub fn namespace(name: &str, uid: &str) -> Result<Namespace, serde_json::Error> {
    typed(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": {
        MANAGED_BY_LABEL: "holdfast", DRILL_LABEL: uid,
        "pod-security.kubernetes.io/enforce": "restricted",
    }}}))
}

/// The bindings that let the operator work in the namespace, and in no other one that it did not have.
///
/// # Errors
/// Never, unless this code is wrong.
pub fn role_bindings(name: &str, operator_namespace: &str) -> Result<Vec<RoleBinding>, serde_json::Error> {
    let binding = |binding: &str, role: &str| {
        typed(json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": { "name": binding, "namespace": name, "labels": { MANAGED_BY_LABEL: "holdfast" } },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
            "subjects": [{ "kind": "ServiceAccount", "name": SERVICE_ACCOUNT, "namespace": operator_namespace }],
        }))
    };
    Ok(vec![binding("holdfast-operator", "holdfast-tenant")?, binding("holdfast-drill", "holdfast-drill")?])
}

/// The policy that closes the namespace: nothing out but the namespace itself, DNS and the vault; nothing in but the
/// namespace itself and the operator, who looks after the databases and probes the services.
///
/// # Errors
/// Never, unless this code is wrong.
pub fn network_policy(
    name: &str,
    operator_namespace: &str,
    vault: &[IpAddr],
    vault_port: u16,
) -> Result<NetworkPolicy, serde_json::Error> {
    let blocks: Vec<Value> = vault.iter().map(|ip| json!({ "ipBlock": { "cidr": cidr(*ip) } })).collect();
    let of = |namespace: &str| json!({ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": namespace } } });
    let dns = json!([{ "protocol": "UDP", "port": 53 }, { "protocol": "TCP", "port": 53 }]);
    typed(json!({ "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": "holdfast-drill", "namespace": name, "labels": { MANAGED_BY_LABEL: "holdfast" } },
        "spec": {
            "podSelector": {}, "policyTypes": ["Ingress", "Egress"],
            "ingress": [{ "from": [{ "podSelector": {} }, of(operator_namespace)] }],
            "egress": [
                { "to": [{ "podSelector": {} }] },
                { "to": [of("kube-system")], "ports": dns },
                { "to": blocks, "ports": [{ "protocol": "TCP", "port": vault_port }] },
            ],
        },
    }))
}

fn cidr(ip: IpAddr) -> String {
    let bits = if ip.is_ipv4() { 32 } else { 128 };
    format!("{ip}/{bits}")
}

/// The same Vault, in the drill's namespace. The original goes on proving what is stored, and this one need not.
pub fn vault(namespace: &str, vault: &Vault) -> Vault {
    let mut copy = Vault::new(&vault.name_any(), vault.spec.clone());
    copy.spec.verification.suspend = true;
    copy.metadata.namespace = Some(namespace.to_owned());
    copy
}

/// A copy of the standby that follows to `until` and no further, and writes nothing into the vault.
pub fn standby(namespace: &str, standby: &StandbyDatabase, until: Position) -> StandbyDatabase {
    let spec = StandbyDatabaseSpec { purpose: Purpose::Drill, until: Some(until), ..standby.spec.clone() };
    let mut copy = StandbyDatabase::new(&standby.name_any(), spec);
    copy.metadata.namespace = Some(namespace.to_owned());
    copy
}

/// A copy of a workload with its replicas. It has no service account: nothing of a drill talks to Kubernetes. `gate`
/// is its first init container: it ends when the pod is isolated.
pub fn deployment(namespace: &str, original: &Deployment, replicas: i32, gate: Container) -> Deployment {
    let mut spec = original.spec.clone().unwrap_or_default();
    spec.replicas = Some(replicas);
    if let Some(pod) = spec.template.spec.as_mut() {
        pod.service_account_name = None;
        pod.service_account = None;
        pod.automount_service_account_token = Some(false);
        pod.node_name = None;
        pod.init_containers.get_or_insert_default().insert(0, gate);
    }
    let metadata = copied(namespace, &original.metadata);
    Deployment { metadata, spec: Some(spec), status: None }
}

/// A copy of a Service that is reached from inside the namespace alone.
pub fn service(namespace: &str, original: &Service, selector: &BTreeMap<String, String>) -> Service {
    let mut spec = original.spec.clone().unwrap_or_default();
    let headless = spec.cluster_ip.as_deref() == Some("None");
    let mut ports = spec.ports.take().unwrap_or_default();
    ports.iter_mut().for_each(|p| p.node_port = None);
    let spec = k8s_openapi::api::core::v1::ServiceSpec {
        cluster_ip: headless.then(|| "None".to_owned()),
        ports: Some(ports),
        selector: Some(selector.clone()),
        type_: Some("ClusterIP".to_owned()),
        ..Default::default()
    };
    Service { metadata: copied(namespace, &original.metadata), spec: Some(spec), status: None }
}

fn copied(namespace: &str, original: &ObjectMeta) -> ObjectMeta {
    ObjectMeta {
        name: original.name.clone(),
        namespace: Some(namespace.to_owned()),
        labels: original.labels.clone(),
        ..ObjectMeta::default()
    }
}

/// Whether a Service selects the pods of one of these workloads.
pub fn selects(service: &Service, workloads: &[Deployment]) -> bool {
    let selector = service.spec.as_ref().and_then(|s| s.selector.clone()).unwrap_or_default();
    let labels = |d: &Deployment| {
        let template = d.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
        template.metadata.and_then(|m| m.labels).unwrap_or_default()
    };
    !selector.is_empty()
        && workloads.iter().any(|d| {
            let labels = labels(d);
            selector.iter().all(|(k, v)| labels.get(k) == Some(v))
        })
}

/// Names of the Secrets and ConfigMaps that a workload's pods refer to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// Secrets.
    pub secrets: BTreeSet<String>,
    /// ConfigMaps.
    pub config_maps: BTreeSet<String>,
}

/// What the pods of these workloads refer to.
///
/// # Errors
/// Never, unless this code is wrong.
pub fn references(workloads: &[Deployment]) -> Result<References, serde_json::Error> {
    let mut found = References::default();
    for workload in workloads {
        let pod = workload.spec.as_ref().and_then(|s| s.template.spec.as_ref());
        collect(&serde_json::to_value(pod)?, &mut found);
    }
    Ok(found)
}

/// Every field of a pod that names a Secret or a ConfigMap, wherever it stands.
fn collect(value: &Value, found: &mut References) {
    match value {
        Value::Array(items) => items.iter().for_each(|i| collect(i, found)),
        Value::Object(fields) => {
            for (key, inner) in fields {
                let name = |field: &str| inner.get(field).and_then(Value::as_str).map(str::to_owned);
                match key.as_str() {
                    "secretKeyRef" | "secretRef" => found.secrets.extend(name("name")),
                    "secret" => found.secrets.extend(name("secretName").or_else(|| name("name"))),
                    "configMapKeyRef" | "configMapRef" | "configMap" => found.config_maps.extend(name("name")),
                    "imagePullSecrets" => {
                        let names = inner.as_array().into_iter().flatten();
                        found.secrets.extend(names.filter_map(|s| s.get("name")?.as_str().map(str::to_owned)));
                    }
                    _ => collect(inner, found),
                }
                if key == "secret" || key == "configMap" {
                    collect(inner, found);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment_of(pod: Value) -> Deployment {
        typed(json!({ "metadata": { "name": "lab", "namespace": "hospital", "uid": "u", "resourceVersion": "7" },
            "spec": { "replicas": 0, "selector": { "matchLabels": { "app": "lab" } },
                      "template": { "metadata": { "labels": { "app": "lab", "tier": "x" } }, "spec": pod } } }))
        .unwrap()
    }

    fn pod() -> Value {
        json!({ "serviceAccountName": "lab", "imagePullSecrets": [{ "name": "pull" }],
            "containers": [{ "name": "lab", "env": [
                { "name": "A", "valueFrom": { "secretKeyRef": { "name": "db", "key": "p" } } },
                { "name": "B", "valueFrom": { "configMapKeyRef": { "name": "settings", "key": "p" } } }],
                "envFrom": [{ "secretRef": { "name": "all" } }] }],
            "volumes": [{ "name": "s", "secret": { "secretName": "tls" } },
                { "name": "p", "projected": { "sources": [{ "configMap": { "name": "ca" } }] } }] })
    }

    #[test]
    fn what_pods_refer_to_is_found() {
        let found = references(&[deployment_of(pod())]).unwrap();
        let set = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(found.secrets, set(&["all", "db", "pull", "tls"]));
        assert_eq!(found.config_maps, set(&["ca", "settings"]));
    }

    #[test]
    fn a_copy_has_replicas_and_no_identity() {
        let gate = Container { name: "gate".into(), ..Container::default() };
        let copy = deployment("drill-1", &deployment_of(pod()), 2, gate);
        let spec = copy.spec.clone().unwrap();
        assert_eq!((spec.replicas, copy.metadata.uid, copy.metadata.resource_version), (Some(2), None, None));
        let pod = spec.template.spec.unwrap();
        assert_eq!(pod.init_containers.unwrap()[0].name, "gate");
        assert_eq!((pod.service_account_name, pod.automount_service_account_token), (None, Some(false)));
    }

    #[test]
    fn a_service_of_the_workloads_is_copied_without_a_way_in() {
        let service_of = |selector: Value| -> Service {
            typed(json!({ "metadata": { "name": "lab" }, "spec": { "type": "NodePort", "clusterIP": "10.0.0.9",
                "selector": selector, "ports": [{ "port": 8080, "nodePort": 30083 }] } }))
            .unwrap()
        };
        let workloads = [deployment_of(pod())];
        assert!(selects(&service_of(json!({ "app": "lab" })), &workloads));
        assert!(!selects(&service_of(json!({ "app": "closed" })), &workloads));
        assert!(!selects(&service_of(json!({})), &workloads));
        let selector = BTreeMap::from([("app".to_owned(), "lab".to_owned())]);
        let copy = service("drill-1", &service_of(json!({ "app": "closed" })), &selector).spec.unwrap();
        assert_eq!((copy.type_.as_deref(), copy.cluster_ip), (Some("ClusterIP"), None));
        assert_eq!(copy.ports.unwrap()[0].node_port, None);
        assert_eq!(copy.selector, Some(selector));
    }

    #[test]
    fn the_policy_leaves_the_vault_and_nothing_else_of_the_world() {
        let policy = network_policy("d", "holdfast-system", &["10.77.0.1".parse().unwrap()], 8333).unwrap();
        let spec = policy.spec.unwrap();
        assert_eq!(spec.policy_types, Some(vec!["Ingress".to_owned(), "Egress".to_owned()]));
        let blocks: Vec<String> = spec
            .egress
            .unwrap()
            .iter()
            .flat_map(|rule| rule.to.clone().unwrap_or_default())
            .filter_map(|peer| peer.ip_block.map(|b| b.cidr))
            .collect();
        assert_eq!(blocks, ["10.77.0.1/32"]);
    }

    #[test]
    fn the_name_is_stable_and_short_enough() {
        let name = namespace_name(&"x".repeat(40), "0a1b2c3d-4e5f");
        assert!(name.len() <= 63 && name.ends_with("-0a1b2c3d"), "{name}");
    }
}
