//! What is answered to requests.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, TryStreamExt, stream};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use serde_json::{Map, Value, json};
use socket2::SockRef;
use tandem_cluster::run::control::Translated;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};
use tokio_util::codec::{FramedRead, LinesCodec};
use tokio_util::io::StreamReader;
use tokio_util::task::AbortOnDropHandle;
use tower_http::timeout::{RequestBodyTimeoutLayer, ResponseBodyTimeoutLayer};

use super::Settings;
use super::metrics::Metrics;
use super::queue::{Queue, Unanswered};
use crate::metrics;

/// The page for people.
const PAGE: &str = include_str!("page.html");
/// It needs nothing but itself and this server.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                           connect-src 'self'; base-uri 'none'; form-action 'none'";
/// Connections at a time; more wait to be accepted. A worker must still be able to start where a process may
/// open no more than the 512 files that a launch demands.
const CONNECTIONS: usize = 256;
/// Streams at a time; each may hold [`LINES_AHEAD`] lines in memory.
const STREAMS: usize = 64;
/// How long the head of a request may take, and a connection stay idle before it.
const HEAD: Duration = Duration::from_secs(30);
/// How long to wait when the system has no room for another connection.
const NO_ROOM: Duration = Duration::from_millis(100);
/// Bytes of a character, at most, in JSON or in a form.
const CHAR_BYTES: usize = 12;
/// Bytes of a request besides its text.
const MORE_BYTES: usize = 16 << 10;
/// Lines of a stream that are translated ahead of the one that is written.
const LINES_AHEAD: usize = 128;

/// What requests share.
#[derive(Clone)]
pub(super) struct Service {
    settings: Arc<Settings>,
    queue: Arc<Queue>,
    metrics: Arc<Metrics>,
    /// Room for streams.
    streams: Arc<Semaphore>,
}

impl Service {
    /// Requests that are answered with what `queue` translates.
    pub(super) fn new(settings: Arc<Settings>, queue: Arc<Queue>, metrics: Arc<Metrics>) -> Self {
        Self { settings, queue, metrics, streams: Arc::new(Semaphore::new(STREAMS)) }
    }
}

/// Why a request is not answered as it wishes.
#[derive(Debug)]
struct Failed {
    status: StatusCode,
    why: String,
}

impl Failed {
    fn bad(why: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, why: why.into() }
    }
}

impl From<Unanswered> for Failed {
    fn from(unanswered: Unanswered) -> Self {
        let status = match unanswered {
            Unanswered::Full(_) | Unanswered::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            Unanswered::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, why: unanswered.to_string() }
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let mut response = json_response(self.status, &json!({ "error": self.why }));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, axum::http::HeaderValue::from_static("1"));
        }
        response
    }
}

fn json_response(status: StatusCode, value: &Value) -> Response {
    (status, [(CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

/// Answers whoever connects until `stop` is sent or dropped, then those who are connected.
pub(super) async fn serve(
    listener: TcpListener,
    service: Service,
    stop: oneshot::Receiver<Infallible>,
) {
    let patience = service.settings.timeout;
    let router = router(service);
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD);
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let accept = async {
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else {
                sleep(NO_ROOM).await;
                continue;
            };
            // Small answers are not to wait for each other.
            let _ = stream.set_nodelay(true);
            // Whoever does not read is not to hold its connection for ever.
            let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(patience));
            let router = TowerToHyperService::new(router.clone());
            let connection = server.serve_connection(TokioIo::new(stream), router);
            let connection = graceful.watch(connection);
            tokio::spawn(async move {
                // The other end may go whenever it likes.
                let _ = connection.await;
                drop(place);
            });
        }
    };
    tokio::select! { () = accept => {}, _ = stop => {} }
    drop(listener);
    // The launcher waits no longer than `cluster.deadlines.stop`.
    let _ = timeout(patience, graceful.shutdown()).await;
}

fn router(service: Service) -> Router {
    let idle = service.settings.timeout;
    let missing = async || {
        let why = "there is no such path: see /translate, /translate/stream, /languages, /health, /metrics";
        Failed { status: StatusCode::NOT_FOUND, why: why.into() }
    };
    let wrong_method = async || Failed {
        status: StatusCode::METHOD_NOT_ALLOWED,
        why: "this path takes another method; the header Allow names it".into(),
    };
    Router::new()
        .route("/", get(async || ([(CONTENT_SECURITY_POLICY, PAGE_POLICY)], Html(PAGE))))
        .route("/translate", post(translate))
        .route(
            "/translate/stream",
            post(translate_stream).layer(RequestBodyTimeoutLayer::new(idle)),
        )
        .route("/languages", get(languages))
        .route("/health", get(health))
        .route("/metrics", get(scrape))
        .fallback(missing)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(service.clone(), measure))
        .layer(ResponseBodyTimeoutLayer::new(idle))
        .with_state(service)
}

