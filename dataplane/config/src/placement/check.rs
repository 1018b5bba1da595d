//! Checks of a placement that the schema cannot say.

use std::collections::BTreeMap;

use super::{
    AllowedFrom, AllowedNamespaces, Deployment, Listener, Placement, PodTemplate, Protocol, Quantity,
    Resources, Sidecar, SidecarResources, StreamGatewaySpec, TaintEffect, TolerationOperator,
};
use crate::check::Problem;
use crate::shown::clip;

mod exposure;

/// Prefixes of labels and annotations that are the operator's own.
const RESERVED: [&str; 2] = ["sluice.dev/", "app.kubernetes.io/"];

/// Checks what the schema cannot say.
pub fn check(placement: &Placement, problems: &mut Vec<Problem>) {
    match placement {
        Placement::Deployment(deployment) => {
            check_deployment("spec.placement.deployment", deployment, problems)
        }
        // Whether it is there, and for whom, only a cluster knows.
        Placement::Gateway(_) => {}
        Placement::Sidecar(sidecar) => {
            let at = "spec.placement.sidecar";
            let SidecarResources { requests, limits } = &sidecar.resources;
            let instead = "is nothing that a sidecar uses; write cpu, memory or ephemeral-storage";
            check_resources(at, [requests, limits], |name| COMMON.contains(&name), instead, problems);
            check_selector(at, sidecar, problems);
        }
    }
}

/// Checks a StreamGateway: what its schema cannot say.
pub fn check_gateway(spec: &StreamGatewaySpec) -> Vec<Problem> {
    let mut problems = Vec::new();
    check_deployment("spec", &spec.deployment, &mut problems);
    let AllowedNamespaces { from, names } = &spec.allowed_namespaces;
    let message = match (from, names.is_empty()) {
        (AllowedFrom::Names, true) => "names nobody; list namespaces, or write `from: Same`",
        (AllowedFrom::Same | AllowedFrom::All, false) => "have no effect; write `from: Names`",
        _ => return problems,
    };
    problems.push(Problem::new("spec.allowedNamespaces.names", message));
    problems
}

fn check_deployment(at: &str, deployment: &Deployment, problems: &mut Vec<Problem>) {
    let Resources { requests, limits } = &deployment.resources;
    let instead = "is not the name of a resource; write cpu or memory";
    check_resources(at, [requests, limits], is_qualified_name, instead, problems);
    check_listeners(at, &deployment.listeners, problems);
    check_autoscaling(at, deployment, problems);
    check_template(at, &deployment.pod_template, problems);
    exposure::check(at, deployment, problems);
}

fn check_autoscaling(at: &str, deployment: &Deployment, problems: &mut Vec<Problem>) {
    let Some(autoscaling) = &deployment.autoscaling else { return };
    if autoscaling.min_replicas > autoscaling.max_replicas {
        let at = format!("{at}.autoscaling.minReplicas");
        problems.push(Problem::new(at, "is more than `maxReplicas`; lower it or raise that"));
    }
    let Resources { requests, limits } = &deployment.resources;
    if autoscaling.cpu().is_some() && !requests.contains_key("cpu") && !limits.contains_key("cpu") {
        let message = "aims at a share of the CPU that pods request, and they request none; add `resources.requests.cpu`, or \
                       set `connectionsPerPod`";
        problems.push(Problem::new(format!("{at}.autoscaling"), message));
    }
}

fn check_selector(at: &str, sidecar: &Sidecar, problems: &mut Vec<Problem>) {
    let Some(selector) = &sidecar.selector else { return };
    if selector.match_labels.is_empty() {
        let message = "selects every pod of the namespace; name at least one label, or remove `selector`";
        problems.push(Problem::new(format!("{at}.selector.matchLabels"), message));
    }
    for name in selector.match_labels.keys().filter(|name| !is_qualified_name(name)) {
        let at = format!("{at}.selector.matchLabels[{:?}]", clip(name));
        problems.push(Problem::new(at, "is not a name; write it like team or example.com/team"));
    }
}

