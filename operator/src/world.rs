//! What is in the cluster, as far as the operator may see it: one watch per kind, kept in memory.
//!
//! Objects are held undecoded. What is a StreamAPI and what is wrong with it, [`crate::read`] tells,
//! so that one unreadable object blinds the operator for no other.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::DynamicObject;
use kube::api::ObjectMeta;
use kube::core::ApiResource;
use kube::runtime::reflector::{ObjectRef, Store, store::Writer};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, reflector, watcher as watch};
use kube::{Api, Client, Resource, ResourceExt as _};
use parking_lot::Mutex;
use serde::Deserialize as _;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sluice_config::placement::{GatewayRef, Placement, StreamGatewaySpec, check};
use sluice_config::{Problem, StreamApiSpec};
use sluice_crds::{ApiSpec, GROUP, StreamAPI, USE_LABEL, VERSION};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::children::sidecar::{self, Guest};
use crate::children::{API_LABEL, ChildKind, MANAGED_BY, resource};
use crate::dereference::{identity, secrets_of};
use crate::gateway::obstacle;
use crate::objects::{Kind, Objects, Unread};
use crate::read::{self, Object};

mod touched;

pub use touched::Dirty;
use touched::{Targets, Touched, each_secret, names_secret};

/// Namespace and name.
pub type Name = (String, String);

/// The kind StreamAPI as the client wants it.
pub fn api_resource() -> ApiResource {
    resource(GROUP, VERSION, "StreamAPI", "streamapis")
}

/// The kind StreamGateway as the client wants it.
pub fn gateway_resource() -> ApiResource {
    resource(GROUP, VERSION, "StreamGateway", "streamgateways")
}

/// The kind StreamPolicy as the client wants it.
pub fn policy_resource() -> ApiResource {
    resource(GROUP, VERSION, "StreamPolicy", "streampolicies")
}

/// Namespace and name of `object`.
pub fn name_of(object: &DynamicObject) -> Name {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// What a gateway says as far as it can be told: of one that cannot be read, that nobody else may use it.
pub fn lenient_gateway(gateway: &DynamicObject) -> StreamGatewaySpec {
    serde_json::from_value(gateway.data["spec"].clone()).unwrap_or_default()
}

/// The gateway that `api` is placed on, as far as that can be read.
pub fn gateway_of(api: &DynamicObject) -> Option<Name> {
    let reference = GatewayRef::deserialize(api.data.pointer("/spec/placement/gateway")?).ok()?;
    let own = api.metadata.namespace.as_deref().unwrap_or_default();
    Some((reference.namespace(own).to_owned(), reference.name))
}

/// What has to be looked at again, by kind.
#[derive(Clone, Default)]
pub struct AllDirty {
    /// StreamAPIs.
    pub apis: Dirty,
    /// StreamGateways.
    pub gateways: Dirty,
    /// StreamPolicies.
    pub policies: Dirty,
}

/// The first and the longest pause before an interrupted watch begins again. Nothing is decided before all have listed, so
/// the longest one is how long after an API server the operator is back.
const INTERRUPTED: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(4));

/// Pauses between attempts to watch: each twice as long as the last, some more or less.
struct Pauses(Duration);

impl Default for Pauses {
    fn default() -> Self {
        Self(INTERRUPTED.0)
    }
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.0.mul_f64(0.75 + 0.5 * fastrand::f64());
        self.0 = (self.0 * 2).min(INTERRUPTED.1);
        Some(pause)
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        *self = Self::default();
    }
}

/// Everything that is watched.
pub struct World {
    /// StreamAPIs.
    pub apis: Store<DynamicObject>,
    /// StreamGateways.
    pub gateways: Store<DynamicObject>,
    /// StreamPolicies.
    pub policies: Store<DynamicObject>,
    /// The Secrets that may be used.
    pub secrets: Store<Secret>,
    /// Pods of data planes.
    pub pods: Store<Pod>,
    /// Pods of others that have one as a sidecar.
    pub sidecars: Store<Pod>,
    children: BTreeMap<ChildKind, Store<DynamicObject>>,
    /// What StreamAPIs say, by uid and with the generation that said it.
    read: Mutex<HashMap<String, (i64, Arc<StreamApiSpec>)>>,
    touched: Arc<Touched>,
    /// Pods came, went or changed.
    pub pods_changed: Arc<Notify>,
}

/// The watches while they are started.
struct Watches<'a> {
    client: &'a Client,
    namespace: Option<&'a str>,
    touched: Arc<Touched>,
    tasks: JoinSet<()>,
}

