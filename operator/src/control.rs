//! Reconciles: looks at an object, decides with the pure steps, writes the difference.
//!
//! One controller for StreamAPIs, one for StreamGateways, one for StreamPolicies. All only ever write
//! through [`Writer`], and nothing if nothing differs.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use kube::api::DynamicObject;
use kube::core::ApiResource;
use kube::runtime::controller::{Action, Config as ControllerConfig, Error};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::runtime::{Controller, watcher};
use kube::{Api, Resource as _, ResourceExt as _};
use parking_lot::Mutex;
use serde_json::Value;
use sluice_config::config::{CONFIG_KEY, CONFIG_KEY_ZSTD, Config, INFLATED_BYTES};
use sluice_config::{Entry, Problem};
use sluice_crds::resource::{Condition, ConditionStatus};

use crate::apply::{ApplyError, Writer, is_ending, is_owned};
use crate::build::revision_of;
use crate::children::{
    CURSOR_SECRET_KEY, Child, ChildKind, Content, Owner, Settings, children, cursor_secret,
    cursor_secret_name, emptied, sidecar,
};
use crate::metrics::Metrics;
use crate::objects::Kind;
use crate::observe::{Observer, Place, PodView};
use crate::report::{self, ApiFindings, Sidecars, Verdict};
use crate::sidecars::Care;
use crate::world::{AllDirty, Dirty, Name, World, api_resource, gateway_resource, name_of, policy_resource};
use crate::{Rendered, problems_of, render};

mod gateway;

use gateway::Placed;
pub use gateway::{Host, KnownKey};

/// How many objects are reconciled at once.
const AT_ONCE: u16 = 8;
/// Pauses before another attempt.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(60));
/// How often it is looked whether pods have ended that are no longer needed.
const ENDING: Duration = Duration::from_secs(5);
/// For how long a server may be away before `Available` says so.
const DAMPING: Duration = Duration::from_secs(10);

/// Annotation of a StreamAPI whose children are left as they are: `"true"`.
pub const PAUSED: &str = "sluice.dev/paused";

/// What reconciling needs.
pub struct Context {
    /// What is there.
    pub world: Arc<World>,
    /// How to build.
    pub settings: Settings,
    /// How to write.
    pub writer: Writer,
    /// What data planes said.
    pub observer: Observer,
    /// How to tell people.
    pub recorder: Recorder,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What was last rendered of each API, with its uid.
    pub last: Mutex<HashMap<Name, (String, Config)>>,
    /// What became of each gateway.
    pub hosts: Mutex<HashMap<Name, Arc<Host>>>,
    /// Keys of cursors of APIs on gateways by `namespace/name`.
    pub keys: Mutex<HashMap<String, KnownKey>>,
    /// What is to be looked at again.
    pub dirty: AllDirty,
    /// Failed attempts in a row.
    pub failures: Mutex<HashMap<(Kind, Name), u32>>,
    /// Since when an API is not available.
    pub unavailable: Mutex<HashMap<Name, Instant>>,
    /// Looks after pods with sidecars.
    pub care: Care,
}

/// Runs all controllers until `stop` resolves and what is under way is done.
pub async fn run(context: Arc<Context>, stop: impl Future<Output = ()> + Clone + Send + Sync + 'static) {
    let forgetful = context.clone();
    let world = context.world.clone();
    let AllDirty { apis, gateways, policies } = &context.dirty.clone();
    let apis = controller(world.apis.clone(), apis, api_resource(), stop.clone()).run(
        |api, context| reconcile(Kind::StreamApi, api, context),
        |api, error, context| retry(Kind::StreamApi, &api, error, &context),
        context.clone(),
    );
    let gateways = controller(world.gateways.clone(), gateways, gateway_resource(), stop.clone()).run(
        |gateway, context| reconcile(Kind::StreamGateway, gateway, context),
        |gateway, error, context| retry(Kind::StreamGateway, &gateway, error, &context),
        context.clone(),
    );
    let policies = controller(world.policies.clone(), policies, policy_resource(), stop).run(
        |policy, context| reconcile(Kind::StreamPolicy, policy, context),
        |policy, error, context| retry(Kind::StreamPolicy, &policy, error, &context),
        context,
    );
    // What failed was told and is tried again.
    let done = async |kind, done: Result<_, Error<ApplyError, watcher::Error>>| {
        if let Err(Error::ObjectNotFound(gone)) = done {
            forgetful.forget(kind, &(gone.namespace.unwrap_or_default(), gone.name));
        }
    };
    tokio::join!(
        apis.for_each(|result| done(Kind::StreamApi, result)),
        gateways.for_each(|result| done(Kind::StreamGateway, result)),
        policies.for_each(|result| done(Kind::StreamPolicy, result)),
    );
}

