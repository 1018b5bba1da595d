//! What is in the cluster, as far as the operator may see it: one watch per kind, kept in memory.
//!
//! Objects are held undecoded. What is a StreamAPI and what is wrong with it, [`crate::read`] tells,
//! so that one unreadable object blinds the operator for no other.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::DynamicObject;
use kube::core::ApiResource;
use kube::runtime::reflector::{ObjectRef, Store, store::Writer};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, reflector, watcher as watch};
use kube::{Api, Client, Resource, ResourceExt as _};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use sluice_config::Problem;
use sluice_crds::{GROUP, USE_LABEL, VERSION};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::children::{API_LABEL, ChildKind, MANAGED_BY, resource};
use crate::objects::{Kind, Objects, Unread};
use crate::read::{self, Object};

/// Namespace and name.
pub type Name = (String, String);

/// The kind StreamAPI as the client wants it.
pub fn api_resource() -> ApiResource {
    resource(GROUP, VERSION, "StreamAPI", "streamapis")
}

/// The kind StreamPolicy as the client wants it.
pub fn policy_resource() -> ApiResource {
    resource(GROUP, VERSION, "StreamPolicy", "streampolicies")
}

/// Everything that is watched.
pub struct World {
    /// StreamAPIs.
    pub apis: Store<DynamicObject>,
    /// StreamPolicies.
    pub policies: Store<DynamicObject>,
    /// The Secrets that may be used.
    pub secrets: Store<Secret>,
    /// Pods of data planes.
    pub pods: Store<Pod>,
    children: BTreeMap<ChildKind, Store<DynamicObject>>,
    /// Pods came, went or changed.
    pub pods_changed: Arc<Notify>,
}

/// What has to be looked at again, without order and without repetition; so it is bounded by what
/// there is.
#[derive(Clone, Default)]
pub struct Dirty(Arc<(Mutex<BTreeSet<Name>>, Notify)>);

impl Dirty {
    /// Has `name` looked at again.
    pub fn add(&self, name: Name) {
        self.0.0.lock().insert(name);
        self.0.1.notify_one();
    }

    /// The names as references for a controller of `resource`.
    pub fn stream(&self, resource: ApiResource) -> impl Stream<Item = ObjectRef<DynamicObject>> + use<> {
        let dirty = self.0.clone();
        futures::stream::unfold((dirty, resource), |(dirty, resource)| async move {
            loop {
                let next = dirty.0.lock().pop_first();
                if let Some((namespace, name)) = next {
                    let reference = ObjectRef::new_with(&name, resource.clone()).within(&namespace);
                    return Some((reference, (dirty, resource)));
                }
                dirty.1.notified().await;
            }
        })
    }
}

/// What a change touches.
struct Touched {
    apis: Dirty,
    policies: Dirty,
    all_apis: Store<DynamicObject>,
    all_policies: Store<DynamicObject>,
    pods: Arc<Notify>,
}

impl Touched {
    fn api(&self, api: &DynamicObject) {
        let namespace = api.namespace().unwrap_or_default();
        self.apis.add((namespace.clone(), api.name_any()));
        self.policies_of(Some(&namespace));
    }

    /// A policy may matter to any API of its namespace, and to any other policy.
    fn policy(&self, policy: &DynamicObject) {
        let namespace = policy.namespace().unwrap_or_default();
        self.policies.add((namespace.clone(), policy.name_any()));
        self.all_of(Some(&namespace));
    }

    fn secret(&self, secret: &Secret) {
        self.all_of(secret.meta().namespace.as_deref());
    }

    fn child(&self, child: &DynamicObject) {
        if let Some(api) = child.labels().get(API_LABEL) {
            self.apis.add((child.namespace().unwrap_or_default(), api.clone()));
        }
    }

    fn pod(&self, _: &Pod) {
        self.pods.notify_one();
    }

    /// After a list, for what went meanwhile is not told.
    fn everything(&self) {
        self.all_of(None);
        self.pods.notify_one();
    }

    /// Every API and policy of `namespace`, or of all.
    fn all_of(&self, namespace: Option<&str>) {
        add_all(&self.all_apis, &self.apis, namespace);
        self.policies_of(namespace);
    }

    fn policies_of(&self, namespace: Option<&str>) {
        add_all(&self.all_policies, &self.policies, namespace);
    }
}

fn add_all(store: &Store<DynamicObject>, dirty: &Dirty, namespace: Option<&str>) {
    for object in store.state() {
        if namespace.is_none_or(|namespace| object.metadata.namespace.as_deref() == Some(namespace)) {
            dirty.add((object.namespace().unwrap_or_default(), object.name_any()));
        }
    }
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
        touch: fn(&Touched, &DynamicObject),
    ) -> Store<DynamicObject> {
        let api = match self.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, resource),
            None => Api::all_with(self.client.clone(), resource),
        };
        self.follow(api, writer, config, touch)
    }

    fn typed<K>(&mut self, config: watcher::Config, touch: fn(&Touched, &K)) -> Store<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let api = match self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        self.follow(api, Writer::new(()), config, touch)
    }

    fn follow<K>(
        &mut self,
        api: Api<K>,
        writer: Writer<K>,
        config: watcher::Config,
        touch: fn(&Touched, &K),
    ) -> Store<K>
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
        K::DynamicType: Hash + Eq + Clone + Send + Sync,
    {
        let reader = writer.as_reader();
        self.tasks.spawn(watching(api, writer, config, self.touched.clone(), touch));
        reader
    }
}