impl Watches<'_> {
    /// Keeps a store of the objects of `resource`; `touch` is called for whatever changes.
    fn dynamic(
        &mut self,
        resource: &ApiResource,
        writer: Writer<DynamicObject>,
        config: watcher::Config,
        pack: fn(&mut DynamicObject),
        touch: fn(&Touched, &DynamicObject),
    ) -> Store<DynamicObject> {
        let api = match self.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, resource),
            None => Api::all_with(self.client.clone(), resource),
        };
        self.follow(api, writer, config, pack, touch)
    }

    fn typed<K>(&mut self, config: watcher::Config, pack: fn(&mut K), touch: fn(&Touched, &K)) -> Store<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let api = match self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        self.follow(api, Writer::new(()), config, pack, touch)
    }

    fn follow<K>(
        &mut self,
        api: Api<K>,
        writer: Writer<K>,
        config: watcher::Config,
        pack: fn(&mut K),
        touch: fn(&Touched, &K),
    ) -> Store<K>
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
        K::DynamicType: Hash + Eq + Clone + Send + Sync,
    {
        let reader = writer.as_reader();
        self.tasks.spawn(watching(api, writer, config, self.touched.clone(), pack, touch));
        reader
    }
}

/// Holds a child's content as text: a tree of JSON takes ten times as much, and a child is looked at
/// seldom. What became of it is nothing to us.
fn pack(child: &mut DynamicObject) {
    if let Some(fields) = child.data.as_object_mut() {
        fields.remove("status");
    }
    child.data = Value::String(child.data.to_string());
}

/// Of a pod only where it is and how it fares matters.
fn strip(pod: &mut Pod) {
    pod.spec = None;
    if let Some(annotations) = &mut pod.metadata.annotations {
        annotations.retain(|name, _| name == sidecar::APIS);
    }
    if let Some(status) = &mut pod.status {
        (status.container_statuses, status.init_container_statuses) = (None, None);
    }
}

fn unpacked(child: &DynamicObject) -> DynamicObject {
    let text = child.data.as_str().expect("children are packed");
    let data = serde_json::from_str(text).expect("it was JSON");
    DynamicObject { data, ..child.clone() }
}

async fn watching<K>(
    api: Api<K>,
    writer: Writer<K>,
    config: watcher::Config,
    touched: Arc<Touched>,
    pack: fn(&mut K),
    touch: fn(&Touched, &K),
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Hash + Eq + Clone + Send + Sync,
{
    let url = api.resource_url().to_owned();
    // Who last wrote which field is half of an object's size and nothing to us.
    let events = watch(api, config).backoff(Pauses::default()).modify(move |object| {
        object.meta_mut().managed_fields = None;
        if let Some(annotations) = &mut object.meta_mut().annotations {
            annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
        pack(object);
    });
    let mut events = std::pin::pin!(reflector(writer, events));
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(object) | Event::Delete(object)) => touch(&touched, &object),
            Ok(Event::InitDone) => touched.everything(),
            Ok(Event::Init | Event::InitApply(_)) => {}
            Err(error) => tracing::warn!(%error, %url, "a watch was interrupted; it starts again"),
        }
    }
}

impl World {
    /// Watches `namespace`, or all; once this process [leads](Self::lead), what changes is added to `dirty`.
    /// Returns when everything was listed. The watches end with the returned set.
    pub async fn start(
        client: &Client,
        namespace: Option<&str>,
        network_policies: bool,
        dirty: &AllDirty,
    ) -> (Arc<Self>, JoinSet<()>) {
        let api_writer = Writer::new(api_resource());
        let gateway_writer = Writer::new(gateway_resource());
        let policy_writer = Writer::new(policy_resource());
        let pods_changed = Arc::new(Notify::new());
        let touched = Touched::new(
            dirty,
            api_writer.as_reader(),
            gateway_writer.as_reader(),
            policy_writer.as_reader(),
            pods_changed.clone(),
        );
        let touched = Arc::new(touched);
        let mut watches = Watches { client, namespace, touched: touched.clone(), tasks: JoinSet::new() };
        let all = watcher::Config::default();
        let usable = watcher::Config::default().labels(&format!("{USE_LABEL}=true"));
        let managed = watcher::Config::default().labels(&format!("{}={}", MANAGED_BY.0, MANAGED_BY.1));
        let apis = watches.dynamic(&api_resource(), api_writer, all.clone(), |_| {}, Touched::api);
        let gateways =
            watches.dynamic(&gateway_resource(), gateway_writer, all.clone(), |_| {}, Touched::gateway);
        let policies = watches.dynamic(&policy_resource(), policy_writer, all, |_| {}, Touched::policy);
        let secrets = watches.typed(usable, |_| {}, Touched::secret);
        let pods = watches.typed(managed.clone(), strip, Touched::pod);
        let injected = watcher::Config::default().labels(&format!("{}=true", sidecar::INJECTED));
        let sidecars = watches.typed(injected, strip, Touched::pod);
        let kinds =
            ChildKind::ALL.into_iter().filter(|kind| network_policies || *kind != ChildKind::NetworkPolicy);
        let children = kinds.map(|kind| {
            let resource = kind.resource();
            (
                kind,
                watches.dynamic(
                    &resource,
                    Writer::new(resource.clone()),
                    managed.clone(),
                    pack,
                    Touched::child,
                ),
            )
        });
        let children = children.collect();
        let read = Mutex::default();
        let world =
            Self { children, apis, gateways, policies, secrets, pods, sidecars, read, touched, pods_changed };
        world.listed().await;
        (Arc::new(world), watches.tasks)
    }