/// Counts a request.
async fn measure(State(service): State<Service>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    // Not the path that was asked for, of which there are too many.
    let path = match request.extensions().get::<MatchedPath>().map(MatchedPath::as_str) {
        Some("/translate") => "/translate",
        Some("/translate/stream") => "/translate/stream",
        Some("/languages") => "/languages",
        Some("/health") => "/health",
        Some("/metrics") => "/metrics",
        Some("/") => "/",
        _ => "other",
    };
    let response = next.run(request).await;
    service.metrics.request(path, response.status().as_u16(), started.elapsed());
    response
}

async fn health(State(service): State<Service>) -> Result<Response, Failed> {
    match service.queue.longest() {
        Ok(_) => Ok(json_response(StatusCode::OK, &json!({ "status": "ok" }))),
        Err(why) => Err(Failed { status: StatusCode::SERVICE_UNAVAILABLE, why }),
    }
}

async fn languages(State(service): State<Service>) -> Response {
    let found = match &service.settings.languages {
        None => json!([]),
        Some((source, target)) => json!([
            { "code": source, "name": source, "targets": [target] },
            { "code": target, "name": target, "targets": [] },
        ]),
    };
    json_response(StatusCode::OK, &found)
}

async fn scrape(State(service): State<Service>) -> Response {
    metrics::response(service.metrics.registry())
}

async fn translate(State(service): State<Service>, request: Request) -> Result<Response, Failed> {
    let settings = &service.settings;
    let (head, body) = request.into_parts();
    let body = read(body, settings).await?;
    let asked = Asked::parse(&head.headers, &body)?;
    asked.check(settings)?;
    // A text may have several lines, and a sentence is one line.
    let lines: Vec<Vec<&str>> = asked.texts.iter().map(|text| text.lines().collect()).collect();
    let sentences: Vec<&str> = lines.concat();
    if sentences.len() > settings.queue {
        let (lines, most) = (sentences.len(), settings.queue);
        return Err(Failed::bad(format!(
            "q has {lines} lines, and the server takes at most {most} at a time (--queue)"
        )));
    }
    let mut room = service.queue.room(sentences.len())?;
    let each = std::iter::from_fn(|| room.split());
    let outcomes: Vec<_> = sentences
        .iter()
        .zip(each)
        .map(|(line, room)| service.queue.push((*line).to_owned(), room))
        .collect::<Result<_, _>>()?;
    let all = async {
        let mut translated = Vec::with_capacity(outcomes.len());
        for outcome in outcomes {
            translated.push(received(outcome).await?.text_if_whole(&service.queue)?);
        }
        Ok::<_, Failed>(translated)
    };
    let Ok(translated) = timeout(settings.timeout, all).await else {
        let seconds = settings.timeout.as_secs_f64();
        let why = format!("there was no translation within {seconds} s (--timeout)");
        return Err(Failed { status: StatusCode::GATEWAY_TIMEOUT, why });
    };
    let mut translated = translated?.into_iter();
    let texts = lines.iter().map(|lines| {
        let lines: Vec<String> = translated.by_ref().take(lines.len()).collect();
        Value::from(lines.join("\n"))
    });
    let texts: Vec<Value> = texts.collect();
    let text = match asked.is_list {
        true => Value::from(texts),
        false => texts.into_iter().next().unwrap_or_default(),
    };
    Ok(json_response(StatusCode::OK, &json!({ "translatedText": text })))
}

