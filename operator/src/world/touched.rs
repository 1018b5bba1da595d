//! What a change has looked at again: pure bookkeeping between watches and controllers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::Stream;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use kube::core::ApiResource;
use kube::runtime::reflector::{ObjectRef, Store};
use parking_lot::Mutex;
use serde_json::Value;
use sluice_config::policy::TargetRef;
use tokio::sync::Notify;

use super::watches::unpacked;
use super::{AllDirty, Name, api_resource, gateway_of, gateway_resource, name_of, within};
use crate::children::{API_LABEL, GATEWAY_LABEL};

mod exposed;
mod pods;

pub use pods::{Changed, ChangedPods};

/// Kind of a gateway, as owner references have it.
const GATEWAY: &str = "StreamGateway";

/// What has to be looked at again, without order and without repetition; so it is bounded by what
/// there is. Nothing as long as nobody looks: a replica that stands by does not collect names.
#[derive(Clone, Default)]
pub struct Dirty(Arc<(Mutex<Option<BTreeSet<Name>>>, Notify)>);

impl Dirty {
    /// Has `name` looked at again.
    pub fn add(&self, name: Name) {
        if let Some(names) = &mut *self.0.0.lock() {
            names.insert(name);
            self.0.1.notify_one();
        }
    }

    /// Somebody is about to look.
    pub(crate) fn begin(&self) {
        self.0.0.lock().get_or_insert_default();
    }

    /// The names as references for a controller of `resource`.
    pub fn stream(&self, resource: ApiResource) -> impl Stream<Item = ObjectRef<DynamicObject>> + use<> {
        let dirty = self.0.clone();
        futures::stream::unfold((dirty, resource), |(dirty, resource)| async move {
            loop {
                let next = dirty.0.lock().as_mut().and_then(BTreeSet::pop_first);
                if let Some((namespace, name)) = next {
                    let reference = ObjectRef::new_with(&name, resource.clone()).within(&namespace);
                    return Some((reference, (dirty, resource)));
                }
                dirty.1.notified().await;
            }
        })
    }
}

/// What a change touches: of a namespace with hundreds of objects only what it matters to.
pub struct Touched {
    dirty: AllDirty,
    all_apis: Store<DynamicObject>,
    all_gateways: Store<DynamicObject>,
    all_policies: Store<DynamicObject>,
    /// Those that are labelled to be exposed, where that is switched on.
    all_services: Option<Store<DynamicObject>>,
    /// What each gateway was when it was last seen.
    gateways: Mutex<HashMap<Name, Version>>,
    /// What each API on a gateway was when it was last seen, for it may have left.
    placed: Mutex<HashMap<Name, Placed>>,
    /// What each policy targeted when it was last seen, for it may have let go of it.
    targeted: Mutex<BTreeMap<Name, Targets>>,
    /// The APIs and the gateways of the last list.
    listed: Mutex<[BTreeSet<Name>; 2]>,
    pods: Arc<ChangedPods>,
    /// How often something was listed anew.
    lists: AtomicU64,
}

impl Touched {
    /// What is touched is added to `dirty`, and pods to `pods`.
    pub fn new(
        dirty: &AllDirty,
        all_apis: Store<DynamicObject>,
        all_gateways: Store<DynamicObject>,
        all_policies: Store<DynamicObject>,
        pods: Arc<ChangedPods>,
    ) -> Self {
        Self {
            dirty: dirty.clone(),
            all_apis,
            all_gateways,
            all_policies,
            all_services: None,
            gateways: Mutex::default(),
            placed: Mutex::default(),
            targeted: Mutex::default(),
            listed: Mutex::default(),
            pods,
            lists: AtomicU64::new(0),
        }
    }

    /// By a StreamAPI: itself, the policies that target it, what it is made of, and its gateway, unless only its
    /// status changed.
    pub fn api(&self, api: &DynamicObject) {
        let (namespace, name) = name_of(api);
        self.gateways_of(&(namespace.clone(), name.clone()), api);
        self.services_of(api);
        for policy in within(&self.all_policies, &namespace) {
            if Targets::of(&policy).includes(&name) {
                self.dirty.policies.add(name_of(&policy));
            }
        }
        self.dirty.apis.add((namespace, name));
    }

    /// The gateways that the API is or was placed on.
    fn gateways_of(&self, name: &Name, api: &DynamicObject) {
        let reference = ObjectRef::new_with(&name.1, api_resource()).within(&name.0);
        let is_there = self.all_apis.get(&reference).is_some();
        let now = gateway_of(api).filter(|_| is_there);
        let now = now.map(|gateway| Placed { gateway, version: Version::of(api) });
        let mut placed = self.placed.lock();
        let before = match &now {
            Some(now) => placed.insert(name.clone(), now.clone()),
            None => placed.remove(name),
        };
        if before != now {
            before.into_iter().chain(now).for_each(|placed| self.dirty.gateways.add(placed.gateway));
        }
    }

