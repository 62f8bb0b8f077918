//! A Vault on a store that lies, through a real reconcile: HTTP to an API server that remembers, S3 to the fault server. What
//! the store keeps wrong is in the condition and in the event, and a store that comes to its senses is found good again.

use std::sync::{Arc, Mutex};

use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use holdfast_api::condition::{Condition, ConditionStatus, find, reasons, types};
use holdfast_api::{CHECK_NOW_ANNOTATION, Vault, VaultStatus};
use holdfast_fault_server::{Fault, FaultServer, WRITER};
use holdfast_operator::context::Stores;
use holdfast_operator::{Context, vault};
use holdfast_vault::generate_identity;
use kube::ResourceExt;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

const BUCKET: &str = "vault";

/// As much of an API server as the reconcile of a Vault asks for: its Secret, its status, its events.
#[derive(Debug, Default)]
struct Seen {
    statuses: Vec<Value>,
    events: Vec<Value>,
}

struct ApiServer {
    seen: Arc<Mutex<Seen>>,
    client: kube::Client,
    task: JoinHandle<()>,
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ApiServer {
    async fn start() -> ApiServer {
        let seen = Arc::<Mutex<Seen>>::default();
        let app = Router::new().fallback(answer).with_state(seen.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        let client = kube::Client::try_from(kube::Config::new(url.parse().unwrap())).unwrap();
        ApiServer { seen, client, task }
    }

    /// The events of this reason.
    fn events(&self, reason: &str) -> Vec<Value> {
        self.seen.lock().unwrap().events.iter().filter(|event| event["reason"] == reason).cloned().collect()
    }
}

async fn answer(State(seen): State<Arc<Mutex<Seen>>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let path = parts.uri.path();
    match parts.method {
        Method::GET if path == "/api/v1/namespaces/hospital/secrets/keys" => Json(json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys", "resourceVersion": "1"},
            "data": {"AWS_ACCESS_KEY_ID": base64(WRITER.0), "AWS_SECRET_ACCESS_KEY": base64(WRITER.1)}
        }))
        .into_response(),
        Method::PATCH if path.ends_with("/namespaces/hospital/vaults/v/status") => {
            let mut object = body.clone();
            object["spec"] = serde_json::to_value(spec("http://unknown", "unknown")).unwrap();
            seen.lock().unwrap().statuses.push(body["status"].clone());
            Json(object).into_response()
        }
        Method::POST if path.ends_with("/namespaces/hospital/events") => {
            seen.lock().unwrap().events.push(body.clone());
            (StatusCode::CREATED, Json(body)).into_response()
        }
        method => panic!("the reconcile asked for {method} {path}"),
    }
}

fn base64(text: &str) -> String {
    serde_json::to_value(k8s_openapi::ByteString(text.into())).unwrap().as_str().unwrap().to_owned()
}

fn spec(endpoint: &str, recipient: &str) -> Value {
    json!({"endpoint": endpoint, "bucket": BUCKET, "prefix": "t", "retentionDays": 1,
        "credentials": {"secretName": "keys"}, "encryption": {"recipients": [recipient]}})
}

/// A site with one Vault on a store of its own.
struct Site {
    store: FaultServer,
    api: ApiServer,
    ctx: Arc<Context>,
    vault: Vault,
}

impl Site {
    async fn with(fault: Option<Fault>) -> Site {
        let store = FaultServer::start().await.unwrap();
        store.create_bucket(BUCKET);
        fault.into_iter().for_each(|fault| store.faults().set(fault));
        let api = ApiServer::start().await;
        let (stores, _writers) = Stores::new();
        let ctx = Context::new(api.client.clone(), "holdfast-system".into(), "image".into(), stores).unwrap();
        let (_, recipient) = generate_identity();
        let vault = serde_json::from_value(json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "Vault",
            "metadata": {"name": "v", "namespace": "hospital", "uid": "1-2-3", "generation": 1},
            "spec": spec(&store.endpoint(), &recipient)}));
        Site { store, api, ctx, vault: vault.unwrap() }
    }

    /// Reconciles, and returns Ready as the API server has it then.
    async fn ready(&mut self) -> Condition {
        vault::reconcile(Arc::new(self.vault.clone()), self.ctx.clone()).await.unwrap();
        let written = self.api.seen.lock().unwrap().statuses.last().cloned().expect("a status");
        let status: VaultStatus = serde_json::from_value(written).unwrap();
        let ready = find(&status.conditions, types::READY).cloned().expect("Ready");
        self.vault.status = Some(status);
        ready
    }

    fn ask_for_a_check(&mut self, word: &str) {
        self.vault.annotations_mut().insert(CHECK_NOW_ANNOTATION.to_owned(), word.to_owned());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_lies_is_refused_with_what_it_keeps_wrong_and_what_to_do() {
    for (fault, reason, said) in [
        (Fault::IgnoredIfNoneMatch, reasons::UNSUITABLE_STORE, "ignores If-None-Match"),
        (Fault::RacyIfNoneMatch, reasons::UNSUITABLE_STORE, "one-of-many-creates-wins"),
        (Fault::UnsortedLists, reasons::UNSUITABLE_STORE, "list-is-sorted"),
        (Fault::ListsDropKeys, reasons::UNSUITABLE_STORE, "list-pages-are-complete"),
        (Fault::LastModifiedLies, reasons::UNSUITABLE_STORE, "last-modified-is-when-it-was-stored"),
        (Fault::LockDropped, reasons::LOCK_NOT_ENFORCED, "left an object without retention"),
    ] {
        let mut site = Site::with(Some(fault)).await;
        let ready = site.ready().await;
        assert_eq!((ready.status, ready.reason.as_str()), (ConditionStatus::False, reason), "{fault:?} {ready:?}");
        for part in [said, "`vault`", &site.store.endpoint(), "To do: use another store"] {
            assert!(ready.message.contains(part), "{fault:?}: {part} in {}", ready.message);
        }
        let events = site.api.events(reason);
        let warned = |event: &Value| event["type"] == "Warning" && event["note"].as_str().unwrap().contains(said);
        assert!(events.iter().any(warned), "{fault:?}: {events:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_sound_or_only_limited_is_not_refused() {
    // Listings are a hint by design: that they lag is a limit.
    for fault in [None, Some(Fault::StaleLists)] {
        let mut site = Site::with(fault).await;
        let ready = site.ready().await;
        assert_eq!(ready.status, ConditionStatus::True, "{fault:?}: {ready:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_store_is_found_good_again_when_somebody_asks() {
    let mut site = Site::with(Some(Fault::UnsortedLists)).await;
    assert_eq!(site.ready().await.reason, reasons::UNSUITABLE_STORE);
    site.store.faults().clear_all();
    site.ask_for_a_check("mended");
    let ready = site.ready().await;
    assert_eq!(ready.status, ConditionStatus::True, "{ready:?}");
    // What was found good is tried once, not at every look.
    site.store.faults().set(Fault::UnsortedLists);
    site.ask_for_a_check("again");
    assert_eq!(site.ready().await.status, ConditionStatus::True);
}