/// The body of a request for a translation.
async fn read(body: Body, settings: &Settings) -> Result<Bytes, Failed> {
    let most = settings.max_chars.saturating_mul(CHAR_BYTES).saturating_add(MORE_BYTES);
    match timeout(settings.timeout, to_bytes(body, most)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) if is_about_length(&error) => Err(Failed {
            status: StatusCode::PAYLOAD_TOO_LARGE,
            why: format!(
                "the request has more than {most} bytes; a text has at most {} characters (--max-chars)",
                settings.max_chars
            ),
        }),
        Ok(Err(error)) => Err(Failed::bad(format!("the request cannot be read: {error}"))),
        Err(_) => Err(Failed {
            status: StatusCode::REQUEST_TIMEOUT,
            why: format!(
                "the request did not arrive within {} s (--timeout)",
                settings.timeout.as_secs_f64()
            ),
        }),
    }
}

fn is_about_length(error: &axum::Error) -> bool {
    std::error::Error::source(error)
        .is_some_and(|source| source.is::<http_body_util::LengthLimitError>())
}

async fn received(
    outcome: oneshot::Receiver<Result<Translated, Unanswered>>,
) -> Result<Translated, Unanswered> {
    outcome.await.unwrap_or(Err(Unanswered::Stopping))
}

trait Whole {
    fn text_if_whole(self, queue: &Queue) -> Result<String, Failed>;
}

impl Whole for Translated {
    /// The text, unless only the beginning of the sentence was translated.
    fn text_if_whole(self, queue: &Queue) -> Result<String, Failed> {
        if !self.is_cut {
            return Ok(self.text);
        }
        let most =
            queue.longest().map_or_else(|_| "the limit".into(), |most| format!("{most} tokens"));
        Err(Failed::bad(format!(
            "a line of q is longer than the model's {most} (data.max_length, or the model's positions); \
             send one sentence a line"
        )))
    }
}

/// A request for a translation, as LibreTranslate takes it.
#[derive(Debug, PartialEq)]
struct Asked {
    texts: Vec<String>,
    is_list: bool,
    source: Option<String>,
    target: Option<String>,
    format: Option<String>,
}

impl Asked {
    /// Reads JSON, or a form if the headers say so.
    fn parse(headers: &HeaderMap, body: &[u8]) -> Result<Self, Failed> {
        let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let is_form =
            media_type.is_some_and(|found| found.starts_with("application/x-www-form-urlencoded"));
        let mut keys = match is_form {
            true => form_urlencoded::parse(body)
                .map(|(key, value)| (key.into_owned(), Value::from(value)))
                .collect(),
            false => match serde_json::from_slice(body) {
                Ok(Value::Object(keys)) => keys,
                Ok(_) => return Err(Failed::bad("the request is JSON, but no object")),
                Err(error) => return Err(Failed::bad(format!("the request is no JSON: {error}"))),
            },
        };
        let hint = match is_form {
            true => "; it was read as a form: JSON needs the header Content-Type: application/json",
            false => "",
        };
        let (texts, is_list) = match keys.remove("q") {
            Some(Value::String(text)) => (vec![text], false),
            Some(Value::Array(texts)) => {
                let text = |text| match text {
                    Value::String(text) => Ok(text),
                    _ => Err(Failed::bad("q is a list of something else than strings")),
                };
                (texts.into_iter().map(text).collect::<Result<_, _>>()?, true)
            }
            Some(_) => return Err(Failed::bad("q is neither a string nor a list of strings")),
            None => return Err(Failed::bad(format!("the request has no q{hint}"))),
        };
        let mut word = |key: &str| word(&mut keys, key);
        let (source, target, format) = (word("source")?, word("target")?, word("format")?);
        Ok(Self { texts, is_list, source, target, format })
    }

