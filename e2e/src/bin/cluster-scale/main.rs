//! An operator with many StreamAPIs on a real API server, etcd and controller manager: prints a table.
//! `make scale [ARGS="COUNT REST-SECONDS [DIRECTORY-FOR-CURVES]"]`, or `ARGS="gateway COUNT"` for as many on one gateway; figures count on an
//! otherwise idle machine only.
//!
//! There are no nodes. Whoever a kubelet and a thousand data planes would be is played here: pods are
//! reported to run as soon as they are there, and one port answers `/config` and `/readyz` for all of
//! their loopback addresses with what their ConfigMaps say. The floor is the same objects written by a
//! client that has nothing to think about, the same number at once.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::{StreamExt as _, stream};
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};
use sluice_tests::cluster::Request;
use sluice_tests::{ControlPlane, parts, within};

use crate::growth::Growth;
use crate::operator::Operator;

mod gateway;
mod growth;
mod operator;
mod play;
mod usage;

/// StreamAPIs, unless told otherwise.
const COUNT: usize = 1000;
/// How long the operator is left alone, unless told otherwise.
const REST: u64 = 60;
/// Requests at once, of the floor and of whoever applies; the operator has as many.
const AT_ONCE: usize = 8;
/// Changes that are timed.
const CHANGES: usize = 100;
/// Unexpected writes that are told.
const SHOWN: usize = 10;
/// The longest that anything may take.
const PATIENCE: Duration = Duration::from_secs(900);
/// Where the system under test works, and where the floor.
const TESTED: &str = "tested";
const FLOOR: &str = "floor";
/// What a StreamAPI consists of, in the order in which the operator writes it.
const CHILDREN: [(&str, &str, &str, &str); 7] = [
    ("", "v1", "Secret", "secrets"),
    ("", "v1", "ConfigMap", "configmaps"),
    ("", "v1", "ServiceAccount", "serviceaccounts"),
    ("rbac.authorization.k8s.io", "v1", "Role", "roles"),
    ("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings"),
    ("", "v1", "Service", "services"),
    ("apps", "v1", "Deployment", "deployments"),
];

fn main() {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.install_default().expect("nothing installed a provider before main");
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let on_gateway = arguments.first().is_some_and(|first| first == "gateway");
    let arguments: Vec<String> = arguments.drain(usize::from(on_gateway)..).collect();
    let argument = |place: usize| {
        let given: Option<&String> = arguments.get(place);
        given.map(|it| it.parse::<u64>().expect("[gateway] COUNT REST-SECONDS DIRECTORY-FOR-CURVES"))
    };
    let count = argument(0).map_or(COUNT, |count| usize::try_from(count).expect("a number"));
    let rest = Duration::from_secs(argument(1).unwrap_or(REST));
    let pictures = arguments.get(2).map(String::as_str);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    runtime.block_on(async {
        if on_gateway {
            gateway::measure(Bench::start(count).await).await;
        } else {
            measure(count, rest, pictures).await;
        }
    });
}

fn kind(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let (group, version, kind, plural) = (group.into(), version.into(), kind.into(), plural.into());
    ApiResource { group, version, api_version, kind, plural }
}

fn stream_apis() -> ApiResource {
    kind("sluice.dev", "v1alpha1", "StreamAPI", "streamapis")
}

fn name(number: usize) -> String {
    format!("api-{number}")
}

/// Everything of one namespace by number of its API, as it was seen last.
type Seen = Arc<Mutex<BTreeMap<usize, Value>>>;

/// The API server, and what is played around it.
struct Bench {
    plane: ControlPlane,
    client: Client,
    count: usize,
    /// What the ConfigMaps of the tested APIs say.
    served: Seen,
    /// The tested APIs themselves.
    apis: Seen,
    /// Pods that were reported to run, in either namespace.
    running: Arc<Mutex<BTreeMap<String, usize>>>,
}

fn row(what: &str, figure: String) {
    println!("| {what} | {figure} |");
}

