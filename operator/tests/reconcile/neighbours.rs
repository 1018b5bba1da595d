//! What one API of a gateway may take of it.

use std::time::Duration;

use serde_json::{Value, json};
use sluice_operator::world::{api_resource, gateway_resource};
use sluice_tests::client::http::get;
use sluice_tests::client::websocket::{JSON, WebSocket};
use sluice_tests::eventually;
use sluice_tests::metrics::Metrics;

use crate::bed::Bed;
use crate::gateway::{gateway, placed};
use crate::pod::Pod;

/// Opens one more stream, or tells what is said against it.
async fn join(url: &str) -> Result<WebSocket, Value> {
    WebSocket::request(url).protocol(JSON).open().await.map_err(|answer| {
        assert_eq!(answer.status, 429);
        answer.problem()
    })
}

/// Publishes, and gets it back.
async fn echo(socket: &mut WebSocket) {
    socket.send(&json!({"type": "publish", "id": "1", "data": "still open"})).await;
    while socket.frame().await.kind != "message" {}
}

#[tokio::test]
async fn an_api_has_no_more_streams_than_its_gateway_allows_and_others_have_theirs() {
    let bed = Bed::new("neighbours").await;
    let mut operator = bed.operator().await;
    let mut two = placed("shop", None);
    let mut second = two["spec"]["channels"][0].clone();
    second["name"] = json!("returns");
    second["address"] = json!("returns");
    two["spec"]["channels"].as_array_mut().expect("a list").push(second);
    bed.apply(&gateway(json!({"apiLimits": {"connections": 2}}))).await;
    bed.apply(&two).await;
    bed.apply(&placed("chat", None)).await;
    let pod = Pod::gateway(&bed, "edge").await;
    for api in ["shop", "chat"] {
        bed.told(api, "Programmed", "True", "Programmed").await;
    }

    // All channels of an API count together.
    let orders = join(&pod.url("/shop/orders")).await.expect("the first");
    let mut returns = join(&pod.url("/shop/returns")).await.expect("the second");
    let refused = join(&pod.url("/shop/orders")).await.expect_err("the third");
    assert_eq!(refused["detail"], "the API's limit of 2 connections is reached");
    let mut chat = join(&pod.url("/chat/orders")).await.expect("another API's first");
    let limits = [("api", "shop"), ("policy", "limits"), ("outcome", "refused")];
    let scraped = get(&pod.admin("/metrics")).await.expect("metrics").text();
    assert_eq!(Metrics::parse(&scraped).sum("policy_decisions_total", &limits), 1.0);

    // A higher limit counts at once, a lower one for those who come.
    let to = async |connections: Value| {
        bed.patch(&gateway_resource(), "edge", &json!({"spec": {"apiLimits": {"connections": connections}}}))
            .await;
    };
    to(json!(3)).await;
    let third =
        eventually("there is room for a third", || async { join(&pod.url("/shop/orders")).await.ok() });
    let third = third.await;
    to(json!(1)).await;
    bed.gateway_told("edge", "Programmed", "True", "Programmed").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    drop((orders, third));
    let refused = eventually("those that left are not replaced", || async {
        let refused = join(&pod.url("/shop/orders")).await.err()?;
        (refused["detail"] == "the API's limit of 1 connections is reached").then_some(())
    });
    refused.await;
    for socket in [&mut returns, &mut chat] {
        echo(socket).await;
    }
    drop((returns, chat));
    bed.delete(&api_resource(), "shop").await;
    operator.stop().await;
}