    /// From now on this process looks after everything.
    pub fn lead(&self) {
        self.touched.begin();
    }

    async fn listed(&self) {
        let complete = "the watches run as long as their stores";
        self.apis.wait_until_ready().await.expect(complete);
        self.gateways.wait_until_ready().await.expect(complete);
        self.policies.wait_until_ready().await.expect(complete);
        self.secrets.wait_until_ready().await.expect(complete);
        self.pods.wait_until_ready().await.expect(complete);
        self.sidecars.wait_until_ready().await.expect(complete);
        for store in self.children.values() {
            store.wait_until_ready().await.expect(complete);
        }
    }

    /// The child as it is, if it is there and labelled as ours.
    pub fn child(&self, kind: ChildKind, namespace: &str, name: &str) -> Option<Arc<DynamicObject>> {
        let reference = ObjectRef::new_with(name, kind.resource()).within(namespace);
        self.children.get(&kind)?.get(&reference).map(|child| Arc::new(unpacked(&child)))
    }

    /// Which version of a child is there, without a look at what it says.
    pub fn version_of(&self, kind: ChildKind, namespace: &str, name: &str) -> Option<String> {
        let reference = ObjectRef::new_with(name, kind.resource()).within(namespace);
        self.children.get(&kind)?.get(&reference)?.resource_version()
    }

    /// The APIs of `namespace` that are served in sidecars, the oldest first.
    pub fn guests(&self, namespace: &str) -> Vec<Guest> {
        let mut apis = within(&self.apis, namespace);
        apis.retain(|api| {
            api.metadata.deletion_timestamp.is_none() && !api.data["spec"]["placement"]["sidecar"].is_null()
        });
        apis.sort_by_key(|api| (api.creation_timestamp(), api.name_any()));
        let guest = |api: Arc<DynamicObject>| {
            // What cannot be read or is wrong selects nothing; its conditions say so.
            let placement = Placement::deserialize(api.data.pointer("/spec/placement")?).ok()?;
            let mut problems = Vec::new();
            check(&placement, &mut problems);
            let sidecar = placement.sidecar().filter(|_| problems.is_empty())?.clone();
            Some(Guest { api: api.name_any(), sidecar })
        };
        apis.into_iter().filter_map(guest).collect()
    }

    /// Whether the API has pods of its own, those that are about to end included.
    pub fn has_pods(&self, (namespace, name): &Name) -> bool {
        let is_its = |pod: &Arc<Pod>| pod.labels().get(API_LABEL) == Some(name);
        within(&self.pods, namespace).iter().any(is_its)
    }

    /// The gateway of that name, as it is.
    pub fn gateway(&self, (namespace, name): &Name) -> Option<Arc<DynamicObject>> {
        let gateway = self.gateways.get(&ObjectRef::new_with(name, gateway_resource()).within(namespace))?;
        Some(gateway).filter(|gateway| gateway.metadata.deletion_timestamp.is_none())
    }

    /// The APIs that are placed on `gateway`, whether they may be or not.
    pub fn placed_on(&self, gateway: &Name) -> Vec<Arc<DynamicObject>> {
        let find = |(namespace, name): Name| {
            self.apis.get(&ObjectRef::new_with(&name, api_resource()).within(&namespace))
        };
        let placed = self.touched.placed_on(gateway).into_iter().filter_map(find);
        placed.filter(|api| api.metadata.deletion_timestamp.is_none()).collect()
    }

