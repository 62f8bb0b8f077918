//! One attempt at one site, and which site to try.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use uuid::Uuid;

use super::{LoadError, LoadOptions, micros};
use crate::record::{NewEntry, NewPatient, Outcome, Refusal, Service, Site, Stored};

/// What one request came to.
#[derive(Debug)]
pub(super) enum Answer {
    Acked {
        stored: Stored,
        latency_us: u64,
    },
    /// Certainly not written; another try may succeed.
    NotDone {
        why: String,
    },
    /// Perhaps written.
    Unknown {
        why: String,
    },
    /// Certainly not written, and no retry will change that.
    Refused {
        why: String,
    },
}

/// Speaks to the services of all sites and remembers which site works.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    sites: Vec<Site>,
    current: [AtomicUsize; 3],
}

impl Client {
    pub(super) fn new(options: &LoadOptions) -> Result<Self, LoadError> {
        let http = reqwest::Client::builder()
            .connect_timeout(options.connect_timeout)
            .timeout(options.request_timeout)
            .pool_idle_timeout(Duration::from_secs(10))
            .no_proxy()
            .build()
            .map_err(|error| LoadError::HttpClient { detail: error.to_string() })?;
        Ok(Self { http, sites: options.sites.clone(), current: Default::default() })
    }

    pub(super) fn sites(&self) -> usize {
        self.sites.len()
    }

    /// The site where `service` was last found to work.
    pub(super) fn site(&self, service: Service) -> usize {
        self.current[service.index()].load(Ordering::Relaxed)
    }

    /// Leaves `from` for the next site, once for all writers that failed there together.
    pub(super) fn leave(&self, service: Service, from: usize) {
        let next = (from + 1) % self.sites.len();
        let current = &self.current[service.index()];
        // Err means that another writer has already moved on.
        let _ = current.compare_exchange(from, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Sends one write to `site`.
    pub(super) async fn send(&self, site: usize, service: Service, client_id: Uuid, mrn: Option<i64>) -> Answer {
        let url = self.sites[site].url(service, service.collection());
        let request = self.http.post(url);
        let request = match mrn {
            None => request.json(&NewPatient { client_id }),
            Some(mrn) => request.json(&NewEntry { client_id, mrn }),
        };
        let started = Instant::now();
        match request.send().await {
            Ok(response) => read(response, started).await,
            // Without a connection nothing was sent.
            Err(error) if error.is_connect() => Answer::NotDone { why: reason(&error) },
            Err(error) => Answer::Unknown { why: reason(&error) },
        }
    }
}

async fn read(response: reqwest::Response, started: Instant) -> Answer {
    let status = response.status();
    let body = match response.bytes().await {
        Ok(body) => body,
        Err(error) => {
            return Answer::Unknown { why: reason(&error) };
        }
    };
    let latency_us = micros(started.elapsed());
    if status == StatusCode::CREATED {
        return match serde_json::from_slice(&body) {
            Ok(stored) => Answer::Acked { stored, latency_us },
            Err(error) => Answer::Unknown { why: format!("201 with a body that is not a record: {error}") },
        };
    }
    match serde_json::from_slice::<Refusal>(&body) {
        Ok(refusal) => refused(status, refusal),
        // Not one of ours: a proxy between may have sent the request on.
        Err(_) => Answer::Unknown { why: format!("status {status}") },
    }
}

fn refused(status: StatusCode, refusal: Refusal) -> Answer {
    let why = format!("{}: {}", refusal.code, refusal.message);
    match refusal.outcome {
        Outcome::Unknown => Answer::Unknown { why },
        Outcome::NotDone if status.is_client_error() => Answer::Refused { why },
        Outcome::NotDone => Answer::NotDone { why },
    }
}

/// An HTTP error in a few words, without the address.
pub(crate) fn reason(error: &reqwest::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let kind = match error {
        error if error.is_connect() && error.is_timeout() => "connect time-out",
        error if error.is_timeout() => "request time-out",
        error if error.is_connect() => "no connection",
        _ => "request broken off",
    };
    format!("{kind}: {innermost}")
}