async fn measure(count: usize, rest: Duration, pictures: Option<&str>) {
    let bench = Bench::start(count).await;
    bench.play().await;
    println!("| what, with {count} StreamAPIs of one channel and one pod each | figure |\n|---|---|");
    let mut operator = Operator::start(&bench.plane).await;
    let empty = operator.usage().memory();
    let (mut growth, begun) = (Growth::new(), Instant::now());
    let create = async {
        bench.create(TESTED).await;
        begun.elapsed()
    };
    let (created, tested) = tokio::join!(create, growth.follow(&bench, begun, operator.usage()));
    row(
        "created by a client, then all `Programmed`",
        format!("{:.1} s, {:.1} s", seconds(created), seconds(tested)),
    );
    let full = operator.usage().memory();
    row(
        "operator, resident: without any, with all, at most",
        format!("{empty:.1} MiB, {:.1} MiB, {:.1} MiB", full, operator.usage().most_memory()),
    );
    row("CPU of the operator for all of them", format!("{:.1} s", operator.usage().cpu()));

    tokio::time::sleep(Duration::from_secs(15)).await;
    let (mark, cpu) = (bench.plane.mark(), operator.usage().cpu());
    tokio::time::sleep(rest).await;
    let share = (operator.usage().cpu() - cpu) / rest.as_secs_f64() * 100.0;
    row(
        &format!("at rest for {} s: writes, CPU, resident", rest.as_secs()),
        format!("{}, {share:.2} %, {:.1} MiB", bench.writes(mark), operator.usage().memory()),
    );

    let mut changes = bench.changes().await;
    changes.sort();
    row(
        &format!("one changed among all → its ConfigMap is there, {CHANGES} changes"),
        format!(
            "p50 {} ms, p99 {} ms",
            changes[CHANGES / 2].as_millis(),
            changes[CHANGES - CHANGES / 100 - 1].as_millis()
        ),
    );

    let mark = bench.plane.mark();
    operator.stop().await;
    let begun = Instant::now();
    operator = Operator::start(&bench.plane).await;
    let leads = begun.elapsed();
    operator.looked_at(count).await;
    let steady = begun.elapsed();
    // Until what the start took is given back.
    tokio::time::sleep(Duration::from_secs(40)).await;
    row(
        "started again: leads, has looked at all; writes",
        format!("{:.1} s, {:.1} s; {}", seconds(leads), seconds(steady), bench.writes(mark)),
    );
    row(
        "resident after that, at most",
        format!("{:.1} MiB, {:.1} MiB", operator.usage().memory(), operator.usage().most_memory()),
    );
    operator.stop().await;

    let floor = bench.floor(&mut growth).await;
    row("floor: the same written by a client, and all pods run", format!("{:.1} s", seconds(floor)));
    row("beyond the floor", format!("{:.1} s", seconds(tested) - seconds(floor)));
    growth.tell(pictures);
}

fn seconds(span: Duration) -> f64 {
    span.as_secs_f64()
}

impl Bench {
    async fn start(count: usize) -> Self {
        let plane = ControlPlane::start();
        let file = Kubeconfig::read_from(plane.kubeconfig()).expect("a kubeconfig");
        let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
        let client = Client::try_from(config.expect("a usable kubeconfig")).expect("a client can be made");
        let chart = parts::source().join("../charts/sluice").display().to_string();
        let crds = plane.run(
            "helm",
            &["template", "sluice", &chart, "--kube-version", "1.33", "--show-only", "templates/crds.yaml"],
            "",
        );
        plane.run("kubectl", &["apply", "--server-side", "-f", "-"], &crds);
        plane.run(
            "kubectl",
            &[
                "wait",
                "--for=condition=Established",
                "crd/streamapis.sluice.dev",
                "crd/streamgateways.sluice.dev",
                "crd/streampolicies.sluice.dev",
            ],
            "",
        );
        for namespace in [TESTED, FLOOR, "sluice-system"] {
            plane.run("kubectl", &["create", "namespace", namespace], "");
        }
        Self { plane, client, count, served: Seen::default(), apis: Seen::default(), running: Arc::default() }
    }

