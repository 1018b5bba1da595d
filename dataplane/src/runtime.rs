//! Owns what runs, and applies a new config as a difference: what did not change keeps its
//! connections. A config is taken or refused per API; the last good one keeps serving.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use sluice_config::channel::{Message, path};
use sluice_config::check::check_api;
use sluice_config::server::ServerKind;
use sluice_config::{ChannelPolicy, Entry, Material, Problem};

use crate::channel::{Channel, State};
use crate::config::{CursorKey, Loaded, Refused};
use crate::cursor::Cursors;
use crate::encode::{Encoder, OCTET_STREAM};
use crate::feed::{Feed, Settings};
use crate::gateway::{Gateway, Routes};
use crate::policy::Policy;
use crate::runtime::catalog::listing;
use crate::runtime::frame::Frame;
use crate::runtime::schemas::Schemas;
use crate::runtime::server::{KafkaClient, RunningServer};
use crate::server::{Status, kafka};
use crate::telemetry::trace::{Place, Tracing};
use crate::tenant::{Commons, Tenant};

mod catalog;
mod frame;
mod schemas;
mod server;

/// How long a client without channels may take to flush before it is dropped.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// What runs.
pub struct Runtime {
    gateway: Arc<Gateway>,
    tracing: Tracing,
    commons: Arc<Commons>,
    apis: BTreeMap<String, Running>,
    clients: HashMap<[u8; 32], Arc<KafkaClient>>,
    applied: Applied,
}

/// What `/config` shows.
#[derive(Clone, Debug, Default, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Applied {
    /// Sequence of the config in force.
    pub sequence: u64,
    /// When it was applied, RFC 3339.
    pub applied_at: String,
    /// What was refused.
    pub refused: Vec<Refused>,
    /// What is served.
    pub apis: Vec<serde_json::Value>,
}

/// State of a server, for `/readyz`.
#[derive(Clone)]
pub struct ServerState {
    /// Namespace of the API.
    pub namespace: String,
    /// Name of the API.
    pub api: String,
    /// Name of the server.
    pub server: String,
    /// Its state.
    pub status: Arc<Status>,
}

/// An API that is served.
struct Running {
    entry: Arc<Entry>,
    keys: Vec<CursorKey>,
    /// Policies of a refused revision were merged onto it.
    merged: bool,
    servers: BTreeMap<String, RunningServer>,
    channels: BTreeMap<String, RunningChannel>,
    schemas: Schemas,
    /// What the console shows of it.
    listing: Arc<serde_json::Value>,
    tenant: Arc<Tenant>,
}

struct RunningChannel {
    channel: Arc<Channel>,
    path: String,
    feed: Option<Arc<Feed>>,
    _watched: Option<Watched>,
}

/// A topic that a channel needs: if it is missing the server's state says so.
struct Watched {
    client: Arc<KafkaClient>,
    topic: String,
}

impl Watched {
    fn new(client: &Arc<KafkaClient>, topic: &str) -> Self {
        client.client.watch_topic(topic);
        Self { client: client.clone(), topic: topic.to_owned() }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.client.client.unwatch_topic(&self.topic);
    }
}

impl Runtime {
    /// Nothing runs yet.
    pub fn new(gateway: Arc<Gateway>, tracing: Tracing, commons: Arc<Commons>) -> Self {
        Self {
            gateway,
            tracing,
            commons,
            apis: BTreeMap::new(),
            clients: HashMap::new(),
            applied: Applied::default(),
        }
    }

