//! The definitions as an API server takes them: bounds, defaults, and what kubectl makes of them.

use serde_json::{Map, Value, json};
use sluice_operator::world::{api_resource, gateway_resource, policy_resource};

use crate::bed::{Bed, policy, shop};
use crate::gateway::gateway;

/// `length` times `x`.
fn text(length: usize) -> Value {
    "x".repeat(length).into()
}

/// A name of 40 characters that ends with `n`.
fn name(n: usize) -> String {
    format!("{}{n:03}", "n".repeat(37))
}

fn entries(count: usize, value: &Value) -> Value {
    (0..count).map(|n| (format!("key{n}"), value.clone())).collect::<Map<_, _>>().into()
}

/// A StreamAPI with every list and every text as long as it may be, some number apart: what is
/// kept in etcd is at most 1.5 MiB, so texts of which there are thousands are shorter.
fn largest() -> Value {
    let broker = format!("{}:65535", "b".repeat(60));
    let server = |n| {
        json!({"name": name(n), "kafka": {
            "brokers": vec![broker.clone(); 32],
            "properties": entries(64, &text(256)),
            "sasl": {"mechanism": "SCRAM-SHA-512", "secretRef": {"name": "x".repeat(253)}},
            "tls": {"secretRef": {"name": "x".repeat(253)}},
        }})
    };
    let channel = |n| {
        json!({
            "name": name(n), "server": name(15), "address": text(249), "description": text(1024),
            "path": format!("/{}", "p".repeat(127)),
            "message": {"name": text(128), "contentType": format!("a/{}", "b".repeat(126))},
            "subscribe": {"transports": {"websocket": {}, "sse": {}}},
            "publish": {
                "transports": {"http": {}, "websocket": {}},
                "contentTypes": (0..16).map(|n| format!("a/{n}")).collect::<Vec<_>>(),
            },
        })
    };
    let secrets: Vec<_> = (0..8).map(|n| json!({"name": format!("{}{n}", "s".repeat(252))})).collect();
    let spread = json!({"maxSkew": 1000, "topologyKey": text(316), "whenUnsatisfiable": "ScheduleAnyway"});
    let host = |n: usize| format!("{n:03}.{}", "h".repeat(249));
    let gateway = |n| json!({"name": host(n), "namespace": "n".repeat(63), "sectionName": host(n)});
    let exposure = json!({"httpRoute": {
        "parentRefs": (0..16).map(gateway).collect::<Vec<_>>(), "hostnames": (0..16).map(host).collect::<Vec<_>>(),
    }});
    json!({
        "apiVersion": "sluice.dev/v1alpha1", "kind": "StreamAPI", "metadata": {"name": "x".repeat(40)},
        "spec": {
            "description": text(1024), "basePath": format!("/{}", "p".repeat(127)),
            "lifecycle": {"link": format!("https://{}", "l".repeat(504))},
            "servers": (0..16).map(server).collect::<Vec<_>>(),
            "channels": (0..256).map(channel).collect::<Vec<_>>(),
            "placement": {"deployment": {"replicas": 1000, "exposure": exposure, "podTemplate": {
                "labels": entries(32, &text(63)), "annotations": entries(32, &text(256)),
                "nodeSelector": entries(32, &text(63)), "imagePullSecrets": secrets,
                "tolerations": vec![json!({"key": text(316), "value": text(63)}); 16],
                "topologySpreadConstraints": vec![spread; 8],
            }}},
        },
    })
}

#[tokio::test]
async fn with_every_bound_at_its_maximum_an_object_is_taken_and_with_one_more_it_is_not() {
    let bed = Bed::new("bounds").await;
    let largest = largest();
    println!("the largest StreamAPI has {} bytes", largest.to_string().len());
    bed.apply(&largest).await;
    let template = "/spec/placement/deployment/podTemplate";
    let lists = [
        ("/spec/servers/0/kafka/brokers".to_owned(), "brokers"),
        ("/spec/channels/0/publish/contentTypes".into(), "contentTypes"),
        (format!("{template}/imagePullSecrets"), "imagePullSecrets"),
        (format!("{template}/tolerations"), "tolerations"),
        (format!("{template}/topologySpreadConstraints"), "topologySpreadConstraints"),
        ("/spec/placement/deployment/exposure/httpRoute/parentRefs".into(), "parentRefs"),
        ("/spec/servers/0/kafka/properties".into(), "properties"),
        (format!("{template}/labels"), "labels"),
        (format!("{template}/annotations"), "annotations"),
        (format!("{template}/nodeSelector"), "nodeSelector"),
    ];
    for (pointer, field) in lists {
        let mut document = largest.clone();
        match document.pointer_mut(&pointer).expect("it is there") {
            Value::Array(list) => {
                let mut more = list[0].clone();
                if more.is_string() && field == "contentTypes" {
                    more = json!("one/more");
                }
                if field == "imagePullSecrets" {
                    more = json!({"name": "one-more"});
                }
                list.push(more);
            }
            Value::Object(map) => drop(map.insert("one-more".into(), json!("x"))),
            other => panic!("{other}"),
        }
        let message = bed.try_apply(&document).await.expect_err(field);
        assert!(message.contains(field) && message.contains("must have at most"), "{field}: {message}");
    }
    let targets = vec!["x"; 16];
    let origins: Vec<_> = (0..64).map(|n| format!("https://{}.{n}", "o".repeat(240))).collect();
    bed.apply(&policy("largest", &targets, json!({"cors": {"allowedOrigins": origins}}))).await;
}

