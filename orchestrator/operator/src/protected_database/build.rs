//! The agent of a ProtectedDatabase. Pure.

use std::path::PathBuf;

use holdfast_api::{Durability, ProtectedDatabase, Vault};
use holdfast_dataplane::config::{self, AgentConfig, ConnectionConfig, ORIGIN_INSTANCE};
use kube::ResourceExt;

use crate::Error;
use crate::apply::owner;
use crate::role::HTTP_PORT;
use crate::roles::{self, DATABASE_DIR, Owned, RoleObjects, mounted_vault};
use crate::vault_access::invalid_endpoint;

/// Annotation by which a person takes the log back from a takeover that was given up.
pub(crate) const RECLAIM_ANNOTATION: &str = "holdfast.dev/reclaim";

/// The objects that protect the database.
pub(crate) fn build(database: &ProtectedDatabase, vault: &Vault, image: &str) -> Result<RoleObjects, Error> {
    let owned = Owned {
        namespace: database.namespace().unwrap_or_default(),
        name: database.name_any(),
        owner: owner(database)?,
    };
    let vault_config = mounted_vault(&vault.spec).map_err(|m| invalid_endpoint(vault, m))?;
    let connection = &database.spec.connection;
    let config = AgentConfig {
        vault: vault_config,
        recipients: vault.spec.encryption.recipients.clone(),
        name: database.vault_name().to_owned(),
        instance_id: ORIGIN_INSTANCE.to_owned(),
        connection: ConnectionConfig {
            host: connection.host.clone(),
            port: connection.port,
            database: connection.database.clone(),
            credentials_dir: PathBuf::from(DATABASE_DIR),
        },
        durability: durability(database.spec.durability),
        base_backup_interval_hours: u64::from(database.spec.base_backup.interval_hours),
        listen: ([0, 0, 0, 0], HTTP_PORT).into(),
        reclaim: database.annotations().get(RECLAIM_ANNOTATION).is_some_and(|v| v == "true"),
    };
    roles::agent(&owned, image, config, &vault.spec, &connection.credentials.secret_name)
}

