//! `sluice render`: the objects that the operator would apply, made by the operator's own code.

use sluice_config::Config;
use sluice_config::placement::StreamGatewaySpec;
use sluice_crds::StreamAPI;
use sluice_crds::yaml::to_yaml;
use sluice_operator::children::{Child, ChildKind, Content, Owner, Settings, children};
use sluice_operator::gateway::host;
use sluice_operator::{Objects, Rendered};

use crate::check::Input;
use crate::{Failure, print};

/// Flags of `sluice render`.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  sluice render -f apis/ -f secrets.yaml | kubectl diff -f -")]
pub struct Args {
    #[command(flatten)]
    input: Input,
    /// Image of the data plane
    #[arg(long, value_name = "IMAGE", default_value = concat!("sluice/dataplane:", env!("CARGO_PKG_VERSION")))]
    dataplane_image: String,
    /// When the kubelet pulls that image
    #[arg(long, value_name = "POLICY", default_value = "IfNotPresent")]
    dataplane_pull_policy: String,
    /// Where data planes send metrics and traces
    #[arg(long, value_name = "URL")]
    dataplane_otlp_endpoint: Option<String>,
    /// Where data planes send metrics as StatsD
    #[arg(long, value_name = "HOST:PORT")]
    dataplane_statsd: Option<String>,
    /// Gives every data plane a NetworkPolicy
    #[arg(long)]
    network_policies: bool,
    /// Namespace of the operator
    #[arg(long, value_name = "NAMESPACE", default_value = "sluice-system")]
    operator_namespace: String,
}

/// Prints the objects of every good API; fails if there is a problem, which standard error tells.
pub fn render(args: Args) -> Result<(), Failure> {
    let found = args.input.read();
    let settings = Settings {
        image: args.dataplane_image,
        pull_policy: args.dataplane_pull_policy,
        otlp_endpoint: args.dataplane_otlp_endpoint,
        statsd: args.dataplane_statsd,
        network_policies: args.network_policies,
        namespace: args.operator_namespace,
        injection: true,
        ingresses: true,
        http_routes: true,
        expose_services: false,
    };
    let (text, problems) = objects(&found.objects, &settings);
    print(&text)?;
    let problems = found.reports.iter().map(ToString::to_string).chain(problems);
    let problems: Vec<_> = problems.collect();
    problems.iter().for_each(|problem| eprintln!("{problem}"));
    if problems.is_empty() { Ok(()) } else { Err(Failure::Input) }
}

/// What is applied, as YAML, and what is too large to be.
fn objects(all: &Objects, settings: &Settings) -> (String, Vec<String>) {
    let mut text = String::new();
    let mut problems = Vec::new();
    for api in &all.apis {
        // Each has a data plane of its own.
        let alone = Objects { apis: vec![api.clone()], ..all.clone() };
        let Rendered { config, material, .. } = sluice_operator::render(&alone, &Config::default());
        for (key, entry) in &config.apis {
            let placement = &entry.api.spec.placement;
            if placement.gateway().is_some() {
                continue;
            }
            let owner = Owner::api(&entry.api.namespace, &entry.api.name, None);
            // The keys of cursors are the cluster's.
            let keys = [(key.clone(), Vec::new())].into();
            let content = Content {
                config: &config,
                material: &material,
                keys: &keys,
                deployment: placement.deployment(),
            };
            match children(&owner, &content, settings) {
                Ok(children) => children.iter().for_each(|child| text.push_str(&document(child))),
                Err(error) => problems.push(format!("{key}: {error}; split the API")),
            }
        }
    }
    for gateway in &all.gateways {
        let [namespace, name] = [&gateway.metadata.namespace, &gateway.metadata.name]
            .map(|part| part.as_deref().unwrap_or_default());
        let owner = Owner::gateway(namespace, name, None);
        let mut objects = all.clone();
        objects.apis.retain(|api| is_on(api, (namespace, name), &gateway.spec.0));
        let keys = objects.apis.iter().map(|api| (key_of(api), Vec::new())).collect();
        let hosted = host(&owner, &gateway.spec.0, &objects, &Config::default(), &keys, settings);
        hosted.children.iter().for_each(|child| text.push_str(&document(child)));
        let of_gateway = hosted.own.iter().map(|problem| format!("{namespace}/{name}: {problem}"));
        problems.extend(of_gateway);
        for (key, found) in &hosted.problems {
            // What an API has by itself, the check of the files told.
            let here = found.iter().filter(|problem| problem.at.starts_with("spec.placement.gateway"));
            problems.extend(here.map(|problem| format!("{key}: {problem}")));
        }
    }
    (text, problems)
}