/// Resources that the container of a sidecar may name: a pod of somebody else must not be refused for others.
const COMMON: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// Checks requests and limits, with `is_known` for their names and what to write instead of others.
fn check_resources(
    at: &str,
    [requests, limits]: [&BTreeMap<String, Quantity>; 2],
    is_known: impl Fn(&str) -> bool,
    instead: &str,
    problems: &mut Vec<Problem>,
) {
    for (name, request) in requests {
        if limits.get(name).is_some_and(|limit| limit.milli() < request.milli()) {
            let at = format!("{at}.resources.requests[{name:?}]");
            problems.push(Problem::new(at, "is more than the limit; lower it or raise the limit"));
        }
    }
    for (part, quantities) in [("requests", requests), ("limits", limits)] {
        for name in quantities.keys().filter(|name| !is_known(name)) {
            let at = format!("{at}.resources.{part}[{:?}]", clip(name));
            problems.push(Problem::new(at, instead));
        }
    }
}

fn check_template(at: &str, template: &PodTemplate, problems: &mut Vec<Problem>) {
    let maps = [
        ("labels", template.labels.keys().collect::<Vec<_>>(), true),
        ("annotations", template.annotations.keys().collect(), true),
        ("nodeSelector", template.node_selector.keys().collect(), false),
    ];
    for (map, names, is_given) in maps {
        for name in names {
            let at = format!("{at}.podTemplate.{map}[{:?}]", clip(name));
            if !is_qualified_name(name) {
                problems.push(Problem::new(at, "is not a name; write it like team or example.com/team"));
            } else if is_given && RESERVED.iter().any(|prefix| name.starts_with(prefix)) {
                problems.push(Problem::new(at, "is set by the operator; choose another name"));
            }
        }
    }
    for (index, toleration) in template.tolerations.iter().enumerate() {
        let at = format!("{at}.podTemplate.tolerations[{index}]");
        if toleration.key.as_ref().is_none_or(String::is_empty)
            && toleration.operator != Some(TolerationOperator::Exists)
        {
            problems.push(Problem::new(&at, "has no key; add one, or `operator: Exists` for every taint"));
        }
        if toleration.operator == Some(TolerationOperator::Exists) && toleration.value.is_some() {
            problems.push(Problem::new(&at, "has a value that `Exists` does not look at; remove it"));
        }
        let value = toleration.value.as_deref().filter(|value| value.len() > 63 || !is_label_value(value));
        if let Some(value) = value {
            let message =
                format!("`{}` is no value of a taint; use letters, digits, '-', '_' and '.'", clip(value));
            problems.push(Problem::new(format!("{at}.value"), message));
        }
        if toleration.toleration_seconds.is_some() && toleration.effect != Some(TaintEffect::NoExecute) {
            problems.push(Problem::new(&at, "has tolerationSeconds, which need `effect: NoExecute`"));
        }
        if toleration.key.as_deref().is_some_and(|key| !key.is_empty() && !is_qualified_name(key)) {
            problems.push(Problem::new(&at, "has a key that is not a name; write it like example.com/team"));
        }
    }
    for (index, spread) in template.topology_spread_constraints.iter().flatten().enumerate() {
        if !is_qualified_name(&spread.topology_key) {
            problems.push(Problem::new(
                format!("{at}.podTemplate.topologySpreadConstraints[{index}].topologyKey"),
                "is not the name of a label; write it like topology.kubernetes.io/zone",
            ));
        }
    }
}

fn check_listeners(at: &str, listeners: &[Listener], problems: &mut Vec<Problem>) {
    for (index, listener) in listeners.iter().enumerate() {
        let at = format!("{at}.listeners[{index}]");
        let mut add = |field: &str, message: &str| {
            problems.push(Problem::new(format!("{at}.{field}"), message));
        };
        match (listener.protocol, &listener.tls) {
            (Protocol::Https, None) => add("tls", "is missing; add `tls: {secretRef: {name: …}}`"),
            (Protocol::Http, Some(_)) => add("tls", "has no effect with HTTP; write `protocol: HTTPS`"),
            _ => {}
        }
        let before = &listeners[..index];
        if before.iter().any(|other| other.name == listener.name) {
            add("name", "is the name of another listener too; give each its own");
        }
        if before.iter().any(|other| other.protocol == listener.protocol) {
            add("protocol", "is that of another listener too; one of each is served");
        } else if before.iter().any(|other| other.service_port() == listener.service_port()) {
            add("port", "is the port of another listener too; give each its own");
        }
    }
}

/// Whether `name` can be the key of a label: `[prefix/]name`, as Kubernetes has it.
fn is_qualified_name(name: &str) -> bool {
    let (prefix, name) = name.split_once('/').map_or((None, name), |(prefix, name)| (Some(prefix), name));
    !name.is_empty() && name.len() <= 63 && is_label_value(name) && prefix.is_none_or(is_dns_name)
}

