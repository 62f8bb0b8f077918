//! Routes and answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::database::DatabaseError;
use super::registration::{Registration, RegistrationUnavailable};
use super::store::{Store, WriteError};
use super::{ServiceConfig, ServiceError};
use crate::record::{NewEntry, NewPatient, Outcome, Page, Refusal, Service, Stored};

const REQUESTS_AT_ONCE: usize = 256;
const BODY_LIMIT_BYTES: usize = 4096;
const PAGE_LIMIT: i64 = 5000;
const PREPARE_EVERY: Duration = Duration::from_millis(200);

/// One running service.
pub(super) struct App {
    role: Service,
    store: Store,
    registration: Option<Registration>,
    schema_ready: AtomicBool,
    requests: Semaphore,
}

type Shared = Arc<App>;

impl App {
    pub(super) fn new(config: &ServiceConfig) -> Result<Shared, ServiceError> {
        let registration = match (config.role, &config.registration) {
            (Service::Registration, _) => None,
            (role, None) => return Err(ServiceError::RegistrationMissing { role }),
            (_, Some(url)) => Some(Registration::new(url)?),
        };
        Ok(Arc::new(Self {
            role: config.role,
            store: Store::new(config.role, &config.database, config.commit_timeout),
            registration,
            schema_ready: AtomicBool::new(false),
            requests: Semaphore::new(REQUESTS_AT_ONCE),
        }))
    }

    /// Waits for the database and creates the table when it is missing and can be created.
    pub(super) async fn prepare(self: Shared, shutdown: CancellationToken) {
        let mut said = String::new();
        loop {
            match self.try_prepare().await {
                Ok(()) => break,
                Err(why) if why != said => {
                    tracing::info!(role = %self.role, why, "waiting for the database");
                    said = why;
                }
                Err(_) => {}
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(PREPARE_EVERY) => {}
            }
        }
        tracing::info!(role = %self.role, "the schema is there");
        self.schema_ready.store(true, Ordering::Release);
    }

    async fn try_prepare(&self) -> Result<(), String> {
        let text = |error: DatabaseError| error.to_string();
        if self.store.has_schema().await.map_err(text)? {
            return Ok(());
        }
        if !self.store.is_writable().await.map_err(text)? {
            return Err("the database is read-only and has no tables yet".to_owned());
        }
        self.store.create_schema().await.map_err(text)
    }

    async fn check_ready(&self) -> Result<(), Answer> {
        if !self.schema_ready.load(Ordering::Acquire) {
            return Err(Answer::unavailable("starting", "the tables are not ready"));
        }
        if !self.store.is_writable().await? {
            return Err(Answer::unavailable("read_only", "the database is read-only"));
        }
        match &self.registration {
            Some(registration) => Ok(registration.check_ready().await?),
            None => Ok(()),
        }
    }
}

/// An answer that is not a success.
struct Answer(StatusCode, Refusal);

impl Answer {
    fn new(status: StatusCode, code: &str, message: impl ToString, outcome: Outcome) -> Self {
        let refusal = Refusal { code: code.to_owned(), message: message.to_string(), outcome };
        Self(status, refusal)
    }

    fn unavailable(code: &str, message: impl ToString) -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self::new(status, code, message, Outcome::NotDone)
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}

impl From<DatabaseError> for Answer {
    fn from(error: DatabaseError) -> Self {
        Answer::unavailable("database", error)
    }
}

impl From<RegistrationUnavailable> for Answer {
    fn from(error: RegistrationUnavailable) -> Self {
        Answer::unavailable("registration", error)
    }
}

impl From<WriteError> for Answer {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::NotDone(error) => error.into(),
            WriteError::Unknown { .. } => {
                Answer::new(StatusCode::SERVICE_UNAVAILABLE, "unknown", error, Outcome::Unknown)
            }
            WriteError::OtherContent => Answer::new(StatusCode::CONFLICT, "other_content", error, Outcome::NotDone),
        }
    }
}

impl From<JsonRejection> for Answer {
    fn from(error: JsonRejection) -> Self {
        Answer::new(error.status(), "bad_request", error.body_text(), Outcome::NotDone)
    }
}

/// The routes of the app's role.
pub(super) fn router(app: Shared) -> Router {
    let path = format!("/{}", app.role.collection());
    let role_routes = match app.role {
        Service::Registration => Router::new().route(&path, post(register)).route("/patients/{mrn}", get(patient)),
        Service::Billing | Service::Lab => Router::new().route(&path, post(enter)),
    };
    let limited =
        role_routes.route("/records", get(records)).layer(middleware::from_fn_with_state(app.clone(), limit_requests));
    Router::new()
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .merge(limited)
        .layer(DefaultBodyLimit::max(BODY_LIMIT_BYTES))
        .with_state(app)
}

async fn limit_requests(State(app): State<Shared>, request: Request, next: Next) -> Response {
    match app.requests.try_acquire() {
        Ok(_running) => next.run(request).await,
        Err(_) => Answer::unavailable("busy", "too many requests at once").into_response(),
    }
}

async fn ready(State(app): State<Shared>) -> Result<&'static str, Answer> {
    app.check_ready().await.map(|()| "ready\n")
}

async fn register(
    State(app): State<Shared>,
    body: Result<Json<NewPatient>, JsonRejection>,
) -> Result<(StatusCode, Json<Stored>), Answer> {
    let Json(new) = body?;
    let stored = app.store.write(new.client_id, 0).await?;
    Ok((StatusCode::CREATED, Json(stored)))
}

async fn enter(
    State(app): State<Shared>,
    body: Result<Json<NewEntry>, JsonRejection>,
) -> Result<(StatusCode, Json<Stored>), Answer> {
    let Json(new) = body?;
    if let Some(registration) = &app.registration
        && !registration.knows(new.mrn).await?
    {
        return Err(Answer::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "unknown_patient",
            "registration does not know this patient",
            Outcome::NotDone,
        ));
    }
    let stored = app.store.write(new.client_id, new.mrn).await?;
    Ok((StatusCode::CREATED, Json(stored)))
}

async fn patient(State(app): State<Shared>, Path(mrn): Path<i64>) -> Result<Response, Answer> {
    if app.store.knows(mrn).await? {
        return Ok(Json(serde_json::json!({ "mrn": mrn })).into_response());
    }
    Err(Answer::new(StatusCode::NOT_FOUND, "unknown_patient", "no such patient", Outcome::NotDone))
}

#[derive(Deserialize)]
struct Window {
    #[serde(default)]
    after: i64,
    limit: Option<i64>,
}

async fn records(State(app): State<Shared>, Query(window): Query<Window>) -> Result<Json<Page>, Answer> {
    let limit = window.limit.unwrap_or(PAGE_LIMIT).clamp(1, PAGE_LIMIT);
    let records = app.store.list(window.after, limit).await?;
    Ok(Json(Page { records }))
}
