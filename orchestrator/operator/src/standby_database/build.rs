//! The parts of a StandbyDatabase. Pure, but for the order in which they are applied.

use std::collections::BTreeMap;
use std::path::PathBuf;

use holdfast_api::standby_database::Purpose;
use holdfast_api::{Durability, StandbyDatabase, Vault};
use holdfast_dataplane::config::{
    AgentConfig, ArchiverConfig, ConnectionConfig, DEFAULT_SOCKET_DIRECTORY, PrimaryAddress, RelayConfig,
    RestoreConfig, Until, slot_name,
};
use holdfast_vault::VaultConfig;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, ExecAction, Lifecycle, LifecycleHandler, PersistentVolumeClaim, PersistentVolumeClaimSpec,
    PersistentVolumeClaimVolumeSource, PodSpec, PodTemplateSpec, Probe, Service, TCPSocketAction, Volume,
    VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::apply::owner;
use crate::pod::Component;
use crate::protected_database::durability;
use crate::restricted::{POSTGRES_UID, container_security, empty_volume, mount, pod_spec, resources};
use crate::role::{HTTP_PORT, POSTGRES_PORT, REPLICATION_PORT};
use crate::roles::{
    self, DATABASE_DIR, IDENTITY_DIR, IDENTITY_FILE, Owned, PASSWORD_FILE, RoleObjects, container_port,
    give_credentials, mounted_vault, role_container, role_volumes,
};
use crate::vault_access::{VaultAccessError, invalid_endpoint};
use crate::{Context, Error};

/// The init container that restores the base backup.
pub(crate) const RESTORE_CONTAINER: &str = "restore";
const DATA_DIR: &str = "/data";
const PGDATA: &str = "/data/pgdata";

/// Everything that is made for a StandbyDatabase, beside its claim.
#[derive(Clone, Debug)]
pub struct StandbyObjects {
    /// Serves the log to the server.
    pub relay: RoleObjects,
    /// Protects the database once it is promoted. None in a drill.
    pub agent: Option<RoleObjects>,
    /// Puts the log together to segments, also after a promotion. None in a drill.
    pub archiver: Option<RoleObjects>,
    /// The configuration of the restore.
    pub restore_config: ConfigMap,
    /// The server.
    pub server: StatefulSet,
    /// The server's address.
    pub service: Service,
}

/// Name of the claim that holds the data of a standby; its uid is the instance id.
pub fn claim_name(standby: &str) -> String {
    format!("data-{standby}-0")
}

/// Applies the claim, then everything else at once (the relay comes up while the restore runs), and returns the
/// instance id. A promoted copy needs its relay no more: it would only read back what its agent writes.
pub(crate) async fn apply(
    standby: &StandbyDatabase,
    vault: &Vault,
    is_promoted: bool,
    ctx: &Context,
) -> Result<String, Error> {
    let instance_id = ensure_claim(standby, ctx).await?;
    let mut objects = objects(standby, vault, &ctx.image, &instance_id)?;
    if is_promoted {
        objects.relay.stop();
    }
    ctx.apply_changed(&objects.restore_config).await?;
    ctx.apply_changed(&objects.service).await?;
    ctx.apply_changed(&objects.server).await?;
    objects.relay.apply(ctx).await?;
    for role in objects.agent.iter().chain(&objects.archiver) {
        role.apply(ctx).await?;
    }
    Ok(instance_id)
}

/// The claim's uid; the claim is created when it is absent and never changed: it may hold a promoted database.
async fn ensure_claim(standby: &StandbyDatabase, ctx: &Context) -> Result<String, Error> {
    let namespace = standby.namespace().unwrap_or_default();
    let name = claim_name(&standby.name_any());
    let existing = ctx
        .api::<PersistentVolumeClaim>(&namespace)
        .get_metadata_opt(&name)
        .await
        .map_err(Error::kube(format!("read PersistentVolumeClaim {namespace}/{name}")))?;
    let uid = match existing {
        Some(claim) => claim.uid(),
        None => ctx.apply(&claim(standby)).await?.uid(),
    };
    uid.ok_or_else(|| Error::Incomplete { object: format!("PersistentVolumeClaim {namespace}/{name}"), field: "uid" })
}

/// The claim. It has no owner: as a StatefulSet's, it outlives what it was made for.
fn claim(standby: &StandbyDatabase) -> PersistentVolumeClaim {
    let name = standby.name_any();
    let size = Quantity(standby.spec.storage.size.clone());
    let labels = BTreeMap::from([
        (crate::pod::MANAGED_BY_LABEL.to_owned(), "holdfast".to_owned()),
        (crate::pod::NAME_LABEL.to_owned(), name.clone()),
    ]);
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(claim_name(&name)),
            namespace: standby.namespace(),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: standby.spec.storage.storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), size)])),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}