/// The API's word in the agent's.
pub(crate) fn durability(wanted: Durability) -> config::Durability {
    match wanted {
        Durability::Synchronous => config::Durability::Synchronous,
        Durability::Asynchronous => config::Durability::Asynchronous,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restricted::violations;
    use serde_json::{Value, json};

    fn built(annotations: Value) -> RoleObjects {
        built_for(annotations, json!({}))
    }

    /// With this in the Vault's spec besides.
    fn built_for(annotations: Value, more: Value) -> RoleObjects {
        let database: ProtectedDatabase = serde_json::from_value(json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "ProtectedDatabase",
            "metadata": {"name": "lab", "namespace": "hospital", "uid": "u", "annotations": annotations},
            "spec": {"vault": {"name": "v"}, "name": "lab-main", "durability": "Asynchronous",
                "connection": {"host": "db.example", "port": 6432, "credentials": {"secretName": "lab-db"}}}
        }))
        .unwrap();
        let mut vault = json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "Vault", "metadata": {"name": "v"},
            "spec": {"endpoint": "http://s3:8333", "bucket": "b00", "prefix": "p", "retentionDays": 7,
                "credentials": {"secretName": "keys"}, "encryption": {"recipients": ["age1x"]}}
        });
        vault["spec"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let vault: Vault = serde_json::from_value(vault).unwrap();
        build(&database, &vault, "holdfast:1").unwrap()
    }

    #[test]
    fn the_agent_pod_is_restricted_and_mounts_what_it_needs() {
        let deployment = built(json!({})).deployment.spec.unwrap();
        let pod = deployment.template.spec.unwrap();
        assert_eq!(violations(&pod), Vec::<String>::new());
        let secrets: Vec<_> =
            pod.volumes.iter().flatten().filter_map(|v| v.secret.as_ref()?.secret_name.clone()).collect();
        assert_eq!(secrets, ["keys", "lab-db"], "the agent must have no private key");
        assert_eq!(deployment.strategy.unwrap().type_.as_deref(), Some("Recreate"));
        assert_eq!(deployment.replicas, Some(1));
    }

    #[test]
    fn an_agent_of_a_site_that_signs_has_its_writer_key_and_believes_its_list() {
        let public = holdfast_vault::WriterKey::generate().public().to_string();
        let writers = json!([{"name": "a", "publicKey": public, "notAfter": "2026-11-24T14:02:00Z"}]);
        let objects = built_for(json!({}), json!({"writers": writers, "signing": {"secretName": "sign"}}));
        let pod = objects.deployment.spec.unwrap().template.spec.unwrap();
        let mounts = pod.containers[0].volume_mounts.clone().unwrap();
        assert!(mounts.iter().any(|m| m.name == "writer" && m.mount_path == "/var/run/holdfast/writer"), "{mounts:?}");
        let secrets: Vec<_> = pod.volumes.into_iter().flatten().filter_map(|v| v.secret?.secret_name).collect();
        assert_eq!(secrets, ["keys", "lab-db", "sign"]);
        let config: AgentConfig = serde_json::from_str(&objects.config.data.unwrap()["config.json"]).unwrap();
        assert_eq!(config.vault.writer_key_file, Some(PathBuf::from("/var/run/holdfast/writer/writer")));
        assert_eq!(config.vault.writers.len(), 1);
        assert_eq!(config.vault.writers[0].public_key.to_string(), public);
        assert!(config.vault.writers[0].not_after.is_some());
    }

    #[test]
    fn a_role_takes_the_place_of_keys_and_a_proxy_is_told() {
        let web = json!({"roleArn": "arn:aws:iam::1:role/writer", "serviceAccountName": "vault-writer"});
        let more = json!({"credentials": {"webIdentity": web}, "proxy": {"url": "http://proxy:3128"}});
        let objects = built_for(json!({}), more);
        let pod = objects.deployment.spec.unwrap().template.spec.unwrap();
        assert_eq!(violations(&pod), Vec::<String>::new(), "no token for the API server");
        assert_eq!(pod.service_account_name.as_deref(), Some("vault-writer"));
        let volumes = pod.volumes.unwrap();
        let secrets: Vec<_> = volumes.iter().filter_map(|v| v.secret.as_ref()?.secret_name.clone()).collect();
        assert_eq!(secrets, ["lab-db"]);
        let projected = volumes.into_iter().find_map(|v| v.projected).unwrap();
        let token = projected.sources.unwrap().remove(0).service_account_token.unwrap();
        assert_eq!(token.audience.as_deref(), Some("sts.amazonaws.com"));
        let config: AgentConfig = serde_json::from_str(&objects.config.data.unwrap()["config.json"]).unwrap();
        let holdfast_vault::CredentialsSource::WebIdentity { role_arn, token_file, .. } = config.vault.credentials
        else {
            panic!("{:?}", config.vault.credentials);
        };
        assert_eq!(role_arn, "arn:aws:iam::1:role/writer");
        let mounts = pod.containers[0].volume_mounts.clone().unwrap();
        let mounted = mounts.iter().find(|m| m.name == "vault").unwrap();
        assert_eq!(token_file, PathBuf::from(&mounted.mount_path).join(&token.path));
        assert_eq!(config.vault.proxy.unwrap().url.as_str(), "http://proxy:3128/");
    }

    #[test]
    fn the_configuration_is_what_the_agent_reads() {
        for (annotations, reclaim) in [(json!({}), false), (json!({RECLAIM_ANNOTATION: "true"}), true)] {
            let data = built(annotations).config.data.unwrap();
            let config: AgentConfig = serde_json::from_str(&data["config.json"]).unwrap();
            assert_eq!(config.name, "lab-main");
            assert_eq!(config.instance_id, "origin");
            assert_eq!((config.connection.host.as_str(), config.connection.port), ("db.example", 6432));
            assert_eq!(config.durability, config::Durability::Asynchronous);
            assert_eq!(config.base_backup_interval_hours, 24);
            assert_eq!(config.vault.retention_days, 7);
            assert_eq!(config.reclaim, reclaim);
        }
    }

    #[test]
    fn names_owner_and_selector_agree() {
        let objects = built(json!({}));
        for meta in [&objects.config.metadata, &objects.deployment.metadata, &objects.service.metadata] {
            assert_eq!(meta.name.as_deref(), Some("lab-agent"));
            assert_eq!(meta.namespace.as_deref(), Some("hospital"));
            assert_eq!(meta.owner_references.as_ref().unwrap()[0].name, "lab");
        }
        let deployment = objects.deployment.spec.unwrap();
        let labels = deployment.template.metadata.unwrap().labels.unwrap();
        let selector = objects.service.spec.unwrap().selector.unwrap();
        assert!(selector.iter().all(|(k, v)| labels.get(k) == Some(v)));
        assert_eq!(deployment.selector.match_labels, Some(selector));
    }
}
