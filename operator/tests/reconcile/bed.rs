//! A namespace on the shared control plane: what a person does there, and what is seen there.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::api::{
    DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, ValidationDirective,
};
use kube::core::ApiResource;
use kube::{Api, Client};
use serde_json::{Value, json};
use sluice_operator::children::{ChildKind, resource};
use sluice_operator::world::{api_resource, gateway_resource, policy_resource};
use sluice_tests::cluster::{ControlPlane, Request};
use sluice_tests::documents::{self, Channel};
use sluice_tests::{eventually, seed, within};

use crate::operator::Operator;

/// How long the garbage collector may take.
pub const COLLECTED: Duration = Duration::from_secs(60);
/// Name of the chart's release, and of what it makes for the operator.
pub const RELEASE: &str = "sluice";
/// See [`RELEASE`].
pub const ACCOUNT: &str = "sluice-operator";

/// Kinds of the children of an API with two replicas.
pub const CHILDREN: [ChildKind; 9] = [
    ChildKind::Secret,
    ChildKind::ConfigMap,
    ChildKind::ServiceAccount,
    ChildKind::Role,
    ChildKind::RoleBinding,
    ChildKind::Service,
    ChildKind::NetworkPolicy,
    ChildKind::PodDisruptionBudget,
    ChildKind::Deployment,
];

/// Kinds of children that every cluster knows and the chart has allowed here: nothing is exposed.
pub fn kinds() -> impl Iterator<Item = ChildKind> {
    ChildKind::ALL.into_iter().filter(|kind| !matches!(kind, ChildKind::Ingress | ChildKind::HttpRoute))
}

/// A namespace with the operator's rights, and everything rights to do anything there.
pub struct Bed {
    /// The API server.
    pub plane: &'static ControlPlane,
    /// May do everything.
    pub client: Client,
    /// The namespace.
    pub namespace: String,
}

impl Bed {
    /// A new namespace with what the chart makes for the operator, its Deployment excepted.
    pub async fn new(prefix: &str) -> Self {
        Self::on(ControlPlane::shared(), prefix, &["--set", "scope=Namespace,dataplane.networkPolicies=true"])
            .await
    }

    /// As [`Self::new`] on a control plane, with values for the chart.
    pub async fn on(plane: &'static ControlPlane, prefix: &str, values: &[&str]) -> Self {
        let bed = Self::bare(plane, prefix).await;
        let manifests = bed.chart(&["rbac", "serviceaccount"], values);
        plane.run("kubectl", &["apply", "--server-side", "-f", "-"], &manifests);
        bed
    }

    /// A namespace in which no operator is at home.
    pub async fn bare(plane: &'static ControlPlane, prefix: &str) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = Client::try_from(Self::config(plane).await).expect("a client can be made");
        let bed = Self { plane, client, namespace: seed::unique(prefix) };
        let body: Namespace =
            serde_json::from_value(json!({"metadata": {"name": bed.namespace}})).expect("one");
        let namespaces: Api<Namespace> = Api::all(bed.client.clone());
        namespaces.create(&PostParams::default(), &body).await.expect("a namespace can be made");
        install(plane);
        bed
    }

    /// What the chart makes of some of its templates.
    pub fn chart(&self, templates: &[&str], values: &[&str]) -> String {
        chart(self.plane, &self.namespace, templates, values)
    }

    /// Credentials that may do everything.
    pub async fn config(plane: &ControlPlane) -> kube::Config {
        let file = kube::config::Kubeconfig::read_from(plane.kubeconfig()).expect("a kubeconfig");
        let options = kube::config::KubeConfigOptions::default();
        kube::Config::from_custom_kubeconfig(file, &options).await.expect("a usable kubeconfig")
    }

    /// Starts the operator for this namespace and waits until it leads.
    pub async fn operator(&self) -> Operator {
        Operator::start(self).await
    }

