//! HTTP, and what goes wrong on the way: latency, refusals, cut connections, damaged bytes, the clock in the answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::SignedDuration;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::TcpListener;

use crate::access::Gate;
use crate::bucket::World;
use crate::fault::Fault;
use crate::operations::{Buckets, Operations};

/// Below it, the switches; everything else is S3.
const SWITCHES: &str = "/-/faults";
/// How long what is sent before a cut has to go out.
const FLUSH: Duration = Duration::from_millis(20);
const EFFECT_DELAY: Duration = Duration::from_millis(400);
/// The longest body of a request: a part of an upload in parts at its most.
const MAX_BODY: usize = 256 << 20;

type Body = UnsyncBoxBody<Bytes, Cut>;

/// Ends a connection without a word.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the connection is cut")]
pub(crate) struct Cut;

/// Answers connections.
#[derive(Clone)]
pub(crate) struct Transport {
    service: S3Service,
    world: World,
    answers: Arc<AtomicU64>,
}

impl Transport {
    pub(crate) fn new(buckets: Buckets, world: World, gate: Gate) -> Transport {
        let mut builder = S3ServiceBuilder::new(Operations { buckets, world: world.clone() });
        builder.set_auth(gate.clone());
        builder.set_access(gate);
        Transport { service: builder.build(), world, answers: Arc::default() }
    }

    pub(crate) async fn serve(self, listener: TcpListener) {
        // The connections end with the server.
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let _ = stream.set_nodelay(true);
            let transport = self.clone();
            connections.spawn(async move {
                let service = service_fn(move |request| transport.clone().answer(request));
                let http =
                    http1::Builder::new().auto_date_header(false).serve_connection(TokioIo::new(stream), service);
                // A cut connection is what was asked for.
                let _ = http.await;
            });
            while connections.try_join_next().is_some() {}
        }
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Body>, Cut> {
        if request.uri().path() == SWITCHES {
            return Ok(self.switch(request).await);
        }
        tokio::time::sleep(self.world.faults.delay()).await;
        if self.world.on(Fault::LostRequests) {
            return Err(Cut);
        }
        let mut response = match self.refusal() {
            Some(refusal) => refusal,
            None => self.carry_out(request).await?,
        };
        if let Some(date) = self.date() {
            response.headers_mut().insert(header::DATE, date);
        }
        Ok(response)
    }

