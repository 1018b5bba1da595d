//! What matters to an object: itself, and what it is served with, understood.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use kube::api::{DynamicObject, ObjectMeta};
use kube::runtime::reflector::ObjectRef;
use serde_json::Value;
use sluice_config::Problem;
use sluice_crds::{ApiSpec, StreamAPI};

use super::touched::{Targets, each_secret, names_secret};
use super::{World, api_resource, gateway_of, lenient_gateway, name_of, within};
use crate::dereference::{identity, secrets_of};
use crate::gateway::obstacle;
use crate::objects::{Kind, Objects, Unread};
use crate::read::{self, Object};

impl World {
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

    /// What matters to `object`, which was `old`, as it is applied: itself, and what would be around it. To a policy
    /// that is also what it lets go of.
    pub fn around_applied(&self, kind: Kind, object: &DynamicObject, old: Option<&DynamicObject>) -> Objects {
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
        let targets: Vec<Targets> = old.into_iter().chain([object]).map(Targets::of).collect();
        let mut apis = within(&self.apis, &namespace);
        apis.retain(|api| targets.iter().any(|targets| targets.includes(&api.name_any())));
        policies.retain(|other| {
            let theirs = Targets::of(other);
            other.name_any() != name && targets.iter().any(|targets| theirs.meets(targets))
        });
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

/// The object as a document, without what became of it.
pub fn document_of(object: &DynamicObject) -> serde_json::Result<Value> {
    let mut document = serde_json::to_value(object)?;
    if let Some(fields) = document.as_object_mut() {
        fields.remove("status");
    }
    Ok(document)
}

/// Adds `object` to what can be understood, or to what cannot.
fn understand(object: &DynamicObject, objects: &mut Objects) {
    let document = match document_of(object) {
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