    fn api(&self, namespace: &str, resource: &ApiResource) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, resource)
    }

    /// Creates the StreamAPIs.
    async fn create(&self, namespace: &str) {
        self.create_each(namespace, 0..self.count, document).await;
    }

    /// Creates what `document` makes of each number.
    async fn create_each(&self, namespace: &str, numbers: Range<usize>, document: fn(usize) -> Value) {
        let apis = self.api(namespace, &stream_apis());
        let make = |number| {
            let apis = apis.clone();
            async move {
                let body = serde_json::from_value(document(number)).expect("an object");
                apis.create(&PostParams::default(), &body).await.expect("a StreamAPI is taken")
            }
        };
        stream::iter(numbers.map(make)).buffer_unordered(AT_ONCE).collect::<Vec<_>>().await;
    }

    /// Waits until so many are served and told to be.
    async fn programmed(&self, goal: usize) {
        within(PATIENCE, "so many of them are served", || async {
            let apis = self.apis.lock().expect("nobody panics with it");
            (apis.values().filter(|status| is_programmed(status)).count() >= goal).then_some(())
        })
        .await;
    }

    /// Writes in the tested namespace since `mark`, but for what the cluster's own controllers do.
    fn writes(&self, mark: u64) -> usize {
        let ours = |it: &&Request| it.is_write() && it.namespace == TESTED && !it.user.starts_with("system:");
        let requests = self.plane.requests(mark);
        let writes: Vec<_> = requests.iter().filter(ours).collect();
        for write in writes.iter().take(SHOWN) {
            eprintln!("{} {} {}", write.verb, write.resource, write.name);
        }
        writes.len()
    }

    /// How long it took until each of some changes was written for the data plane.
    async fn changes(&self) -> Vec<Duration> {
        let apis = self.api(TESTED, &stream_apis());
        let revision = |number: usize| {
            let served = self.served.lock().expect("nobody panics with it");
            served.get(&number).map(|entry| entry["revision"].clone())
        };
        let mut took = Vec::new();
        for change in 0..CHANGES {
            let number = change * self.count / CHANGES;
            let before = revision(number);
            let begun = Instant::now();
            let patch = json!({"spec": {"description": format!("change {change}")}});
            let done = apis.patch(&name(number), &PatchParams::default(), &Patch::Merge(&patch)).await;
            done.expect("a change is taken");
            while revision(number) == before {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            took.push(begun.elapsed());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        took
    }

    /// Writes what the operator wrote, by a client; how long it took until all pods ran.
    async fn floor(&self, growth: &mut Growth) -> Duration {
        let mut children = vec![Vec::new(); self.count];
        for (group, version, name, plural) in CHILDREN {
            let resource = kind(group, version, name, plural);
            let labels = ListParams::default().labels("app.kubernetes.io/managed-by=sluice-operator");
            let found = self.api(TESTED, &resource).list(&labels).await.expect("a list");
            for object in found.items {
                let number = number(&object).expect("it belongs to an API");
                children[number].push((resource.clone(), object));
            }
        }
        let begun = Instant::now();
        let write = |(number, children): (usize, Vec<(ApiResource, DynamicObject)>)| async move {
            let apis = self.api(FLOOR, &stream_apis());
            let body = serde_json::from_value(document(number)).expect("an object");
            let api = apis.create(&PostParams::default(), &body).await.expect("a StreamAPI is taken");
            for (resource, child) in children {
                let body = copied(&child, &resource, &api);
                let parameters = PatchParams::apply("floor").force();
                let done = self
                    .api(FLOOR, &resource)
                    .patch(&child.name_any(), &parameters, &Patch::Apply(&body))
                    .await;
                done.unwrap_or_else(|error| panic!("{error}: {body}"));
            }
            // The operator tells twice: that it is written, and that it is served.
            for status in ["False", "True"] {
                let body = json!({"status": {"conditions": [{"type": "Programmed", "status": status, "reason": "Floor",
                    "message": "", "observedGeneration": 1, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
                let told =
                    apis.patch_status(&name(number), &PatchParams::default(), &Patch::Merge(&body)).await;
                told.expect("a status is taken");
            }
        };
        let writing = stream::iter(children.into_iter().enumerate().map(write))
            .buffer_unordered(AT_ONCE)
            .collect::<Vec<_>>();
        tokio::join!(writing, growth.follow_floor(self, begun)).1
    }
}

fn is_programmed(status: &Value) -> bool {
    let conditions = status["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|it| it["type"] == "Programmed" && it["status"] == "True")
}

fn document(number: usize) -> Value {
    json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "StreamAPI", "metadata": {"name": name(number)}, "spec": {
        "servers": [{"name": "log", "memory": {}}],
        "channels": [{"name": "orders", "server": "log", "address": "orders", "message": {"contentType": "application/json"},
            "subscribe": {"transports": {"websocket": {}, "sse": {}}}, "publish": {"transports": {"http": {}}}}],
    }})
}

/// What a client would apply to have `child` again for `api`.
fn copied(child: &DynamicObject, resource: &ApiResource, api: &DynamicObject) -> Value {
    let mut body = child.data.clone();
    if let Some(fields) = body.as_object_mut() {
        fields.remove("status");
    }
    if resource.kind == "Service"
        && let Some(spec) = body["spec"].as_object_mut()
    {
        for given in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            spec.remove(given);
        }
    }
    body["apiVersion"] = json!(resource.api_version);
    body["kind"] = json!(resource.kind);
    body["metadata"] = json!({"name": child.name_any(), "labels": child.labels(), "ownerReferences": [{
        "apiVersion": "sluice.dev/v1alpha1", "kind": "StreamAPI", "name": api.name_any(), "uid": api.uid(), "controller": true,
    }]});
    body
}

/// The number of the API that an object is, or belongs to.
fn number(object: &DynamicObject) -> Option<usize> {
    let name = object.labels().get("sluice.dev/api").cloned().unwrap_or_else(|| object.name_any());
    name.strip_prefix("api-")?.parse().ok()
}
