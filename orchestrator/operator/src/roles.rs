//! The objects that run a role of the holdfast binary: its configuration, its Deployment, its Service. Pure.

use std::collections::BTreeMap;
use std::path::PathBuf;

use holdfast_api::VaultSpec;
use holdfast_dataplane::config::{AgentConfig, ArchiverConfig, RelayConfig};
use holdfast_vault::{CredentialsSource, VaultConfig};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy};
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, ContainerPort, EnvVar, HTTPGetAction, PodSpec, PodTemplateSpec, Probe, ProjectedVolumeSource,
    Service, ServiceAccountTokenProjection, ServicePort, ServiceSpec, Volume, VolumeMount, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::Error;
use crate::pod::{COMPONENT_LABEL, Component, MANAGED_BY_LABEL, NAME_LABEL};
use crate::restricted::{HOLDFAST_UID, config_volume, container_security, mount, pod_spec, resources, secret_volume};
use crate::role::{HTTP_PORT, REPLICATION_PORT};
use crate::vault_access::vault_config;

/// Where the credentials of the vault are mounted.
pub const VAULT_DIR: &str = "/var/run/holdfast/vault";
/// Where the credentials of the database are mounted.
pub const DATABASE_DIR: &str = "/var/run/holdfast/database";
/// The password in it: also the one that a relay asks of its standby.
pub const PASSWORD_FILE: &str = "/var/run/holdfast/database/password";
/// Where the private keys are mounted.
pub const IDENTITY_DIR: &str = "/var/run/holdfast/identity";
/// The file of the private keys.
pub const IDENTITY_FILE: &str = "/var/run/holdfast/identity/identity";
/// Where the site's writer key is mounted.
const WRITER_DIR: &str = "/var/run/holdfast/writer";
/// Its file.
const WRITER_FILE: &str = "/var/run/holdfast/writer/writer";
const CONFIG_DIR: &str = "/etc/holdfast";
const CONFIG_KEY: &str = "config.json";
/// A pod with another configuration is another pod.
const CONFIG_ANNOTATION: &str = "holdfast.dev/config-sha256";
const BINARY: &str = "/usr/local/bin/holdfast";

/// Where the token is mounted that the role of a vault is taken with.
const TOKEN_DIR: &str = "/var/run/holdfast/token";
/// Its file.
pub const TOKEN_FILE: &str = "/var/run/holdfast/token/token";
/// Whom the token is for.
const TOKEN_AUDIENCE: &str = "sts.amazonaws.com";
/// For how long a token is valid. The kubelet renews it before.
const TOKEN_SECONDS: i64 = 3600;

/// The credentials of a vault, as every role finds them.
///
/// # Errors
/// When the endpoint of the STS is not a URL.
pub fn mounted_credentials(vault: &VaultSpec) -> Result<CredentialsSource, String> {
    let files = CredentialsSource::Directory(PathBuf::from(VAULT_DIR));
    Ok(crate::vault_access::web_identity(vault)?.unwrap_or(files))
}

/// What every role needs to reach the vault, as `vault_config` says it.
///
/// # Errors
/// When the endpoint, the proxy or the endpoint of the STS is not a URL, or a writer's key is none.
pub fn mounted_vault(vault: &VaultSpec) -> Result<VaultConfig, String> {
    vault_config(vault, mounted_credentials(vault)?)
}

/// Gives a pod the credentials of a vault: the Secret's files or a token, in each of these containers.
pub fn give_credentials(pod: &mut PodSpec, vault: &VaultSpec) {
    let (volume, path) = match (&vault.credentials.secret_name, &vault.credentials.web_identity) {
        (_, Some(web)) => {
            pod.service_account_name = Some(web.service_account_name.clone());
            (token_volume(), TOKEN_DIR)
        }
        (Some(secret), None) => (secret_volume("vault", secret), VAULT_DIR),
        // The schema forbids it, and whoever opens the Vault says so.
        (None, None) => return,
    };
    // Where the Secret always was: another order would be another pod, and a database would restart for it.
    pod.volumes.get_or_insert_default().insert(1, volume);
    // PostgreSQL's own container reads no vault.
    let readers = match &mut pod.init_containers {
        Some(readers) => readers,
        None => &mut pod.containers,
    };
    for reader in readers {
        reader.volume_mounts.get_or_insert_default().insert(1, mount("vault", path, true));
    }
}

fn token_volume() -> Volume {
    let token = ServiceAccountTokenProjection {
        audience: Some(TOKEN_AUDIENCE.to_owned()),
        expiration_seconds: Some(TOKEN_SECONDS),
        path: "token".to_owned(),
    };
    let sources = vec![VolumeProjection { service_account_token: Some(token), ..VolumeProjection::default() }];
    let projected = ProjectedVolumeSource { default_mode: Some(0o440), sources: Some(sources) };
    Volume { name: "vault".to_owned(), projected: Some(projected), ..Volume::default() }
}

/// Whose objects these are.
#[derive(Clone, Debug)]
pub struct Owned {
    /// Namespace of the object that they are made for.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// With it they are deleted.
    pub owner: OwnerReference,
}