/// Whether `text` is a DNS name as Kubernetes has it: lower case, and no dot at the end.
pub fn is_dns_name(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && text.split('.').all(|label| {
            let bytes = label.as_bytes();
            !label.is_empty()
                && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
                && bytes[0] != b'-'
                && bytes[bytes.len() - 1] != b'-'
        })
}

/// Whether `text` can be the value of a label, but for its length.
pub fn is_label_value(text: &str) -> bool {
    let end = |b: Option<&u8>| b.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    end(bytes.first())
        && end(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::{
        AnnotationValue, LabelValue, Quantity, Toleration, TopologySpread, WhenUnsatisfiable,
    };

    fn problems(change: impl FnOnce(&mut Deployment)) -> Vec<String> {
        let mut deployment = Deployment::default();
        change(&mut deployment);
        let mut problems = Vec::new();
        check(&Placement::Deployment(deployment), &mut problems);
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_would_keep_pods_of_others_from_being_made_is_told() {
        let problems = |text: &str| {
            let placement: Placement = serde_json::from_str(text).expect("a placement");
            let mut problems = Vec::new();
            check(&placement, &mut problems);
            problems.iter().map(|problem| problem.at.clone()).collect::<Vec<_>>()
        };
        assert!(problems(r#"{"sidecar": {}}"#).is_empty());
        let at = "spec.placement.sidecar";
        let gpu = r#"{"sidecar": {"resources": {"limits": {"gpu": "1"}}}}"#;
        assert_eq!(problems(gpu), [format!("{at}.resources.limits[\"gpu\"]")]);
        let low = r#"{"sidecar": {"resources": {"limits": {"memory": "32Mi"}}}}"#;
        assert_eq!(problems(low), [format!("{at}.resources.requests[\"memory\"]")]);
        let all = r#"{"sidecar": {"selector": {"matchLabels": {}}}}"#;
        assert_eq!(problems(all), [format!("{at}.selector.matchLabels")]);
        let wrong = r#"{"sidecar": {"selector": {"matchLabels": {"a/b/c": "x"}}}}"#;
        assert_eq!(problems(wrong), [format!("{at}.selector.matchLabels[\"a/b/c\"]")]);
    }

    #[test]
    fn what_the_operator_or_an_api_server_would_refuse_is_told() {
        assert!(problems(|_| {}).is_empty());
        let found = problems(|deployment| {
            let quantity = |text: &str| Quantity(text.into());
            deployment.resources.requests.insert("memory".into(), quantity("1Gi"));
            deployment.resources.limits.insert("c p u".into(), quantity("1"));
            let template = &mut deployment.pod_template;
            template.labels.insert("sluice.dev/api".into(), LabelValue("x".into()));
            template.labels.insert("a/b/c".into(), LabelValue("x".into()));
            template.annotations.insert("-x".into(), AnnotationValue(String::new()));
            template.node_selector.insert("app.kubernetes.io/x".into(), LabelValue("ok".into()));
            template.tolerations.push(Toleration::default());
            template.tolerations.push(Toleration {
                key: Some("k".into()),
                toleration_seconds: Some(1),
                ..Toleration::default()
            });
            template.topology_spread_constraints = Some(vec![TopologySpread {
                max_skew: 1,
                topology_key: "zone/".into(),
                when_unsatisfiable: WhenUnsatisfiable::DoNotSchedule,
            }]);
        });
        let listeners = problems(|deployment| {
            let listener =
                |name: &str, protocol, port| Listener { name: name.into(), port, protocol, tls: None };
            deployment.listeners.push(listener("http", Protocol::Https, Some(80)));
        });
        assert_eq!(listeners.len(), 3, "{listeners:#?}");
        let at: Vec<_> = found.iter().map(|problem| problem.split(": ").next().unwrap_or_default()).collect();
        let deployment = "spec.placement.deployment";
        assert_eq!(
            at,
            [
                format!("{deployment}.resources.requests[\"memory\"]"),
                format!("{deployment}.resources.limits[\"c p u\"]"),
                format!("{deployment}.podTemplate.labels[\"a/b/c\"]"),
                format!("{deployment}.podTemplate.labels[\"sluice.dev/api\"]"),
                format!("{deployment}.podTemplate.annotations[\"-x\"]"),
                format!("{deployment}.podTemplate.tolerations[0]"),
                format!("{deployment}.podTemplate.tolerations[1]"),
                format!("{deployment}.podTemplate.topologySpreadConstraints[0].topologyKey"),
            ],
            "{found:#?}"
        );
    }
}
