//! How billing and lab ask registration.

use std::time::Duration;

use url::Url;

use super::ServiceError;

const TIMEOUT: Duration = Duration::from_secs(1);

/// Registration did not give a usable answer.
#[derive(Debug, thiserror::Error)]
#[error("registration at {base} does not answer: {detail}")]
pub(crate) struct RegistrationUnavailable {
    base: String,
    detail: String,
}

/// A client of the registration service.
#[derive(Clone)]
pub(crate) struct Registration {
    base: String,
    http: reqwest::Client,
}

impl Registration {
    pub(crate) fn new(base: &Url) -> Result<Self, ServiceError> {
        let http = reqwest::Client::builder()
            .connect_timeout(TIMEOUT / 2)
            .timeout(TIMEOUT)
            // A connection to a pod that is gone should not be found out by a request.
            .pool_idle_timeout(Duration::from_secs(5))
            .no_proxy()
            .build()
            .map_err(|error| ServiceError::HttpClient { detail: error.to_string() })?;
        Ok(Self { base: base.as_str().trim_end_matches('/').to_owned(), http })
    }

    /// Whether registration says that it is ready.
    pub(crate) async fn check_ready(&self) -> Result<(), RegistrationUnavailable> {
        match self.status("readyz").await? {
            200 => Ok(()),
            status => Err(self.unavailable(format!("/readyz answered {status}"))),
        }
    }

    /// Whether registration knows the patient `mrn`.
    pub(crate) async fn knows(&self, mrn: i64) -> Result<bool, RegistrationUnavailable> {
        match self.status(&format!("patients/{mrn}")).await? {
            200 => Ok(true),
            404 => Ok(false),
            status => Err(self.unavailable(format!("/patients answered {status}"))),
        }
    }

    async fn status(&self, path: &str) -> Result<u16, RegistrationUnavailable> {
        let url = format!("{}/{path}", self.base);
        let response = self.http.get(url).send().await;
        match response {
            // The URL is left out of the message: it holds the medical record number.
            Err(error) => Err(self.unavailable(crate::load::reason(&error.without_url()))),
            Ok(response) => {
                let status = response.status().as_u16();
                // Read to its end so that the connection can be used again.
                drop(response.bytes().await);
                Ok(status)
            }
        }
    }

    fn unavailable(&self, detail: String) -> RegistrationUnavailable {
        RegistrationUnavailable { base: self.base.clone(), detail }
    }
}
