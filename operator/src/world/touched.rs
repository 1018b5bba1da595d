//! What a change has looked at again: pure bookkeeping between watches and controllers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

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

use super::{Name, name_of, within};
use crate::children::API_LABEL;

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
    fn begin(&self) {
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
    apis: Dirty,
    policies: Dirty,
    all_apis: Store<DynamicObject>,
    all_policies: Store<DynamicObject>,
    /// What each policy targeted when it was last seen, for it may have let go of it.
    targeted: Mutex<BTreeMap<Name, Targets>>,
    pods: Arc<Notify>,
}

impl Touched {
    /// What is touched is added to `apis` and `policies`, and `pods` is notified.
    pub fn new(
        (apis, all_apis): (&Dirty, Store<DynamicObject>),
        (policies, all_policies): (&Dirty, Store<DynamicObject>),
        pods: Arc<Notify>,
    ) -> Self {
        let (apis, policies) = (apis.clone(), policies.clone());
        Self { apis, policies, all_apis, all_policies, targeted: Mutex::default(), pods }
    }

    /// By a StreamAPI: itself, and the policies that target it.
    pub fn api(&self, api: &DynamicObject) {
        let (namespace, name) = name_of(api);
        for policy in within(&self.all_policies, &namespace) {
            if Targets::of(&policy).includes(&name) {
                self.policies.add(name_of(&policy));
            }
        }
        self.apis.add((namespace, name));
    }

    /// By a StreamPolicy: itself, and what it targets or did.
    pub fn policy(&self, policy: &DynamicObject) {
        let name = name_of(policy);
        let now = Targets::of(policy);
        let before = self.targeted.lock().insert(name.clone(), now.clone());
        for targets in before.into_iter().chain([now]) {
            self.targets(&name.0, &targets);
        }
        self.policies.add(name);
    }

    /// The APIs of `targets`, and the policies that share one of them.
    fn targets(&self, namespace: &str, targets: &Targets) {
        for api in within(&self.all_apis, namespace).iter().filter(|api| targets.includes(&api.name_any())) {
            self.apis.add(name_of(api));
        }
        for policy in within(&self.all_policies, namespace) {
            if Targets::of(&policy).meets(targets) {
                self.policies.add(name_of(&policy));
            }
        }
    }

    /// By a Secret: what names it.
    pub fn secret(&self, secret: &Secret) {
        let namespace = secret.namespace().unwrap_or_default();
        let name = secret.name_any();
        for api in within(&self.all_apis, &namespace).iter().filter(|api| names_secret(&api.data, &name)) {
            self.apis.add(name_of(api));
        }
        for policy in within(&self.all_policies, &namespace) {
            if names_secret(&policy.data, &name) {
                self.targets(&namespace, &Targets::of(&policy));
                self.policies.add(name_of(&policy));
            }
        }
    }

    /// By a child: its StreamAPI.
    pub fn child(&self, child: &DynamicObject) {
        if let Some(api) = child.labels().get(API_LABEL) {
            self.apis.add((child.namespace().unwrap_or_default(), api.clone()));
        }
    }

    /// By a pod: whoever asks pods.
    pub fn pod(&self, _: &Pod) {
        self.pods.notify_one();
    }

    /// From now on this process looks at what is touched, and at everything first.
    pub fn begin(&self) {
        self.apis.begin();
        self.policies.begin();
        self.everything();
    }

    /// After a list, for what went meanwhile is not told.
    pub fn everything(&self) {
        for api in self.all_apis.state() {
            self.apis.add(name_of(&api));
        }
        let policies = self.all_policies.state();
        *self.targeted.lock() =
            policies.iter().map(|policy| (name_of(policy), Targets::of(policy))).collect();
        for policy in policies {
            self.policies.add(name_of(&policy));
        }
        self.pods.notify_one();
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
    match value {
        Value::Object(fields) => fields
            .iter()
            .any(|(key, value)| (key == "secretRef" && value["name"] == name) || names_secret(value, name)),
        Value::Array(items) => items.iter().any(|item| names_secret(item, name)),
        _ => false,
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