fn controller(
    store: kube::runtime::reflector::Store<DynamicObject>,
    dirty: &Dirty,
    resource: ApiResource,
    stop: impl Future<Output = ()> + Send + Sync + 'static,
) -> Controller<DynamicObject> {
    // Everything that matters is in `dirty`, the objects themselves included.
    Controller::for_stream_with(futures::stream::pending(), store, resource.clone())
        .with_config(ControllerConfig::default().concurrency(AT_ONCE))
        .reconcile_on(dirty.stream(resource))
        .graceful_shutdown_on(stop)
}

async fn reconcile(
    kind: Kind,
    object: Arc<DynamicObject>,
    context: Arc<Context>,
) -> Result<Action, ApplyError> {
    let name = name_of(&object);
    let begun = Instant::now();
    let result = match kind {
        Kind::StreamApi => context.reconcile_api(&name, &object).await,
        Kind::StreamGateway => context.reconcile_gateway(&name, &object).await,
        _ => context.reconcile_policy(&name, &object).await,
    };
    let outcome = result.as_ref().map_or_else(ApplyError::category, |_| "ok");
    context.metrics.reconciled(kind.name(), outcome, begun.elapsed());
    if result.is_ok() {
        context.failures.lock().remove(&(kind, name));
    }
    result
}

fn retry(kind: Kind, object: &DynamicObject, error: &ApplyError, context: &Context) -> Action {
    let name = name_of(object);
    let attempts = {
        let mut failures = context.failures.lock();
        let attempts = failures.entry((kind, name.clone())).or_default();
        *attempts = attempts.saturating_add(1);
        *attempts
    };
    let pause = RETRY.0 * 2_u32.saturating_pow(attempts.min(16) - 1);
    let pause = pause.min(RETRY.1).mul_f64(0.5 + fastrand::f64());
    let cause = std::error::Error::source(error).map(ToString::to_string);
    tracing::warn!(namespace = name.0, name = name.1, %error, cause, ?pause, "reconciling failed; trying again");
    Action::requeue(pause)
}

