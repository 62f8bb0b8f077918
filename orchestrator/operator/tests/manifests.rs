//! What `manifests/` promises: no wildcard in RBAC, a restricted operator, a kustomization that names every CRD.

use std::path::{Path, PathBuf};

use holdfast_operator::restricted::violations;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::rbac::v1::PolicyRule;
use serde::Deserialize;
use serde_json::Value;

fn manifests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../manifests")
}

/// Every document of every YAML file in the folders of the sites.
fn documents() -> Vec<(PathBuf, Value)> {
    let mut found = Vec::new();
    for folder in ["base", "primary", "standby", "tenant"] {
        for entry in std::fs::read_dir(manifests().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            for document in serde_norway::Deserializer::from_str(&text) {
                found.push((path.clone(), Value::deserialize(document).unwrap()));
            }
        }
    }
    found
}

#[test]
fn no_role_has_a_wildcard_or_nothing_to_say() {
    let mut roles = 0;
    for (path, document) in documents() {
        if !matches!(document["kind"].as_str(), Some("Role" | "ClusterRole")) {
            continue;
        }
        roles += 1;
        let rules: Vec<PolicyRule> = serde_json::from_value(document["rules"].clone()).unwrap();
        for rule in rules {
            let words = [rule.api_groups.clone(), rule.resources.clone(), Some(rule.verbs.clone())];
            let wild = words.iter().flatten().flatten().any(|word| word.contains('*'));
            assert!(!wild, "{}: {rule:?}", path.display());
            assert!(rule.resources.is_some_and(|r| !r.is_empty()), "{}", path.display());
        }
    }
    assert!(roles >= 4, "only {roles} roles were found");
}

#[test]
fn secrets_are_read_by_name_and_only_where_a_namespace_binds_it() {
    for (path, document) in documents() {
        let name = document["metadata"]["name"].as_str().unwrap_or_default();
        if document["kind"] != "ClusterRole" || matches!(name, "holdfast-tenant" | "holdfast-drill") {
            continue;
        }
        let text = document["rules"].to_string();
        assert!(!text.contains("\"secrets\""), "{}: {name} reads Secrets of the whole cluster", path.display());
    }
}

#[test]
fn the_operator_is_restricted() {
    let (_, document) = documents().into_iter().find(|(_, d)| d["kind"] == "Deployment").unwrap();
    let deployment: Deployment = serde_json::from_value(document).unwrap();
    let pod = deployment.spec.unwrap().template.spec.unwrap();
    assert_eq!(violations(&pod), ["pod: has a service account token"], "and that one it needs");
    let limits = pod.containers[0].resources.clone().unwrap().limits.unwrap();
    assert_eq!(limits["memory"].0, "128Mi");
}

#[test]
fn every_definition_is_installed() {
    let text = std::fs::read_to_string(manifests().join("crds/kustomization.yaml")).unwrap();
    for crd in holdfast_api::crds() {
        let file = format!("{}.yaml", crd.spec.names.plural);
        assert!(text.contains(&format!("- {file}\n")), "{file} is missing in manifests/crds/kustomization.yaml");
        assert!(manifests().join("crds").join(&file).exists(), "{file}: run holdfast crd --output manifests/crds");
    }
}