impl Owned {
    /// Labels of a part.
    pub fn labels(&self, component: Component) -> BTreeMap<String, String> {
        let mut labels = self.selector(component);
        labels.insert(MANAGED_BY_LABEL.to_owned(), "holdfast".to_owned());
        labels.insert("app.kubernetes.io/part-of".to_owned(), "holdfast".to_owned());
        labels
    }

    /// The labels by which the pods of a part are found.
    pub fn selector(&self, component: Component) -> BTreeMap<String, String> {
        BTreeMap::from([
            (COMPONENT_LABEL.to_owned(), component.label().to_owned()),
            (NAME_LABEL.to_owned(), self.name.clone()),
        ])
    }

    /// Metadata of an object of a part, deleted with its owner.
    pub fn meta(&self, name: String, component: Component) -> ObjectMeta {
        ObjectMeta {
            name: Some(name),
            namespace: Some(self.namespace.clone()),
            labels: Some(self.labels(component)),
            owner_references: Some(vec![self.owner.clone()]),
            ..ObjectMeta::default()
        }
    }

    /// `<name>-<part>`.
    pub fn part_name(&self, component: Component) -> String {
        format!("{}-{}", self.name, component.label())
    }
}

/// The objects of one role.
#[derive(Clone, Debug)]
pub struct RoleObjects {
    /// Its configuration.
    pub config: ConfigMap,
    /// Its one pod.
    pub deployment: Deployment,
    /// Its HTTP, and what else it serves.
    pub service: Service,
}

impl RoleObjects {
    /// No pod any more.
    pub fn stop(&mut self) {
        if let Some(spec) = &mut self.deployment.spec {
            spec.replicas = Some(0);
        }
    }

    /// Applies them, the configuration first.
    ///
    /// # Errors
    /// [`Error::Kube`].
    pub async fn apply(&self, ctx: &crate::Context) -> Result<(), Error> {
        ctx.apply_changed(&self.config).await?;
        ctx.apply_changed(&self.deployment).await?;
        ctx.apply_changed(&self.service).await
    }
}

/// The objects of an agent, which writes to this vault.
///
/// # Errors
/// When the configuration cannot be written as JSON.
pub fn agent(
    owned: &Owned,
    image: &str,
    config: AgentConfig,
    vault: &VaultSpec,
    database_secret: &str,
) -> Result<RoleObjects, Error> {
    let config = AgentConfig { vault: writing(config.vault, vault), ..config };
    let mut secrets = vec![("database", database_secret, DATABASE_DIR)];
    secrets.extend(writer_secret(vault));
    role(owned, Component::Agent, image, &config, vault, &secrets, &[])
}

/// The configuration of what writes to the vault: it signs with the site's writer key, if the site has one.
pub fn writing(config: VaultConfig, vault: &VaultSpec) -> VaultConfig {
    VaultConfig { writer_key_file: vault.signing.as_ref().map(|_| PathBuf::from(WRITER_FILE)), ..config }
}

/// The Secret of the site's writer key, for what writes: volume, Secret, path.
pub fn writer_secret(vault: &VaultSpec) -> Option<(&'static str, &str, &'static str)> {
    vault.signing.as_ref().map(|reference| ("writer", reference.secret_name.as_str(), WRITER_DIR))
}

/// The objects of a relay.
///
/// # Errors
/// When the configuration cannot be written as JSON.
pub fn relay(
    owned: &Owned,
    image: &str,
    config: &RelayConfig,
    vault: &VaultSpec,
    identity_secret: &str,
    database_secret: &str,
) -> Result<RoleObjects, Error> {
    let secrets = [("identity", identity_secret, IDENTITY_DIR), ("database", database_secret, DATABASE_DIR)];
    let ports = [("replication", REPLICATION_PORT)];
    role(owned, Component::Relay, image, config, vault, &secrets, &ports)
}

/// The objects of an archiver, which reads the log and writes segments and indexes to this vault.
///
/// # Errors
/// When the configuration cannot be written as JSON.
pub fn archiver(
    owned: &Owned,
    image: &str,
    config: ArchiverConfig,
    vault: &VaultSpec,
    identity_secret: &str,
) -> Result<RoleObjects, Error> {
    let config = ArchiverConfig { vault: writing(config.vault, vault), ..config };
    let mut secrets = vec![("identity", identity_secret, IDENTITY_DIR)];
    secrets.extend(writer_secret(vault));
    role(owned, Component::Archiver, image, &config, vault, &secrets, &[])
}

fn role(
    owned: &Owned,
    component: Component,
    image: &str,
    config: &impl Serialize,
    vault: &VaultSpec,
    secrets: &[(&str, &str, &str)],
    more_ports: &[(&str, u16)],
) -> Result<RoleObjects, Error> {
    let name = owned.part_name(component);
    let ports: Vec<(&str, u16)> = [("http", HTTP_PORT)].into_iter().chain(more_ports.iter().copied()).collect();
    let (config, digest) = config_map(owned, component, &name, config)?;
    let mut container = role_container(component.label(), image);
    container.ports = Some(ports.iter().map(|(n, p)| container_port(n, *p)).collect());
    container.liveness_probe = Some(http_probe(10));
    container.readiness_probe = Some(http_probe(3));
    let mut spec = role_pod(container, &name, secrets);
    give_credentials(&mut spec, vault);
    Ok(RoleObjects {
        config,
        deployment: deployment(owned, component, &name, spec, digest),
        service: service(owned, component, &name, &ports),
    })
}