impl Context {
    async fn reconcile_api(&self, name: &Name, api: &DynamicObject) -> Result<Action, ApplyError> {
        if api.metadata.deletion_timestamp.is_some() {
            self.forget(Kind::StreamApi, name);
            return Ok(Action::await_change());
        }
        let (namespace, api_name) = name;
        let key = format!("{namespace}/{api_name}");
        let owner = Owner::api(namespace, api_name, api.metadata.uid.as_deref());
        let placed = self.placed(name, api);
        // A gateway waits for it.
        let made = match &placed {
            Placed::Soon | Placed::On(..) => self.cursor_key(&owner).await.map(drop),
            Placed::Elsewhere | Placed::Refused(_) => Ok(()),
        };
        if matches!(placed, Placed::Soon) {
            return made.map(|()| Action::await_change());
        }
        let paused = api.annotations().get(PAUSED).is_some_and(|value| value == "true");
        let Attempt { problems, entry, failed } = match made {
            Ok(()) => self.attempt(name, &owner, &placed, paused).await,
            Err(error) => Attempt { failed: Some(error), ..self.judge(name, &owner, &placed).1 },
        };
        if matches!(failed, Some(ApplyError::Ending { .. })) {
            // The StreamAPI is about to go the same way.
            return Ok(Action::await_change());
        }
        let entry = entry.as_deref();
        let gateway = match &placed {
            Placed::On(gateway, host)
                if entry.is_some_and(|it| it.api.spec.placement.gateway().is_some()) =>
            {
                Some((gateway, host))
            }
            _ => None,
        };
        let paused = paused && gateway.is_none();
        let pods = self.pods(name, gateway.map(|(gateway, _)| gateway), entry);
        let has_asked = self.observer.has_listed() && pods.iter().all(|pod| pod.was_asked);
        let (sidecars, look_again) = match entry.filter(|_| !paused && failed.is_none()) {
            Some(entry) => self.sidecars(name, entry, &pods).await,
            None => (None, None),
        };
        let serving = gateway.map_or(owner, |(gateway, _)| Owner::gateway(&gateway.0, &gateway.1, None));
        let findings = ApiFindings {
            key: &key,
            problems: &problems,
            entry,
            owner: serving,
            failed: failed.as_ref(),
            gateway_fault: gateway.and_then(|(_, host)| host.fault.as_deref()),
            pods: &pods,
            paused,
            sidecars: sidecars.as_ref(),
        };
        let mut verdicts = report::api_verdicts(&findings);
        let is_programmed = verdicts
            .iter()
            .any(|verdict| verdict.kind == "Programmed" && verdict.status == ConditionStatus::True);
        let before = report::conditions_of(&api.data);
        let again = self.damp(name, &mut verdicts, &before);
        let again = again.into_iter().chain(look_again).min();
        let mut conditions =
            report::conditions(&verdicts, &before, api.metadata.generation.unwrap_or_default());
        if !has_asked {
            report::keep_what_pods_say(&mut conditions, &before);
        }
        let base = match gateway {
            Some((_, host)) => host.url.clone(),
            None => entry.and_then(|entry| base_url(&owner, entry)),
        };
        let status = report::api_status(conditions.clone(), entry, base.as_deref());
        self.tell(api, &api_resource(), &status, &before, &conditions).await?;
        let leaving = match gateway {
            Some(_) if is_programmed => self.leave(name, &owner).await?,
            Some(_) => {
                self.keep_up(name, &owner).await?;
                None
            }
            None => None,
        };
        let again = again.into_iter().chain(leaving).min();
        match failed {
            Some(error) => Err(error),
            None => Ok(again.map_or_else(Action::await_change, Action::requeue)),
        }
    }

    /// Renders the API, without writing anything.
    fn judge(&self, name: &Name, owner: &Owner<'_>, placed: &Placed) -> (Rendered, Attempt) {
        let key = format!("{}/{}", name.0, name.1);
        let last = self.last(name, owner);
        let mut objects = self.world.around_api(&name.0, &name.1);
        let on_gateway = match placed {
            Placed::Refused(problem) => vec![problem.clone()],
            Placed::On(_, host) => host.hosted.problems.get(&key).cloned().unwrap_or_default(),
            Placed::Elsewhere | Placed::Soon => Vec::new(),
        };
        if !on_gateway.is_empty() {
            objects.elsewhere.insert(name.clone(), on_gateway);
        }
        let rendered = render(&objects, &last);
        let problems = problems_of(&objects, &rendered, Kind::StreamApi, name);
        // The gateway told what the API itself has, too.
        let mut told: Vec<Problem> = Vec::new();
        for problem in problems {
            if !told.contains(&problem) {
                told.push(problem);
            }
        }
        let hosted = match placed {
            Placed::On(_, host) => host.hosted.config.apis.get(&key),
            _ => None,
        };
        let own = rendered.config.apis.get(&key).filter(|entry| entry.api.spec.placement.gateway().is_none());
        let entry = hosted.or(own).cloned();
        (rendered, Attempt { problems: told, entry, failed: None })
    }

    /// Renders the API and writes what it consists of, unless that is a gateway's.
    async fn attempt(&self, name: &Name, owner: &Owner<'_>, placed: &Placed, paused: bool) -> Attempt {
        let (Rendered { config, material, .. }, mut attempt) = self.judge(name, owner, placed);
        let key = format!("{}/{}", name.0, name.1);
        let Some(built) = attempt.entry.clone().filter(|it| it.api.spec.placement.gateway().is_none()) else {
            return attempt;
        };
        if paused {
            attempt.entry = self.last(name, owner).apis.get(&key).cloned();
            return attempt;
        }
        let cursor_key = match self.cursor_key(owner).await {
            Ok(cursor_key) => cursor_key,
            Err(error) => return Attempt { failed: Some(error), ..attempt },
        };
        let content = Content {
            config: &config,
            material: &material,
            keys: &[(key.clone(), cursor_key)].into(),
            deployment: built.api.spec.placement.deployment(),
        };
        let children = match children(owner, &content, &self.settings) {
            Ok(children) => children,
            Err(error) => {
                attempt.problems.push(Problem::new("spec", format!("{error}; split the API")));
                attempt.entry = self.last(name, owner).apis.get(&key).cloned();
                return attempt;
            }
        };
        match self.write(owner, &children).await {
            Ok(()) => {
                self.observer.expect(name, &built.revision);
                let uid = owner.uid.unwrap_or_default().to_owned();
                self.last.lock().insert(name.clone(), (uid, config));
            }
            Err(error) => attempt.failed = Some(error),
        }
        attempt
    }