    /// Objects of a kind in the namespace.
    pub fn objects(&self, kind: &ApiResource) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, kind)
    }

    /// Applies a StreamAPI or StreamPolicy, or any document, as `kubectl apply --server-side` does.
    ///
    /// # Panics
    /// If it is refused.
    pub async fn apply(&self, document: &Value) -> Value {
        self.try_apply(document).await.unwrap_or_else(|error| panic!("{error}: {document}"))
    }

    /// As [`Self::apply`]; why it was refused.
    pub async fn try_apply(&self, document: &Value) -> Result<Value, String> {
        let name = document["metadata"]["name"].as_str().unwrap_or_default();
        let parameters = PatchParams {
            field_validation: Some(ValidationDirective::Strict),
            ..PatchParams::apply("kubectl").force()
        };
        let applied =
            self.objects(&kind_of(document)).patch(name, &parameters, &Patch::Apply(document)).await;
        match applied {
            Ok(object) => Ok(serde_json::to_value(object).expect("JSON")),
            Err(kube::Error::Api(status)) => Err(status.message.clone()),
            Err(error) => panic!("{error}: {document}"),
        }
    }

    /// The object, if it is there.
    pub async fn find(&self, kind: &ApiResource, name: &str) -> Option<Value> {
        match self.objects(kind).get(name).await {
            Ok(object) => {
                let mut object = serde_json::to_value(object).expect("JSON");
                object["metadata"]["managedFields"] = Value::Null;
                Some(object)
            }
            // Also of a kind that is not known at all.
            Err(kube::Error::Api(status)) if status.code == 404 => None,
            Err(error) => panic!("the API server answers: {error}"),
        }
    }

    /// The object.
    ///
    /// # Panics
    /// If it is not there.
    pub async fn get(&self, kind: &ApiResource, name: &str) -> Value {
        self.find(kind, name).await.unwrap_or_else(|| panic!("{} {name} is not there", kind.kind))
    }

    /// All objects of a kind.
    pub async fn list(&self, kind: &ApiResource) -> Vec<Value> {
        let list = self.objects(kind).list(&ListParams::default()).await.expect("the API server answers");
        list.items.into_iter().map(|object| serde_json::to_value(object).expect("JSON")).collect()
    }

    /// Merges `patch` into the object.
    pub async fn patch(&self, kind: &ApiResource, name: &str, patch: &Value) {
        let done = self.objects(kind).patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        done.unwrap_or_else(|error| panic!("{} {name}: {error}", kind.kind));
    }

    /// Deletes the object.
    pub async fn delete(&self, kind: &ApiResource, name: &str) {
        let done = self.objects(kind).delete(name, &DeleteParams::default()).await;
        done.unwrap_or_else(|error| panic!("{} {name}: {error}", kind.kind));
    }

    /// Waits until the StreamAPI's condition says `status` for `reason`, about its newest
    /// generation; the message.
    pub async fn told(&self, api: &str, condition: &str, status: &str, reason: &str) -> String {
        self.told_of(&api_resource(), api, condition, status, reason).await
    }

    /// As [`Self::told`], of a StreamPolicy.
    pub async fn policy_told(&self, policy: &str, condition: &str, status: &str, reason: &str) -> String {
        self.told_of(&policy_resource(), policy, condition, status, reason).await
    }

    /// As [`Self::told`], of a StreamGateway.
    pub async fn gateway_told(&self, gateway: &str, condition: &str, status: &str, reason: &str) -> String {
        self.told_of(&gateway_resource(), gateway, condition, status, reason).await
    }

    async fn told_of(&self, kind: &ApiResource, name: &str, of: &str, status: &str, reason: &str) -> String {
        let what = format!("{} {name}: {of}={status} {reason}", kind.kind);
        let last = std::cell::RefCell::new(Value::Null);
        let waiting = tokio::time::timeout(Duration::from_secs(20), async {
            eventually(&what, || async {
                let object = self.get(kind, name).await;
                let found = condition(&object, of);
                *last.borrow_mut() = object["status"]["conditions"].clone();
                let current = found["observedGeneration"] == object["metadata"]["generation"];
                (current && found["status"] == status && found["reason"] == reason)
                    .then(|| found["message"].as_str().unwrap_or_default().to_owned())
            })
            .await
        });
        match waiting.await {
            Ok(message) => message,
            Err(_) => panic!("in vain: {what}; it says {:#}", last.borrow()),
        }
    }

    /// The child of `api`.
    pub async fn child(&self, kind: ChildKind, api: &str) -> Option<Value> {
        self.find(&kind.resource(), &format!("{api}-sluice")).await
    }

    /// Waits until every child of `api` is there.
    pub async fn whole(&self, api: &str, kinds: &[ChildKind]) {
        for kind in kinds {
            within(Duration::from_secs(10), &format!("{kind:?} of {api} is there"), || {
                self.child(*kind, api)
            })
            .await;
        }
    }

    /// What the operator in this namespace asked to be changed since `mark`, its Lease excepted.
    pub fn writes(&self, mark: u64) -> Vec<Request> {
        let requests = self.plane.requests(mark).into_iter();
        requests
            .filter(|request| {
                request.user.starts_with(&format!("system:serviceaccount:{}:{ACCOUNT}", self.namespace))
                    && request.is_write()
                    && request.resource != "leases"
            })
            .collect()
    }

    /// A token of an account.
    pub fn token(&self, account: &str) -> String {
        let arguments = ["create", "token", account, "--namespace", &self.namespace, "--duration", "1h"];
        self.plane.run("kubectl", &arguments, "").trim().to_owned()
    }

    /// A kubeconfig of an account's token for the API server, or for what stands before it at `server`, as a
    /// file at `path`.
    pub async fn kubeconfig(&self, account: &str, server: Option<&str>, path: &std::path::Path) {
        let direct = Self::config(self.plane).await.cluster_url.to_string();
        let server = server.unwrap_or(&direct);
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": {"server": server, "certificate-authority": self.plane.authority()}}],
            "users": [{"name": "it", "user": {"token": self.token(account)}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it", "namespace": self.namespace}}],
        });
        std::fs::write(path, config.to_string()).expect("a file can be written");
    }
}

