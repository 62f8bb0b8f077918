//! What services, load generator and verifier say to each other over HTTP.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use url::Url;
use uuid::Uuid;

/// One of the hospital's three services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    Registration,
    Billing,
    Lab,
}

impl Service {
    /// All services, in the order in which they depend on each other.
    pub const ALL: [Service; 3] = [Service::Registration, Service::Billing, Service::Lab];

    /// The service's place in [`Service::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    pub fn name(self) -> &'static str {
        match self {
            Service::Registration => "registration",
            Service::Billing => "billing",
            Service::Lab => "lab",
        }
    }

    /// The collection that the service keeps: the HTTP path without its slash, and the table.
    pub fn collection(self) -> &'static str {
        match self {
            Service::Registration => "patients",
            Service::Billing => "invoices",
            Service::Lab => "results",
        }
    }

    /// The port on which a site's nodes offer the service to the outside.
    pub fn node_port(self) -> u16 {
        match self {
            Service::Registration => 30081,
            Service::Billing => 30082,
            Service::Lab => 30083,
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A request to register a patient. The client chooses `client_id`; a retry repeats it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewPatient {
    pub client_id: Uuid,
}

/// A request for an invoice or a lab result of the patient `mrn`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewEntry {
    pub client_id: Uuid,
    pub mrn: i64,
}

/// The answer to a write that is committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    pub id: i64,
    pub client_id: Uuid,
    /// The patient's medical record number; of a patient, the same as `id`.
    pub mrn: i64,
    /// How long the database took to answer COMMIT, in microseconds.
    pub commit_us: u64,
}

/// One record as the verifier reads it: identifiers, no content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    pub id: i64,
    pub client_id: Uuid,
    pub mrn: i64,
}

/// A page of records in the order of their `id`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Page {
    pub records: Vec<Listed>,
}

/// Whether a write that was not acknowledged may still be in the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is certainly not there.
    NotDone,
    /// It may be there now or appear later.
    Unknown,
}

/// The body of every answer that is not a success.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Refusal {
    /// For programs, for example `unknown_patient`.
    pub code: String,
    /// For people.
    pub message: String,
    pub outcome: Outcome,
}

/// The addresses of one site's three services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    bases: [Url; 3],
}

/// Why a site's address was not understood.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    #[error("site address {address:?} is not a URL: {detail}")]
    NotAUrl { address: String, detail: String },
    #[error(
        "site {address:?} must be one URL (node ports 30081 to 30083 are added) or three, comma separated: registration, billing, lab; found {found}"
    )]
    Count { address: String, found: usize },
    #[error("site address {address:?} must begin with http:// and name a host")]
    NotHttp { address: String },
}

impl Site {
    /// A site whose node `host` offers the services on their node ports.
    pub fn at_host(host: &str) -> Result<Self, SiteError> {
        Self::from_str(&format!("http://{host}"))
    }

    /// A site with an address for each service.
    pub fn of(registration: Url, billing: Url, lab: Url) -> Self {
        Self { bases: [registration, billing, lab] }
    }

    /// The base address of `service`, without a path.
    pub fn base(&self, service: Service) -> &Url {
        &self.bases[service.index()]
    }

    /// The address of `path` (no leading slash, maybe with a query) at `service`.
    pub fn url(&self, service: Service, path: &str) -> String {
        let base = self.base(service).as_str().trim_end_matches('/');
        format!("{base}/{path}")
    }
}

impl FromStr for Site {
    type Err = SiteError;

    fn from_str(address: &str) -> Result<Self, SiteError> {
        let urls = address.split(',').map(|part| parse_http(part.trim())).collect::<Result<Vec<_>, _>>()?;
        match <[Url; 3]>::try_from(urls) {
            Ok(bases) => Ok(Self { bases }),
            Err(urls) if urls.len() == 1 => at_node_ports(&urls[0]),
            Err(urls) => Err(SiteError::Count { address: address.to_owned(), found: urls.len() }),
        }
    }
}

fn parse_http(address: &str) -> Result<Url, SiteError> {
    let url = Url::parse(address)
        .map_err(|error| SiteError::NotAUrl { address: address.to_owned(), detail: error.to_string() })?;
    if url.scheme() != "http" || !url.has_host() {
        return Err(SiteError::NotHttp { address: address.to_owned() });
    }
    Ok(url)
}

fn at_node_ports(base: &Url) -> Result<Site, SiteError> {
    let at = |service: Service| {
        let mut url = base.clone();
        url.set_port(Some(service.node_port())).map_err(|()| SiteError::NotHttp { address: base.to_string() })?;
        Ok(url)
    };
    Ok(Site::of(at(Service::Registration)?, at(Service::Billing)?, at(Service::Lab)?))
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [registration, billing, lab] = &self.bases;
        write!(f, "{registration},{billing},{lab}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_means_the_node_ports() {
        let site: Site = "http://10.77.0.11".parse().unwrap();
        assert_eq!(site.url(Service::Billing, "invoices"), "http://10.77.0.11:30082/invoices");
        assert_eq!(site, site.to_string().parse().unwrap());
    }

    #[test]
    fn an_address_that_cannot_work_is_refused_with_a_reason() {
        for (address, reason) in
            [("10.77.0.11", "not a URL"), ("https://10.77.0.11", "http://"), ("http://a,http://b", "found 2")]
        {
            let error = address.parse::<Site>().unwrap_err().to_string();
            assert!(error.contains(reason), "{address}: {error}");
        }
    }
}
