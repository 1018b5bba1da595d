//! Many StreamAPIs on one gateway: the real operator and the real data plane, and no nodes.

use std::process::Command;
use std::time::{Duration, Instant};

use kube::ResourceExt as _;
use kube::api::{DynamicObject, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;
use sluice_tests::client::http::publish;
use sluice_tests::process::{self, Process};
use sluice_tests::within;

use crate::operator::Operator;
use crate::usage::Usage;
use crate::{
    Bench, CHANGES, PATIENCE, TESTED, document, is_programmed, kind, name, row, seconds, stream_apis,
};

/// Where the data plane is, instead of in a pod.
const ADDRESS: &str = "127.200.0.1";
/// Between two looks whether a change is served.
const LOOK: Duration = Duration::from_millis(1);

/// The data plane of the gateway, and what is to be measured of it.
struct Plane {
    bench: Bench,
    process: Process,
}

pub async fn measure(bench: Bench) {
    let count = bench.count;
    println!(
        "| what, with {count} StreamAPIs of one channel each on one gateway of one pod | figure |\n|---|---|"
    );
    let mut operator = Operator::start(&bench.plane).await;
    let gateways = bench.api(TESTED, &kind("sluice.dev", "v1alpha1", "StreamGateway", "streamgateways"));
    let gateway = json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "StreamGateway", "metadata": {"name": "edge"}, "spec": {}});
    let gateway: DynamicObject = serde_json::from_value(gateway).expect("an object");
    gateways.create(&PostParams::default(), &gateway).await.expect("a gateway is taken");
    let plane = Plane::start(bench).await;
    let data = Usage(plane.process.pid());
    let empty = data.memory();
    let begun = Instant::now();
    plane.create(0..count).await;
    let created = begun.elapsed();
    plane.serves(count).await;
    row(
        "created by a client, then all `Programmed`",
        format!("{:.1} s, {:.1} s", seconds(created), seconds(begun.elapsed())),
    );
    row(
        "data plane, resident: without any, with all, at most",
        format!("{empty:.1} MiB, {:.1} MiB, {:.1} MiB", data.memory(), data.most_memory()),
    );
    row("operator, resident", format!("{:.1} MiB", operator.usage().memory()));

    tokio::time::sleep(Duration::from_secs(10)).await;
    let (before, cpu) = (data.cpu(), operator.usage().cpu());
    tokio::time::sleep(Duration::from_secs(10)).await;
    let rest = (data.cpu() - before) / 10.0;
    row(
        "CPU at rest: data plane, operator",
        format!("{:.2} %, {:.2} %", rest * 100.0, (operator.usage().cpu() - cpu) * 10.0),
    );

    let (before, cpu, begun) = (data.cpu(), operator.usage().cpu(), Instant::now());
    for number in count..count + CHANGES {
        plane.create(number..number + 1).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    plane.serves(count + CHANGES).await;
    let each = |spent: f64| spent * 1000.0 / CHANGES as f64;
    let resting = rest * begun.elapsed().as_secs_f64();
    row(
        &format!("CPU of one more API, {CHANGES} one after the other: data plane, operator"),
        format!(
            "{:.1} ms, {:.1} ms",
            each(data.cpu() - before - resting),
            each(operator.usage().cpu() - cpu)
        ),
    );
    let mut took = plane.changes().await;
    took.sort();
    row(
        &format!("one changed among all → served, {CHANGES} changes"),
        format!(
            "p50 {} ms, p99 {} ms",
            took[CHANGES / 2].as_millis(),
            took[CHANGES - CHANGES / 100 - 1].as_millis()
        ),
    );
    operator.stop().await;
}

impl Plane {
    /// Starts the data plane that the gateway's Deployment asks for, and reports its pod to run.
    async fn start(bench: Bench) -> Self {
        let home = process::directory("gateway");
        let beside = std::env::current_exe().expect("it has a path").with_file_name("sluice");
        let mut command = Command::new(beside);
        command.args(["serve", "--watch", &format!("{TESTED}/edge-sluice-gateway")]);
        for directory in ["config", "material", "state"] {
            std::fs::create_dir_all(home.join(directory)).expect("a directory can be made");
            command.arg(format!("--{directory}")).arg(home.join(directory));
        }
        command.args(["--listen", &format!("{ADDRESS}:8080"), "--admin", &format!("{ADDRESS}:9090")]);
        command.env("KUBECONFIG", bench.plane.kubeconfig()).env_remove("SLUICE_LOG");
        let pods = bench.api(TESTED, &kind("", "v1", "Pod", "pods"));
        let pod = within(PATIENCE, "the gateway has a pod", || async {
            let list = pods.list(&ListParams::default().labels("sluice.dev/gateway=edge")).await;
            list.expect("a list").items.into_iter().next()
        })
        .await;
        let process = Process::spawn("sluice serve", command, &home.join("sluice.log"));
        let status = json!({"status": {"phase": "Running", "podIP": ADDRESS, "podIPs": [{"ip": ADDRESS}],
            "conditions": [{"type": "Ready", "status": "True"}]}});
        let told = pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&status)).await;
        told.expect("a pod's status is taken");
        Self { bench, process }
    }

    async fn create(&self, numbers: std::ops::Range<usize>) {
        self.bench
            .create_each(TESTED, numbers, |number| {
                let mut api = document(number);
                api["spec"]["placement"] = json!({"gateway": {"name": "edge"}});
                api
            })
            .await;
    }

    /// Waits until so many are served and told to be.
    async fn serves(&self, count: usize) {
        let apis = self.bench.api(TESTED, &stream_apis());
        within(PATIENCE, "all of them are served", || async {
            // Looking at a thousand objects is no small load either.
            tokio::time::sleep(Duration::from_millis(200)).await;
            let list = apis.list(&ListParams::default()).await.expect("a list");
            let served = list.items.iter().filter(|api| is_programmed(&api.data["status"]));
            (served.count() == count).then_some(())
        })
        .await;
    }

    /// How long it took until each of some changes was served: another path of a channel.
    async fn changes(&self) -> Vec<Duration> {
        let apis = self.bench.api(TESTED, &stream_apis());
        let mut took = Vec::new();
        for change in 0..CHANGES {
            let number = change * self.bench.count / CHANGES;
            let mut spec = document(number)["spec"].clone();
            let path = format!("/change-{change}");
            spec["channels"][0]["path"] = json!(path);
            let url = format!("http://{ADDRESS}:8080/{}{path}", name(number));
            let begun = Instant::now();
            let patch = json!({"spec": {"channels": spec["channels"]}});
            let done = apis.patch(&name(number), &PatchParams::default(), &Patch::Merge(&patch)).await;
            done.expect("a change is taken");
            while publish(&url, &[], "1").await.status == 404 {
                assert!(begun.elapsed() < PATIENCE, "{url} is not served");
                tokio::time::sleep(LOOK).await;
            }
            took.push(begun.elapsed());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        took
    }
}
