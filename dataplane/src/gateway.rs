//! What every listener shares: the routes, and how a request becomes an answer or a stream.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use sluice_config::Entry;
use sluice_config::channel::Format;
use tokio_util::sync::CancellationToken;

use crate::channel::{Channel, Connection, State};
use crate::cursor::Cursor;
use crate::encode::Lane;
use crate::engine::{Attachment, Engine, Stream};
use crate::feed::{Feed, Start};
use crate::negotiate::{Mode, Query, mode, query};
use crate::policy::{Policy, Principal, Rates, presented};
use crate::respond::{Body, Refusal, full, jitter, plain};
use crate::telemetry::Metrics;
use crate::transport::sse;
use crate::transport::websocket::{frame, upgrade};

/// Channels by path.
pub type Routes = HashMap<String, Arc<Channel>>;

/// What every listener shares.
pub struct Gateway {
    /// Channels by path.
    pub routes: ArcSwap<Routes>,
    /// APIs as they are served, by `namespace/name`.
    pub apis: ArcSwap<BTreeMap<String, Arc<Entry>>>,
    /// Buckets of questions about what is served, one a client address.
    pub asked: Rates,
    /// What the console lists.
    pub catalog: ArcSwap<Vec<Arc<serde_json::Value>>>,
    /// Serves streams.
    pub engine: Arc<Engine>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Host names taken; empty: any.
    pub hosts: Vec<String>,
    /// Serves the console.
    pub console: bool,
    /// Connections that are kept alive are asked to end with their next answer: whoever is told
    /// loses no request, as it could to a connection that is closed under it.
    pub leaving: Arc<AtomicBool>,
    /// Nothing new is begun: streams are told to go elsewhere, and who has asked for nothing yet is
    /// let go.
    pub draining: CancellationToken,
}

/// Where a request came from.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// `http` or `https`.
    pub scheme: &'static str,
}

/// What became of a request for a stream.
pub enum Opened {
    /// A stream: its answer's head, and all but the socket.
    Stream(Response<()>, Box<Opening>),
    /// A WebSocket that is accepted and closed at once, for a browser sees nothing else.
    Closed(Response<()>, Bytes),
    /// An answer.
    Answer(Response<Body>),
}

/// A stream that was let in.
pub struct Opening {
    channel: Arc<Channel>,
    principal: Principal,
    name: Arc<str>,
    connection: Connection,
    version: u64,
    lane: Lane,
    reading: Option<Acquired>,
    origin: Option<Box<str>>,
    cursor: Option<String>,
    interval: Duration,
}

/// A feed that is kept running for a client on its way.
struct Acquired {
    feed: Option<Arc<Feed>>,
    start: Option<Start>,
}

impl Acquired {
    fn new(feed: Arc<Feed>) -> Self {
        feed.acquire();
        Self { feed: Some(feed), start: None }
    }
}

impl Drop for Acquired {
    fn drop(&mut self) {
        if let Some(feed) = &self.feed {
            feed.release();
        }
    }
}

impl Opening {
    /// Puts the stream on a shard, which writes `head` first.
    pub fn attach(self, engine: &Engine, stream: Stream, head: Bytes, received: Bytes) {
        // From here on the shard releases the feed.
        let reading =
            self.reading.and_then(|mut acquired| Some((acquired.feed.take()?, acquired.start.take()?)));
        engine.attach(Box::new(Attachment {
            stream,
            head,
            received,
            channel: self.channel,
            principal: self.principal,
            name: self.name,
            connection: self.connection,
            version: self.version,
            lane: self.lane,
            reading,
            // Everything: no client says what it wants yet.
            selector: None,
            origin: self.origin,
            cursor: self.cursor,
            interval: self.interval,
        }));
    }
}

/// A request that found its channel and may talk to it.
pub struct Admitted {
    /// The channel.
    pub channel: Arc<Channel>,
    /// Its state.
    pub state: Arc<State>,
    /// [`Channel::version`] of that state.
    pub version: u64,
    /// What the request wants.
    pub mode: Mode,
    /// The query string.
    pub query: Query,
    /// Who sent it.
    pub principal: Principal,
    /// Limits name the client so.
    pub name: Arc<str>,
    /// `http` or `https`.
    pub scheme: &'static str,
}

