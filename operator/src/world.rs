//! What is in the cluster, as far as the operator may see it: one watch per kind, kept in memory.
//!
//! Objects are held undecoded. What is a StreamAPI and what is wrong with it, [`crate::read`] tells,
//! so that one unreadable object blinds the operator for no other.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::DynamicObject;
use kube::core::ApiResource;
use kube::runtime::reflector::{ObjectRef, Store, store::Writer};
use kube::runtime::watcher;
use kube::{Client, Resource, ResourceExt as _};
use parking_lot::Mutex;
use serde::Deserialize as _;
use sluice_config::StreamApiSpec;
use sluice_config::placement::{GatewayRef, Placement, StreamGatewaySpec, check};
use sluice_crds::{GROUP, USE_LABEL, VERSION};
use tokio::task::JoinSet;

use crate::children::sidecar::{self, Guest};
use crate::children::{API_LABEL, ChildKind, MANAGED_BY, Settings, resource};

mod around;
mod exposed;
mod touched;
mod watches;
mod watching;

pub use around::document_of;
pub use touched::{Changed, Dirty};
use touched::{ChangedPods, Touched};
pub use watches::status_of;
use watches::{Absent, Watches, strip, unpacked};
pub use watching::anew;

/// How many objects are listed at once. What is not packed yet of them is what a start takes most memory for.
const PAGE: u32 = 100;

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
    /// Services that StreamAPIs are made of.
    pub services: Dirty,
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
    /// The Services that are labelled to be exposed, where that is switched on.
    pub services: Option<Store<DynamicObject>>,
    children: BTreeMap<ChildKind, Store<DynamicObject>>,
    absent: Absent,
    /// What StreamAPIs say, by uid and with the generation that said it.
    read: Mutex<HashMap<String, (i64, Arc<StreamApiSpec>)>>,
    touched: Arc<Touched>,
    /// Pods came, went or changed.
    pub changed_pods: Arc<ChangedPods>,
}

impl World {
    /// Watches `namespace`, or all, and of children the kinds that `settings` allow; once this process
    /// [leads](Self::lead), what changes is added to `dirty`. Returns when everything was listed. The watches end with
    /// the returned set.
    pub async fn start(
        client: &Client,
        namespace: Option<&str>,
        settings: &Settings,
        dirty: &AllDirty,
    ) -> (Arc<Self>, JoinSet<()>) {
        let api_writer = Writer::new(api_resource());
        let gateway_writer = Writer::new(gateway_resource());
        let policy_writer = Writer::new(policy_resource());
        let changed_pods = Arc::new(ChangedPods::default());
        let touched = Touched::new(
            dirty,
            api_writer.as_reader(),
            gateway_writer.as_reader(),
            policy_writer.as_reader(),
            changed_pods.clone(),
        );
        let service_writer = settings.expose_services.then(|| Writer::new(ChildKind::Service.resource()));
        let touched = touched.with_services(service_writer.as_ref().map(Writer::as_reader));
        let touched = Arc::new(touched);
        let mut watches = Watches::new(client, namespace, touched.clone());
        let all = watcher::Config::default().page_size(PAGE);
        let usable = all.clone().labels(&format!("{USE_LABEL}=true"));
        let managed = all.clone().labels(&format!("{}={}", MANAGED_BY.0, MANAGED_BY.1));
        let apis = watches.dynamic(&api_resource(), api_writer, all.clone(), Touched::api);
        let gateways = watches.dynamic(&gateway_resource(), gateway_writer, all.clone(), Touched::gateway);
        let policies = watches.dynamic(&policy_resource(), policy_writer, all.clone(), Touched::policy);
        let secrets = watches.typed(usable, |_| {}, Touched::secret);
        let pods = watches.typed(managed.clone(), strip, Touched::pod);
        let injected = all.labels(&format!("{}=true", sidecar::INJECTED));
        let sidecars = watches.typed(injected, strip, Touched::pod);
        let services = service_writer.map(|writer| watches.services(writer));
        let mut children = BTreeMap::new();
        for kind in ChildKind::ALL.into_iter().filter(|kind| settings.allows(*kind)) {
            children.insert(kind, watches.children(kind, managed.clone()).await);
        }
        let Watches { absent, tasks, .. } = watches;
        let read = Mutex::default();
        let world = Self {
            children,
            absent,
            apis,
            gateways,
            policies,
            secrets,
            pods,
            sidecars,
            services,
            read,
            touched,
            changed_pods,
        };
        world.listed().await;
        (Arc::new(world), tasks)
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
        if let Some(services) = &self.services {
            services.wait_until_ready().await.expect(complete);
        }
        for (_, store) in self.children.iter().filter(|(kind, _)| !self.lacks(**kind)) {
            store.wait_until_ready().await.expect(complete);
        }
    }

    /// Whether children of that kind cannot be made, for the cluster does not know it.
    pub fn lacks(&self, kind: ChildKind) -> bool {
        self.absent.lock().contains(&kind)
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

    /// How often something was listed anew. A backup that is put back gives versions a second time, and an
    /// interrupted watch is all that can be seen of that.
    pub fn lists(&self) -> u64 {
        self.touched.lists()
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

    /// The pod of that name, if a data plane is in it.
    pub fn pod(&self, (namespace, name): &Name) -> Option<Arc<Pod>> {
        let reference = ObjectRef::new(name).within(namespace);
        self.pods.get(&reference).or_else(|| self.sidecars.get(&reference))
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
}

/// The objects of a store that are in `namespace`.
fn within<K>(store: &Store<K>, namespace: &str) -> Vec<Arc<K>>
where
    K: Resource + Clone + 'static,
    K::DynamicType: Hash + Eq + Clone,
{
    store.state_filter(|object| object.meta().namespace.as_deref() == Some(namespace))
}