/// Whether `api` is placed on that gateway, and may be.
fn is_on(api: &StreamAPI, (namespace, name): (&str, &str), gateway: &StreamGatewaySpec) -> bool {
    let own = api.metadata.namespace.as_deref().unwrap_or_default();
    let Some(reference) = api.spec.0.placement.gateway() else { return false };
    (reference.namespace(own), reference.name.as_str()) == (namespace, name)
        && gateway.allowed_namespaces.includes(namespace, own)
}

fn key_of(api: &StreamAPI) -> String {
    let part = |part: &Option<String>| part.clone().unwrap_or_default();
    format!("{}/{}", part(&api.metadata.namespace), part(&api.metadata.name))
}

/// A child as a document; of a Secret only which keys it holds.
fn document(child: &Child) -> String {
    let mut body = child.body.clone();
    let mut comment = String::new();
    if child.kind == ChildKind::Secret {
        let keys = body["data"].as_object().map(|data| data.keys().cloned().collect::<Vec<_>>());
        comment =
            format!("# The values are not shown; the keys are {}.\n", keys.unwrap_or_default().join(", "));
        if let Some(body) = body.as_object_mut() {
            body.remove("data");
        }
    }
    format!("---\n{comment}{}", to_yaml(&body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents;

    const FILE: &str = "\
apiVersion: sluice.dev/v1alpha1
kind: StreamAPI
metadata: {name: shop}
spec:
  servers: [{name: events, kafka: {brokers: [\"kafka:9092\"], sasl: {mechanism: SCRAM-SHA-512, secretRef: {name: login}}}}]
  channels:
    - {name: orders, server: events, address: orders.v1, subscribe: {transports: {sse: {}}}}
---
apiVersion: v1
kind: Secret
metadata: {name: login, labels: {sluice.dev/use: \"true\"}}
stringData: {username: alice, password: hunter2canary}
";

    fn rendered(file: &str, network_policies: bool) -> String {
        let documents = documents::parse("a.yaml", file, "default").expect("YAML");
        let assembled = documents::assemble(documents.iter());
        let settings =
            Settings { network_policies, ingresses: true, http_routes: true, ..Settings::default() };
        let (text, problems) = objects(&assembled.objects, &settings);
        assert!(problems.is_empty(), "{problems:?}");
        text
    }

    #[test]
    fn every_child_is_printed_and_no_secret_value_is() {
        let text = rendered(FILE, true);
        let kinds: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("kind: ")).collect();
        let all: Vec<_> = ChildKind::ALL
            .iter()
            .map(|kind| kind.names().2)
            .filter(|kind| {
                !matches!(*kind, "PodDisruptionBudget" | "HorizontalPodAutoscaler" | "Ingress" | "HTTPRoute")
            })
            .collect();
        assert_eq!(kinds, all);
        assert!(text.contains("the keys are cursor-key.default_shop, default_shop_login_password,"));
        for hidden in ["hunter2canary", "aHVudGVyMmNhbmFyeQ", "alice"] {
            assert!(!text.contains(hidden), "{hidden}");
        }
    }

    #[test]
    fn what_exposes_an_api_is_printed() {
        for (exposure, kind) in [
            ("{ingress: {host: a.example.com, className: nginx}}", "kind: Ingress"),
            ("{httpRoute: {parentRefs: [{name: edge}], hostnames: [a.example.com]}}", "kind: HTTPRoute"),
        ] {
            let placement = format!("  placement: {{deployment: {{exposure: {exposure}}}}}\n  servers:");
            let text = rendered(&FILE.replace("  servers:", &placement), false);
            assert!(text.lines().any(|line| line == kind), "{text}");
        }
    }

    #[test]
    fn apis_of_one_path_do_not_meet_in_a_cluster() {
        let twin = FILE
            .replace("{name: shop}", "{name: twin}")
            .replace("  servers:", "  basePath: /shop\n  servers:");
        let text = rendered(&format!("{FILE}---\n{}", twin.split("---").next().unwrap_or_default()), false);
        assert_eq!(text.matches("kind: Deployment").count(), 2);
    }
}
