//! What is in the cluster, as far as the operator may see it: one watch per kind, kept in memory.
//!
//! Objects are held undecoded. What is a StreamAPI and what is wrong with it, [`crate::read`] tells,
//! so that one unreadable object blinds the operator for no other.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;

use futures::{Stream, StreamExt as _};
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
}

impl Touched {
    /// Everything of a namespace: a policy or a Secret may matter to any of it.
    fn namespace(&self, namespace: &str) {
        for (store, dirty) in [(&self.all_apis, &self.apis), (&self.all_policies, &self.policies)] {
            for object in store.state() {
                if object.namespace().as_deref() == Some(namespace) {
                    dirty.add((namespace.to_owned(), object.name_any()));
                }
            }
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
        let mut tasks = JoinSet::new();
        let api_writer = Writer::new(api_resource());
        let policy_writer = Writer::new(policy_resource());
        let touched = Arc::new(Touched {
            apis: apis.clone(),
            policies: policies.clone(),
            all_apis: api_writer.as_reader(),
            all_policies: policy_writer.as_reader(),
        });
        let everything = watcher::Config::default();

        let on = touched.clone();
        let store = dynamic(client, namespace, &api_resource());
        let all_apis =
            follow(&mut tasks, store, everything.clone(), api_writer, move |api: &DynamicObject| {
                let namespace = api.namespace().unwrap_or_default();
                on.apis.add((namespace.clone(), api.name_any()));
                on.namespace_policies(&namespace);
            });
        let on = touched.clone();
        let store = dynamic(client, namespace, &policy_resource());
        let all_policies =
            follow(&mut tasks, store, everything, policy_writer, move |policy: &DynamicObject| {
                let namespace = policy.namespace().unwrap_or_default();
                on.policies.add((namespace.clone(), policy.name_any()));
                on.namespace(&namespace);
            });
        let on = touched.clone();
        let usable = watcher::Config::default().labels(&format!("{USE_LABEL}=true"));
        let store = typed(client, namespace);
        let secrets = follow(&mut tasks, store, usable, Writer::new(()), move |secret: &Secret| {
            on.namespace(&secret.namespace().unwrap_or_default());
        });
        let managed = watcher::Config::default().labels(&format!("{}={}", MANAGED_BY.0, MANAGED_BY.1));
        let mut children = BTreeMap::new();
        for kind in ChildKind::ALL {
            if kind == ChildKind::NetworkPolicy && !network_policies {
                continue;
            }
            let on = touched.clone();
            let store = dynamic(client, namespace, &kind.resource());
            let writer = Writer::new(kind.resource());
            let reader = follow(&mut tasks, store, managed.clone(), writer, move |child: &DynamicObject| {
                if let Some(api) = child.labels().get(API_LABEL) {
                    on.apis.add((child.namespace().unwrap_or_default(), api.clone()));
                }
            });
            children.insert(kind, reader);
        }
        let pods_changed = Arc::new(Notify::new());
        let notify = pods_changed.clone();
        let store = typed(client, namespace);
        let pods = follow(&mut tasks, store, managed, Writer::new(()), move |_: &Pod| notify.notify_one());
        let world = Self { apis: all_apis, policies: all_policies, secrets, pods, children, pods_changed };
        world.listed().await;
        (Arc::new(world), tasks)
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

impl Touched {
    fn namespace_policies(&self, namespace: &str) {
        for policy in self.all_policies.state() {
            if policy.namespace().as_deref() == Some(namespace) {
                self.policies.add((namespace.to_owned(), policy.name_any()));
            }
        }
    }
}

/// The objects of a store that are in `namespace`.
fn within<K>(store: &Store<K>, namespace: &str) -> Vec<Arc<K>>
where
    K: Resource + Clone + 'static,
    K::DynamicType: std::hash::Hash + Eq + Clone,
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

fn dynamic(client: &Client, namespace: Option<&str>, resource: &ApiResource) -> Api<DynamicObject> {
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, resource),
        None => Api::all_with(client.clone(), resource),
    }
}

fn typed<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// Keeps a store of what `api` holds and calls `touch` with whatever changes.
fn follow<K>(
    tasks: &mut JoinSet<()>,
    api: Api<K>,
    config: watcher::Config,
    writer: Writer<K>,
    touch: impl Fn(&K) + Send + 'static,
) -> Store<K>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
    K::DynamicType: std::hash::Hash + Eq + Clone + Send + Sync,
{
    let reader = writer.as_reader();
    let kind = api.resource_url().to_owned();
    tasks.spawn(watching(watch(api, config), writer, kind, touch));
    reader
}

fn watching<K>(
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
    writer: Writer<K>,
    url: String,
    touch: impl Fn(&K) + Send + 'static,
) -> impl Future<Output = ()> + Send + 'static
where
    K: Resource + Clone + Send + Sync + 'static,
    K::DynamicType: std::hash::Hash + Eq + Clone + Send + Sync,
{
    async move {
        // Who last wrote which field is half of an object's size and nothing to us.
        let events = events.default_backoff().modify(|object| {
            object.meta_mut().managed_fields = None;
        });
        let mut events = std::pin::pin!(reflector(writer, events));
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Apply(object) | Event::InitApply(object) | Event::Delete(object)) => touch(&object),
                Ok(Event::Init | Event::InitDone) => {}
                Err(error) => tracing::warn!(%error, %url, "a watch was interrupted; it starts again"),
            }
        }
    }
}