    /// The pods that serve `entry`. Those of a former placement, which may still be there, tell nothing.
    fn pods(&self, name: &Name, gateway: Option<&Name>, entry: Option<&Entry>) -> Vec<PodView> {
        if let Some(gateway) = gateway {
            return self.observer.pods_of_gateway(gateway);
        }
        let is_sidecar = entry.is_some_and(|entry| entry.api.spec.placement.sidecar().is_some());
        let place = if is_sidecar { Place::Sidecar } else { Place::Deployment };
        let mut pods = self.observer.pods(name);
        pods.retain(|pod| pod.placement == place);
        pods
    }

    /// Until the gateway serves the API its own pods do, if it has any: they follow policies, keys and secrets.
    async fn keep_up(&self, name: &Name, owner: &Owner<'_>) -> Result<(), ApplyError> {
        let last = self.last(name, owner);
        if last.apis.is_empty() {
            return Ok(());
        }
        let mut objects = self.world.around_api(&name.0, &name.1);
        // What it says now is the gateway's to serve.
        objects.elsewhere.insert(name.clone(), vec![Problem::new("spec.placement", "is another")]);
        let Rendered { config, material, .. } = render(&objects, &last);
        let keys = [(format!("{}/{}", name.0, name.1), self.cursor_key(owner).await?)].into();
        let content = Content { config: &config, material: &material, keys: &keys, deployment: None };
        match children(owner, &content, &self.settings) {
            Ok(delivered) => self.write_some(owner, &delivered).await?,
            Err(error) => {
                tracing::warn!(namespace = name.0, api = name.1, %error, "its own pods stay as they are")
            }
        }
        self.last.lock().insert(name.clone(), (owner.uid.unwrap_or_default().to_owned(), config));
        Ok(())
    }

    /// Takes away what an API that a gateway serves had of its own, but for the key of its cursors.
    /// When to look again, as long as its pods have not ended.
    async fn leave(&self, name: &Name, owner: &Owner<'_>) -> Result<Option<Duration>, ApplyError> {
        self.last.lock().remove(name);
        self.observer.forget(name);
        self.prune(owner, &[]).await?;
        if self.world.has_pods(name) {
            return Ok(Some(ENDING));
        }
        let there = |child: &Child| self.world.child(child.kind, owner.namespace, &child.name).is_some();
        let left: Vec<_> = emptied(owner).into_iter().filter(there).collect();
        self.write(owner, &left).await?;
        Ok(None)
    }

    /// Looks after the pods that have the API as a sidecar, if it is one; when to look again.
    async fn sidecars(
        &self,
        name: &Name,
        entry: &Entry,
        pods: &[PodView],
    ) -> (Option<Sidecars>, Option<Duration>) {
        let Some(sidecar) = entry.api.spec.placement.sidecar() else {
            self.care.forget(name);
            return (None, None);
        };
        if !self.settings.injection {
            return (Some(Sidecars { is_off: true, ..Sidecars::default() }), None);
        }
        let touch = self.care.sync(&self.writer, name, entry, pods).await;
        let (found, look) = self.care.look(&self.writer, &self.world, &self.settings, name, sidecar).await;
        (Some(found), touch.into_iter().chain([look]).min())
    }

    /// Writes every child that differs, and deletes what is no longer built.
    async fn write(&self, owner: &Owner<'_>, children: &[Child]) -> Result<(), ApplyError> {
        self.write_some(owner, children).await?;
        self.prune(owner, children).await
    }

