//! The S3 client: credentials, time-outs, the store's clock, and what its errors mean.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_credential_types::provider::error::CredentialsError;
use aws_runtime::auth::PayloadSigningOverride;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::interceptors::{
    BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextMut,
};
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, ConfigBag, Intercept, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    RuntimeComponents, StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use jiff::Timestamp;

use super::credentials;
use super::tls::Connections;
use super::{StoreError, StoreErrorKind};
use crate::config::VaultConfig;
use crate::error::VaultError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Until the first byte of the answer, and between its pieces.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// One request with its answer: 16 MiB at 5 Mbit/s.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);

/// A client for the vault's endpoint. Each request is sent once: the vault must know what is unknown.
pub(super) fn new(config: &VaultConfig, clock: Arc<StoreClock>) -> Result<Client, VaultError> {
    let connections = Connections::new(config.ca_bundle.as_deref(), config.proxy.as_ref())?;
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
        .build();
    let mut builder = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new(config.region.clone()))
        .force_path_style(true)
        .http_client(connections.client())
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .interceptor(DateReader(clock))
        .credentials_provider(credentials::provider(config, &connections)?);
    if let Some(endpoint) = &config.endpoint {
        builder = builder.endpoint_url(endpoint.as_str().trim_end_matches('/'));
    }
    Ok(Client::from_conf(builder.build()))
}

/// The store's time, from the Date of its last answer. The local clock is not asked, only how much time passed.
#[derive(Debug, Default)]
pub(super) struct StoreClock(Mutex<Option<(Timestamp, Instant)>>);

impl StoreClock {
    pub(super) fn now(&self) -> Option<Timestamp> {
        let (date, at) = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        date.checked_add(at.elapsed()).ok()
    }

    /// The `Date` of the last answer itself.
    pub(super) fn date(&self) -> Option<Timestamp> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).map(|(date, _)| date)
    }

    fn set(&self, date: Timestamp) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((date, Instant::now()));
    }
}

/// Reads the `Date` of each answer into a clock.
#[derive(Debug)]
pub(super) struct DateReader(pub(super) Arc<StoreClock>);

impl Intercept for DateReader {
    fn name(&self) -> &'static str {
        "holdfast-store-clock"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), aws_sdk_s3::error::BoxError> {
        if let Some(date) = context.response().headers().get("date").and_then(parse_date) {
            self.0.set(date);
        }
        Ok(())
    }
}

/// The SHA-256 of what a request carries, in hexadecimal: it is sent as a checksum and signed, and computed once for both.
#[derive(Debug)]
pub(super) struct SignedDigest(pub(super) String);

impl Intercept for SignedDigest {
    fn name(&self) -> &'static str {
        "holdfast-signed-digest"
    }

    fn modify_before_signing(
        &self,
        _: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), aws_sdk_s3::error::BoxError> {
        config.interceptor_state().store_put(PayloadSigningOverride::Precomputed(self.0.clone()));
        Ok(())
    }
}

pub(super) fn parse_date(text: &str) -> Option<Timestamp> {
    let format = aws_smithy_types::date_time::Format::HttpDate;
    let date = aws_smithy_types::DateTime::from_str(text, format).ok()?;
    Timestamp::from_second(date.secs()).ok()
}

/// What an error of the client means for the vault.
pub(super) fn store_error<E>(operation: &'static str, target: &str, error: SdkError<E, HttpResponse>) -> StoreError
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let (kind, detail) = match &error {
        SdkError::ServiceError(service) => {
            let status = service.raw().status().as_u16();
            let code = service.err().code().unwrap_or_default();
            let message = service.err().message().unwrap_or_default();
            (kind_of(status, code), format!("{status} {code} {message}").trim_end().to_owned())
        }
        SdkError::TimeoutError(_) => (StoreErrorKind::Unreachable, "no answer in time".to_owned()),
        SdkError::ResponseError(response) => {
            (StoreErrorKind::Unreachable, format!("status {}, unreadable", response.raw().status().as_u16()))
        }
        _ => (transport_kind(&error), chain(&error)),
    };
    StoreError { kind, operation, target: target.to_owned(), detail }
}

pub(super) fn kind_of(status: u16, code: &str) -> StoreErrorKind {
    match (status, code) {
        (_, "NoSuchBucket") => StoreErrorKind::NoSuchBucket,
        (
            _,
            "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "ExpiredToken"
            | "InvalidToken"
            | "TokenRefreshRequired"
            | "InvalidSecurity"
            | "NotSignedUp"
            | "MissingSecurityHeader",
        )
        | (401, _) => StoreErrorKind::Credentials,
        (_, "RequestTimeTooSkewed") => StoreErrorKind::ClockSkew,
        (_, "SlowDown" | "ServiceUnavailable" | "Throttling" | "TooManyRequests") | (429 | 503, _) => {
            StoreErrorKind::Throttled
        }
        (_, "BadDigest" | "XAmzContentSHA256Mismatch" | "IncompleteBody" | "XAmzContentChecksumMismatch") => {
            StoreErrorKind::Damaged
        }
        // Two conditional writes at the same time, or a request that the store gave up: ask again.
        (409, "ConditionalRequestConflict" | "OperationAborted") | (400, "RequestTimeout") | (408, _) => {
            StoreErrorKind::Unreachable
        }
        (403, _) => StoreErrorKind::Denied,
        (500.., _) => StoreErrorKind::Unreachable,
        _ => StoreErrorKind::Other,
    }
}

fn transport_kind(error: &(dyn std::error::Error + 'static)) -> StoreErrorKind {
    let mut next = Some(error);
    while let Some(error) = next {
        match error.downcast_ref() {
            // Whoever gives the credentials is away: that passes.
            Some(CredentialsError::ProviderError(_) | CredentialsError::ProviderTimedOut(_)) => {
                return StoreErrorKind::Unreachable;
            }
            Some(_) => return StoreErrorKind::Credentials,
            None => {}
        }
        next = error.source();
    }
    StoreErrorKind::Unreachable
}

/// The whole chain of causes: the outer ones of a transport say nothing.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut causes: Vec<_> = std::iter::successors(Some(error), |error| error.source()).collect();
    // Below this one stands what a source of credentials says; the client's own word for it is "not enabled".
    let credentials = causes.iter().position(|cause| cause.is::<CredentialsError>());
    if let Some(at) = credentials.filter(|at| at + 1 < causes.len()) {
        causes.drain(..=at);
    }
    causes.iter().map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_to_do() {
        use StoreErrorKind as Kind;
        for (status, code, kind) in [
            (404, "NoSuchBucket", Kind::NoSuchBucket),
            (403, "InvalidAccessKeyId", Kind::Credentials),
            (403, "SignatureDoesNotMatch", Kind::Credentials),
            (403, "AccessDenied", Kind::Denied),
            (403, "RequestTimeTooSkewed", Kind::ClockSkew),
            (503, "SlowDown", Kind::Throttled),
            (500, "InternalError", Kind::Unreachable),
            (409, "ConditionalRequestConflict", Kind::Unreachable),
            (400, "BadDigest", Kind::Damaged),
            (400, "InvalidRequest", Kind::Other),
        ] {
            assert_eq!(kind_of(status, code), kind, "{status} {code}");
        }
    }

    #[test]
    fn the_stores_date_is_read() {
        let date = parse_date("Mon, 23 Nov 2026 18:55:02 GMT").map(|date| date.to_string());
        assert_eq!(date.as_deref(), Some("2026-11-23T18:55:02Z"));
        assert_eq!(parse_date("yesterday"), None);
    }
}
