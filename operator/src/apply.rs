//! Writes children to the cluster; with [`crate::report`] the only place that writes.
//!
//! An object that is not ours, by the uid of its controller, is never written, whatever its name.
//! Every write asks first whether this process still leads.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt as _};
use parking_lot::Mutex;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::children::{Child, ChildKind, Owner};
use crate::compare::{Difference, difference, replacement};
use crate::lease::Leadership;

/// Who writes, as the API server keeps book of it.
pub const FIELD_MANAGER: &str = "sluice-operator";
/// Who holds the number of pods until an autoscaler takes it over.
const REPLICAS_MANAGER: &str = "sluice-operator-replicas";
/// How long one request may take.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// For how long a watch may be late before the same is written again.
pub const LATE_WATCH: Duration = Duration::from_secs(5);

/// Why something was not written.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Something else has the name.
    #[error(
        "{kind} `{name}` exists and was not made for this object; delete or rename it, or give this object another name"
    )]
    NameTaken {
        /// Kind of the object.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The API server refused it as wrong.
    #[error("{kind} `{name}` was refused: {reason}")]
    Refused {
        /// Kind of the object.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What the API server said.
        reason: String,
    },
    /// The API server could not be asked or did not answer as it should.
    #[error("{kind} `{name}` could not be written")]
    Request {
        /// Kind of the object.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
    /// Its namespace is being deleted, and it goes with it.
    #[error("{kind} `{name}` was not made, for its namespace is being deleted")]
    Ending {
        /// Kind of the object.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The API server took too long.
    #[error("the API server did not answer within {PATIENCE:?}")]
    Late,
    /// Another replica of the operator leads now.
    #[error("this process no longer leads")]
    NotLeading,
}

impl ApplyError {
    /// Static name for metrics.
    pub const fn category(&self) -> &'static str {
        match self {
            Self::NameTaken { .. } => "nameTaken",
            Self::Refused { .. } => "refused",
            Self::Request { .. } => "request",
            Self::Ending { .. } => "ending",
            Self::Late => "late",
            Self::NotLeading => "notLeading",
        }
    }
}

/// Writes on behalf of the leader.
#[derive(Clone)]
pub struct Writer {
    /// The API server.
    pub client: Client,
    /// The same, and what it refuses for now is not asked again at once.
    once: Client,
    leadership: Leadership,
    written: Arc<Mutex<HashMap<Key, Written>>>,
    settled: Arc<Mutex<HashMap<Key, Settled>>>,
}

type Key = (ChildKind, String, String);

/// What became of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It was made what it should be.
    Written,
    /// It is that already.
    Same,
    /// It was, a moment ago: what the watch brought is older, or was restored from a backup. To be looked at
    /// again after [`LATE_WATCH`].
    Late,
}

/// What was written a moment ago.
struct Written {
    version: u64,
    /// Digest of the body.
    body: u64,
    at: Instant,
}

/// What was found to be as it should be.
#[derive(PartialEq, Eq)]
struct Settled {
    version: String,
    /// Digest of the body.
    body: u64,
}

fn digest(body: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    hasher.finish()
}

/// The object's version; they grow, and an API server's own are numbers.
fn version(object: &DynamicObject) -> Option<u64> {
    object.resource_version()?.parse().ok()
}

fn key(owner: &Owner<'_>, child: &Child) -> Key {
    (child.kind, owner.namespace.to_owned(), child.name.clone())
}

impl Writer {
    /// Writes through `client` while `leadership` holds, and through `once` what has an answer for later.
    pub fn new(client: Client, once: Client, leadership: Leadership) -> Self {
        Self { client, once, leadership, written: Arc::default(), settled: Arc::default() }
    }

    /// Whether the child was found to be what it should be when it was last looked at, in that `version`: most of what is
    /// looked at again is about something else, and finding out that nothing differs is most of a look.
    pub fn is_settled(&self, owner: &Owner<'_>, child: &Child, version: Option<String>) -> bool {
        let Some(version) = version else { return false };
        let now = Settled { version, body: digest(&child.body) };
        self.settled.lock().get(&key(owner, child)) == Some(&now)
    }

    /// Keeps in mind that the child is what it should be in that version.
    pub fn settle(&self, owner: &Owner<'_>, child: &Child, version: String) {
        let settled = Settled { version, body: digest(&child.body) };
        self.settled.lock().insert(key(owner, child), settled);
    }

