//! Reconciles: looks at an object, decides with the pure steps, writes the difference.
//!
//! One controller for StreamAPIs, one for StreamGateways, one for StreamPolicies, and where that is switched on one
//! for Services that StreamAPIs are made of. All only ever write through [`Writer`], and nothing if nothing differs.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::DynamicObject;
use kube::core::ApiResource;
use kube::runtime::controller::{Action, Config as ControllerConfig, Error};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::{Controller, watcher};
use kube::{Api, Resource as _, ResourceExt as _};
use parking_lot::Mutex;
use serde_json::Value;
use sluice_config::config::{CONFIG_KEY, CONFIG_KEY_ZSTD, Config, INFLATED_BYTES};
use sluice_crds::resource::{Condition, ConditionStatus};

use crate::apply::{Applied, ApplyError, LATE_WATCH, Writer, is_ending, is_owned};
use crate::build::revision_of;
use crate::children::{
    CURSOR_SECRET_KEY, Child, ChildKind, Owner, Settings, cursor_secret, cursor_secret_name,
};
use crate::metrics::Metrics;
use crate::objects::Kind;
use crate::observe::Observer;
use crate::report::{self, Verdict};
use crate::sidecars::Care;
use crate::world::{
    AllDirty, Dirty, Name, World, api_resource, gateway_resource, name_of, policy_resource, status_of,
};
use crate::{problems_of, render};

mod api;
mod expose;
mod exposure;
mod gateway;

pub use gateway::{Host, KnownKey};

/// How many objects are reconciled at once.
const AT_ONCE: u16 = 8;
/// Pauses before another attempt.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(60));
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
    /// Who tells them.
    pub reporter: Reporter,
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
    /// What was last told to be wrong with each Service.
    pub told: Mutex<HashMap<Name, String>>,
}

/// Runs all controllers until `stop` resolves and what is under way is done.
pub async fn run(context: Arc<Context>, stop: impl Future<Output = ()> + Clone + Send + Sync + 'static) {
    let forgetful = context.clone();
    let world = context.world.clone();
    let AllDirty { apis, gateways, policies, services } = &context.dirty.clone();
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
    let policies = controller(world.policies.clone(), policies, policy_resource(), stop.clone()).run(
        |policy, context| reconcile(Kind::StreamPolicy, policy, context),
        |policy, error, context| retry(Kind::StreamPolicy, &policy, error, &context),
        context.clone(),
    );
    let services = world.services.clone().map(|store| {
        controller(store, services, ChildKind::Service.resource(), stop).run(
            expose::reconcile,
            |service, error, context| retry(Kind::Service, &service, error, &context),
            context,
        )
    });
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
        futures::stream::iter(services).flatten().for_each(|result| done(Kind::Service, result)),
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
    let pause = pause.min(RETRY.1).mul_f64(0.5 + 0.5 * fastrand::f64());
    let cause = std::error::Error::source(error).map(ToString::to_string);
    tracing::warn!(namespace = name.0, name = name.1, %error, cause, ?pause, "reconciling failed; trying again");
    Action::requeue(pause)
}

impl Context {
    /// Writes every child that differs but for those [outside](Self::write_outside), and deletes what is no
    /// longer built.
    async fn write(&self, owner: &Owner<'_>, children: &[Child]) -> Result<(), ApplyError> {
        self.write_some(owner, children.iter().filter(|child| !child.kind.is_outside())).await?;
        self.prune(owner, children).await
    }

    /// Writes what leads there from outside: what is refused of it changes nothing inside.
    async fn write_outside(&self, owner: &Owner<'_>, children: &[Child]) -> Result<(), ApplyError> {
        self.write_some(owner, children.iter().filter(|child| child.kind.is_outside())).await
    }

