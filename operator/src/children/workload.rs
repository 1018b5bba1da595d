//! The objects around the pods of a data plane, and the pods themselves.

use serde_json::{Map, Value, json};
use sluice_config::placement::{Autoscaling, Deployment, PodTemplate, Protocol};

use super::{Owner, Settings, labels, selector};

/// Where the container answers the operator, probes and scrapers.
const ADMIN: u16 = 9090;
/// Who runs it: nobody in particular, as in the image.
pub const USER: u32 = 65532;
/// Until a pod that is told to stop is killed: the drain's delay (5 s) and grace (25 s), the last
/// publishes and exports (8 s), and some air.
const TERMINATION_SECONDS: u32 = 45;
/// Space for what was applied last, in memory: a config as it is delivered and its values, twice.
const STATE_SIZE: &str = "8Mi";
/// Namespaces whose pods may scrape the admin port, where NetworkPolicies are made.
const SCRAPE_LABEL: &str = "sluice.dev/scrape";

/// A data plane may watch its own two objects, by name, and nothing else.
pub fn role(owner: &Owner<'_>) -> Value {
    let name = owner.child_name();
    json!({"rules": [{
        "apiGroups": [""], "resources": ["configmaps", "secrets"], "resourceNames": [name], "verbs": ["watch"],
    }]})
}

pub fn role_binding(owner: &Owner<'_>) -> Value {
    let name = owner.child_name();
    json!({
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": owner.namespace}],
    })
}

pub fn service(owner: &Owner<'_>, deployment: &Deployment) -> Value {
    let ports = deployment.listeners.iter().map(|listener| {
        let (name, _) = container_port(listener.protocol);
        json!({
            "name": name, "port": listener.service_port(), "targetPort": name, "protocol": "TCP",
            "appProtocol": name,
        })
    });
    json!({"spec": {
        "type": "ClusterIP", "selector": selector(owner), "ports": ports.collect::<Vec<_>>(),
    }})
}

/// Name and number of the container's port for clients of that protocol.
const fn container_port(protocol: Protocol) -> (&'static str, u16) {
    match protocol {
        Protocol::Http => ("http", 8080),
        Protocol::Https => ("https", 8443),
    }
}

/// Clients may come from anywhere; the admin port is for the operator and for whoever scrapes.
pub fn network_policy(owner: &Owner<'_>, deployment: &Deployment, settings: &Settings) -> Value {
    let ports = deployment
        .listeners
        .iter()
        .map(|listener| json!({"port": container_port(listener.protocol).0, "protocol": "TCP"}));
    json!({"spec": {
        "podSelector": {"matchLabels": selector(owner)},
        "policyTypes": ["Ingress"],
        "ingress": [
            {"ports": ports.collect::<Vec<_>>()},
            {
                "ports": [{"port": "admin", "protocol": "TCP"}],
                "from": [
                    {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": settings.namespace}}},
                    {"namespaceSelector": {"matchLabels": {SCRAPE_LABEL: "true"}}},
                ],
            },
        ],
    }})
}

pub fn disruption_budget(owner: &Owner<'_>) -> Value {
    json!({"spec": {"maxUnavailable": 1, "selector": {"matchLabels": selector(owner)}}})
}

pub fn deployment(owner: &Owner<'_>, deployment: &Deployment, settings: &Settings) -> Value {
    let mut workload = json!({"spec": {
        "revisionHistoryLimit": 2,
        "selector": {"matchLabels": selector(owner)},
        // Clients of a pod move only when there is another one to move to.
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "template": {
            "metadata": pod_metadata(owner, &deployment.pod_template),
            "spec": pod_spec(owner, deployment, settings),
        },
    }});
    // With an autoscaler it is the one who decides.
    if deployment.autoscaling.is_none() {
        workload["spec"]["replicas"] = json!(deployment.replicas);
    }
    workload
}

/// Metric of open streams, as pods tell it.
const CONNECTIONS: &str = "sluice_connections";

pub fn autoscaler(owner: &Owner<'_>, autoscaling: &Autoscaling) -> Value {
    let cpu = autoscaling.cpu().map(|percent| {
        let target = json!({"type": "Utilization", "averageUtilization": percent});
        json!({"type": "Resource", "resource": {"name": "cpu", "target": target}})
    });
    let connections = autoscaling.connections_per_pod.map(|connections| {
        let target = json!({"type": "AverageValue", "averageValue": connections.to_string()});
        json!({"type": "Pods", "pods": {"metric": {"name": CONNECTIONS}, "target": target}})
    });
    json!({"spec": {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": owner.child_name()},
        "minReplicas": autoscaling.min_replicas, "maxReplicas": autoscaling.max_replicas,
        "metrics": cpu.into_iter().chain(connections).collect::<Vec<_>>(),
    }})
}

fn pod_metadata(owner: &Owner<'_>, template: &PodTemplate) -> Value {
    let mut all: Map<String, Value> =
        template.labels.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    all.extend(labels(owner));
    let mut metadata = json!({"labels": all});
    if !template.annotations.is_empty() {
        metadata["annotations"] = json!(template.annotations);
    }
    metadata
}

fn pod_spec(owner: &Owner<'_>, deployment: &Deployment, settings: &Settings) -> Value {
    let name = owner.child_name();
    let template = &deployment.pod_template;
    let mut spec = json!({
        "serviceAccountName": name,
        "automountServiceAccountToken": true,
        "terminationGracePeriodSeconds": TERMINATION_SECONDS,
        "enableServiceLinks": false,
        // Said although they are defaults: so what somebody sets there by hand is noticed.
        "hostNetwork": false, "hostPID": false, "hostIPC": false, "initContainers": [],
        "nodeSelector": template.node_selector, "tolerations": template.tolerations,
        "imagePullSecrets": template.image_pull_secrets,
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container(owner, deployment, settings)],
        "volumes": [
            {"name": "config", "configMap": {"name": name}},
            {"name": "material", "secret": {"secretName": name, "defaultMode": 0o440}},
            {"name": "state", "emptyDir": {"medium": "Memory", "sizeLimit": STATE_SIZE}},
        ],
        "topologySpreadConstraints": spread(owner, template),
    });
    if let Some(class) = &template.priority_class_name {
        spec["priorityClassName"] = json!(class);
    }
    spec
}

