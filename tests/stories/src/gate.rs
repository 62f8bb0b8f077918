//! A gate before the bucket: what a site asks of it goes through here, and a step's end can be kept from the journal.
//!
//! Steps of a failover take from milliseconds to seconds, so nobody who watches can tell for sure that an operator died in
//! one. Here it is certain: the step has been carried out, the record with its end has arrived and is not stored.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use holdfast_recovery::journal::{Entry, Record};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// Where the sites reach a gate on this machine.
const ADDRESS: &str = "10.77.0.1:17001";

/// The end of one or more steps, kept from the journal until this is dropped; then it is refused.
#[derive(Debug)]
pub struct Caught {
    /// Steps that are done, as far as the journal does not know.
    pub done: BTreeSet<String>,
    /// Every step that the journal knows as begun and not as ended, these included.
    pub running: BTreeSet<String>,
    _refuse: oneshot::Sender<()>,
}

/// Listens until it is dropped.
#[derive(Debug)]
pub struct Gate {
    caught: mpsc::Receiver<Caught>,
    server: JoinHandle<()>,
}

/// What a gate knows of the journals that pass through it.
#[derive(Default)]
struct Seen {
    running: BTreeSet<String>,
    /// Steps whose end was caught once, and from which operator: from the next one it passes.
    caught: BTreeMap<String, String>,
}

#[derive(Clone)]
struct Door {
    http: reqwest::Client,
    bucket: String,
    seen: Arc<Mutex<Seen>>,
    catch: mpsc::Sender<Caught>,
}

impl Gate {
    /// A gate before the S3 server at `endpoint`. The lab must be up: the address is on its network.
    pub async fn start(endpoint: &str) -> Result<Self> {
        let listener = TcpListener::bind(ADDRESS).await.with_context(|| format!("listening on {ADDRESS}"))?;
        let http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build()?;
        let (catch, caught) = mpsc::channel(1);
        let door = Door { http, bucket: endpoint.to_owned(), seen: Arc::default(), catch };
        // A part of a base backup is larger than what axum takes by default.
        let app = Router::new().fallback(pass).layer(DefaultBodyLimit::disable()).with_state(door);
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, app).await {
                eprintln!("the gate before the bucket ended: {error}");
            }
        });
        Ok(Self { caught, server })
    }

    /// The bucket's endpoint for a site that is to go through the gate.
    pub fn endpoint(&self) -> String {
        format!("http://{ADDRESS}")
    }

    /// The next end of a step that is on its way into the journal: of each step the first one.
    pub async fn caught(&mut self) -> Option<Caught> {
        self.caught.recv().await
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Door {
    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a record that ends a step for the first time; returns when it is to be refused.
    async fn keep(&self, record: &Record) -> bool {
        let (refuse, refused) = oneshot::channel();
        let caught = {
            let mut seen = self.seen();
            let ends: BTreeSet<_> = record.lines.iter().filter_map(|line| ended(&line.entry)).collect();
            // A request that has no answer yet is sent again: the same record must not slip through.
            if ends.iter().any(|step| seen.caught.get(step) == Some(&record.runner)) {
                return true;
            }
            let done: BTreeSet<_> = ends.into_iter().filter(|step| !seen.caught.contains_key(step)).collect();
            if done.is_empty() {
                return false;
            }
            seen.caught.extend(done.iter().map(|step| (step.clone(), record.runner.clone())));
            Caught { done, running: seen.running.clone(), _refuse: refuse }
        };
        // Nobody listens any more: it passes.
        if self.catch.send(caught).await.is_err() {
            return false;
        }
        let _ = refused.await;
        true
    }

    fn stored(&self, record: &Record) {
        let mut seen = self.seen();
        for line in &record.lines {
            match &line.entry {
                Entry::Intent { step, .. } => drop(seen.running.insert(step.to_string())),
                entry => {
                    if let Some(step) = ended(entry) {
                        seen.running.remove(&step);
                    }
                }
            }
        }
    }
}

fn ended(entry: &Entry) -> Option<String> {
    match entry {
        Entry::Done { step, .. } => Some(step.to_string()),
        _ => None,
    }
}

/// The record that a request would store in a run's journal.
fn journal_record(method: &Method, uri: &Uri, body: &Bytes) -> Option<Record> {
    if *method != Method::PUT || !uri.path().contains("/v1/run/") {
        return None;
    }
    let (_, text) = holdfast_vault::object::decode(body).ok()?;
    serde_json::from_slice(&text).ok()
}

async fn pass(State(door): State<Door>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let record = journal_record(&method, &uri, &body);
    if let Some(record) = &record
        && door.keep(record).await
    {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let answer = door.forward(method, &uri, headers, body).await;
    match answer {
        Ok(answer) => {
            if let Some(record) = record.filter(|_| answer.status().is_success()) {
                door.stored(&record);
            }
            answer
        }
        Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    }
}

/// Belongs to one connection, not to the request.
const OF_THE_CONNECTION: [&str; 4] = ["connection", "transfer-encoding", "expect", CONTENT_LENGTH];
const CONTENT_LENGTH: &str = "content-length";

impl Door {
    /// The request as it came, its Host too: that is signed.
    async fn forward(
        &self,
        method: Method,
        uri: &Uri,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response, reqwest::Error> {
        let is_head = method == Method::HEAD;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        for name in OF_THE_CONNECTION {
            headers.remove(name);
        }
        let request = self.http.request(method, format!("{}{path}", self.bucket)).headers(headers).body(body);
        let answer = request.send().await?;
        let (status, mut headers) = (answer.status(), answer.headers().clone());
        let body = answer.bytes().await?;
        for name in OF_THE_CONNECTION {
            // A HEAD tells the length of what it does not send.
            if !(is_head && name == CONTENT_LENGTH) {
                headers.remove(name);
            }
        }
        Ok((status, headers, body).into_response())
    }
}