    /// Forgets the children of an owner that is gone.
    pub fn forget(&self, owner: &Owner<'_>) {
        let (namespace, name) = (owner.namespace, owner.child_name());
        let mut settled = self.settled.lock();
        for kind in ChildKind::ALL {
            settled.remove(&(kind, namespace.to_owned(), name.clone()));
        }
    }

    /// Makes the child what it should be; `live` is what it was last seen to be. Whether anything
    /// was written.
    pub async fn apply(
        &self,
        owner: &Owner<'_>,
        child: &Child,
        live: Option<&DynamicObject>,
    ) -> Result<Applied, ApplyError> {
        let api = self.api(owner, child.kind);
        let met;
        let live = match live {
            Some(live) => live,
            None => match self.make(owner, &api, child).await? {
                Some(found) => {
                    met = found;
                    &met
                }
                None => return Ok(Applied::Written),
            },
        };
        if !is_owned(live, owner) {
            return Err(ApplyError::NameTaken { kind: child.kind.names().2, name: child.name.clone() });
        }
        let as_json = serde_json::to_value(live).expect("an object is JSON");
        let difference = difference(&child.body, &as_json);
        if difference == Difference::None {
            return Ok(Applied::Same);
        }
        if self.is_under_way(owner, child, Some(live)) {
            return Ok(Applied::Late);
        }
        let written = match difference {
            Difference::Entries => self.replace(&api, child, live, &as_json).await?,
            Difference::Fields | Difference::None => {
                self.hand_over_replicas(owner, &api, child, live).await?;
                self.patch(&api, child, live.uid()).await?
            }
        };
        self.note(owner, child, &written);
        Ok(Applied::Written)
    }

    /// Makes a child that was not seen yet. What is there instead, if it is: the watch has yet to bring it, or it is
    /// somebody else's.
    async fn make(
        &self,
        owner: &Owner<'_>,
        api: &Api<DynamicObject>,
        child: &Child,
    ) -> Result<Option<DynamicObject>, ApplyError> {
        let mut may_be_there = self.is_under_way(owner, child, None);
        loop {
            if may_be_there && let Some(found) = self.find(owner, child.kind, &child.name).await? {
                return Ok(Some(found));
            }
            match self.patch(api, child, None).await {
                // Only what comes and goes all the time is met again.
                Err(ApplyError::Request { source, .. }) if is_conflict(&source) && !may_be_there => {
                    may_be_there = true;
                }
                made => {
                    self.note(owner, child, &made?);
                    return Ok(None);
                }
            }
        }
    }

    /// Of a Deployment that somebody else scales from now on, keeps the number of pods: what an applier no
    /// longer names is taken away if nobody else named it, and without a number there is one pod.
    async fn hand_over_replicas(
        &self,
        owner: &Owner<'_>,
        api: &Api<DynamicObject>,
        child: &Child,
        live: &DynamicObject,
    ) -> Result<(), ApplyError> {
        let is_scaled = child.kind == ChildKind::Deployment && child.body["spec"]["replicas"].is_null();
        if !is_scaled || live.data["spec"]["replicas"].is_null() {
            return Ok(());
        }
        // What the watch brought may be older than what this process wrote itself.
        let Some(fresh) = self.find(owner, child.kind, &child.name).await? else { return Ok(()) };
        let there = fresh.data["spec"]["replicas"].as_u64().unwrap_or(1);
        // An autoscaler leaves a Deployment without pods alone.
        let replicas = there.max(1);
        let body = json!({
            "apiVersion": child.body["apiVersion"], "kind": child.body["kind"],
            "metadata": {"name": child.name, "uid": live.uid()}, "spec": {"replicas": replicas},
        });
        let mut parameters = PatchParams::apply(REPLICAS_MANAGER);
        parameters.force = replicas != there;
        self.lead()?;
        match patiently(api.patch(&child.name, &parameters, &Patch::Apply(&body))).await? {
            // An autoscaler has decided meanwhile.
            Err(error) if is_conflict(&error) => Ok(()),
            done => done.map(drop).map_err(|error| failure(child.kind, &child.name, error)),
        }
    }