impl Gateway {
    /// Whether the name in `Host` is one of ours.
    pub fn check_host(&self, request: &Parts) -> Result<(), Refusal> {
        check_host_name(&self.hosts, request)
    }

    /// The channel at the request's path, if the request's origin may use it.
    pub fn find(&self, request: &Parts, peer: Peer) -> Result<(Arc<Channel>, Arc<State>, u64), Refusal> {
        let channel = self.routes.load().get(request.uri.path()).cloned().ok_or(Refusal::NotFound)?;
        // The version first: a change in between is judged again, not missed.
        let version = channel.version();
        let state = channel.state();
        if !allows_origin(&state.policy, request, peer.scheme) {
            channel.metrics.decision("cors", "refused");
            return Err(Refusal::ForeignOrigin);
        }
        Ok((channel, state, version))
    }

    /// Lets a request in that [`Gateway::find`] found a channel for.
    pub fn admit(
        &self,
        request: &Parts,
        peer: Peer,
        (channel, state, version): (Arc<Channel>, Arc<State>, u64),
    ) -> Result<Admitted, Refusal> {
        state.check()?;
        let offered =
            upgrade::is_upgrade(&request.headers).then(|| upgrade::offer(&request.headers).key).flatten();
        let principal = match state.policy.authenticate(presented(&request.headers, offered).as_deref()) {
            Ok(principal) => principal,
            Err(refusal) => {
                channel.metrics.decision("authentication", "refused");
                return Err(refusal);
            }
        };
        let mode = mode(request, &state.spec)?;
        let query = query(request.uri.query())?;
        let name = principal.key_id().map_or_else(|| peer.address.ip().to_string().into(), Arc::from);
        Ok(Admitted { channel, state, version, mode, query, principal, name, scheme: peer.scheme })
    }

    /// Opens a stream for a request that asks for one, or answers why not.
    pub async fn open(&self, request: &Parts, peer: Peer) -> Opened {
        if let Err(refusal) = self.check_host(request) {
            return Opened::Answer(refusal.response());
        }
        let found = match self.find(request, peer) {
            Ok(found) => found,
            // Without a channel there is no policy: only this host's own pages may be told more.
            Err(Refusal::NotFound)
                if upgrade::is_upgrade(&request.headers) && is_same_origin(request, peer.scheme) =>
            {
                return self.refuse_websocket(request, None, &Refusal::NotFound);
            }
            Err(refusal) => return Opened::Answer(self.dress(refusal.response(), request, None)),
        };
        let state = found.1.clone();
        let websocket = upgrade::is_upgrade(&request.headers);
        let opened = match self.admit(request, peer, found) {
            Ok(admitted) => self.stream(request, admitted).await,
            Err(refusal) => Err(refusal),
        };
        match opened {
            Ok((response, opening)) => {
                Opened::Stream(self.dress_unit(response, request, &state), Box::new(opening))
            }
            Err(refusal) if websocket => self.refuse_websocket(request, Some(&state), &refusal),
            Err(refusal) => Opened::Answer(self.refuse_stream(request, &state, &refusal)),
        }
    }