    /// Writes those of `children` that differ.
    async fn write_some(&self, owner: &Owner<'_>, children: &[Child]) -> Result<(), ApplyError> {
        for child in children {
            let live = self.world.child(child.kind, owner.namespace, &child.name);
            if self.writer.apply(owner, child, live.as_deref()).await? {
                self.metrics.wrote(child.kind.names().2);
                tracing::info!(
                    namespace = owner.namespace,
                    kind = child.kind.names().2,
                    name = child.name,
                    "applied"
                );
            }
        }
        Ok(())
    }

    /// Deletes what `owner` has and `children` are without.
    async fn prune(&self, owner: &Owner<'_>, children: &[Child]) -> Result<(), ApplyError> {
        for kind in ChildKind::ALL.into_iter().rev().filter(|kind| kind.is_optional()) {
            let is_built = children.iter().any(|child| child.kind == kind);
            let live = self.world.child(kind, owner.namespace, &owner.child_name());
            if let Some(live) = live.filter(|_| !is_built) {
                self.writer.prune(owner, kind, &live).await?;
            }
        }
        Ok(())
    }

    /// The key of the API's cursors; made when it is first asked for.
    async fn cursor_key(&self, owner: &Owner<'_>) -> Result<Vec<u8>, ApplyError> {
        let name = cursor_secret_name(owner.name);
        let kept = self.world.child(ChildKind::Secret, owner.namespace, &name);
        let kept = match kept.filter(|kept| is_owned(kept, owner)) {
            Some(kept) => kept,
            None => {
                let mut key = [0; 32];
                getrandom::fill(&mut key).expect("the system gives random bytes");
                self.writer.create(owner, &cursor_secret(owner, &key)).await?
            }
        };
        let bytes = decode(&kept.data["data"][CURSOR_SECRET_KEY]).filter(|bytes| bytes.len() >= 32);
        bytes.ok_or_else(|| ApplyError::Refused {
            kind: "Secret",
            name,
            reason: format!(
                "it holds no `{CURSOR_SECRET_KEY}` of 32 bytes; delete it, and a new one is made"
            ),
        })
    }

    /// What was last rendered: in this process, else what the cluster holds of it.
    fn last(&self, name: &Name, owner: &Owner<'_>) -> Config {
        // Another API of the same name is none of this one's past.
        if let Some((uid, last)) = self.last.lock().get(name)
            && owner.uid == Some(uid)
        {
            return last.clone();
        }
        self.delivered(owner)
    }

    /// The config that the cluster holds of `owner`.
    fn delivered(&self, owner: &Owner<'_>) -> Config {
        let map = self.world.child(ChildKind::ConfigMap, owner.namespace, &owner.child_name());
        map.filter(|map| is_owned(map, owner)).and_then(|map| config_of(&map)).unwrap_or_default()
    }

    fn forget(&self, kind: Kind, name: &Name) {
        self.failures.lock().remove(&(kind, name.clone()));
        if kind == Kind::StreamGateway {
            self.hosts.lock().remove(name);
            self.observer.forget_gateway(name);
        }
        if kind != Kind::StreamApi {
            return;
        }
        self.last.lock().remove(name);
        self.keys.lock().remove(&format!("{}/{}", name.0, name.1));
        self.unavailable.lock().remove(name);
        self.care.forget(name);
        self.observer.forget(name);
    }

    /// `Available` turns false only when it has been so for a while; when to look again.
    fn damp(&self, name: &Name, verdicts: &mut [Verdict], before: &[Condition]) -> Option<Duration> {
        let verdict = verdicts.iter_mut().find(|verdict| verdict.kind == "Available")?;
        let mut unavailable = self.unavailable.lock();
        if verdict.status == ConditionStatus::True {
            unavailable.remove(name);
            return None;
        }
        let since = *unavailable.entry(name.clone()).or_insert_with(Instant::now);
        let before = before.iter().find(|condition| condition.type_ == "Available")?;
        let left = DAMPING.checked_sub(since.elapsed())?;
        if before.status != ConditionStatus::True {
            return None;
        }
        verdict.status = ConditionStatus::True;
        verdict.message.clone_from(&before.message);
        verdict.reason = "Available";
        Some(left + Duration::from_millis(50))
    }

