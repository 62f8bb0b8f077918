//! The first step of a drill: a closed namespace with everything in it that the databases and services need.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use holdfast_api::Vault as VaultObject;
use holdfast_recovery::StepError;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, Service};
use kube::api::{ListParams, ObjectMeta, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::build;
use super::executor::DrillExecutor;
use crate::Error;
use crate::apply::Applicable;
use crate::execution::databases::standby;
use crate::execution::remedy::{step_error, to_json};

/// A new binding takes a moment until the API server honours it.
const BINDING_PAUSE: Duration = Duration::from_millis(300);

impl DrillExecutor {
    pub(super) async fn prepare_namespace(&self) -> Result<Value, StepError> {
        self.create_namespace().await?;
        for binding in build::role_bindings(&self.target, &self.ctx.namespace).map_err(defect)? {
            self.ctx.apply(&binding).await.map_err(step_error)?;
        }
        sleep(BINDING_PAUSE).await;
        let vault = self.vault_object()?;
        self.close(&vault).await?;
        let workloads = self.workloads().await?;
        self.copy_secrets_and_settings(&vault, &workloads).await?;
        self.copy_services(&workloads).await?;
        self.ctx.apply(&build::vault(&self.target, &vault)).await.map_err(step_error)?;
        let (tips, refused) = self.tips().await?;
        let mut summary = format!("namespace {} is closed", self.target);
        for (database, why) in &refused {
            let _ = write!(summary, "; {database} is rehearsed up to an object that is not believed: {why}");
        }
        Ok(json!({ "summary": summary, "namespace": self.target, "tips": to_json(&tips)?, "refused": refused }))
    }

    async fn create_namespace(&self) -> Result<(), StepError> {
        let api: Api<Namespace> = Api::all(self.ctx.client.clone());
        let namespace = build::namespace(&self.target, &self.uid).map_err(defect)?;
        match api.create(&PostParams::default(), &namespace).await {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(step_error(Error::kube(format!("create namespace {}", self.target))(error))),
        }
        let found = api.get(&self.target).await.map_err(Error::kube(format!("read namespace {}", self.target)));
        let found = found.map_err(step_error)?;
        let ours = found.labels().get(build::DRILL_LABEL) == Some(&self.uid);
        if ours && found.metadata.deletion_timestamp.is_none() {
            return Ok(());
        }
        let message = format!("namespace {} exists and does not belong to this drill", self.target);
        Err(StepError::person(message, "create another Drill under another name"))
    }

    pub(super) fn vault_object(&self) -> Result<std::sync::Arc<VaultObject>, StepError> {
        let found = self.ctx.vault_object(&self.namespace, &self.vault_name);
        found.map_err(|e| StepError::person(e.to_string(), "apply the Vault"))
    }

    /// Closes the namespace before anything runs in it.
    async fn close(&self, vault: &VaultObject) -> Result<(), StepError> {
        let (addresses, port) = self.vault_addresses(vault).await?;
        let policy = build::network_policy(&self.target, &self.ctx.namespace, &addresses, port).map_err(defect)?;
        self.ctx.apply(&policy).await.map_err(step_error)?;
        Ok(())
    }

    pub(super) async fn vault_addresses(&self, vault: &VaultObject) -> Result<(Vec<IpAddr>, u16), StepError> {
        can_be_isolated(vault)?;
        let (host, port) = endpoint(vault)?;
        let found = tokio::net::lookup_host((host.as_str(), port)).await;
        let found = found.map_err(|e| StepError::retry(format!("the vault's host {host} cannot be resolved: {e}")))?;
        let mut addresses: Vec<IpAddr> = found.map(|a| a.ip()).collect();
        addresses.sort();
        addresses.dedup();
        Ok((addresses, port))
    }

    pub(super) async fn workloads(&self) -> Result<Vec<Deployment>, StepError> {
        let mut found = Vec::new();
        for workload in self.spec.services.iter().flat_map(|s| &s.workloads) {
            let name = &workload.name;
            let deployment = self.read::<Deployment>(name).await?.ok_or_else(|| {
                StepError::person(format!("there is no Deployment {}/{name}", self.namespace), "apply it")
            })?;
            found.push(deployment);
        }
        Ok(found)
    }

    /// An object of production, if it exists.
    pub(super) async fn read<K: Applicable>(&self, name: &str) -> Result<Option<K>, StepError> {
        let found = self.ctx.api::<K>(&self.namespace).get_opt(name).await;
        found.map_err(Error::kube(format!("read {} {}/{name}", K::kind(&()), self.namespace))).map_err(step_error)
    }

    async fn copy_secrets_and_settings(&self, vault: &VaultObject, workloads: &[Deployment]) -> Result<(), StepError> {
        let mut references = build::references(workloads).map_err(defect)?;
        references.secrets.extend(vault.spec.credentials.secret_name.clone());
        references.secrets.extend(vault.spec.encryption.identity.iter().map(|s| s.secret_name.clone()));
        references.secrets.extend(vault.spec.signing.iter().map(|s| s.secret_name.clone()));
        for database in &self.spec.databases {
            let standby = standby(&self.ctx, &self.namespace, &database.standby)?;
            references.secrets.insert(standby.spec.credentials.secret_name.clone());
        }
        // What is missing is missed by the pod that refers to it, in the kubelet's words.
        for name in &references.secrets {
            if let Some(secret) = self.read::<Secret>(name).await? {
                let metadata = self.named(name);
                let copy = Secret { metadata, data: secret.data, type_: secret.type_, ..Secret::default() };
                self.ctx.apply(&copy).await.map_err(step_error)?;
            }
        }
        for name in &references.config_maps {
            if let Some(map) = self.read::<ConfigMap>(name).await? {
                let metadata = self.named(name);
                let copy = ConfigMap { metadata, data: map.data, binary_data: map.binary_data, immutable: None };
                self.ctx.apply(&copy).await.map_err(step_error)?;
            }
        }
        Ok(())
    }

    fn named(&self, name: &str) -> ObjectMeta {
        ObjectMeta { name: Some(name.to_owned()), namespace: Some(self.target.clone()), ..ObjectMeta::default() }
    }

    /// The Services by which the workloads find each other: those that select them, and those that the plan would
    /// switch to them. The databases' own come with the databases.
    async fn copy_services(&self, workloads: &[Deployment]) -> Result<(), StepError> {
        let services = self.ctx.api::<Service>(&self.namespace).list(&ListParams::default()).await;
        let services = services.map_err(Error::kube(format!("list Services in {}", self.namespace)));
        let switched: BTreeMap<&str, _> = self
            .spec
            .services
            .iter()
            .filter_map(|s| s.traffic.as_ref())
            .map(|t| (t.service.as_str(), &t.selector))
            .collect();
        for service in services.map_err(step_error)?.items {
            let own = service.spec.as_ref().and_then(|s| s.selector.clone()).unwrap_or_default();
            let name = service.name_any();
            let selector = match switched.get(name.as_str()) {
                Some(selector) => (*selector).clone(),
                None if build::selects(&service, workloads) => own,
                None => continue,
            };
            let copy = build::service(&self.target, &service, &selector);
            self.ctx.apply(&copy).await.map_err(step_error)?;
        }
        Ok(())
    }

    /// Where each log ends now: the drill rehearses the loss of the site at this moment. A log into which a thief wrote ends
    /// before that object, which is named: all that stands before it is what would be restored.
    async fn tips(&self) -> Result<(BTreeMap<String, Value>, BTreeMap<String, String>), StepError> {
        let (mut tips, mut refused) = (BTreeMap::new(), BTreeMap::new());
        for database in &self.spec.databases {
            let standby = standby(&self.ctx, &self.namespace, &database.standby)?;
            let log = self.vault.database(&standby.spec.source).map_err(step_error)?;
            let (tip, unbelieved) = log.believed_tip().await.map_err(step_error)?;
            tips.insert(database.name.clone(), json!({ "epoch": tip.epoch, "lsn": tip.tip }));
            refused.extend(unbelieved.map(|error| (database.name.clone(), error.to_string())));
        }
        Ok((tips, refused))
    }
}

/// Whether a policy can open the way to this vault and no other. Through a proxy a copy of a service could reach whatever the
/// proxy does, and a role is not for the service accounts of a namespace that is made for one drill.
fn can_be_isolated(vault: &VaultObject) -> Result<(), StepError> {
    let why = match (&vault.spec.proxy, &vault.spec.credentials.web_identity) {
        (Some(proxy), _) => format!("is reached through {}, and so is whatever that leads to", proxy.url),
        (None, Some(_)) => "is reached with a role that only the namespace's own service accounts may take".to_owned(),
        (None, None) => return Ok(()),
    };
    let message = format!("no drill can be isolated: Vault {} {why}", vault.name_any());
    let hint =
        "rehearse with a plan whose Vault names an endpoint that is reached without proxy and a Secret with keys";
    Err(StepError::person(message, hint))
}

/// Host and port of the vault's S3 service.
fn endpoint(vault: &VaultObject) -> Result<(String, u16), StepError> {
    let Some(endpoint) = &vault.spec.endpoint else {
        return Ok((format!("s3.{}.amazonaws.com", vault.spec.region), 443));
    };
    let url = reqwest::Url::parse(endpoint).ok();
    let parts = url.and_then(|u| Some((u.host_str()?.trim_matches(['[', ']']).to_owned(), u.port_or_known_default()?)));
    parts.ok_or_else(|| StepError::person(format!("the vault's endpoint {endpoint} is no URL"), "correct the Vault"))
}

/// An error that only a defect can cause.
fn defect(error: serde_json::Error) -> StepError {
    StepError::person(format!("an object of the drill cannot be built: {error}"), "this is a defect of the operator")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint_of(endpoint: Option<&str>) -> Option<(String, u16)> {
        let spec = json!({
            "endpoint": endpoint, "region": "eu-north-1", "bucket": "holdfast", "credentials": {"secretName": "c"},
            "retentionDays": 1, "encryption": {"recipients": ["age1x"]}});
        let vault = VaultObject::new("vault", serde_json::from_value(spec).unwrap());
        super::endpoint(&vault).ok()
    }

    #[test]
    fn a_vault_behind_a_proxy_or_a_role_is_not_rehearsed_with() {
        for (credentials, proxy, said) in [
            (json!({"secretName": "c"}), json!(null), None),
            (json!({"secretName": "c"}), json!({"url": "http://proxy:3128"}), Some("through http://proxy:3128")),
            (json!({"webIdentity": {"roleArn": "arn:aws:iam::1:role/r"}}), json!(null), Some("with a role")),
        ] {
            let spec = json!({"bucket": "holdfast", "credentials": credentials, "proxy": proxy, "retentionDays": 1,
                "encryption": {"recipients": ["age1x"]}});
            let vault = VaultObject::new("vault", serde_json::from_value(spec).unwrap());
            let refused = can_be_isolated(&vault).err().map(|error| error.message);
            assert_eq!(refused.is_some(), said.is_some(), "{refused:?}");
            assert!(said.is_none_or(|said| refused.unwrap().contains(said)));
        }
    }

    #[test]
    fn the_vaults_host_and_port_are_what_the_policy_opens() {
        let of = |host: &str, port| Some((host.to_owned(), port));
        assert_eq!(endpoint_of(Some("http://s3.cloud:8333")), of("s3.cloud", 8333));
        assert_eq!(endpoint_of(Some("https://s3.example.org/")), of("s3.example.org", 443));
        assert_eq!(endpoint_of(Some("http://[fd00::1]:9000")), of("fd00::1", 9000));
        assert_eq!(endpoint_of(None), of("s3.eu-north-1.amazonaws.com", 443));
    }
}
