//! Listeners of pods: HTTPS with a certificate that is exchanged while clients are connected.

use std::time::Duration;

use serde_json::{Value, json};
use sluice_e2e::{Namespace, kubernetes};
use sluice_tests::certs::{Identity, bundle};
use sluice_tests::client::http::{builder, publish};
use sluice_tests::documents::Documents;
use sluice_tests::{Sse, WebSocket, within};

fn documents(listeners: &Value, identity: &Identity) -> Documents {
    let api = json!({
        "apiVersion": "sluice.dev/v1alpha1", "kind": "StreamAPI", "metadata": {"name": "shop"},
        "spec": {
            "servers": [{"name": "log", "memory": {}}],
            "channels": [{
                "name": "orders", "server": "log", "address": "orders",
                "message": {"contentType": "application/json"},
                "subscribe": {"transports": {"websocket": {}, "sse": {}}},
                "publish": {"transports": {"http": {}}},
            }],
            "placement": {"deployment": {"listeners": listeners}},
        },
    });
    Documents::new().with(api).tls_secret("edge", &identity.certificate, &identity.key)
}

/// The certificate that new connections get, DER.
async fn peer_certificate(url: &str) -> Option<Vec<u8>> {
    let client = builder().tls_info(true).pool_max_idle_per_host(0).build().expect("a client");
    let answer = client.head(url).send().await.ok()?;
    Some(answer.extensions().get::<reqwest::tls::TlsInfo>()?.peer_certificate()?.to_vec())
}

/// K22: TLS to clients; the certificate comes from a Secret and is exchanged without a drop.
#[tokio::test]
async fn a_certificate_is_exchanged_while_clients_are_connected() {
    let http = json!({"name": "http", "protocol": "HTTP"});
    let https = json!({"name": "https", "protocol": "HTTPS", "tls": {"secretRef": {"name": "edge"}}});
    let both = json!([http, https]);
    let namespace = Namespace::new("listener").await;
    namespace.apply(&documents(&both, &bundle().server)).await;
    namespace.programmed("shop").await;
    let told = namespace.kubectl(&["get", "sapi", "shop", "-o", "jsonpath={.status.urls[0]}"]).await;
    let host = format!("shop-sluice.{}.svc", namespace.name);
    assert_eq!(told, format!("https://{host}/shop/orders"));
    let address = kubernetes::lookup(&format!("{host}.cluster.local")).await;
    let url = format!("https://{address}:443/shop/orders");

    // Clients here call the Service by its address, or think it is local: its certificate names all.
    namespace.apply(&documents(&both, &bundle().server_called(&[&host, &address, "localhost"]))).await;
    let patience = Duration::from_secs(10);
    within(patience, "the Service's certificate is served", || peer_certificate(&url)).await;
    let (mut socket, _) = WebSocket::begin(&url).await;
    let mut stream = Sse::begin(&url).await;
    let pods = namespace.pods("shop").await;

    let before = peer_certificate(&url).await;
    namespace.apply(&documents(&both, &bundle().server_called(&[&host, &address, "localhost"]))).await;
    within(patience, "the new certificate is served", || async {
        (peer_certificate(&url).await? != *before.as_ref()?).then_some(())
    })
    .await;
    let as_json = [("content-type", "application/json")];
    assert_eq!(publish(&url, &as_json, "7").await.status, 200);
    assert_eq!(socket.message().await.payload(), Some(b"7".to_vec()));
    assert_eq!(stream.message().await.data.as_deref(), Some("7"));
    assert_eq!(publish(&format!("http://{address}/shop/orders"), &as_json, "8").await.status, 200);
    assert_eq!(namespace.pods("shop").await, pods, "no pod was touched");
    assert_eq!(namespace.deployment_generation("shop").await, 1);

    // Without the HTTP listener nothing is served in the clear.
    namespace
        .apply(&documents(&json!([https]), &bundle().server_called(&[&host, &address, "localhost"])))
        .await;
    namespace.rolled_out("shop").await;
    let ports =
        namespace.kubectl(&["get", "svc", "shop-sluice", "-o", "jsonpath={.spec.ports[*].port}"]).await;
    assert_eq!(ports, "443");
    let pod = &namespace.pods("shop").await[0];
    let plain = tokio::net::TcpStream::connect((pod.ip.as_str(), 8080)).await;
    assert!(plain.is_err(), "8080 is open");
}