    /// Whether `live` is older than what this process wrote a moment ago: the watch is late, and
    /// will bring the newer one.
    fn is_under_way(&self, owner: &Owner<'_>, child: &Child, live: Option<&DynamicObject>) -> bool {
        let written = self.written.lock();
        written.get(&key(owner, child)).is_some_and(|written| {
            written.at.elapsed() < LATE_WATCH
                && written.body == digest(&child.body)
                && live.is_none_or(|live| version(live).is_some_and(|version| version < written.version))
        })
    }

    fn note(&self, owner: &Owner<'_>, child: &Child, object: &DynamicObject) {
        let Some(version) = version(object) else { return };
        let mut written = self.written.lock();
        written.retain(|_, written| written.at.elapsed() < LATE_WATCH);
        let body = digest(&child.body);
        written.insert(key(owner, child), Written { version, body, at: Instant::now() });
    }

    /// Takes away what others added to lists and maps of ours, which server-side apply would leave.
    async fn replace(
        &self,
        api: &Api<DynamicObject>,
        child: &Child,
        live: &DynamicObject,
        as_json: &Value,
    ) -> Result<DynamicObject, ApplyError> {
        let mut body = replacement(&child.body, as_json);
        body["metadata"]["uid"] = json!(live.uid());
        self.lead()?;
        self.request(child, api.patch(&child.name, &merging(), &Patch::Merge(&body))).await
    }

    /// Creates the child; what exists already stays as it is.
    pub async fn create(&self, owner: &Owner<'_>, child: &Child) -> Result<Arc<DynamicObject>, ApplyError> {
        let api = self.api(owner, child.kind);
        let body: DynamicObject = serde_json::from_value(child.body.clone()).expect("a child is an object");
        let parameters = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
        let mut was_met = false;
        loop {
            self.lead()?;
            match patiently(api.create(&parameters, &body)).await? {
                Ok(created) => return Ok(Arc::new(created)),
                // Only what comes and goes all the time is met again.
                Err(error) if is_conflict(&error) && !was_met => {
                    match self.find(owner, child.kind, &child.name).await? {
                        Some(found) if is_owned(&found, owner) => return Ok(Arc::new(found)),
                        Some(_) => {
                            let (kind, name) = (child.kind.names().2, child.name.clone());
                            return Err(ApplyError::NameTaken { kind, name });
                        }
                        None => was_met = true,
                    }
                }
                Err(error) => return Err(failure(child.kind, &child.name, error)),
            }
        }
    }

    /// An object as it is. By a list, which who watches may ask for anyway, so that no other right is needed.
    pub async fn find(
        &self,
        owner: &Owner<'_>,
        kind: ChildKind,
        name: &str,
    ) -> Result<Option<DynamicObject>, ApplyError> {
        let by_name = ListParams::default().fields(&format!("metadata.name={name}"));
        let found = patiently(self.api(owner, kind).list(&by_name)).await?;
        let found = found.map_err(|error| failure(kind, name, error))?;
        Ok(found.items.into_iter().next())
    }

    /// Deletes what is no longer built, if it is ours and still the one that was seen.
    pub async fn prune(
        &self,
        owner: &Owner<'_>,
        kind: ChildKind,
        live: &DynamicObject,
    ) -> Result<(), ApplyError> {
        if !is_owned(live, owner) {
            return Ok(());
        }
        let preconditions = Preconditions { uid: live.uid(), resource_version: None };
        let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
        let name = live.name_any();
        self.lead()?;
        let deleted = patiently(self.api(owner, kind).delete(&name, &parameters)).await?;
        unless_gone(deleted).map_err(|error| failure(kind, &name, error))
    }

    /// Server-side apply. With a uid the object must still be that one. Without, there must be
    /// none: a version that no object can have turns an apply into a create that refuses to meet
    /// anything.
    async fn patch(
        &self,
        api: &Api<DynamicObject>,
        child: &Child,
        uid: Option<String>,
    ) -> Result<DynamicObject, ApplyError> {
        let mut body = child.body.clone();
        match uid {
            Some(uid) => body["metadata"]["uid"] = uid.into(),
            None => body["metadata"]["resourceVersion"] = NO_VERSION.into(),
        }
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        self.lead()?;
        self.request(child, api.patch(&child.name, &parameters, &Patch::Apply(&as_yaml(&body)))).await
    }