async fn watching<K>(
    api: Api<K>,
    writer: Writer<K>,
    config: watcher::Config,
    touched: Arc<Touched>,
    touch: fn(&Touched, &K),
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Hash + Eq + Clone + Send + Sync,
{
    let url = api.resource_url().to_owned();
    // Who last wrote which field is half of an object's size and nothing to us.
    let events = watch(api, config).default_backoff().modify(|object| {
        object.meta_mut().managed_fields = None;
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
    /// Watches `namespace`, or all; what changes is added to `apis` and `policies`. Returns when
    /// everything was listed. The watches end with the returned set.
    pub async fn start(
        client: &Client,
        namespace: Option<&str>,
        network_policies: bool,
        apis: &Dirty,
        policies: &Dirty,
    ) -> (Arc<Self>, JoinSet<()>) {
        let api_writer = Writer::new(api_resource());
        let policy_writer = Writer::new(policy_resource());
        let pods_changed = Arc::new(Notify::new());
        let touched = Arc::new(Touched {
            apis: apis.clone(),
            policies: policies.clone(),
            all_apis: api_writer.as_reader(),
            all_policies: policy_writer.as_reader(),
            pods: pods_changed.clone(),
        });
        let mut watches = Watches { client, namespace, touched, tasks: JoinSet::new() };
        let all = watcher::Config::default();
        let usable = watcher::Config::default().labels(&format!("{USE_LABEL}=true"));
        let managed = watcher::Config::default().labels(&format!("{}={}", MANAGED_BY.0, MANAGED_BY.1));
        let apis = watches.dynamic(&api_resource(), api_writer, all.clone(), Touched::api);
        let policies = watches.dynamic(&policy_resource(), policy_writer, all, Touched::policy);
        let secrets = watches.typed(usable, Touched::secret);
        let pods = watches.typed(managed.clone(), Touched::pod);
        let kinds =
            ChildKind::ALL.into_iter().filter(|kind| network_policies || *kind != ChildKind::NetworkPolicy);
        let children = kinds.map(|kind| {
            let resource = kind.resource();
            (kind, watches.dynamic(&resource, Writer::new(resource.clone()), managed.clone(), Touched::child))
        });
        let world = Self { children: children.collect(), apis, policies, secrets, pods, pods_changed };
        world.listed().await;
        (Arc::new(world), watches.tasks)
    }

    async fn listed(&self) {
        let complete = "the watches run as long as their stores";
        self.apis.wait_until_ready().await.expect(complete);
        self.policies.wait_until_ready().await.expect(complete);
        self.secrets.wait_until_ready().await.expect(complete);
        self.pods.wait_until_ready().await.expect(complete);
        for store in self.children.values() {
            store.wait_until_ready().await.expect(complete);
        }
    }

    /// The child as it is, if it is there and labelled as ours.
    pub fn child(&self, kind: ChildKind, namespace: &str, name: &str) -> Option<Arc<DynamicObject>> {
        let reference = ObjectRef::new_with(name, kind.resource()).within(namespace);
        self.children.get(&kind)?.get(&reference)
    }

    /// What matters to the API `name`: itself, and the policies and Secrets of its namespace.
    pub fn around_api(&self, namespace: &str, name: &str) -> Objects {
        let reference = ObjectRef::new_with(name, api_resource()).within(namespace);
        let api = self.apis.get(&reference);
        self.objects(namespace, api.into_iter().collect())
    }

    /// Everything of a namespace.
    pub fn around_policy(&self, namespace: &str) -> Objects {
        self.objects(namespace, within(&self.apis, namespace))
    }

    fn objects(&self, namespace: &str, apis: Vec<Arc<DynamicObject>>) -> Objects {
        let mut objects = Objects::default();
        for object in apis.into_iter().chain(within(&self.policies, namespace)) {
            understand(&object, &mut objects);
        }
        objects.secrets = within(&self.secrets, namespace).iter().map(|secret| (**secret).clone()).collect();
        // What breaks ties among equally old ones.
        objects.apis.sort_by_key(|api| api.name_any());
        objects.policies.sort_by_key(|policy| policy.name_any());
        objects
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
        Ok(Object::Policy(policy)) => objects.policies.push(*policy),
        Ok(Object::Secret(_) | Object::Unused(_)) => {}
        Err(unread) => objects.unread.push(*unread),
    }
}
