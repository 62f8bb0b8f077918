//! Why a reconcile failed.

use holdfast_api::condition::reasons;

use crate::vault_access::VaultAccessError;

/// What the loop around every reconcile needs to know of an error: the reason of the warning event.
pub trait ReconcileError: std::error::Error + Send + 'static {
    /// A word in PascalCase.
    fn reason(&self) -> &str;
}

/// Why a reconcile failed. All of these are tried again with exponential backoff.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or could not be reached.
    #[error("could not {action}: {}", explain(.source))]
    Kube {
        /// What was tried, e.g. `apply Deployment hospital/lab-agent`.
        action: String,
        /// The client's error.
        source: Box<kube::Error>,
    },
    /// The vault of the object cannot be opened.
    #[error(transparent)]
    Vault(#[from] VaultAccessError),
    /// An object lacks a field that the API server always sets.
    #[error("{object} has no {field}; the API server always sets it, so this is a bug")]
    Incomplete {
        /// Kind, namespace and name.
        object: String,
        /// The field.
        field: &'static str,
    },
    /// A configuration cannot be written as JSON.
    #[error("the configuration of {what} cannot be written as JSON: {source}")]
    Json {
        /// Whose.
        what: String,
        /// The serializer's error.
        source: serde_json::Error,
    },
}

impl Error {
    /// For `map_err`: the API server did not do `action`.
    pub fn kube(action: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let action = action.into();
        move |source| Self::Kube { action, source: Box::new(source) }
    }
}

impl Error {
    /// Whether the API server answered and refuses: a person has to change something.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Kube { source, .. } => {
                matches!(source.as_ref(), kube::Error::Api(status) if matches!(status.code, 400 | 403 | 422))
            }
            _ => false,
        }
    }
}

impl ReconcileError for Error {
    fn reason(&self) -> &str {
        match self {
            Self::Kube { source, .. } if is_forbidden(source) => reasons::FORBIDDEN,
            Self::Kube { .. } => reasons::RECONCILE_FAILED,
            Self::Vault(error) => error.reason(),
            Self::Incomplete { .. } | Self::Json { .. } => "Bug",
        }
    }
}

fn is_forbidden(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403)
}

/// The client's error in a person's words; a refusal says which binding is missing.
fn explain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 403 => format!(
            "{}. Bind the operator in that namespace: kubectl apply -k manifests/tenant --namespace NAMESPACE",
            status.message
        ),
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}