    async fn stream(&self, request: &Parts, admitted: Admitted) -> Result<(Response<()>, Opening), Refusal> {
        let Admitted { channel, state, version, mode, query, principal, name, scheme } = admitted;
        let subscribe = state.spec.subscribe.as_ref();
        let (response, format, interval, reads) = match mode {
            Mode::WebSocket => {
                let offer = upgrade::offer(&request.headers);
                let format = offer.format(query.format)?;
                let settings = subscribe.and_then(|subscribe| subscribe.transports.websocket.clone());
                let interval = settings.clone().unwrap_or_default().ping_interval.0;
                (upgrade::answer(&request.headers, &offer)?, format, interval, settings.is_some())
            }
            Mode::Sse => {
                let settings = subscribe.and_then(|subscribe| subscribe.transports.sse.clone());
                let interval = settings.unwrap_or_default().heartbeat_interval.0;
                (event_stream(), query.format.unwrap_or(Format::Raw), interval, true)
            }
            Mode::Publish => return Err(Refusal::MethodNotAllowed { allow: "GET" }),
        };
        let lane = if mode == Mode::Sse { Lane::sse(format) } else { Lane::websocket(format) };
        if let Some(subscribe) = subscribe
            && !subscribe.formats.contains(&format)
        {
            let offers = subscribe.formats.iter().map(|format| format!("{format:?}").to_lowercase());
            let offers = offers.collect::<Vec<_>>().join(", ");
            return Err(Refusal::NotAcceptable { offers: format!("the formats {offers}") });
        }
        let last_event = request.headers.get("last-event-id").filter(|_| mode == Mode::Sse);
        let cursor = match last_event.map(|value| value.to_str()) {
            Some(Ok("")) | None => query.cursor,
            Some(Ok(id)) => Some(id.to_owned()),
            Some(Err(_)) => return Err(Refusal::Cursor(crate::cursor::CursorError::Malformed)),
        };
        if self.draining.is_cancelled() {
            return Err(Refusal::Drain { retry_after: jitter(Duration::from_millis(200)) });
        }
        let reading = match &state.feed {
            Some(feed) if reads => Some(position(feed, &state, cursor.as_deref()).await?),
            _ => None,
        };
        let connection = channel.connect(state.policy.limits.connections())?;
        let origin = request.headers.get(header::ORIGIN).and_then(|value| value.to_str().ok());
        let origin = origin.filter(|_| !is_same_origin(request, scheme)).map(Into::into);
        let opening = Opening {
            channel,
            principal,
            name,
            connection,
            version,
            lane,
            reading,
            origin,
            cursor,
            interval,
        };
        Ok((response, opening))
    }

    /// A browser cannot see a refused upgrade: it is accepted and closed with the code.
    fn refuse_websocket(&self, request: &Parts, state: Option<&State>, refusal: &Refusal) -> Opened {
        let offer = upgrade::offer(&request.headers);
        let from_browser = request.headers.contains_key(header::ORIGIN);
        match upgrade::answer(&request.headers, &offer) {
            Ok(response) if from_browser => {
                Opened::Closed(response, frame::close(refusal.close_code(), &refusal.detail()))
            }
            _ => Opened::Answer(self.dress(refusal.response(), request, state)),
        }
    }

    /// EventSource gives up for ever after any status but 200: what is transient is said in an
    /// event stream that ends.
    fn refuse_stream(&self, request: &Parts, state: &State, refusal: &Refusal) -> Response<Body> {
        let strict =
            request.uri.query().is_some_and(|query| query.split('&').any(|part| part == "sse=strict"));
        let wants_events = mode(request, &state.spec) == Ok(Mode::Sse);
        if strict || !wants_events || !refusal.is_transient() {
            return self.dress(refusal.response(), request, Some(state));
        }
        let retry = refusal.retry_after().unwrap_or(Duration::from_secs(1));
        let milliseconds = u64::try_from(jitter(retry).as_millis()).unwrap_or(u64::MAX);
        let mut body = sse::retry(milliseconds).into_bytes();
        body.extend_from_slice(&sse::block(
            Some(refusal.event()),
            None,
            refusal.fields().to_string().as_bytes(),
        ));
        let response = event_stream().map(|()| full(body));
        self.dress(response, request, Some(state))
    }

    fn dress_unit(&self, mut response: Response<()>, request: &Parts, state: &State) -> Response<()> {
        add_headers(response.headers_mut(), request, Some(state));
        response
    }

    /// Adds what every answer of a channel carries.
    pub fn dress(
        &self,
        mut response: Response<Body>,
        request: &Parts,
        state: Option<&State>,
    ) -> Response<Body> {
        add_headers(response.headers_mut(), request, state);
        response
    }

    /// Answers a CORS preflight (Fetch §3.2.2).
    pub fn preflight(&self, request: &Parts, peer: Peer) -> Response<Body> {
        let (_, state, _) = match self.find(request, peer) {
            Ok(found) => found,
            Err(refusal) => return self.dress(refusal.response(), request, None),
        };
        let mut response = plain(StatusCode::NO_CONTENT, "text/plain", Bytes::new());
        let headers = response.headers_mut();
        headers.remove(header::CONTENT_TYPE);
        headers.insert(header::ALLOW, HeaderValue::from_static("GET, POST, OPTIONS"));
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
        let asked = request.headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
        let usual =
            HeaderValue::from_static("Authorization, Content-Type, X-API-Key, Last-Event-ID, Message-Key");
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.unwrap_or(usual));
        if let Some(age) = state.policy.cors.max_age {
            headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from(age.0.as_secs()));
        }
        self.dress(response, request, Some(&state))
    }
}