    /// Writes those of `children` that differ, but for what the cluster does not know.
    async fn write_some(
        &self,
        owner: &Owner<'_>,
        children: impl Iterator<Item = &Child> + Send,
    ) -> Result<(), ApplyError> {
        let _timer = self.metrics.step(owner.kind.name(), "write");
        for child in children.filter(|child| !self.world.lacks(child.kind)) {
            let lists = self.world.lists();
            let of = |version: String| format!("{lists}/{version}");
            let version = self.world.version_of(child.kind, owner.namespace, &child.name).map(of);
            if self.writer.is_settled(owner, child, version) {
                continue;
            }
            let live = self.world.child(child.kind, owner.namespace, &child.name);
            let applied = self.writer.apply(owner, child, live.as_deref()).await?;
            if applied == Applied::Late {
                self.look_again(owner);
            }
            if applied == Applied::Same
                && let Some(version) = live.and_then(|live| live.resource_version())
            {
                self.writer.settle(owner, child, of(version));
            }
            if applied == Applied::Written {
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

    /// Has `owner` looked at again when the watch must have brought what was written.
    fn look_again(&self, owner: &Owner<'_>) {
        let dirty = if owner.kind == Kind::StreamGateway { &self.dirty.gateways } else { &self.dirty.apis };
        let (dirty, name) = (dirty.clone(), (owner.namespace.to_owned(), owner.name.to_owned()));
        tokio::spawn(async move {
            tokio::time::sleep(LATE_WATCH).await;
            dirty.add(name);
        });
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
            self.writer.forget(&Owner::gateway(&name.0, &name.1, None));
            self.hosts.lock().remove(name);
            self.observer.forget_gateway(name);
        }
        if kind == Kind::Service {
            self.told.lock().remove(name);
        }
        if kind != Kind::StreamApi {
            return;
        }
        self.writer.forget(&Owner::api(&name.0, &name.1, None));
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
        let timer = self.metrics.step(Kind::StreamPolicy.name(), "read");
        let objects = self.world.around_policy(&name.0, policy);
        drop(timer);
        let timer = self.metrics.step(Kind::StreamPolicy.name(), "render");
        let rendered = render(&objects, &Config::default());
        drop(timer);
        let problems = problems_of(&objects, &rendered, Kind::StreamPolicy, name);
        let notes: Vec<_> = rendered.notes.iter().filter(|note| note.policy == name.1).collect();
        let verdicts = report::policy_verdicts(&problems, &notes);
        let before = report::conditions_of(&status_of(policy));
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
        if !report::differs(status, &status_of(object)) {
            return Ok(());
        }
        let _timer = self.metrics.step(&resource.kind, "status");
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
            publish(&self.recorder, &event, &object.object_ref(resource)).await;
        }
        Ok(())
    }
}

/// Writes an Event; that it could not be written is told, and no more.
async fn publish(recorder: &Recorder, event: &Event, about: &ObjectReference) {
    let published = recorder.publish(event, about);
    match tokio::time::timeout(crate::apply::PATIENCE, published).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) if is_ending(&error) => {}
        Ok(Err(error)) => tracing::warn!(%error, "an Event could not be written"),
        Err(_) => tracing::warn!("an Event could not be written in time"),
    }
}

/// Conditions that are not what they were. Of a new object only what is in force is news, and what its author has
/// to correct: that it is as it should be says the answer to its apply, and that its pods take a moment is none.
fn turned<'a>(before: &'a [Condition], now: &'a [Condition]) -> impl Iterator<Item = &'a Condition> {
    // `Pending` is the moment between two states.
    let lasting = now.iter().filter(|condition| condition.reason != "Pending");
    lasting.filter(move |condition| match before.iter().find(|old| old.type_ == condition.type_) {
        Some(old) => old.status != condition.status || old.reason != condition.reason,
        None => {
            let is_about_definition = matches!(condition.type_.as_str(), "Accepted" | "ResolvedRefs");
            (condition.status == ConditionStatus::True) != is_about_definition
        }
    })
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