    fn check(&self, settings: &Settings) -> Result<(), Failed> {
        if self.texts.iter().all(|text| text.trim().is_empty()) {
            return Err(Failed::bad("q is empty"));
        }
        let chars: usize = self.texts.iter().map(|text| text.chars().count()).sum();
        if chars > settings.max_chars {
            return Err(Failed::bad(format!(
                "q has {chars} characters, and the server takes at most {} (--max-chars)",
                settings.max_chars
            )));
        }
        if let Some(format) = self.format.as_deref().filter(|format| *format != "text") {
            return Err(Failed::bad(format!(
                "format is {format:?}, and only \"text\" is translated"
            )));
        }
        let Some((source, target)) = &settings.languages else { return Ok(()) };
        let sides = [("source", &self.source, source), ("target", &self.target, target)];
        for (key, asked, is) in sides {
            let is_auto = key == "source" && asked.as_deref() == Some("auto");
            if let Some(asked) = asked
                && asked != is
                && !is_auto
            {
                return Err(Failed::bad(format!(
                    "{key} is {asked:?}, and this model translates from {source} to {target}"
                )));
            }
        }
        Ok(())
    }
}

/// The string at a key, if there is one.
fn word(keys: &mut Map<String, Value>, key: &str) -> Result<Option<String>, Failed> {
    match keys.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(word)) => Ok(Some(word)),
        Some(_) => Err(Failed::bad(format!("{key} is no string"))),
    }
}

/// Translates lines as they come. A client that does not read makes the server stop reading, so that only
/// some lines are in memory. What goes wrong after the first line can only be told by an end without the
/// last chunk.
async fn translate_stream(
    State(service): State<Service>,
    request: Request,
) -> Result<Response, Failed> {
    let unavailable = |why| Failed { status: StatusCode::SERVICE_UNAVAILABLE, why };
    service.queue.longest().map_err(unavailable)?;
    let place = Arc::clone(&service.streams).try_acquire_owned();
    let place = place.map_err(|_| unavailable(format!("there are {STREAMS} streams already")))?;
    let most = service.settings.max_chars.saturating_mul(size_of::<char>());
    let body = request.into_body().into_data_stream().map_err(io::Error::other);
    let lines = FramedRead::new(StreamReader::new(body), LinesCodec::new_with_max_length(most));
    let closed = service.queue.closed();
    let is_closed = closed.clone();
    let cut_off = async move {
        let _place = place;
        let stopping = async { Err(io::Error::other(Unanswered::Stopping)) };
        is_closed.is_cancelled().then(|| Ok(start(Box::pin(stopping))))
    };
    let translated = lines
        .map_err(io::Error::other)
        .map_ok(move |line| start(Box::pin(line_of(service.clone(), line))))
        .take_until(closed.cancelled_owned())
        .chain(stream::once(cut_off).filter_map(async |it| it))
        .try_buffered(LINES_AHEAD);
    let media_type = [(CONTENT_TYPE, "text/plain; charset=utf-8")];
    Ok((media_type, Body::from_stream(translated)).into_response())
}

/// Has a task of its own make a line, whose deadline holds even if the client does not read.
fn start(line: BoxFuture<'static, io::Result<String>>) -> impl Future<Output = io::Result<String>> {
    let task = AbortOnDropHandle::new(tokio::spawn(line));
    async move { task.await.map_err(io::Error::other)? }
}

/// The translation of a line of a stream.
async fn line_of(service: Service, line: String) -> io::Result<String> {
    let Settings { max_chars, timeout: patience, .. } = *service.settings;
    let chars = line.chars().count();
    if chars > max_chars {
        return Err(io::Error::other(format!(
            "a line has {chars} characters, more than {max_chars}"
        )));
    }
    // Those who have room have a deadline each, so that this wait ends.
    let room = service.queue.wait_for_room().await.map_err(io::Error::other)?;
    let outcome = service.queue.push(line, room).map_err(io::Error::other)?;
    let translated = timeout(patience, received(outcome)).await.map_err(io::Error::other)?;
    Ok(translated.map_err(io::Error::other)?.text + "\n")
}