    async fn reconcile_policy(&self, name: &Name, policy: &DynamicObject) -> Result<Action, ApplyError> {
        if policy.metadata.deletion_timestamp.is_some() {
            return Ok(Action::await_change());
        }
        let objects = self.world.around_policy(&name.0, policy);
        let rendered = render(&objects, &Config::default());
        let problems = problems_of(&objects, &rendered, Kind::StreamPolicy, name);
        let notes: Vec<_> = rendered.notes.iter().filter(|note| note.policy == name.1).collect();
        let verdicts = report::policy_verdicts(&problems, &notes);
        let before = report::conditions_of(&policy.data);
        let conditions =
            report::conditions(&verdicts, &before, policy.metadata.generation.unwrap_or_default());
        let status = serde_json::json!({"conditions": conditions});
        self.tell(policy, &policy_resource(), &status, &before, &conditions).await?;
        Ok(Action::await_change())
    }

    /// Writes the status if it differs, and an Event for every condition that turned.
    async fn tell(
        &self,
        object: &DynamicObject,
        resource: &ApiResource,
        status: &Value,
        before: &[Condition],
        now: &[Condition],
    ) -> Result<(), ApplyError> {
        if !report::differs(status, &object.data["status"]) {
            return Ok(());
        }
        let namespace = object.namespace().unwrap_or_default();
        let api: Api<DynamicObject> = Api::namespaced_with(self.writer.client.clone(), &namespace, resource);
        match self.writer.status(&api, &object.name_any(), status).await {
            // Somebody stored what the definition's rules cannot look at: Events still tell.
            Err(error @ ApplyError::Refused { .. }) => tracing::warn!(%error, "no status can be written"),
            done => done?,
        }
        for condition in turned(before, now) {
            let event = Event {
                type_: if condition.status == ConditionStatus::True {
                    EventType::Normal
                } else {
                    EventType::Warning
                },
                reason: condition.reason.clone(),
                note: Some(condition.message.chars().take(1000).collect()),
                action: condition.type_.clone(),
                secondary: None,
            };
            let about = object.object_ref(resource);
            let published = self.recorder.publish(&event, &about);
            match tokio::time::timeout(crate::apply::PATIENCE, published).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) if is_ending(&error) => {}
                Ok(Err(error)) => tracing::warn!(%error, "an Event could not be written"),
                Err(_) => tracing::warn!("an Event could not be written in time"),
            }
        }
        Ok(())
    }
}

/// Conditions that are not what they were. Of a new object only what went well is news, and what
/// its author has to correct: that its pods take a moment is none.
fn turned<'a>(before: &'a [Condition], now: &'a [Condition]) -> impl Iterator<Item = &'a Condition> {
    // `Pending` is the moment between two states.
    let lasting = now.iter().filter(|condition| condition.reason != "Pending");
    lasting.filter(move |condition| match before.iter().find(|old| old.type_ == condition.type_) {
        Some(old) => old.status != condition.status || old.reason != condition.reason,
        None => {
            condition.status == ConditionStatus::True
                || matches!(condition.type_.as_str(), "Accepted" | "ResolvedRefs")
        }
    })
}

/// What came of an API.
struct Attempt {
    /// Everything wrong with it.
    problems: Vec<Problem>,
    /// What is to be served of it: its newest good self.
    entry: Option<Arc<Entry>>,
    /// Why that could not be written.
    failed: Option<ApplyError>,
}

/// Where clients reach an API that is on no gateway: inside the cluster, or inside the pods.
fn base_url(owner: &Owner<'_>, entry: &Entry) -> Option<String> {
    match entry.api.spec.placement.deployment() {
        Some(deployment) => report::service_url(owner, deployment),
        None => Some(sidecar::url()),
    }
}

/// The config inside a ConfigMap, if it is whole: whoever edited it by hand did not make the
/// revisions fit.
fn config_of(map: &DynamicObject) -> Option<Config> {
    let text = match map.data["data"][CONFIG_KEY].as_str() {
        Some(text) => text.as_bytes().to_vec(),
        None => {
            let compressed = decode(&map.data["binaryData"][CONFIG_KEY_ZSTD])?;
            zstd::bulk::decompress(&compressed, INFLATED_BYTES).ok()?
        }
    };
    let config: Config = serde_json::from_slice(&text).ok()?;
    config.apis.values().all(|entry| revision_of(entry) == entry.revision).then_some(config)
}

fn decode(value: &Value) -> Option<Vec<u8>> {
    serde_json::from_value::<k8s_openapi::ByteString>(value.clone()).ok().map(|bytes| bytes.0)
}
