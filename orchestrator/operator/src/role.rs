//! Asking what the operator started: agents and relays over HTTP, PostgreSQL servers by SQL.

use std::net::IpAddr;

use holdfast_api::condition::reasons;
use holdfast_api::{Problem, StandbyDatabase};
use holdfast_dataplane::instance::{Instance, InstanceError, Target};
use holdfast_dataplane::status::{AgentStatus, ArchiverStatus, RelayStatus};
use kube::ResourceExt;
use serde::de::DeserializeOwned;

use crate::pod::Component;
use crate::vault_access::secret_text;
use crate::{Context, Error};

/// The port of `/healthz`, `/status` and `/metrics` of every role.
pub const HTTP_PORT: u16 = 8080;
/// The port of a relay's replication protocol.
pub const REPLICATION_PORT: u16 = 5433;
/// The port of PostgreSQL.
pub const POSTGRES_PORT: u16 = 5432;

/// Why a role does not answer. Most are a matter of moments.
#[derive(Debug, thiserror::Error)]
pub enum RoleError {
    /// Its pod does not run.
    #[error("{message}")]
    NotRunning {
        /// What the kubelet or the scheduler says.
        message: String,
        /// Whether something is in its way, rather than that it is on its way up.
        is_stuck: bool,
    },
    /// It cannot be reached, or does not make sense.
    #[error("{what} at {address} does not answer: {message}")]
    Unreachable {
        /// Which role of which object.
        what: String,
        /// Where.
        address: String,
        /// What went wrong.
        message: String,
    },
    /// PostgreSQL refuses.
    #[error(transparent)]
    Instance(#[from] InstanceError),
    /// The Secret with the role's password is not usable.
    #[error("Secret {namespace}/{secret} {problem}. Create it with the keys username and password")]
    Credentials {
        /// Where it was looked for.
        namespace: String,
        /// Its name.
        secret: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The API server refused or could not be reached.
    #[error(transparent)]
    Kube(Box<Error>),
}

impl RoleError {
    /// Whether it is something on its way up, which deserves patience and no warning.
    pub fn is_starting(&self) -> bool {
        matches!(self, Self::NotRunning { is_stuck: false, .. })
    }

    /// The same for a status.
    pub fn problem(&self, unreachable: &str) -> Problem {
        let code = match self {
            Self::NotRunning { is_stuck: true, .. } => reasons::POD_NOT_RUNNING,
            Self::NotRunning { .. } => reasons::STARTING,
            Self::Credentials { .. } => reasons::CREDENTIALS_MISSING,
            Self::Kube(_) => reasons::RECONCILE_FAILED,
            Self::Unreachable { .. } => unreachable,
            Self::Instance(_) => reasons::DATABASE_UNREACHABLE,
        };
        let hint = match self {
            Self::Instance(InstanceError::Sql(error)) => Some(error.problem().hint),
            _ => None,
        };
        Problem { code: code.to_owned(), message: self.to_string(), hint }
    }
}

impl Context {
    /// What the agent of the ProtectedDatabase or StandbyDatabase `name` says of itself.
    ///
    /// # Errors
    /// [`RoleError`].
    pub async fn agent_status(&self, namespace: &str, name: &str) -> Result<AgentStatus, RoleError> {
        self.status_of(namespace, name, Component::Agent).await
    }

    /// What the relay of the StandbyDatabase `name` says of itself.
    ///
    /// # Errors
    /// [`RoleError`].
    pub async fn relay_status(&self, namespace: &str, name: &str) -> Result<RelayStatus, RoleError> {
        self.status_of(namespace, name, Component::Relay).await
    }

    /// What the archiver of the StandbyDatabase `name` says of itself.
    ///
    /// # Errors
    /// [`RoleError`].
    pub async fn archiver_status(&self, namespace: &str, name: &str) -> Result<ArchiverStatus, RoleError> {
        self.status_of(namespace, name, Component::Archiver).await
    }

    /// Asks twice: one lost answer is no reason to alarm anybody, and the pod may have a new address.
    async fn status_of<T: DeserializeOwned>(
        &self,
        namespace: &str,
        name: &str,
        component: Component,
    ) -> Result<T, RoleError> {
        match self.ask(namespace, name, component).await {
            Err(RoleError::Unreachable { .. }) => self.ask(namespace, name, component).await,
            answer => answer,
        }
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        namespace: &str,
        name: &str,
        component: Component,
    ) -> Result<T, RoleError> {
        let ip = self.running_ip(namespace, name, component).await?;
        let url = format!("http://{}/status", socket(ip, HTTP_PORT));
        let answer = async {
            let response = self.http.get(&url).send().await?.error_for_status()?;
            response.json::<T>().await
        };
        let answer = answer.await;
        self.databases.asked(component.label(), answer.is_ok());
        answer.map_err(|error| {
            self.forget_pod(namespace, name, component);
            RoleError::Unreachable {
                what: format!("the {} of {namespace}/{name}", component.label()),
                address: socket(ip, HTTP_PORT),
                message: innermost(&error),
            }
        })
    }

    async fn running_ip(&self, namespace: &str, name: &str, component: Component) -> Result<IpAddr, RoleError> {
        self.pod_ip(namespace, name, component)
            .await
            .map_err(|e| RoleError::Kube(Box::new(e)))?
            .map_err(|reason| RoleError::NotRunning { message: reason.message, is_stuck: reason.is_stuck })
    }

    /// A SQL connection to the PostgreSQL server of a StandbyDatabase, before and after its promotion.
    ///
    /// # Errors
    /// [`RoleError`].
    pub async fn connect_standby(&self, standby: &StandbyDatabase) -> Result<Instance, RoleError> {
        let target = self.standby_target(standby).await?;
        Instance::connect(&target).await.map_err(|error| {
            let namespace = standby.namespace().unwrap_or_default();
            self.forget_pod(&namespace, &standby.name_any(), Component::Postgres);
            error.into()
        })
    }

    /// Where the PostgreSQL server of a StandbyDatabase is (its pod), and the role to use on it.
    ///
    /// # Errors
    /// [`RoleError`].
    pub async fn standby_target(&self, standby: &StandbyDatabase) -> Result<Target, RoleError> {
        let namespace = standby.namespace().unwrap_or_default();
        let ip = self.running_ip(&namespace, &standby.name_any(), Component::Postgres).await?;
        let name = &standby.spec.credentials.secret_name;
        let secret = self.secret(&namespace, name).await.map_err(|e| RoleError::Kube(Box::new(e)))?;
        let value = |key: &str| {
            secret_text(secret.as_ref(), key).map_err(|problem| RoleError::Credentials {
                namespace: namespace.clone(),
                secret: name.clone(),
                problem,
            })
        };
        Ok(Target {
            host: ip.to_string(),
            port: POSTGRES_PORT,
            database: "postgres".to_owned(),
            username: value("username")?,
            password: value("password")?,
        })
    }
}

fn socket(ip: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(ip, port).to_string()
}

/// The innermost cause: the outer ones of an HTTP client only repeat the URL.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut current = error;
    while let Some(source) = current.source() {
        current = source;
    }
    current.to_string()
}