    /// What matters to a gateway in `namespace` that serves `apis`: these, and the policies and Secrets that they
    /// are served with, and the gateway's own Secrets.
    pub fn around_gateway(&self, gateway: &DynamicObject, apis: Vec<Arc<DynamicObject>>) -> Objects {
        let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for api in &apis {
            let (namespace, name) = name_of(api);
            names.entry(namespace).or_default().insert(name);
        }
        let policies = self.policies.state_filter(|policy| {
            let names = policy.metadata.namespace.as_ref().and_then(|namespace| names.get(namespace));
            names.is_some_and(|names| Targets::of(policy).includes_any(names))
        });
        let own = gateway.namespace().unwrap_or_default();
        let secrets = self.secrets.state_filter(|secret| {
            let namespace = secret.namespace().unwrap_or_default();
            namespace == own || names.contains_key(&namespace)
        });
        let mut objects = self.understood(&apis, &policies, Vec::new());
        understand(gateway, &mut objects);
        if secrets.is_empty() {
            return objects;
        }
        // Of what was read it is known what it names; of the rest all that looks like a name counts.
        let mut used = BTreeSet::new();
        for api in &objects.apis {
            let (namespace, _) = identity(&api.metadata);
            used.extend(secrets_of(&api.spec.0).into_iter().map(|(_, secret)| (namespace, secret.secret)));
        }
        let read: BTreeSet<_> = objects.apis.iter().map(|api| identity(&api.metadata)).collect();
        let unread = apis.iter().filter(|api| !read.contains(&identity(&api.metadata)));
        for user in unread.chain(&policies).map(|object| &**object).chain([gateway]) {
            let (namespace, _) = identity(&user.metadata);
            each_secret(&user.data, &mut |name| {
                used.insert((namespace, name));
            });
        }
        let secrets = secrets.iter().filter(|secret| used.contains(&identity(&secret.metadata)));
        objects.secrets = secrets.map(|secret| (**secret).clone()).collect();
        objects
    }

    /// What matters to the API `name`: itself, and the policies and Secrets that it is served with.
    pub fn around_api(&self, namespace: &str, name: &str) -> Objects {
        let reference = ObjectRef::new_with(name, api_resource()).within(namespace);
        let api = self.apis.get(&reference).into_iter().collect();
        let mut policies = within(&self.policies, namespace);
        policies.retain(|policy| Targets::of(policy).includes(name));
        self.objects(namespace, api, policies)
    }

    /// What matters to `policy`: its targets, and the policies that share one with it.
    pub fn around_policy(&self, namespace: &str, policy: &DynamicObject) -> Objects {
        let targets = Targets::of(policy);
        let mut apis = within(&self.apis, namespace);
        apis.retain(|api| targets.includes(&api.name_any()));
        let mut policies = within(&self.policies, namespace);
        policies.retain(|other| Targets::of(other).meets(&targets));
        self.objects(namespace, apis, policies)
    }

    /// What matters to `object` as it is applied: itself, and what would be around it.
    pub fn around_applied(&self, kind: Kind, object: &DynamicObject) -> Objects {
        let (namespace, name) = name_of(object);
        // What is tried twice has one uid and one generation, and may say two things: it is read anew.
        let mut applied = object.clone();
        applied.metadata.uid = None;
        let applied = Arc::new(applied);
        let mut policies = within(&self.policies, &namespace);
        if kind == Kind::StreamGateway {
            let apis = self.placed_on(&(namespace, name));
            return self.around_gateway(object, apis);
        }
        if kind == Kind::StreamApi {
            if let Some(objects) = self.around_applied_on_gateway(&applied) {
                return objects;
            }
            policies.retain(|policy| Targets::of(policy).includes(&name));
            return self.objects(&namespace, vec![applied], policies);
        }
        let targets = Targets::of(object);
        let mut apis = within(&self.apis, &namespace);
        apis.retain(|api| targets.includes(&api.name_any()));
        policies.retain(|other| other.name_any() != name && Targets::of(other).meets(&targets));
        policies.push(applied);
        self.objects(&namespace, apis, policies)
    }