#[tokio::test]
async fn what_is_left_out_has_the_default_of_the_reference() {
    let bed = Bed::new("defaults").await;
    let stored = bed.apply(&shop()).await;
    let channel = &stored["spec"]["channels"][0];
    let subscribe = json!({
        "transports": {"websocket": {"pingInterval": "20s"}, "sse": {"heartbeatInterval": "15s"}},
        "replay": {"age": "10m", "bytes": 16_777_216, "messages": 10_000},
        "formats": ["raw", "envelope", "cloudevents"], "cursor": "perMessage",
        "slowConsumer": "disconnect", "flush": {"maxDelay": "0s"}, "timeout": "5s",
    });
    assert_eq!(channel["subscribe"], subscribe);
    assert_eq!(channel["publish"]["timeout"], "10s");
    assert_eq!(stored["spec"]["lifecycle"], json!({"state": "Published"}));
    // Of a union nothing is stored that nobody wrote: it would stay beside another kind.
    assert_eq!(stored["spec"]["placement"], Value::Null);
    let mut placed = shop();
    placed["spec"]["placement"] = json!({"deployment": {}});
    let stored = bed.apply(&placed).await;
    let deployment = &stored["spec"]["placement"]["deployment"];
    assert_eq!(
        (&deployment["replicas"], &deployment["resources"]["limits"]["memory"]),
        (&json!(1), &json!("512Mi"))
    );
    placed["spec"]["placement"] = json!({"sidecar": {"resources": {"limits": {"memory": "128Mi"}}}});
    let stored = bed.apply(&placed).await;
    let resources = json!({"limits": {"memory": "128Mi"}, "requests": {"cpu": "50m", "memory": "64Mi"}});
    assert_eq!(stored["spec"]["placement"]["sidecar"]["resources"], resources);
    assert_eq!(stored["spec"]["placement"]["deployment"], Value::Null);
    let policy = bed.apply(&policy("p", &["shop"], json!({"cors": {}}))).await;
    assert_eq!(policy["spec"]["targetRefs"][0]["group"], "sluice.dev");
    assert_eq!(policy["spec"]["cors"], json!({"allowCredentials": false, "allowedOrigins": []}));
}

/// Words, however lines were broken.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn kubectl_explains_the_fields_as_the_reference_does() {
    let bed = Bed::new("explain").await;
    let page = sluice_tests::parts::source().join("../docs/REFERENCE.md");
    let page = std::fs::read_to_string(page).expect("the reference is there");
    let (apis, others) = page.split_once("## StreamGateway").expect("three parts");
    let (gateways, policies) = others.split_once("## StreamPolicy").expect("three parts");
    let cases = [
        (apis, "streamapi", "spec"),
        (apis, "streamapi", "spec.channels"),
        (apis, "sapi", "spec.channels.subscribe"),
        (apis, "streamapi", "spec.servers.kafka"),
        (apis, "streamapi", "spec.placement.deployment"),
        (gateways, "sgw", "spec"),
        (gateways, "streamgateway", "spec.autoscaling"),
        (policies, "spol", "spec"),
        (policies, "streampolicy", "spec.limits"),
    ];
    for (page, kind, path) in cases {
        let explained = words(&bed.plane.run("kubectl", &["explain", &format!("{kind}.{path}")], ""));
        let mut fields = 0;
        for row in page.lines().filter(|row| row.starts_with("| `")) {
            let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
            let (field, about) = (cells[0].trim_matches('`').replace("[]", ""), cells[cells.len() - 1]);
            let Some((parent, last)) = field.rsplit_once('.') else { continue };
            if parent == path {
                fields += 1;
                let about = words(&about.replace("\\|", "|"));
                assert!(
                    explained.contains(last) && explained.contains(&about),
                    "{field}: {about}\n{explained}"
                );
            }
        }
        assert!(fields >= 3, "{path}: {fields} fields");
    }
}

#[tokio::test]
async fn kubectl_lists_by_short_name_and_category_what_matters() {
    let bed = Bed::new("columns").await;
    let _operator = bed.operator().await;
    bed.apply(&shop()).await;
    bed.apply(&policy("limits", &["shop"], json!({"limits": {"connections": 1}}))).await;
    bed.told("shop", "Programmed", "False", "NoPods").await;
    bed.policy_told("limits", "Accepted", "True", "Accepted").await;
    bed.apply(&gateway(json!({}))).await;
    bed.gateway_told("edge", "Programmed", "False", "NoPods").await;
    let get = |arguments: &[&str]| {
        let arguments = [&["get", "-n", &bed.namespace], arguments].concat();
        bed.plane.run("kubectl", &arguments, "").lines().map(words).collect::<Vec<_>>()
    };
    let url = format!("http://shop-sluice.{}.svc/shop/orders", bed.namespace);
    let apis = get(&["sapi"]);
    assert_eq!(apis[0], "NAME ACCEPTED PROGRAMMED AVAILABLE URL AGE");
    assert!(apis[1].starts_with(&format!("shop True False False {url}")), "{apis:?}");
    assert!(get(&["sapi", "-o", "wide"])[0].contains("SECURED"));
    let gateways = get(&["sgw"]);
    assert_eq!(gateways[0], "NAME ACCEPTED PROGRAMMED APIS URL AGE");
    let url = format!("http://edge-sluice-gateway.{}.svc", bed.namespace);
    assert!(gateways[1].starts_with(&format!("edge True False 0 {url}")), "{gateways:?}");
    let policies = get(&["spol"]);
    assert_eq!(policies[0], "NAME ACCEPTED TARGET AGE");
    assert!(policies[1].starts_with("limits True shop"), "{policies:?}");
    let all = get(&["sluice", "-o", "name"]);
    assert_eq!(
        all,
        ["streamapi.sluice.dev/shop", "streamgateway.sluice.dev/edge", "streampolicy.sluice.dev/limits"]
    );
    for kind in [api_resource(), gateway_resource(), policy_resource()] {
        assert_eq!(bed.list(&kind).await.len(), 1);
    }
}
