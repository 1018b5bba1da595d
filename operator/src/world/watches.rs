//! What is watched, and what of it is kept.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{DynamicObject, ListParams, ObjectMeta};
use kube::core::ApiResource;
use kube::runtime::reflector::{Store, store::Writer};
use kube::runtime::watcher;
use kube::{Api, Client, Resource};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::task::JoinSet;

use super::touched::Touched;
use super::watching::{Pauses, watching};
use crate::apply::PATIENCE;
use crate::children::ChildKind;
use crate::children::sidecar;
use crate::observe::READY;

/// How often it is looked whether a kind is there that the cluster lacked.
const ABSENT: Duration = Duration::from_secs(10);

/// Kinds that are to be watched, and that the cluster does not know.
pub type Absent = Arc<Mutex<BTreeSet<ChildKind>>>;

/// The watches while they are started.
pub struct Watches<'a> {
    client: &'a Client,
    namespace: Option<&'a str>,
    touched: Arc<Touched>,
    /// What cannot be watched yet.
    pub absent: Absent,
    /// The watches themselves.
    pub tasks: JoinSet<()>,
}

impl<'a> Watches<'a> {
    /// None yet, of `namespace` or of all; what changes will be told to `touched`.
    pub fn new(client: &'a Client, namespace: Option<&'a str>, touched: Arc<Touched>) -> Self {
        Self { client, namespace, touched, absent: Absent::default(), tasks: JoinSet::new() }
    }

    /// Keeps a store of the children of `kind`. A kind that the cluster lacks is watched once it is there.
    pub async fn children(&mut self, kind: ChildKind, config: watcher::Config) -> Store<DynamicObject> {
        let resource = kind.resource();
        let writer = Writer::new(resource.clone());
        let pack: fn(&mut DynamicObject) =
            if kind == ChildKind::HttpRoute { pack_with_status } else { pack_without_status };
        let api = self.api(&resource);
        if !kind.may_be_absent() || is_served(&api).await {
            return self.follow(api, writer, config, pack, Touched::child);
        }
        let (kind_name, api_version) = (resource.kind, resource.api_version);
        tracing::warn!(
            kind = kind_name,
            api_version,
            "the cluster does not know this kind, so none is made until it does"
        );
        self.absent.lock().insert(kind);
        let reader = writer.as_reader();
        let (touched, absent) = (self.touched.clone(), self.absent.clone());
        self.tasks.spawn(async move {
            loop {
                tokio::time::sleep(ABSENT).await;
                if is_served(&api).await {
                    break;
                }
            }
            tracing::info!(kind = kind_name, api_version, "the cluster knows this kind now");
            absent.lock().remove(&kind);
            watching(api, writer, config, touched, pack, Touched::child).await;
        });
        reader
    }

    fn api(&self, resource: &ApiResource) -> Api<DynamicObject> {
        match self.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, resource),
            None => Api::all_with(self.client.clone(), resource),
        }
    }

    /// Keeps a store of the objects of `resource`; `touch` is called for whatever changes.
    pub fn dynamic(
        &mut self,
        resource: &ApiResource,
        writer: Writer<DynamicObject>,
        config: watcher::Config,
        touch: fn(&Touched, &DynamicObject),
    ) -> Store<DynamicObject> {
        self.follow(self.api(resource), writer, config, pack_status, touch)
    }

    /// The same of a kind with a type; `pack` takes away what is not looked at.
    pub fn typed<K>(&mut self, config: watcher::Config, pack: fn(&mut K), touch: fn(&Touched, &K)) -> Store<K>
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

/// Whether the API server knows the kind; asks until it tells.
async fn is_served(api: &Api<DynamicObject>) -> bool {
    let one = ListParams::default().limit(1);
    let mut pauses = Pauses::default();
    loop {
        match tokio::time::timeout(PATIENCE, api.list(&one)).await {
            Ok(Ok(_)) => return true,
            // Of a group that it does not know it says so in plain text, without a reason.
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => return false,
            Ok(Err(error)) => {
                tracing::warn!(%error, url = api.resource_url(), "it cannot be told whether there is such a kind");
            }
            Err(_) => tracing::warn!(
                url = api.resource_url(),
                "it was not told in time whether there is such a kind"
            ),
        }
        tokio::time::sleep(pauses.next()).await;
    }
}

/// Holds a child as text but for which one it is: a tree of JSON takes ten times as much, and a child is looked
/// at seldom. What became of it is nothing to us.
fn pack_without_status(child: &mut DynamicObject) {
    if let Some(fields) = child.data.as_object_mut() {
        fields.remove("status");
    }
    pack_with_status(child);
}

/// The same of what somebody else has a say in.
fn pack_with_status(child: &mut DynamicObject) {
    let text = text_of(child);
    child.types = None;
    let metadata = std::mem::take(&mut child.metadata);
    let ObjectMeta { name, namespace, uid, resource_version, .. } = metadata;
    child.metadata = ObjectMeta { name, namespace, uid, resource_version, ..ObjectMeta::default() };
    child.data = text;
}

/// Holds the status as text. It is most of an object of ours, and looked at only when it may be written.
fn pack_status(object: &mut DynamicObject) {
    if let Some(status) = object.data.get_mut("status") {
        *status = text_of(status);
    }
}

/// The JSON of `value` as a text of no more than its length.
fn text_of(value: &impl serde::Serialize) -> Value {
    let text = serde_json::to_string(value).expect("it was read from JSON");
    Value::String(text.into_boxed_str().into_string())
}

/// Of a pod only where it is and how it fares matters.
pub fn strip(pod: &mut Pod) {
    let Pod { metadata, spec, status } = pod;
    *spec = None;
    metadata.owner_references = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.retain(|name, _| name == sidecar::APIS);
    }
    if let Some(was) = status.take() {
        let mut conditions = was.conditions.unwrap_or_default();
        conditions.retain(|condition| condition.type_ == READY);
        conditions.shrink_to_fit();
        let PodStatus { phase, pod_ip, .. } = was;
        *status = Some(PodStatus { phase, pod_ip, conditions: Some(conditions), ..PodStatus::default() });
    }
}

/// A child as it was before it was packed.
pub fn unpacked(child: &DynamicObject) -> DynamicObject {
    let text = child.data.as_str().expect("children are packed");
    serde_json::from_str(text).expect("it was JSON")
}

/// The status of an object of ours, packed or not.
pub fn status_of(object: &DynamicObject) -> Value {
    match &object.data["status"] {
        Value::String(text) => serde_json::from_str(text).unwrap_or_default(),
        status => status.clone(),
    }
}
