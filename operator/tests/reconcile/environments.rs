//! `examples/environments`: one base, an overlay for each environment, and a change that goes from one to the next.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use sluice_operator::world::{api_resource, policy_resource};
use sluice_tests::{eventually, parts, process};

use crate::bed::{Bed, secret};
use crate::gateway::two_namespaces;

/// The environments, in the order of promotion.
const ENVIRONMENTS: [&str; 2] = ["staging", "production"];

/// A copy of the example, whose base can be edited.
fn copy() -> PathBuf {
    let from = parts::source().join("../examples/environments");
    let to = process::directory("environments");
    for part in ["base", "overlays/staging", "overlays/production"] {
        std::fs::create_dir_all(to.join(part)).expect("a directory can be made");
        for file in std::fs::read_dir(from.join(part)).expect("it is there") {
            let file = file.expect("it can be listed");
            std::fs::copy(file.path(), to.join(part).join(file.file_name())).expect("a file can be copied");
        }
    }
    to
}

fn overlay(copy: &Path, environment: &str) -> String {
    copy.join("overlays").join(environment).to_string_lossy().into_owned()
}

/// What the overlay makes of the base.
fn built(bed: &Bed, copy: &Path, environment: &str) -> String {
    bed.plane.run("kubectl", &["kustomize", &overlay(copy, environment)], "")
}

/// Does to the cluster what its page tells a person to.
fn apply(bed: &Bed, copy: &Path) {
    let environment = bed.namespace.trim_start_matches("shop-");
    bed.plane.run("kubectl", &["apply", "-k", &overlay(copy, environment)], "");
}

/// A command of `sluice` with `input` on its standard input.
fn sluice(bed: &Bed, arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(parts::sluice());
    command.args(arguments).env("KUBECONFIG", bed.plane.kubeconfig());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it can be started");
    let mut stdin = child.stdin.take().expect("it was asked for");
    stdin.write_all(input.as_bytes()).expect("it reads to the end");
    drop(stdin);
    child.wait_with_output().expect("a child can be waited for")
}

/// The environment as a namespace with its keys, and the base applied.
async fn set_up(infra: &Bed, copy: &Path, environment: &str) -> Bed {
    let namespace = format!("shop-{environment}");
    infra.plane.run("kubectl", &["create", "namespace", &namespace], "");
    let bed = Bed { plane: infra.plane, client: infra.client.clone(), namespace };
    let mut keys = secret(&format!("{environment}-keys"), &[("till", &format!("sha256:{}", "a".repeat(64)))]);
    keys["metadata"]["namespace"] = json!(bed.namespace);
    let all = format!("{}---\n{keys}\n", built(&bed, copy, environment));
    let checked = sluice(&bed, &["check", "-f", "-"], &all);
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.status.success() && said.contains("no problems in 3 objects"), "{said}");
    bed.apply(&keys).await;
    apply(&bed, copy);
    bed.told("shop", "Accepted", "True", "Accepted").await;
    bed.told("shop", "ResolvedRefs", "True", "ResolvedRefs").await;
    bed.policy_told("shop", "Accepted", "True", "Accepted").await;
    bed
}

/// The specs of the API and its policy, as they are stored.
async fn specs(bed: &Bed) -> [Value; 2] {
    let api = bed.get(&api_resource(), "shop").await["spec"].clone();
    [api, bed.get(&policy_resource(), "shop").await["spec"].clone()]
}

/// The paths at which the channels are.
async fn paths(bed: &Bed) -> Vec<String> {
    let urls = eventually("the URLs are told", || async {
        let urls = bed.get(&api_resource(), "shop").await["status"]["urls"].as_array().cloned()?;
        (!urls.is_empty()).then_some(urls)
    })
    .await;
    let path = |url: &Value| {
        let (_, rest) = url.as_str()?.split_once("://")?;
        rest.split_once('/').map(|(_, path)| path.to_owned())
    };
    urls.iter().filter_map(path).collect()
}

/// Takes out of the specs what an overlay says; the rest is the base's.
fn take_out(specs: &mut [Value; 2]) -> [Value; 4] {
    let [api, policy] = specs;
    [
        api["servers"][0]["kafka"]["brokers"].take(),
        api["placement"]["deployment"]["replicas"].take(),
        policy["limits"]["connections"].take(),
        policy["authentication"]["apiKeys"]["secretRef"]["name"].take(),
    ]
}

/// K30.
#[tokio::test]
async fn an_api_is_the_same_in_every_environment_and_a_change_is_promoted_from_one_to_the_next() {
    let (infra, _, mut operator) = two_namespaces().await;
    let copy = copy();
    let staging = set_up(&infra, &copy, ENVIRONMENTS[0]).await;
    let production = set_up(&infra, &copy, ENVIRONMENTS[1]).await;
    assert_eq!(paths(&staging).await, ["shop/orders", "shop/payments"]);
    assert_eq!(paths(&production).await, paths(&staging).await);
    let (mut one, mut other) = (specs(&staging).await, specs(&production).await);
    let own = [take_out(&mut one), take_out(&mut other)];
    assert_eq!(one, other, "what no overlay says is the base's");
    assert!(own[0].iter().zip(&own[1]).all(|(one, other)| one != other && !one.is_null()), "{own:?}");
    assert_eq!(own[1][1..], [json!(3), json!(5000), json!("production-keys")]);

    // A channel comes and one goes: in staging first.
    let base = copy.join("base/shop.yaml");
    let text = std::fs::read_to_string(&base).expect("it is text");
    let changed = text.replace("    - name: payments\n", "    - name: refunds\n");
    assert_ne!(changed, text);
    std::fs::write(&base, changed).expect("a file can be written");
    let before = production.get(&api_resource(), "shop").await;
    apply(&staging, &copy);
    staging.told("shop", "Accepted", "True", "Accepted").await;
    eventually("staging has the change", || async {
        (paths(&staging).await == ["shop/orders", "shop/refunds"]).then_some(())
    })
    .await;
    let now = production.get(&api_resource(), "shop").await;
    assert_eq!(now["metadata"]["generation"], before["metadata"]["generation"], "production is what it was");
    assert_eq!(paths(&production).await, ["shop/orders", "shop/payments"]);

    // What it would do is told beforehand, by this and by nothing else.
    let differs = |bed: &Bed, environment: &str| {
        let told = sluice(bed, &["diff", "--exit-code", "-f", "-"], &built(bed, &copy, environment));
        (told.status.success(), String::from_utf8_lossy(&told.stdout).into_owned())
    };
    assert_eq!(differs(&staging, "staging"), (true, "nobody would notice\n".to_owned()));
    let (unnoticed, said) = differs(&production, "production");
    assert!(!unnoticed && said.starts_with("shop-production/shop\n"), "{said}");
    assert!(said.contains("channel payments: is removed"), "{said}");
    apply(&production, &copy);
    eventually("production has the change", || async {
        (paths(&production).await == ["shop/orders", "shop/refunds"]).then_some(())
    })
    .await;
    let (mut one, mut other) = (specs(&staging).await, specs(&production).await);
    assert_eq!(
        [take_out(&mut one), take_out(&mut other)],
        own,
        "what is an environment's own is what it was"
    );
    assert_eq!(one, other);
    assert_eq!(differs(&production, "production"), (true, "nobody would notice\n".to_owned()));
    operator.stop().await;
    infra.plane.end();
}