/// The objects of a standby whose claim has the uid `instance_id`.
///
/// # Errors
/// When the Vault cannot be read from, or the object was not read from the API server.
pub fn objects(
    standby: &StandbyDatabase,
    vault: &Vault,
    image: &str,
    instance_id: &str,
) -> Result<StandbyObjects, Error> {
    let parts = Parts::new(standby, vault, image, instance_id)?;
    let (restore_config, _) = roles::config_map(
        &parts.owned,
        Component::Postgres,
        &format!("{}-restore", parts.owned.name),
        &parts.restore_config()?,
    )?;
    let ports = [("postgres", POSTGRES_PORT)];
    let name = parts.owned.name.clone();
    Ok(StandbyObjects {
        relay: parts.relay()?,
        agent: match standby.spec.purpose {
            Purpose::Standby => Some(parts.agent()?),
            Purpose::Drill => None,
        },
        archiver: match standby.spec.purpose {
            Purpose::Standby => Some(parts.archiver()?),
            Purpose::Drill => None,
        },
        server: parts.server(&restore_config.name_any()),
        service: roles::service(&parts.owned, Component::Postgres, &name, &ports),
        restore_config,
    })
}

struct Parts<'a> {
    standby: &'a StandbyDatabase,
    vault: &'a Vault,
    vault_config: VaultConfig,
    identity_secret: String,
    image: &'a str,
    instance_id: &'a str,
    owned: Owned,
}

impl<'a> Parts<'a> {
    fn new(
        standby: &'a StandbyDatabase,
        vault: &'a Vault,
        image: &'a str,
        instance_id: &'a str,
    ) -> Result<Self, Error> {
        let identity = vault.spec.encryption.identity.as_ref();
        let missing = || VaultAccessError::no_identity(vault);
        Ok(Self {
            vault_config: mounted_vault(&vault.spec).map_err(|m| invalid_endpoint(vault, m))?,
            identity_secret: identity.ok_or_else(missing)?.secret_name.clone(),
            owned: Owned {
                namespace: standby.namespace().unwrap_or_default(),
                name: standby.name_any(),
                owner: owner(standby)?,
            },
            standby,
            vault,
            image,
            instance_id,
        })
    }

    fn until(&self) -> Result<Option<Until>, Error> {
        let Some(position) = &self.standby.spec.until else { return Ok(None) };
        let problem = |_| invalid_endpoint(self.vault, format!("until.lsn {} is no WAL position", position.lsn));
        let lsn = position.lsn.parse().map_err(problem)?;
        Ok(Some(Until { epoch: u64::try_from(position.epoch).unwrap_or_default(), lsn }))
    }

    fn relay(&self) -> Result<RoleObjects, Error> {
        let until = self.until()?;
        let config = RelayConfig {
            vault: self.vault_config.clone(),
            identity_file: PathBuf::from(IDENTITY_FILE),
            name: self.standby.spec.source.clone(),
            listen: ([0, 0, 0, 0], HTTP_PORT).into(),
            serve: ([0, 0, 0, 0], REPLICATION_PORT).into(),
            password_file: Some(PathBuf::from(PASSWORD_FILE)),
            until,
        };
        let vault = &self.vault.spec;
        let database = &self.standby.spec.credentials.secret_name;
        let identity = &self.identity_secret;
        roles::relay(&self.owned, self.image, &config, vault, identity, database)
    }

    fn agent(&self) -> Result<RoleObjects, Error> {
        let config = AgentConfig {
            vault: self.vault_config.clone(),
            recipients: self.vault.spec.encryption.recipients.clone(),
            name: self.standby.spec.source.clone(),
            instance_id: self.instance_id.to_owned(),
            connection: ConnectionConfig {
                host: self.owned.name.clone(),
                port: POSTGRES_PORT,
                database: "postgres".to_owned(),
                credentials_dir: PathBuf::from(DATABASE_DIR),
            },
            durability: durability(self.standby.spec.durability),
            base_backup_interval_hours: 24,
            listen: ([0, 0, 0, 0], HTTP_PORT).into(),
            reclaim: false,
        };
        let database = &self.standby.spec.credentials.secret_name;
        roles::agent(&self.owned, self.image, config, &self.vault.spec, database)
    }