    /// What matters to a StreamAPI that is applied with a placement on a gateway: who else is there.
    fn around_applied_on_gateway(&self, api: &Arc<DynamicObject>) -> Option<Objects> {
        let name = name_of(api);
        let gateway_name = gateway_of(api)?;
        let reference = serde_json::from_value(api.data["spec"]["placement"]["gateway"].clone()).ok()?;
        let gateway = self.gateway(&gateway_name);
        let spec = gateway.as_ref().map(|gateway| lenient_gateway(gateway));
        if let Some(problem) = obstacle(&name.0, &reference, spec.as_ref()) {
            let mut policies = within(&self.policies, &name.0);
            policies.retain(|policy| Targets::of(policy).includes(&name.1));
            let mut objects = self.objects(&name.0, vec![api.clone()], policies);
            objects.elsewhere.insert(name, vec![problem]);
            return Some(objects);
        }
        let mut apis = self.placed_on(&gateway_name);
        apis.retain(|other| {
            let other = name_of(other);
            other != name
                && spec
                    .as_ref()
                    .is_some_and(|spec| spec.allowed_namespaces.includes(&gateway_name.0, &other.0))
        });
        apis.push(api.clone());
        gateway.map(|gateway| self.around_gateway(&gateway, apis))
    }

    fn objects(
        &self,
        namespace: &str,
        apis: Vec<Arc<DynamicObject>>,
        policies: Vec<Arc<DynamicObject>>,
    ) -> Objects {
        let mut secrets = within(&self.secrets, namespace);
        let is_used = |name: &str| apis.iter().chain(&policies).any(|user| names_secret(&user.data, name));
        secrets.retain(|secret| is_used(&secret.name_any()));
        self.understood(&apis, &policies, secrets)
    }

    /// The objects as they can be understood, in the order that breaks ties among equally old ones.
    fn understood(
        &self,
        apis: &[Arc<DynamicObject>],
        policies: &[Arc<DynamicObject>],
        secrets: Vec<Arc<Secret>>,
    ) -> Objects {
        let mut objects = Objects::default();
        apis.iter().for_each(|api| self.understand_api(api, &mut objects));
        policies.iter().for_each(|policy| understand(policy, &mut objects));
        objects.secrets = secrets.iter().map(|secret| (**secret).clone()).collect();
        let name = |metadata: &ObjectMeta| (metadata.name.clone(), metadata.namespace.clone());
        objects.apis.sort_by_key(|api| name(&api.metadata));
        objects.policies.sort_by_key(|policy| name(&policy.metadata));
        objects
    }

    /// Understands an API. One that was understood before and says the same is not read again.
    fn understand_api(&self, api: &DynamicObject, objects: &mut Objects) {
        let identity = api.uid().zip(api.metadata.generation);
        if let Some((uid, generation)) = &identity
            && let Some((as_of, spec)) = self.read.lock().get(uid)
            && as_of == generation
        {
            let spec = ApiSpec(spec.clone());
            objects.apis.push(StreamAPI { metadata: api.metadata.clone(), spec, status: None });
            return;
        }
        let before = objects.apis.len();
        understand(api, objects);
        if let (Some((uid, generation)), Some(read)) = (identity, objects.apis.get(before)) {
            let mut known = self.read.lock();
            if known.len() > 2 * self.apis.len() {
                let there: BTreeSet<String> = self.apis.state().iter().filter_map(|api| api.uid()).collect();
                known.retain(|uid, _| there.contains(uid));
            }
            known.insert(uid, (generation, read.spec.0.clone()));
        }
    }
}

/// The objects of a store that are in `namespace`.
fn within<K>(store: &Store<K>, namespace: &str) -> Vec<Arc<K>>
where
    K: Resource + Clone + 'static,
    K::DynamicType: Hash + Eq + Clone,
{
    store.state_filter(|object| object.meta().namespace.as_deref() == Some(namespace))
}

/// Adds `object` to what can be understood, or to what cannot.
fn understand(object: &DynamicObject, objects: &mut Objects) {
    let document = match serde_json::to_value(object) {
        Ok(document) => document,
        Err(error) => {
            let problem = Problem::new("", format!("cannot be read: {error}"));
            objects.unread.push(Unread {
                kind: Kind::Other,
                namespace: object.namespace(),
                name: object.metadata.name.clone(),
                problems: vec![problem],
                targets: None,
            });
            return;
        }
    };
    match read::read(document, &object.namespace().unwrap_or_default()) {
        Ok(Object::Api(api)) => objects.apis.push(*api),
        Ok(Object::Gateway(gateway)) => objects.gateways.push(*gateway),
        Ok(Object::Policy(policy)) => objects.policies.push(*policy),
        Ok(Object::Secret(_) | Object::Unused(_)) => {}
        Err(unread) => objects.unread.push(*unread),
    }
}