fn chart(plane: &ControlPlane, namespace: &str, templates: &[&str], values: &[&str]) -> String {
    let chart = sluice_tests::parts::source().join("../charts/sluice").to_string_lossy().into_owned();
    let mut arguments = vec!["template", RELEASE, &chart, "--namespace", namespace, "--kube-version", "1.33"];
    let templates: Vec<_> = templates.iter().map(|name| format!("templates/{name}.yaml")).collect();
    templates.iter().for_each(|template| arguments.extend(["--show-only", template]));
    arguments.extend(values);
    plane.run("helm", &arguments, "")
}

/// Has the chart's CustomResourceDefinitions on a control plane, once.
fn install(plane: &ControlPlane) {
    static DONE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let mut done = DONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if done.insert(plane.dir().to_owned()) {
        let crds = chart(plane, "default", &["crds"], &[]);
        plane.run("kubectl", &["apply", "--server-side", "-f", "-"], &crds);
        let established = "--for=condition=Established";
        let [apis, gateways, policies] =
            ["streamapis", "streamgateways", "streampolicies"].map(|kind| format!("crd/{kind}.sluice.dev"));
        // Right after they were made it fails for want of a status.
        let wait = || plane.tool("kubectl", &["wait", established, &apis, &gateways, &policies], "");
        assert!((0..20).any(|_| wait().status.success()), "the definitions are not established");
        // What is served is found out a moment after that.
        let found = || {
            plane.tool("kubectl", &["get", "streamapis,streamgateways,streampolicies"], "").status.success()
        };
        assert!((0..100).any(|_| found()), "the kinds are not served");
        // The garbage collector looks for new kinds of owners when it starts, later every 30 seconds.
        plane.component("kill", "kube-controller-manager");
        plane.component("start", "kube-controller-manager");
    }
}

/// The condition of an object; null if it has none of that type.
pub fn condition(object: &Value, of: &str) -> Value {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|condition| condition["type"] == of).unwrap_or_default()
}

/// The kind of a document.
pub fn kind_of(document: &Value) -> ApiResource {
    let kind = document["kind"].as_str().expect("a kind");
    match kind {
        "StreamAPI" => api_resource(),
        "StreamGateway" => gateway_resource(),
        "StreamPolicy" => policy_resource(),
        "Pod" => resource("", "v1", "Pod", "pods"),
        "Event" => resource("events.k8s.io", "v1", "Event", "events"),
        _ => ChildKind::ALL.iter().find(|it| it.names().2 == kind).expect("a known kind").resource(),
    }
}

/// A StreamAPI with one channel in memory.
pub fn shop() -> Value {
    documents::Api::new("shop").memory().channel(Channel::both_ways("orders", "orders")).0
}

/// The same by another name.
pub fn named(name: &str) -> Value {
    let mut api = shop();
    api["metadata"]["name"] = json!(name);
    api
}

/// A StreamPolicy on whole APIs.
pub fn policy(name: &str, apis: &[&str], mut parts: Value) -> Value {
    let targets = apis.iter().map(|api| match api.split_once('/') {
        Some((api, channel)) => json!({"kind": "StreamAPI", "name": api, "sectionName": channel}),
        None => json!({"kind": "StreamAPI", "name": api}),
    });
    parts["targetRefs"] = targets.collect();
    json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "StreamPolicy", "metadata": {"name": name}, "spec": parts})
}

/// A Secret that may be used.
pub fn secret(name: &str, data: &[(&str, &str)]) -> Value {
    let data: serde_json::Map<String, Value> =
        data.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    json!({
        "apiVersion": "v1", "kind": "Secret", "stringData": data,
        "metadata": {"name": name, "labels": {"sluice.dev/use": "true"}},
    })
}