    fn archiver(&self) -> Result<RoleObjects, Error> {
        let config = ArchiverConfig {
            vault: self.vault_config.clone(),
            identity_file: PathBuf::from(IDENTITY_FILE),
            recipients: self.vault.spec.encryption.recipients.clone(),
            name: self.standby.spec.source.clone(),
            listen: ([0, 0, 0, 0], HTTP_PORT).into(),
            index_segments: 64,
            rolling: true,
        };
        roles::archiver(&self.owned, self.image, config, &self.vault.spec, &self.identity_secret)
    }

    fn restore_config(&self) -> Result<RestoreConfig, Error> {
        let spec = &self.standby.spec;
        let waits = spec.durability == Durability::Synchronous && spec.purpose == Purpose::Standby;
        Ok(RestoreConfig {
            vault: self.vault_config.clone(),
            identity_file: PathBuf::from(IDENTITY_FILE),
            name: spec.source.clone(),
            target: PathBuf::from(DATA_DIR),
            backup: None,
            until: self.until()?.map(|until| until.lsn),
            primary: PrimaryAddress {
                host: self.owned.part_name(Component::Relay),
                port: REPLICATION_PORT,
                password_file: Some(PathBuf::from(PASSWORD_FILE)),
            },
            instance_id: self.instance_id.to_owned(),
            synchronous_standby: waits.then(|| slot_name(&spec.source)),
            socket_directory: PathBuf::from(DEFAULT_SOCKET_DIRECTORY),
        })
    }

    /// The server. Its template does not depend on the restore's configuration: a change of that must not
    /// restart a database.
    fn server(&self, restore_config: &str) -> StatefulSet {
        let selector =
            LabelSelector { match_labels: Some(self.owned.selector(Component::Postgres)), ..LabelSelector::default() };
        let template = PodTemplateSpec {
            metadata: Some(ObjectMeta {
                labels: Some(self.owned.labels(Component::Postgres)),
                ..ObjectMeta::default()
            }),
            spec: Some(self.server_pod(restore_config)),
        };
        StatefulSet {
            metadata: self.owned.meta(self.owned.name.clone(), Component::Postgres),
            spec: Some(StatefulSetSpec {
                replicas: Some(1),
                service_name: Some(self.owned.name.clone()),
                selector,
                template,
                revision_history_limit: Some(1),
                ..StatefulSetSpec::default()
            }),
            ..StatefulSet::default()
        }
    }

    fn server_pod(&self, restore_config: &str) -> PodSpec {
        let secrets = [
            ("identity", self.identity_secret.as_str(), IDENTITY_DIR),
            ("database", self.standby.spec.credentials.secret_name.as_str(), DATABASE_DIR),
        ];
        let (mut volumes, mut mounts) = role_volumes(restore_config, &secrets);
        volumes.push(data_volume(&self.owned.name));
        volumes.push(empty_volume("run"));
        volumes.push(empty_volume("tmp"));
        mounts.push(mount("data", DATA_DIR, false));
        mounts.push(mount("tmp", "/tmp", false));
        let mut restore = role_container(RESTORE_CONTAINER, self.image);
        restore.volume_mounts = Some(mounts);
        let mut pod = PodSpec {
            init_containers: Some(vec![restore]),
            containers: vec![postgres(&self.standby.spec.image)],
            volumes: Some(volumes),
            termination_grace_period_seconds: Some(60),
            ..pod_spec(POSTGRES_UID)
        };
        give_credentials(&mut pod, &self.vault.spec);
        pod
    }
}

fn data_volume(standby: &str) -> Volume {
    Volume {
        name: "data".to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim_name(standby),
            read_only: None,
        }),
        ..Volume::default()
    }
}