/// Whether the name in `Host` is among `hosts`; none means any.
pub fn check_host_name(hosts: &[String], request: &Parts) -> Result<(), Refusal> {
    // RFC 9112 §3.2: whoever reads the other one would see another host.
    if request.headers.get_all(header::HOST).iter().count() > 1 {
        return Err(Refusal::BadRequest("more than one Host".into()));
    }
    if hosts.is_empty() {
        return Ok(());
    }
    let host = host(request).ok_or(Refusal::ForeignHost)?;
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    if hosts.iter().any(|known| known.eq_ignore_ascii_case(name)) {
        Ok(())
    } else {
        Err(Refusal::ForeignHost)
    }
}

/// How long a subscriber with a cursor waits to be told of a gap with its first words.
const CURSOR_PATIENCE: Duration = Duration::from_secs(1);

/// Where a subscriber starts: at its cursor, else at the end as soon as the broker told it.
async fn position(feed: &Arc<Feed>, state: &State, cursor: Option<&str>) -> Result<Acquired, Refusal> {
    let brought = cursor.map(|cursor| state.cursors.decode(cursor)).transpose()?;
    let mut acquired = Acquired::new(feed.clone());
    let end = async {
        let timeout = state.spec.subscribe.as_ref().map_or(Duration::ZERO, |subscribe| subscribe.timeout.0);
        feed.end(timeout).await.ok_or_else(|| Refusal::NotReady("the broker does not answer".into()))
    };
    let start = match brought {
        Some(Cursor::At { incarnation, positions }) => {
            let start = Start::At { incarnation, positions };
            // A gap is told first where it can be known soon; a broker that is away is not waited for.
            feed.placeable(CURSOR_PATIENCE).await;
            start
        }
        Some(Cursor::Unknown) => {
            end.await?;
            Start::Unknown
        }
        None => end.await?,
    };
    acquired.start = Some(start);
    Ok(acquired)
}

/// Whether the page that a request comes from, if it says so, may use what `policy` governs.
pub fn allows_origin(policy: &Policy, request: &Parts, scheme: &str) -> bool {
    let origin = request.headers.get(header::ORIGIN);
    origin.is_none_or(|origin| {
        origin.to_str().is_ok_and(|origin| policy.allows_origin(origin, scheme, host(request)))
    })
}

/// The authority of the request's target where it has one (HTTP/2, and RFC 9112 §3.2.2), else `Host`.
pub fn host(request: &Parts) -> Option<&str> {
    let header = || request.headers.get(header::HOST).and_then(|value| value.to_str().ok());
    request.uri.authority().map(http::uri::Authority::as_str).or_else(header)
}

/// Whether a request comes from a page of this host.
pub fn is_same_origin(request: &Parts, scheme: &str) -> bool {
    let origin = request.headers.get(header::ORIGIN).and_then(|value| value.to_str().ok());
    origin.is_some_and(|origin| Policy::default().allows_origin(origin, scheme, host(request)))
}

fn event_stream() -> Response<()> {
    let mut response = Response::new(());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

fn add_headers(headers: &mut HeaderMap, request: &Parts, state: Option<&State>) {
    headers.insert(header::VARY, HeaderValue::from_static("Accept, Origin"));
    let Some(state) = state else { return };
    state.add_lifecycle_headers(headers);
    if let Some(origin) = request.headers.get(header::ORIGIN) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if state.policy.cors.allow_credentials {
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        let exposed =
            HeaderValue::from_static("Retry-After, RateLimit, RateLimit-Policy, Deprecation, Sunset, Link");
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
}

/// Whether a request can only be answered by the engine: it is worth its own path past HTTP.
pub fn is_stream_request(request: &Parts) -> bool {
    let accepts_events = request.headers.get_all(header::ACCEPT).iter().any(|value| {
        value.to_str().is_ok_and(|text| text.contains("text/event-stream") || text.contains("*/*"))
    });
    let silent = !request.headers.contains_key(header::ACCEPT);
    request.method == Method::GET
        && !matches!(request.uri.path(), "/" | "/-")
        && !request.uri.path().starts_with("/-/")
        && (upgrade::is_upgrade(&request.headers) || accepts_events || silent)
}
