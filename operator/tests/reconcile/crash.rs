//! The operator is killed after its first, second, … last write for an object, and what comes of it
//! is always the same.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_operator::children::ChildKind;
use sluice_operator::world::api_resource;
use sluice_tests::eventually;

use crate::bed::{Bed, kind_of, secret, shop};
use crate::children::{children_of, managed};
use crate::gate::Gate;
use crate::operator::Operator;

/// Fewer writes than this make no API.
const LEAST: usize = 11;
/// More are not needed.
const MOST: usize = 40;

/// An API with everything that can be written for one.
fn api(name: &str) -> Value {
    let mut api = shop();
    api["metadata"]["name"] = json!(name);
    api["spec"]["placement"] = json!({"deployment": {"replicas": 2}});
    api["spec"]["servers"][0] = json!({"name": api["spec"]["servers"][0]["name"], "kafka": {
        "brokers": ["kafka:9092"], "tls": {},
        "sasl": {"mechanism": "SCRAM-SHA-512", "secretRef": {"name": "login"}},
    }});
    api
}

/// The children of `name` without what differs between two APIs that are the same.
async fn content(bed: &Bed, name: &str) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for (kind, child) in children_of(name, true) {
        let mut object = bed.get(&kind_of(&json!({"kind": kind})), &child).await;
        let owners = object["metadata"]["ownerReferences"].as_array().map(Vec::len);
        object["metadata"] = json!({"labels": object["metadata"]["labels"], "owners": owners});
        object["status"] = Value::Null;
        match kind {
            // The config names the API in digests, and each API has a key of its own.
            "ConfigMap" | "Secret" => {
                let keys: Vec<_> =
                    object["data"].as_object().into_iter().flat_map(|data| data.keys()).collect();
                object["data"] = json!(keys);
            }
            "Service" => {
                object["spec"]["clusterIP"] = Value::Null;
                object["spec"]["clusterIPs"] = Value::Null;
            }
            _ => {}
        }
        let text = object.to_string().replace(name, "NAME");
        all.insert(
            format!("{kind} {}", child.replace(name, "NAME")),
            serde_json::from_str(&text).expect("JSON"),
        );
    }
    all
}

#[tokio::test]
async fn a_crash_after_any_write_leaves_nothing_undone_and_nothing_twice() {
    let bed = Bed::new("crash").await;
    let server = Bed::config(bed.plane).await.cluster_url.to_string();
    let gate = Gate::new(&server, &bed.plane.authority()).await;
    let mut operator = Operator::through(&bed, &gate.url).await;
    // Its requests are cut off, again and again.
    operator.expect_log(&["trying again", "it starts again", "interrupted"]);
    bed.apply(&secret("login", &[("username", "u"), ("password", "p")])).await;
    bed.apply(&api("whole")).await;
    bed.told("whole", "Programmed", "False", "NoPods").await;
    let (whole, mut expected) = (content(&bed, "whole").await, children_of("whole", true));
    let mut crashes = Vec::new();
    for count in 1..MOST {
        let name = format!("crash{count}");
        // What the last one still has to say must not be taken for this one's writes.
        gate.rest().await;
        gate.close_after(count);
        bed.apply(&api(&name)).await;
        let told = async { bed.told(&name, "Programmed", "False", "NoPods").await };
        let last = tokio::select! {
            last = gate.closed() => Some(last),
            // Its Events come after its conditions.
            () = async { told.await; gate.rest().await } => None,
        };
        if last.is_some() {
            operator.signal(libc::SIGKILL);
            operator.ended(Duration::from_secs(5)).await;
        }
        gate.open();
        if last.is_some() {
            operator.restart();
        }
        expected.extend(children_of(&name, true));
        bed.told(&name, "Accepted", "True", "Accepted").await;
        bed.told(&name, "Programmed", "False", "NoPods").await;
        eventually(&format!("after {last:?} all is there, and nothing else"), || async {
            (managed(&bed).await == expected).then_some(())
        })
        .await;
        let found = content(&bed, &name).await;
        assert_eq!(found, whole, "after {last:?}");
        let Some(last) = last else { break };
        crashes.push(last);
    }
    assert!((LEAST..MOST - 1).contains(&crashes.len()), "{} crashes: {crashes:#?}", crashes.len());
    for kind in [ChildKind::Deployment, ChildKind::Secret, ChildKind::ConfigMap] {
        let written = crashes.iter().any(|crash| crash.contains(&format!("/{}", kind.resource().plural)));
        assert!(written, "no crash after a write of {kind:?}: {crashes:#?}");
    }
    assert!(crashes.iter().any(|crash| crash.contains("/status")), "{crashes:#?}");
    let uids = bed.list(&api_resource()).await;
    assert_eq!(uids.len(), crashes.len() + 2);
}
