//! What to do about an error of a step, by the kind of the error.

use holdfast_dataplane::instance::InstanceError;
use holdfast_recovery::StepError;
use holdfast_vault::{ReadError, TakeoverError, VaultError};
use serde::Serialize;
use serde_json::Value;

use crate::Error;
use crate::role::RoleError;

/// Turns an error into what the runner does about it.
pub trait IntoStepError {
    /// The same, for the runner.
    fn into_step_error(self) -> StepError;
}

impl IntoStepError for TakeoverError {
    fn into_step_error(self) -> StepError {
        let (message, hint) = (self.to_string(), self.hint());
        match self {
            Self::Lost { .. } => StepError::start_over(message).with_hint(hint),
            Self::BadPromotion { .. } => StepError::person(message, hint),
            Self::NotYet { .. } => StepError::retry(message).with_hint(hint),
            Self::Vault(error) => error.into_step_error(),
        }
    }
}

impl IntoStepError for VaultError {
    fn into_step_error(self) -> StepError {
        let (message, hint) = (self.to_string(), self.hint());
        if self.is_permanent() { StepError::person(message, hint) } else { StepError::retry(message).with_hint(hint) }
    }
}

impl IntoStepError for ReadError {
    fn into_step_error(self) -> StepError {
        let (message, hint) = (self.to_string(), self.hint());
        match self {
            Self::Vault(error) => error.into_step_error(),
            Self::Stopped => StepError::retry(message).with_hint(hint),
            _ => StepError::person(message, hint),
        }
    }
}

impl IntoStepError for InstanceError {
    fn into_step_error(self) -> StepError {
        let hint = match &self {
            Self::Sql(error) => error.problem().hint,
            _ => String::new(),
        };
        StepError::retry(self.to_string()).with_hint(hint)
    }
}

impl IntoStepError for RoleError {
    fn into_step_error(self) -> StepError {
        match self {
            Self::Instance(error) => error.into_step_error(),
            other => StepError::retry(other.to_string()),
        }
    }
}

impl IntoStepError for Error {
    fn into_step_error(self) -> StepError {
        match self {
            Self::Vault(error) => StepError::person(error.to_string(), ""),
            other => StepError::retry(other.to_string()),
        }
    }
}

/// For `map_err`.
pub fn step_error<E: IntoStepError>(error: E) -> StepError {
    error.into_step_error()
}

/// A result for the journal.
///
/// # Errors
/// When it is no JSON, which is a defect.
pub fn to_json<T: Serialize>(value: &T) -> Result<Value, StepError> {
    serde_json::to_value(value).map_err(|e| defect(&e))
}

/// What an earlier step left, or a defect if it is missing.
///
/// # Errors
/// When it is missing or not understood.
pub fn from_json<T: serde::de::DeserializeOwned>(value: &Value) -> Result<T, StepError> {
    serde_json::from_value(value.clone()).map_err(|e| defect(&e))
}

fn defect(error: &serde_json::Error) -> StepError {
    StepError::person(
        format!("an entry of the run's journal is not understood: {error}"),
        "keep the operator's log and the journal; continue by hand as the runbook says",
    )
}