    /// Replaces the status of an object that is there.
    pub async fn status(
        &self,
        api: &Api<DynamicObject>,
        name: &str,
        status: &Value,
    ) -> Result<(), ApplyError> {
        self.lead()?;
        let body = json!({"status": status});
        let told = patiently(api.patch_status(name, &merging(), &Patch::Merge(&body))).await?;
        unless_gone(told).map_err(|error| refusal("status of", name.to_owned(), error))
    }

    /// Notes something on a pod of somebody else.
    pub async fn annotate(
        &self,
        namespace: &str,
        pod: &str,
        name: &str,
        value: &str,
    ) -> Result<(), ApplyError> {
        self.lead()?;
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let body = json!({"metadata": {"annotations": {name: value}}});
        let noted = patiently(api.patch(pod, &merging(), &Patch::Merge(&body))).await?;
        unless_gone(noted).map_err(|error| refusal("Pod", pod.to_owned(), error))
    }

    /// Has a pod of somebody else end, as its disruption budgets allow. Whether they do.
    pub async fn evict(&self, namespace: &str, pod: &Pod) -> Result<bool, ApplyError> {
        self.lead()?;
        let api: Api<Pod> = Api::namespaced(self.once.clone(), namespace);
        // kube's own request names the options so that the API server does not see them.
        let (name, parameters) = (pod.name_any(), PostParams::default());
        let body = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name},
            "deleteOptions": {"preconditions": {"uid": pod.uid()}}});
        let evicted = api.create_subresource::<_, Value>("eviction", &name, &parameters, &body);
        match patiently(evicted).await? {
            Err(kube::Error::Api(status)) if status.code == 429 => Ok(false),
            // It is gone, or it is another one by now.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(true),
            Err(error) => Err(refusal("Pod", name, error)),
            Ok(_) => Ok(true),
        }
    }

    fn lead(&self) -> Result<(), ApplyError> {
        if self.leadership.holds() { Ok(()) } else { Err(ApplyError::NotLeading) }
    }

    fn api(&self, owner: &Owner<'_>, kind: ChildKind) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), owner.namespace, &kind.resource())
    }

    async fn request<T>(
        &self,
        child: &Child,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, ApplyError> {
        patiently(request).await?.map_err(|error| failure(child.kind, &child.name, error))
    }
}

/// Waits for a request no longer than [`PATIENCE`].
async fn patiently<T>(
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<Result<T, kube::Error>, ApplyError> {
    tokio::time::timeout(PATIENCE, request).await.map_err(|_| ApplyError::Late)
}

/// What was deleted meanwhile needs nothing more.
fn unless_gone<T>(done: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match done {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        done => done.map(drop),
    }
}

/// An applied body, which API servers read as YAML: characters that YAML refuses or takes for line breaks (1.2 §5.1,
/// §5.4) are escaped as JSON may escape any.
fn as_yaml(body: &Value) -> Box<RawValue> {
    let is_special = |c: char| {
        matches!(c, '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
    };
    let text = body.to_string();
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if is_special(c) {
            escaped.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            escaped.push(c);
        }
    }
    RawValue::from_string(escaped).expect("it was JSON, and is")
}

/// A merge patch in our name.
fn merging() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() }
}

/// A version that no object has, for they begin at 1 with the cluster's own first object.
const NO_VERSION: &str = "1";

fn failure(kind: ChildKind, name: &str, error: kube::Error) -> ApplyError {
    refusal(kind.names().2, name.to_owned(), error)
}

fn refusal(kind: &'static str, name: String, error: kube::Error) -> ApplyError {
    match error {
        error if is_ending(&error) => ApplyError::Ending { kind, name },
        kube::Error::Api(status) if matches!(status.code, 400 | 403 | 413 | 422) => {
            ApplyError::Refused { kind, name, reason: status.message.clone() }
        }
        error => ApplyError::Request { kind, name, source: Box::new(error) },
    }
}

/// Whether something else is there than what the request is about.
fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

/// Whether it was refused because its namespace is being deleted: nothing can be made there.
pub fn is_ending(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 403 && causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

/// Whether the object's controller is the owner, by uid.
pub fn is_owned(object: &DynamicObject, owner: &Owner<'_>) -> bool {
    object.owner_references().iter().any(|reference| {
        reference.controller == Some(true) && owner.uid.is_some_and(|uid| reference.uid == uid)
    })
}

#[cfg(test)]
mod tests;