    fn refusal(&self) -> Option<Response<Body>> {
        let refused = |status, code: &str| {
            let text = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>told to</Message></Error>");
            let mut response = Response::new(full(text.into()));
            *response.status_mut() = status;
            response
        };
        if self.world.on(Fault::SlowDown) {
            return Some(refused(StatusCode::SERVICE_UNAVAILABLE, "SlowDown"));
        }
        self.world.on(Fault::InternalErrors).then(|| refused(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"))
    }

    async fn carry_out(&self, request: Request<Incoming>) -> Result<Response<Body>, Cut> {
        let reads_object = request.method() == Method::GET && is_object(&request);
        let (mut parts, body) = request.into_parts();
        if self.world.on(Fault::AuthIgnored) {
            parts.headers.remove(header::AUTHORIZATION);
            parts.headers.remove("x-amz-content-sha256");
        }
        let late = self.world.on(Fault::DelayedEffects);
        let lost = self.world.on(Fault::LostResponses);
        // Read whole before anything is done: what is cut later was received.
        let bytes = http_body_util::Limited::new(body, MAX_BODY).collect().await.map_err(|_| Cut)?.to_bytes();
        let (service, request) = (self.service.clone(), Request::from_parts(parts, s3s::Body::from(bytes)));
        if late {
            tokio::spawn(async move {
                tokio::time::sleep(EFFECT_DELAY).await;
                let _ = service.call(request).await;
            });
            return Err(Cut);
        }
        let response = service.call(request).await.map_err(|_| Cut)?;
        if lost {
            return Err(Cut);
        }
        let (parts, body) = response.into_parts();
        let damage = reads_object && parts.status.is_success();
        let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
        Ok(if damage { self.damaged(parts, body) } else { Response::from_parts(parts, full(body)) })
    }

    fn damaged(&self, mut parts: http::response::Parts, body: Bytes) -> Response<Body> {
        if self.world.on(Fault::TornReads) && body.len() > 1 {
            parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
            use futures::StreamExt;
            let half = Ok(Frame::data(body.slice(..body.len() / 2)));
            // The first half goes out before the cut: an error at once would take the head of the answer with it.
            let cut = stream::once(async {
                tokio::time::sleep(FLUSH).await;
                Err(Cut)
            });
            let pieces = stream::iter([half]).chain(cut);
            return Response::from_parts(parts, StreamBody::new(pieces).boxed_unsync());
        }
        let mut body = body;
        if self.world.on(Fault::TruncatedReads) && !body.is_empty() {
            body.truncate(body.len() - 1);
            parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
        if self.world.on(Fault::BitFlips) && !body.is_empty() {
            let mut bytes = BytesMut::from(&*body);
            let place = rand::random_range(0..bytes.len());
            bytes[place] ^= 1 << rand::random_range(0..8);
            body = bytes.freeze();
        }
        Response::from_parts(parts, full(body))
    }

    fn date(&self) -> Option<HeaderValue> {
        if self.world.on(Fault::NoDate) {
            return None;
        }
        let n = self.answers.fetch_add(1, Ordering::Relaxed);
        let jumps = self.world.on(Fault::ClockJumps) && n % 2 == 1;
        let by = if jumps { SignedDuration::from_hours(-1) } else { SignedDuration::ZERO };
        let date = (self.world.clock.now() + by).max(jiff::Timestamp::UNIX_EPOCH);
        let text = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&date).ok()?;
        HeaderValue::from_str(&text).ok()
    }

    /// `GET` lists the switches that are on, `PUT ?NAME[=RATE]&...` sets exactly these, `DELETE` clears all.
    async fn switch(&self, request: Request<Incoming>) -> Response<Body> {
        let status = match *request.method() {
            Method::GET => StatusCode::OK,
            Method::DELETE => {
                self.world.faults.clear_all();
                StatusCode::OK
            }
            Method::PUT => self.set_all(request.uri().query().unwrap_or_default()),
            _ => StatusCode::METHOD_NOT_ALLOWED,
        };
        let on: serde_json::Map<_, _> =
            self.world.faults.list().into_iter().map(|(name, rate)| (name.to_owned(), rate.into())).collect();
        let mut response = Response::new(full(serde_json::Value::Object(on).to_string().into()));
        *response.status_mut() = status;
        response
    }

    fn set_all(&self, query: &str) -> StatusCode {
        let parse = |part: &str| {
            let (name, rate) = part.split_once('=').unwrap_or((part, "1"));
            Some((Fault::by_name(name)?, rate.parse::<f64>().ok()?))
        };
        let wanted: Option<Vec<_>> = query.split('&').filter(|part| !part.is_empty()).map(parse).collect();
        let Some(wanted) = wanted else { return StatusCode::BAD_REQUEST };
        self.world.faults.clear_all();
        wanted.into_iter().for_each(|(fault, rate)| self.world.faults.set_rate(fault, rate));
        StatusCode::OK
    }
}

/// Whether a GET asks for an object's bytes: a key, and no subresource of it.
fn is_object(request: &Request<Incoming>) -> bool {
    let path = request.uri().path().trim_start_matches('/');
    let key = path.split_once('/').is_some_and(|(_, key)| !key.is_empty());
    let subresource = |part: &str| ["retention", "legal-hold", "attributes", "uploadId", "tagging"].contains(&part);
    let query = request.uri().query().unwrap_or_default();
    key && !query.split('&').any(|part| subresource(part.split('=').next().unwrap_or_default()))
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// Headers of an answer that s3s has no field for.
pub(crate) fn headers<const N: usize>(pairs: [(&'static str, &str); N]) -> HeaderMap {
    let pairs = pairs.into_iter().filter_map(|(name, value)| Some((name, HeaderValue::from_str(value).ok()?)));
    pairs.map(|(name, value)| (header::HeaderName::from_static(name), value)).collect()
}