    /// Applies `loaded` and tells what is in force now.
    pub fn apply(&mut self, loaded: &Loaded) -> (Applied, Vec<ServerState>) {
        let mut refused = loaded.refused.clone();
        let gone: Vec<String> =
            self.apis.keys().filter(|key| !loaded.config.apis.contains_key(*key)).cloned().collect();
        for key in gone {
            if let Some(running) = self.apis.remove(&key) {
                let api = &running.entry.api;
                for server in running.servers.keys() {
                    self.gateway.metrics.forget_server(&api.namespace, &api.name, server);
                }
                self.gateway.metrics.forget_api(&api.namespace, &api.name);
                running.channels.into_values().for_each(|channel| remove(&channel));
            }
        }
        for (key, entry) in &loaded.config.apis {
            let keys = loaded.cursor_keys.get(key).cloned().unwrap_or_default();
            if let Err(problems) = self.apply_api(key, entry, keys, &loaded.material) {
                self.merge_policies(key, entry, &loaded.material);
                tracing::warn!(
                    api = key,
                    problems = problems.len(),
                    "config refused; the last good one keeps serving"
                );
                refused.push(Refused { api: key.clone(), revision: entry.revision.clone(), problems });
            }
        }
        let in_use = |client: &KafkaClient, running: &BTreeMap<String, Running>| {
            running.values().flat_map(|api| api.servers.values()).any(|server| {
                server.client.as_ref().is_some_and(|used| Arc::ptr_eq(&used.client, &client.client))
            })
        };
        let unused: Vec<[u8; 32]> = self
            .clients
            .iter()
            .filter(|(_, client)| !in_use(client, &self.apis))
            .map(|(digest, _)| *digest)
            .collect();
        for client in unused.into_iter().filter_map(|digest| self.clients.remove(&digest)) {
            tokio::spawn(async move { client.client.close(CLOSE_PATIENCE).await });
        }
        for running in self.apis.values() {
            running.tenant.limit_connections(loaded.config.api_limits.connections);
        }
        self.publish_routes();
        self.gateway.engine.recheck();
        self.report(loaded, refused)
    }

    fn report(&mut self, loaded: &Loaded, refused: Vec<Refused>) -> (Applied, Vec<ServerState>) {
        let metrics = &self.gateway.metrics;
        metrics.reload(refused.len());
        metrics.config_sequence.set(i64::try_from(loaded.config.sequence).unwrap_or(i64::MAX));
        let apis = self.apis.values().map(|running| {
            let Entry { generation, revision, api, material, .. } = &*running.entry;
            json!({"namespace": api.namespace, "name": api.name, "generation": generation,
                   "revision": revision, "material": material})
        });
        self.applied = Applied {
            sequence: loaded.config.sequence,
            applied_at: crate::encode::rfc3339(crate::feed::wall_clock()),
            refused,
            apis: apis.collect(),
        };
        let mut servers = Vec::new();
        for running in self.apis.values() {
            for (name, server) in &running.servers {
                servers.push(ServerState {
                    namespace: running.entry.api.namespace.clone(),
                    api: running.entry.api.name.clone(),
                    server: name.clone(),
                    status: server.status.clone(),
                });
            }
        }
        (self.applied.clone(), servers)
    }