fn spread(owner: &Owner<'_>, template: &PodTemplate) -> Value {
    let selector = json!({"matchLabels": selector(owner)});
    let Some(constraints) = &template.topology_spread_constraints else {
        return json!([{
            "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": selector,
        }]);
    };
    let constraints = constraints.iter().map(|constraint| {
        let mut constraint = json!(constraint);
        constraint["labelSelector"] = selector.clone();
        constraint
    });
    constraints.collect()
}

fn container(owner: &Owner<'_>, deployment: &Deployment, settings: &Settings) -> Value {
    let clients = deployment.listeners.iter().map(|listener| container_port(listener.protocol));
    let ports = clients
        .chain([("admin", ADMIN)])
        .map(|(name, port)| json!({"name": name, "containerPort": port, "hostPort": 0, "protocol": "TCP"}));
    let ports: Vec<_> = ports.collect();
    json!({
        "name": "sluice",
        "image": settings.image,
        "imagePullPolicy": settings.pull_policy,
        "command": [],
        "args": arguments(owner, deployment),
        "envFrom": [],
        "env": environment(settings),
        "ports": ports,
        "readinessProbe": probe("admin", "/readyz", 2, 2),
        "livenessProbe": probe("admin", "/healthz", 10, 3),
        "resources": deployment.resources,
        "securityContext": container_security(),
        "volumeMounts": [
            {"name": "config", "mountPath": "/etc/sluice/config", "readOnly": true},
            {"name": "material", "mountPath": "/etc/sluice/material", "readOnly": true},
            {"name": "state", "mountPath": "/var/lib/sluice"},
        ],
    })
}

/// Asks the container's port `port` every so many seconds.
pub fn probe(port: &str, path: &str, every: u32, failures: u32) -> Value {
    json!({
        "httpGet": {"path": path, "port": port},
        "periodSeconds": every, "timeoutSeconds": 2, "failureThreshold": failures,
    })
}

/// What a container may do: nothing.
pub fn container_security() -> Value {
    json!({
        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "privileged": false,
        "capabilities": {"drop": ["ALL"]},
    })
}

fn arguments(owner: &Owner<'_>, deployment: &Deployment) -> Value {
    let watch = format!("{}/{}", owner.namespace, owner.child_name());
    let mut arguments = vec![
        "serve".to_owned(),
        "--config=/etc/sluice/config".to_owned(),
        "--material=/etc/sluice/material".to_owned(),
        "--state=/var/lib/sluice".to_owned(),
        format!("--watch={watch}"),
    ];
    let address = |protocol| format!("0.0.0.0:{}", container_port(protocol).1);
    match deployment.listener(Protocol::Http) {
        Some(_) => arguments.push(format!("--listen={}", address(Protocol::Http))),
        // Nobody may come in the clear.
        None => arguments.push("--listen=127.0.0.1:8080".to_owned()),
    }
    if deployment.listener(Protocol::Https).is_some() {
        arguments.push(format!("--listen-tls={}", address(Protocol::Https)));
    }
    arguments.into()
}

/// Who the pod is, for the resource attributes of metrics and traces.
pub fn environment(settings: &Settings) -> Value {
    let field =
        |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let attributes =
        "k8s.namespace.name=$(POD_NAMESPACE),k8s.pod.name=$(POD_NAME),k8s.node.name=$(NODE_NAME)";
    let mut environment = vec![
        field("POD_NAMESPACE", "metadata.namespace"),
        field("POD_NAME", "metadata.name"),
        field("NODE_NAME", "spec.nodeName"),
        json!({"name": "OTEL_RESOURCE_ATTRIBUTES", "value": attributes}),
    ];
    if let Some(endpoint) = &settings.otlp_endpoint {
        environment.push(json!({"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": endpoint}));
    }
    if let Some(address) = &settings.statsd {
        environment.push(json!({"name": "SLUICE_STATSD", "value": address}));
    }
    environment.into()
}