/// The ConfigMap of a role, and the digest of the configuration.
///
/// # Errors
/// When the configuration cannot be written as JSON.
pub fn config_map(
    owned: &Owned,
    component: Component,
    name: &str,
    config: &impl Serialize,
) -> Result<(ConfigMap, String), Error> {
    let text = serde_json::to_string_pretty(config).map_err(|source| Error::Json { what: name.to_owned(), source })?;
    let digest = Sha256::digest(text.as_bytes());
    let digest = digest.iter().map(|b| format!("{b:02x}")).collect();
    let map = ConfigMap {
        metadata: owned.meta(name.to_owned(), component),
        data: Some(BTreeMap::from([(CONFIG_KEY.to_owned(), text)])),
        ..ConfigMap::default()
    };
    Ok((map, digest))
}

/// A container that runs the role `role` with the mounted configuration.
pub fn role_container(role: &str, image: &str) -> Container {
    Container {
        name: role.to_owned(),
        image: Some(image.to_owned()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(vec![BINARY.to_owned()]),
        args: Some(vec![role.to_owned(), "--config".to_owned(), format!("{CONFIG_DIR}/{CONFIG_KEY}")]),
        security_context: Some(container_security()),
        resources: Some(resources("10m", "32Mi", Some("128Mi"))),
        env: Some(vec![
            // One allocator arena: a role works on two or three threads, and each arena keeps memory of its own.
            variable("MALLOC_ARENA_MAX", "1"),
            // Chunks and segments are given back to the system at once. Without it the first one that is freed makes the
            // allocator keep all that are no bigger, with holes between them: an archiver takes a quarter more.
            variable("MALLOC_MMAP_THRESHOLD_", "524288"),
        ]),
        ..Container::default()
    }
}

fn variable(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.to_owned()), ..EnvVar::default() }
}

/// The volumes of a role and where they appear: its configuration and these Secrets (volume, Secret, path).
pub fn role_volumes(config_map: &str, secrets: &[(&str, &str, &str)]) -> (Vec<Volume>, Vec<VolumeMount>) {
    let mut volumes = vec![config_volume("config", config_map)];
    let mut mounts = vec![mount("config", CONFIG_DIR, true)];
    for (volume, secret, path) in secrets {
        volumes.push(secret_volume(volume, secret));
        mounts.push(mount(volume, path, true));
    }
    (volumes, mounts)
}

fn role_pod(mut container: Container, config_map: &str, secrets: &[(&str, &str, &str)]) -> PodSpec {
    let (volumes, mounts) = role_volumes(config_map, secrets);
    container.volume_mounts = Some(mounts);
    PodSpec {
        containers: vec![container],
        volumes: Some(volumes),
        termination_grace_period_seconds: Some(10),
        ..pod_spec(HOLDFAST_UID)
    }
}

fn deployment(owned: &Owned, component: Component, name: &str, spec: PodSpec, digest: String) -> Deployment {
    let template = PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(owned.labels(component)),
            annotations: Some(BTreeMap::from([(CONFIG_ANNOTATION.to_owned(), digest)])),
            ..ObjectMeta::default()
        }),
        spec: Some(spec),
    };
    Deployment {
        metadata: owned.meta(name.to_owned(), component),
        spec: Some(DeploymentSpec {
            replicas: Some(1),
            // Never two at once: a second one would wait for the first, or fence it.
            strategy: Some(DeploymentStrategy { type_: Some("Recreate".to_owned()), ..DeploymentStrategy::default() }),
            selector: LabelSelector { match_labels: Some(owned.selector(component)), ..LabelSelector::default() },
            revision_history_limit: Some(1),
            template,
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

/// A Service for these ports of a part. It lists pods as soon as they have an address, because each of its
/// clients knows how to wait.
pub fn service(owned: &Owned, component: Component, name: &str, ports: &[(&str, u16)]) -> Service {
    let port = |(name, number): &(&str, u16)| ServicePort {
        name: Some((*name).to_owned()),
        port: i32::from(*number),
        target_port: Some(IntOrString::String((*name).to_owned())),
        protocol: Some("TCP".to_owned()),
        ..ServicePort::default()
    };
    Service {
        metadata: owned.meta(name.to_owned(), component),
        spec: Some(ServiceSpec {
            selector: Some(owned.selector(component)),
            ports: Some(ports.iter().map(port).collect()),
            publish_not_ready_addresses: Some(component != Component::Postgres),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// A port that a container serves.
pub fn container_port(name: &str, number: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(number),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

fn http_probe(period_seconds: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some("/healthz".to_owned()),
            port: IntOrString::String("http".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(5),
        failure_threshold: Some(6),
        ..Probe::default()
    }
}