    /// The APIs that are placed on `gateway`, as they were last seen.
    pub fn placed_on(&self, gateway: &Name) -> Vec<Name> {
        let placed = self.placed.lock();
        placed.iter().filter(|(_, placed)| placed.gateway == *gateway).map(|(name, _)| name.clone()).collect()
    }

    /// By a StreamGateway: itself, and the APIs that are placed on it, unless only its status changed.
    pub fn gateway(&self, gateway: &DynamicObject) {
        let name = name_of(gateway);
        let reference = ObjectRef::new_with(&name.1, gateway_resource()).within(&name.0);
        let now = self.all_gateways.get(&reference).map(|gateway| Version::of(&gateway));
        let before = match now.clone() {
            Some(now) => self.gateways.lock().insert(name.clone(), now),
            None => self.gateways.lock().remove(&name),
        };
        self.dirty.gateways.add(name.clone());
        if before.is_some() && before == now {
            return;
        }
        for api in self.placed_on(&name) {
            self.dirty.apis.add(api);
        }
    }

    /// An API that is served otherwise than before, for another reason than itself.
    fn around(&self, api: &DynamicObject) {
        self.dirty.apis.add(name_of(api));
        if let Some(gateway) = gateway_of(api) {
            self.dirty.gateways.add(gateway);
        }
    }

    /// By a StreamPolicy: itself, and what it targets or did.
    pub fn policy(&self, policy: &DynamicObject) {
        let name = name_of(policy);
        let now = Targets::of(policy);
        let before = self.targeted.lock().insert(name.clone(), now.clone());
        for targets in before.into_iter().chain([now]) {
            self.targets(&name.0, &targets);
        }
        self.dirty.policies.add(name);
    }

    /// The APIs of `targets`, and the policies that share one of them.
    fn targets(&self, namespace: &str, targets: &Targets) {
        for api in within(&self.all_apis, namespace).iter().filter(|api| targets.includes(&api.name_any())) {
            self.around(api);
        }
        for policy in within(&self.all_policies, namespace) {
            if Targets::of(&policy).meets(targets) {
                self.dirty.policies.add(name_of(&policy));
            }
        }
    }

    /// By a Secret: what names it.
    pub fn secret(&self, secret: &Secret) {
        let namespace = secret.namespace().unwrap_or_default();
        let name = secret.name_any();
        for api in within(&self.all_apis, &namespace).iter().filter(|api| names_secret(&api.data, &name)) {
            self.around(api);
        }
        for gateway in within(&self.all_gateways, &namespace) {
            if names_secret(&gateway.data, &name) {
                self.dirty.gateways.add(name_of(&gateway));
            }
        }
        for policy in within(&self.all_policies, &namespace) {
            if names_secret(&policy.data, &name) {
                self.targets(&namespace, &Targets::of(&policy));
                self.dirty.policies.add(name_of(&policy));
            }
        }
    }

    /// By a child: its StreamAPI, with the gateway that has its cursor key, or its StreamGateway. Whose it is its
    /// controller says, and its label, which others may have changed; what was disowned has the label alone.
    pub fn child(&self, child: &DynamicObject) {
        let child = unpacked(child);
        let namespace = child.namespace().unwrap_or_default();
        let controller = child.owner_references().iter().find(|owner| owner.controller == Some(true));
        let owned = controller.map(|owner| (owner.kind == GATEWAY, &owner.name));
        let label = |name, is_gateway| child.labels().get(name).map(|owner| (is_gateway, owner));
        let labelled = [label(API_LABEL, false), label(GATEWAY_LABEL, true)];
        for (is_gateway, name) in owned.into_iter().chain(labelled.into_iter().flatten()) {
            let owner = (namespace.clone(), name.clone());
            if is_gateway {
                self.dirty.gateways.add(owner);
                continue;
            }
            let reference = ObjectRef::new_with(name, api_resource()).within(&namespace);
            if let Some(gateway) = self.all_apis.get(&reference).and_then(|api| gateway_of(&api)) {
                self.dirty.gateways.add(gateway);
            }
            self.dirty.apis.add(owner);
        }
    }

    /// By a pod: whoever asks pods.
    pub fn pod(&self, pod: &Pod) {
        self.pods.one((pod.namespace().unwrap_or_default(), pod.name_any()));
    }

    /// How often something was listed anew.
    pub fn lists(&self) -> u64 {
        self.lists.load(Ordering::SeqCst)
    }

    /// From now on this process looks at what is touched, and at everything first.
    pub fn begin(&self) {
        self.dirty.apis.begin();
        self.dirty.gateways.begin();
        self.dirty.policies.begin();
        if self.all_services.is_some() {
            self.dirty.services.begin();
        }
        self.everything();
    }

    /// Has forgotten what was there at the last list and is no more.
    fn gone(&self, now: [&Vec<Arc<DynamicObject>>; 2]) {
        let now = now.map(|objects| objects.iter().map(|object| name_of(object)).collect());
        let before = std::mem::replace(&mut *self.listed.lock(), now.clone());
        for ((before, now), dirty) in before.iter().zip(&now).zip([&self.dirty.apis, &self.dirty.gateways]) {
            before.difference(now).for_each(|name| dirty.add(name.clone()));
        }
    }

