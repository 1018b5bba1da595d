//! Plays what stands around an operator: kubelets, and the data planes in their pods.

use std::net::{IpAddr, Ipv4Addr};

use futures::{StreamExt as _, TryStreamExt as _};
use kube::ResourceExt as _;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{AT_ONCE, Bench, FLOOR, Seen, TESTED, kind, name, number, stream_apis};

impl Bench {
    /// Keeps `seen` as the objects of a kind are, by the number that `label` or their name tells.
    fn follow(&self, resource: &ApiResource, seen: &Seen, what: fn(&DynamicObject) -> Option<Value>) {
        let events = watcher(self.api(TESTED, resource), watcher::Config::default()).default_backoff();
        let seen = seen.clone();
        tokio::spawn(events.applied_objects().try_for_each(move |object| {
            if let (Some(number), Some(value)) = (number(&object), what(&object)) {
                seen.lock().expect("nobody panics with it").insert(number, value);
            }
            async { Ok(()) }
        }));
    }

    /// Plays kubelets and data planes.
    pub async fn play(&self) {
        self.follow(&kind("", "v1", "ConfigMap", "configmaps"), &self.served, |map| {
            let config: Value = serde_json::from_str(map.data["data"]["config-v1.json"].as_str()?).ok()?;
            let entry = config["apis"].as_object()?.values().next()?;
            Some(json!({"revision": entry["revision"], "material": entry["material"]}))
        });
        self.follow(&stream_apis(), &self.apis, |api| Some(api.data["status"].clone()));
        for namespace in [TESTED, FLOOR] {
            let pods = self.api(namespace, &kind("", "v1", "Pod", "pods"));
            let events = watcher(pods.clone(), watcher::Config::default()).default_backoff();
            let running = self.running.clone();
            tokio::spawn(events.applied_objects().for_each_concurrent(AT_ONCE, move |pod| {
                let (pods, running) = (pods.clone(), running.clone());
                async move {
                    let Ok(pod) = pod else { return };
                    let Some(number) = number(&pod).filter(|_| pod.data["status"]["podIP"].is_null()) else {
                        return;
                    };
                    let ip = address(number);
                    let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
                        "conditions": [{"type": "Ready", "status": "True"}]}});
                    let told = pods
                        .patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&status))
                        .await;
                    told.expect("a pod's status is taken");
                    *running.lock().expect("nobody panics with it").entry(namespace.into()).or_default() += 1;
                }
            }));
        }
        let listener = tokio::net::TcpListener::bind("0.0.0.0:9090").await.expect("port 9090 is free");
        let served = self.served.clone();
        tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.expect("connections can be accepted");
                let served = served.clone();
                tokio::spawn(async move {
                    let number = socket.local_addr().ok().and_then(|address| numbered(address.ip()));
                    let mut request = [0; 4096];
                    // One question after another, as a data plane keeps its connections.
                    while let Ok(read @ 1..) = socket.read(&mut request).await {
                        let entry = number.and_then(|number| {
                            served.lock().expect("nobody panics with it").get(&number).cloned()
                        });
                        let body = answer(
                            number.unwrap_or_default(),
                            entry,
                            request[..read].starts_with(b"GET /config"),
                        );
                        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length";
                        let text = format!("{head}: {}\r\n\r\n{body}", body.len());
                        if socket.write_all(text.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
    }
}

/// A loopback address for each, and back.
fn address(number: usize) -> Ipv4Addr {
    let part = |value: usize| u8::try_from(value % 250 + 1).expect("at most 250");
    Ipv4Addr::new(127, 100, part(number / 250), part(number))
}

fn numbered(address: IpAddr) -> Option<usize> {
    let IpAddr::V4(address) = address else { return None };
    let [127, 100, high, low] = address.octets() else { return None };
    Some((usize::from(high) - 1) * 250 + usize::from(low) - 1)
}

fn answer(number: usize, entry: Option<Value>, is_config: bool) -> String {
    let name = name(number);
    let servers = json!([{"namespace": TESTED, "api": name, "server": "log", "up": true}]);
    if !is_config {
        return json!({"ready": true, "draining": false, "servers": servers}).to_string();
    }
    let apis = entry.into_iter().map(|mut entry| {
        (entry["namespace"], entry["name"]) = (json!(TESTED), json!(name));
        entry
    });
    json!({"apis": apis.collect::<Vec<_>>(), "refused": [], "servers": servers}).to_string()
}