fn postgres(image: &str) -> Container {
    let words = |words: &[&str]| Some(words.iter().map(|w| (*w).to_owned()).collect());
    Container {
        name: "postgres".to_owned(),
        image: Some(image.to_owned()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: words(&["postgres", "-D", PGDATA]),
        ports: Some(vec![container_port("postgres", POSTGRES_PORT)]),
        volume_mounts: Some(vec![
            mount("data", DATA_DIR, false),
            mount("run", DEFAULT_SOCKET_DIRECTORY, false),
            mount("tmp", "/tmp", false),
        ]),
        readiness_probe: Some(Probe {
            tcp_socket: Some(TCPSocketAction {
                port: IntOrString::String("postgres".to_owned()),
                ..TCPSocketAction::default()
            }),
            period_seconds: Some(2),
            timeout_seconds: Some(2),
            ..Probe::default()
        }),
        // SIGTERM would wait for every client; SIGINT ends them and checkpoints.
        lifecycle: Some(Lifecycle {
            pre_stop: Some(LifecycleHandler {
                exec: Some(ExecAction { command: words(&["sh", "-c", "kill -INT 1"]) }),
                ..LifecycleHandler::default()
            }),
            ..Lifecycle::default()
        }),
        security_context: Some(container_security()),
        resources: Some(resources("50m", "128Mi", None)),
        ..Container::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restricted::violations;
    use crate::standby_database::status::tests::{standby, vault};

    fn built(change: impl FnOnce(&mut StandbyDatabase)) -> StandbyObjects {
        let mut standby = standby();
        change(&mut standby);
        objects(&standby, &vault(), "holdfast:1", "claim-uid").unwrap()
    }

    fn config<T: serde::de::DeserializeOwned>(map: &ConfigMap) -> T {
        serde_json::from_str(&map.data.as_ref().unwrap()["config.json"]).unwrap()
    }

    fn server_pod(objects: &StandbyObjects) -> PodSpec {
        let spec = objects.server.spec.clone().unwrap();
        spec.template.spec.unwrap()
    }

    #[test]
    fn every_pod_is_restricted() {
        let built = built(|_| {});
        let template = |o: &RoleObjects| o.deployment.spec.clone().unwrap().template.spec.unwrap();
        let agent = template(built.agent.as_ref().unwrap());
        let archiver = template(built.archiver.as_ref().unwrap());
        for pod in [template(&built.relay), agent, archiver, server_pod(&built)] {
            assert_eq!(violations(&pod), Vec::<String>::new());
        }
    }

    #[test]
    fn the_parts_find_each_other() {
        let built = built(|_| {});
        let restore: RestoreConfig = config(&built.restore_config);
        assert_eq!(restore.primary.host, built.relay.service.name_any());
        assert_eq!(restore.instance_id, "claim-uid");
        let agent: AgentConfig = config(&built.agent.as_ref().unwrap().config);
        assert_eq!(agent.connection.host, built.service.name_any());
        assert_eq!(agent.instance_id, "claim-uid");
        let volumes = server_pod(&built).volumes.unwrap();
        let data = volumes.iter().find(|v| v.name == "data").unwrap();
        let claim = data.persistent_volume_claim.as_ref().unwrap();
        assert_eq!(claim.claim_name, "data-lab-0");
    }

    #[test]
    fn a_promoted_server_waits_for_its_agent_from_the_first_client() {
        let cases = [
            (Durability::Synchronous, Purpose::Standby, Some("holdfast_lab_main")),
            (Durability::Asynchronous, Purpose::Standby, None),
            (Durability::Synchronous, Purpose::Drill, None),
        ];
        for (durability, purpose, expected) in cases {
            let built = built(|s| {
                s.spec.durability = durability;
                s.spec.purpose = purpose;
            });
            let restore: RestoreConfig = config(&built.restore_config);
            assert_eq!(restore.synchronous_standby.as_deref(), expected);
            assert_eq!(built.agent.is_none(), purpose == Purpose::Drill);
        }
    }

    #[test]
    fn the_claim_outlives_the_object_and_all_else_is_deleted_with_it() {
        let built = built(|_| {});
        assert_eq!(claim(&standby()).metadata.owner_references, None);
        for meta in [
            &built.restore_config.metadata,
            &built.server.metadata,
            &built.service.metadata,
            &built.relay.deployment.metadata,
        ] {
            assert_eq!(meta.owner_references.as_ref().unwrap().len(), 1, "{:?}", meta.name);
        }
    }

    #[test]
    fn an_archiver_reads_what_the_agent_wrote_and_a_drill_has_none() {
        let built = |purpose| built(|s| s.spec.purpose = purpose);
        let archiver: ArchiverConfig = config(&built(Purpose::Standby).archiver.unwrap().config);
        let agent: AgentConfig = config(&built(Purpose::Standby).agent.unwrap().config);
        assert_eq!((archiver.name, archiver.recipients), (agent.name, agent.recipients));
        assert_eq!(archiver.identity_file, PathBuf::from(IDENTITY_FILE));
        assert!(built(Purpose::Drill).archiver.is_none());
    }

    #[test]
    fn a_recovery_point_reaches_the_relay() {
        let built = built(|s| {
            s.spec.until = Some(holdfast_api::standby_database::Position { epoch: 2, lsn: "16/B374D848".into() });
        });
        let relay: RelayConfig = config(&built.relay.config);
        let until = relay.until.unwrap();
        assert_eq!((until.epoch, until.lsn.to_string()), (2, "16/B374D848".to_owned()));
        // A backup that ends later would never be consistent with it.
        let restore: RestoreConfig = config(&built.restore_config);
        assert_eq!(restore.until, Some(until.lsn));
    }
}