    fn apply_api(
        &mut self,
        key: &str,
        entry: &Arc<Entry>,
        keys: Vec<CursorKey>,
        material: &Material,
    ) -> Result<(), Vec<Problem>> {
        let same = |running: &Running| {
            !running.merged && running.entry.revision == entry.revision && running.keys == keys
        };
        if self.apis.get(key).is_some_and(same) {
            return Ok(());
        }
        let mut problems = check_api(&entry.api.name, &entry.api.spec);
        for name in material.missing(entry) {
            problems
                .push(Problem::new("material", format!("the value of secret {name} has not arrived yet")));
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let before = self.apis.get(key).map(|running| (&*running.entry.api.spec, &running.schemas));
        let schemas = Schemas::compile(&entry.api.spec, before)?;
        let mut servers = BTreeMap::new();
        for server in &entry.api.spec.servers {
            servers
                .insert(server.name.clone(), self.server(key, &server.name, &server.kind, entry, material)?);
        }
        let (old, mut before) = match self.apis.remove(key) {
            Some(mut old) => {
                let channels = std::mem::take(&mut old.channels);
                (Some(old), channels)
            }
            None => (None, BTreeMap::new()),
        };
        let frame = old.as_ref().map(|old| Frame::of(old, entry, &keys));
        let mut running = Running {
            entry: entry.clone(),
            keys,
            merged: false,
            servers,
            channels: BTreeMap::new(),
            schemas,
            listing: Arc::default(),
            tenant: old.as_ref().map(|old| old.tenant.clone()).unwrap_or_else(|| self.tenant(&entry.api)),
        };
        for spec in &entry.api.spec.channels {
            let before = before.remove(&spec.name);
            let channel = match (before, &frame) {
                (Some(kept), Some(frame)) if frame.keeps(spec, &running) => {
                    RunningChannel { path: path(&entry.api.name, &entry.api.spec, spec), ..kept }
                }
                (before, frame) => {
                    let place = frame.as_ref().and_then(|frame| frame.place(&spec.name));
                    self.channel(&mut running, spec, before, place, material)
                }
            };
            running.channels.insert(spec.name.clone(), channel);
        }
        running.listing = Arc::new(listing(&running));
        self.apis.insert(key.to_owned(), running);
        if let Some(old) = &old {
            let now = &self.apis[key].servers;
            for server in old.servers.keys().filter(|server| !now.contains_key(*server)) {
                self.gateway.metrics.forget_server(&entry.api.namespace, &entry.api.name, server);
            }
        }
        before.values().for_each(remove);
        Ok(())
    }

    /// A refused revision changes nothing but what protects: current policies, keys and lifecycle
    /// act on the last good API too. What cannot be resolved closes the channel.
    fn merge_policies(&mut self, key: &str, entry: &Entry, material: &Material) {
        let Some(running) = self.apis.get_mut(key) else { return };
        running.merged = true;
        for (name, running) in &running.channels {
            let state = running.channel.state();
            let policy = entry.policies.get(name).cloned().unwrap_or_else(unnamed);
            let policy = Policy::resolve(&policy, entry, material);
            let lifecycle = entry.api.spec.lifecycle.clone();
            running.channel.change(State { policy, lifecycle, ..(*state).clone() });
        }
        running.listing = Arc::new(listing(running));
    }

    /// The server as it runs: a client with the same resolved configuration is shared.
    fn server(
        &mut self,
        api: &str,
        name: &str,
        kind: &ServerKind,
        entry: &Entry,
        material: &Material,
    ) -> Result<RunningServer, Vec<Problem>> {
        let before = self.apis.get(api).and_then(|running| running.servers.get(name));
        let ServerKind::Kafka(spec) = kind else {
            let status = Arc::new(Status::default());
            status.set(true, None);
            let logs = before.map(|before| before.logs.clone()).unwrap_or_default();
            return Ok(RunningServer { kind: kind.clone(), status, client: None, logs });
        };
        let place = |problem: Problem| {
            Problem::new(format!("spec.servers[name={name}].{}", problem.at), problem.message)
        };
        let settings = kafka::Settings::resolve(spec, entry, material)
            .map_err(|problems| problems.into_iter().map(place).collect::<Vec<_>>())?;
        let digest = settings.digest();
        let client = match self.clients.get(&digest) {
            Some(client) => client.clone(),
            None => {
                let status = Arc::new(Status::default());
                let client = kafka::Client::connect(settings, status.clone()).map_err(|reason| {
                    vec![Problem::new(format!("spec.servers[name={name}].kafka"), reason)]
                })?;
                let client = Arc::new(KafkaClient { client, status });
                self.clients.insert(digest, client.clone());
                client
            }
        };
        Ok(RunningServer {
            kind: kind.clone(),
            status: client.status.clone(),
            client: Some(client),
            logs: BTreeMap::new(),
        })
    }

    fn tenant(&self, api: &sluice_config::config::Api) -> Arc<Tenant> {
        let seconds = self.gateway.metrics.engine_seconds(&api.namespace, &api.name);
        Tenant::new(&api.key(), &self.commons, seconds)
    }

    fn channel(
        &self,
        running: &mut Running,
        spec: &sluice_config::Channel,
        before: Option<RunningChannel>,
        before_place: Option<(&RunningServer, &str)>,
        material: &Material,
    ) -> RunningChannel {
        let Running { entry, keys, servers, schemas, tenant, .. } = running;
        let api = &entry.api;
        let server = servers.get_mut(&spec.server).expect("checked: the server exists");
        let policy =
            entry.policies.get(&spec.name).cloned().unwrap_or_else(|| sluice_config::ChannelPolicy {
                closed: Some("the config names no policy for this channel".into()),
                ..Default::default()
            });
        let policy = Policy::resolve(&policy, entry, material);
        let metrics = match &before {
            Some(before) => before.channel.metrics.clone(),
            None => self.gateway.metrics.channel(&api.namespace, &api.name, &spec.name),
        };
        let cursors = Cursors::new(&api.namespace, &api.name, &spec.name, keys);
        let tracing = self.tracing.channel(Place {
            namespace: &api.namespace,
            api: &api.name,
            channel: &spec.name,
            system: server.kind.name(),
            address: &spec.address,
        });
        let encoder = encoder(api, spec);
        let max_message_bytes = policy.limits.max_message_bytes();
        let settings = |replay, max_delay| Settings {
            encoder: encoder.clone(),
            cursors: cursors.clone(),
            replay,
            max_delay,
            max_message_bytes,
            tracing: tracing.clone(),
        };
        let feed = spec.subscribe.as_ref().map(|subscribe| {
            let settings = settings(subscribe.replay.clone(), subscribe.flush.max_delay.0);
            let kept = before.as_ref().and_then(|before| before.feed.clone());
            match (kept, before_place) {
                (Some(feed), Some((old, address)))
                    if address == spec.address && old.holds_the_same(server, address) =>
                {
                    feed.configure(settings);
                    if !old.reads_the_same(server) {
                        feed.replace_source(server.source(&spec.address));
                    }
                    feed
                }
                _ => Feed::new(settings, server.source(&spec.address), tenant.rings.clone(), metrics.clone()),
            }
        });
        let sink = spec.publish.as_ref().and_then(|_| server.sink(&spec.address));
        if let (Some(publish), Some(client)) = (&spec.publish, &server.client) {
            client.client.prepare(publish.timeout.0);
        }
        let watched = server.client.as_ref().map(|client| Watched::new(client, &spec.address));
        let state = State {
            spec: spec.clone(),
            lifecycle: api.spec.lifecycle.clone(),
            policy,
            cursors,
            encoder,
            schema: schemas.of(&spec.name),
            feed: feed.clone(),
            sink,
            tracing,
            removed: false,
        };
        let path = path(&api.name, &api.spec, spec);
        let channel = match before {
            Some(before) => {
                if let Some(old) =
                    before.feed.filter(|old| feed.as_ref().is_none_or(|new| !Arc::ptr_eq(old, new)))
                {
                    old.stop();
                }
                before.channel.change(state);
                before.channel
            }
            None => Channel::new(tenant, &spec.name, metrics, state),
        };
        RunningChannel { channel, path, feed, _watched: watched }
    }

    fn publish_routes(&self) {
        let mut routes = Routes::new();
        for running in self.apis.values() {
            for spec in &running.entry.api.spec.channels {
                let Some(channel) = running.channels.get(&spec.name) else { continue };
                // Of two APIs on one path the first keeps it; who is first was decided before.
                routes.entry(channel.path.clone()).or_insert_with(|| channel.channel.clone());
            }
        }
        self.gateway.routes.store(Arc::new(routes));
        let apis = self.apis.iter().map(|(key, running)| (key.clone(), running.entry.clone()));
        self.gateway.apis.store(Arc::new(apis.collect()));
        let catalog = self.apis.values().map(|running| running.listing.clone()).collect();
        self.gateway.catalog.store(Arc::new(catalog));
    }

    /// Looks after what time changes: idle feeds, aged messages, gauges.
    pub fn sweep(&self) {
        for running in self.apis.values() {
            let api = &running.entry.api;
            for (name, server) in &running.servers {
                let up = server.status.state().up;
                self.gateway.metrics.set_server_up(&api.namespace, &api.name, name, up);
            }
            for channel in running.channels.values() {
                if let Some(feed) = &channel.feed {
                    feed.sweep();
                }
            }
        }
        let metrics = &self.gateway.metrics;
        let waiting: usize = self.clients.values().map(|client| client.client.waiting()).sum();
        metrics.fetch_queue_events.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        metrics.ring_bytes.set(i64::try_from(self.commons.rings.used()).unwrap_or(i64::MAX));
    }

    /// Flushes what was published and stops every client.
    pub async fn close(&self, within: Duration) {
        let clients = self.clients.values().map(|client| client.client.close(within));
        futures::future::join_all(clients).await;
    }
}

fn remove(channel: &RunningChannel) {
    if let Some(feed) = &channel.feed {
        feed.stop();
    }
    let state = channel.channel.state();
    channel.channel.change(State { feed: None, sink: None, removed: true, ..(*state).clone() });
}

/// Without a policy of its own a channel is served to nobody.
fn unnamed() -> ChannelPolicy {
    ChannelPolicy {
        closed: Some("the config names no policy for this channel".into()),
        ..ChannelPolicy::default()
    }
}

fn encoder(api: &sluice_config::config::Api, spec: &sluice_config::Channel) -> Encoder {
    Encoder {
        source: format!("/{}/{}/{}", api.namespace, api.name, spec.name),
        event_type: spec.message.name.clone().unwrap_or_else(|| Message::NAME.into()),
        content_type: spec.message.content_type().unwrap_or(OCTET_STREAM).into(),
        cursor: spec.subscribe.as_ref().map(|subscribe| subscribe.cursor).unwrap_or_default(),
    }
}
