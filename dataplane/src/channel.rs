//! A channel as it runs: what its clients share, and what a reload changes under them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use sluice_config::channel::{Channel as Spec, Lifecycle, LifecycleState};
use sluice_schema::Schema;

use crate::cursor::Cursors;
use crate::encode::{Encoder, Lane};
use crate::feed::Feed;
use crate::idempotency::Answers;
use crate::policy::{Policy, Principal, Rates};
use crate::respond::Refusal;
use crate::server::Sink;
use crate::telemetry::ChannelMetrics;
use crate::telemetry::trace::ChannelTracing;
use crate::tenant::Tenant;

/// What clients of one channel share. It stays the same object across reloads, so that open
/// streams see what changed.
pub struct Channel {
    /// Its API.
    pub tenant: Arc<Tenant>,
    /// Name of the channel.
    pub name: Arc<str>,
    /// Metrics.
    pub metrics: Arc<ChannelMetrics>,
    /// Buckets of `limits.publishRate`.
    pub rates: Rates,
    /// Answers to publishes with an `Idempotency-Key`.
    pub answers: Answers,
    state: ArcSwap<State>,
    version: AtomicU64,
    connections: AtomicU32,
}

/// What a reload may change.
#[derive(Clone)]
pub struct State {
    /// The spec.
    pub spec: Spec,
    /// The API's lifecycle.
    pub lifecycle: Lifecycle,
    /// Policies, with secrets resolved.
    pub policy: Policy,
    /// The channel's cursors.
    pub cursors: Cursors,
    /// How messages are written.
    pub encoder: Encoder,
    /// What payloads of publishes have to fit: `message.payload`, compiled.
    pub schema: Option<Arc<Schema>>,
    /// What subscribers read.
    pub feed: Option<Arc<Feed>>,
    /// Where publishes go.
    pub sink: Option<Sink>,
    /// Makes spans.
    pub tracing: ChannelTracing,
    /// The channel is gone.
    pub removed: bool,
}

impl Channel {
    /// A channel in its first state.
    pub fn new(tenant: &Arc<Tenant>, name: &str, metrics: Arc<ChannelMetrics>, state: State) -> Arc<Self> {
        Arc::new(Self {
            tenant: tenant.clone(),
            name: name.into(),
            metrics,
            rates: Rates::default(),
            answers: Answers::default(),
            state: ArcSwap::from_pointee(state),
            version: AtomicU64::new(1),
            connections: AtomicU32::new(0),
        })
    }

    /// The state now.
    pub fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// Changes the state; open streams are judged anew.
    pub fn change(&self, state: State) {
        self.state.store(Arc::new(state));
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Grows with every change.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Takes one of the channel's connections, and of its API's.
    pub fn connect(self: &Arc<Self>, limit: u32) -> Result<Connection, Refusal> {
        let refused = |whose, limit| {
            self.metrics.decision("limits", "refused");
            Refusal::TooManyConnections { whose, limit }
        };
        self.tenant.connect().map_err(|limit| refused("API", limit))?;
        let take = |open: u32| (open < limit).then_some(open + 1);
        match self.connections.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take) {
            Ok(_) => Ok(Connection(self.clone())),
            Err(_) => {
                self.tenant.disconnect();
                Err(refused("channel", limit))
            }
        }
    }
}

/// What an open stream rests on.
pub struct Hold<'a> {
    /// Who opened it.
    pub principal: &'a Principal,
    /// The web origin that the policy let in.
    pub origin: Option<&'a str>,
    /// What it is written.
    pub lane: Lane,
    /// What it reads.
    pub feed: Option<&'a Arc<Feed>>,
}

/// One of a channel's connections; dropping it gives it back.
pub struct Connection(Arc<Channel>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::SeqCst);
        self.0.tenant.disconnect();
    }
}

impl State {
    /// Whether anybody is served at all, now.
    pub fn check(&self) -> Result<(), Refusal> {
        if self.removed {
            return Err(Refusal::NotFound);
        }
        if self.lifecycle.state == LifecycleState::Blocked {
            return Err(Refusal::Blocked);
        }
        match &self.policy.closed {
            // The reason names what is inside: it is for the owner, not for whoever asks.
            Some(_) => Err(Refusal::NotReady("a policy of this channel cannot be applied".into())),
            None => Ok(()),
        }
    }

    /// Whether a stream that was opened under another state may stay open.
    pub fn reevaluate(&self, hold: &Hold<'_>) -> Result<(), Refusal> {
        self.check()?;
        self.policy.reevaluate(hold.principal)?;
        if hold.origin.is_some_and(|origin| !self.policy.allows_foreign(origin)) {
            return Err(Refusal::ForeignOrigin);
        }
        let Some(feed) = hold.feed else {
            // It only publishes.
            let publish = self.spec.publish.as_ref();
            let may = publish.is_some_and(|publish| publish.transports.websocket.is_some());
            return if may { Ok(()) } else { Err(Refusal::Changed) };
        };
        let served = self.spec.subscribe.as_ref().is_some_and(|subscribe| {
            let transports = &subscribe.transports;
            let transport = if hold.lane.is_websocket() {
                transports.websocket.is_some()
            } else {
                transports.sse.is_some()
            };
            transport && subscribe.formats.contains(&hold.lane.format())
        });
        let same = self.feed.as_ref().is_some_and(|now| Arc::ptr_eq(now, feed));
        if served && same { Ok(()) } else { Err(Refusal::Changed) }
    }

    /// Adds what every answer of a deprecated API carries (RFC 9745, RFC 8594).
    pub fn add_lifecycle_headers(&self, headers: &mut HeaderMap) {
        let Lifecycle { state, deprecated_at, sunset_at, link } = &self.lifecycle;
        let mut insert = |name: &'static str, value: String| {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.append(HeaderName::from_static(name), value);
            }
        };
        let time =
            |text: &Option<String>| text.as_deref().and_then(|text| text.parse::<jiff::Timestamp>().ok());
        if *state == LifecycleState::Deprecated {
            let since =
                time(deprecated_at).map_or_else(|| "?1".to_owned(), |at| format!("@{}", at.as_second()));
            insert("deprecation", since);
            if let Some(link) = link {
                insert("link", format!("<{link}>; rel=\"deprecation\""));
            }
        }
        if let Some(at) = time(sunset_at) {
            insert("sunset", at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string());
        }
    }
}