    /// After a list, for what went meanwhile is not told.
    pub fn everything(&self) {
        self.lists.fetch_add(1, Ordering::SeqCst);
        let apis = self.all_apis.state();
        let gateways = self.all_gateways.state();
        self.gone([&apis, &gateways]);
        // Whole, before anybody looks: a gateway of which a part is known would send the others away.
        let placed = apis.iter().filter_map(|api| {
            let gateway = gateway_of(api)?;
            Some((name_of(api), Placed { gateway, version: Version::of(api) }))
        });
        *self.placed.lock() = placed.collect();
        for api in apis {
            self.dirty.apis.add(name_of(&api));
        }
        for gateway in gateways {
            self.dirty.gateways.add(name_of(&gateway));
        }
        let policies = self.all_policies.state();
        *self.targeted.lock() =
            policies.iter().map(|policy| (name_of(policy), Targets::of(policy))).collect();
        for policy in policies {
            self.dirty.policies.add(name_of(&policy));
        }
        for service in self.all_services.iter().flat_map(Store::state) {
            self.dirty.services.add(name_of(&service));
        }
        self.pods.all();
    }
}

/// An API as its gateway saw it last.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Placed {
    gateway: Name,
    version: Version,
}

/// What changes when an object says something else, and not with its status.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    uid: Option<String>,
    generation: Option<i64>,
    is_ending: bool,
}

impl Version {
    fn of(object: &DynamicObject) -> Self {
        let is_ending = object.metadata.deletion_timestamp.is_some();
        Self { uid: object.uid(), generation: object.metadata.generation, is_ending }
    }
}

/// Which APIs of its namespace a policy matters to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// Those of these names.
    Named(BTreeSet<String>),
    /// It cannot be told, so any.
    Any,
}

impl Targets {
    /// As [`crate::read::unread`] understands a policy that cannot be read.
    pub fn of(policy: &DynamicObject) -> Self {
        let targets = serde_json::from_value::<Vec<TargetRef>>(policy.data["spec"]["targetRefs"].clone());
        match targets {
            Ok(targets) if !targets.is_empty() => {
                Self::Named(targets.into_iter().map(|target| target.name).collect())
            }
            _ => Self::Any,
        }
    }

    /// Whether it matters to one of `apis`.
    pub fn includes_any(&self, apis: &BTreeSet<String>) -> bool {
        match self {
            Self::Named(names) => !names.is_disjoint(apis),
            Self::Any => true,
        }
    }

    /// Whether it matters to `api`.
    pub fn includes(&self, api: &str) -> bool {
        match self {
            Self::Named(names) => names.contains(api),
            Self::Any => true,
        }
    }

    /// Whether an API may be among both.
    pub fn meets(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Named(these), Self::Named(those)) => !these.is_disjoint(those),
            _ => true,
        }
    }
}

/// Whether a `secretRef` somewhere in `value` has that name.
pub fn names_secret(value: &Value, name: &str) -> bool {
    let mut found = false;
    each_secret(value, &mut |named| found |= named == name);
    found
}

/// The names of every `secretRef` in `value`.
pub fn each_secret<'a>(value: &'a Value, tell: &mut impl FnMut(&'a str)) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                if let Some(name) = value["name"].as_str().filter(|_| key == "secretRef") {
                    tell(name);
                }
                each_secret(value, tell);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| each_secret(item, tell)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::world::policy_resource;

    fn policy(targets: Value) -> Targets {
        let mut policy = DynamicObject::new("p", &policy_resource());
        policy.data = json!({"spec": {"targetRefs": targets}});
        Targets::of(&policy)
    }

    #[test]
    fn a_policy_whose_targets_cannot_be_read_matters_to_all() {
        let shop = policy(json!([{"kind": "StreamAPI", "name": "shop"}]));
        assert!(shop.includes("shop") && !shop.includes("chat"));
        for unreadable in [json!([]), json!("shop"), json!([{"kind": "StreamAPI"}]), Value::Null] {
            let any = policy(unreadable);
            assert!(any.includes("chat") && any.meets(&shop) && shop.meets(&any));
        }
        let both =
            policy(json!([{"kind": "StreamAPI", "name": "shop"}, {"kind": "StreamAPI", "name": "chat"}]));
        assert!(both.meets(&shop) && !shop.meets(&policy(json!([{"kind": "StreamAPI", "name": "chat"}]))));
    }

    #[test]
    fn a_secret_is_found_wherever_it_is_named() {
        let api = json!({"spec": {"servers": [{"kafka": {"sasl": {"secretRef": {"name": "login"}}}}]}});
        assert!(
            names_secret(&api, "login")
                && !names_secret(&api, "kafka")
                && !names_secret(&json!("login"), "login")
        );
    }
}
