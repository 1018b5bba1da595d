//! What is served, as AsyncAPI documents for who may use it. That the documents are valid is shown by
//! `tests/browser/asyncapi.mjs`.

use reqwest::Method;
use serde_json::{Value, json};
use sluice_tests::client::http::{self, Answer};
use sluice_tests::documents::{Api, Channel, Documents, api_key};
use sluice_tests::{Sluice, seed, sluice};

const OWN_TYPE: &str = "application/vnd.aai.asyncapi+json;version=3.0.0";
/// No headers.
const NONE: &[(&str, &str)] = &[];
const LIST: &str = "/-/asyncapi";
const SHOP: &str = "/-/asyncapi/default/shop";

/// `shop` with an open and a keyed channel, `vault` with keyed ones alone, and `old` that is deprecated.
/// The key opens what is keyed.
fn documents(purpose: &str) -> (Documents, String) {
    let (key, entry) = api_key(&mut seed::rng(purpose));
    let keys = json!({"authentication": {"apiKeys": {"secretRef": {"name": "keys"}}}});
    let private = json!([{"kind": "StreamAPI", "name": "shop", "sectionName": "private"}]);
    let channel = |name| Channel::both_ways(name, name);
    let deprecated = json!({"state": "Deprecated", "link": "https://shop.example/next"});
    let documents = Documents::new()
        .api(Api::new("old").memory().channel(channel("all")).lifecycle(deprecated))
        .api(Api::new("shop").memory().channel(channel("orders")).channel(channel("private")))
        .api(Api::new("vault").memory().channel(channel("all")))
        .targeted("private", private, keys.clone())
        .policy("vault", "vault", keys)
        .secret("keys", &[("laptop", &entry)]);
    (documents, key)
}

async fn get(sluice: &Sluice, path: &str, headers: &[(&str, &str)]) -> Answer {
    http::request(Method::GET, &sluice.url(path), headers, "").await.expect("answered")
}

fn names(object: &Value) -> Vec<&str> {
    object.as_object().expect("an object").keys().map(String::as_str).collect()
}

async fn listed(sluice: &Sluice, headers: &[(&str, &str)]) -> Vec<String> {
    let answer = get(sluice, LIST, headers).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"), "{answer:?}");
    let list = answer.json();
    let apis = list["apis"].as_array().expect("a list");
    apis.iter().map(|api| api["name"].as_str().expect("a name").to_owned()).collect()
}

/// K77, X14: channels, transports and security schemes of this reader.
#[tokio::test]
async fn a_document_has_what_its_reader_may_use() {
    let (documents, key) = documents("readers");
    let sluice = Sluice::start(&documents).await;
    let bearer = format!("Bearer {key}");
    for headers in [NONE, &[("x-api-key", "slk_wrong")]] {
        let answer = get(&sluice, SHOP, headers).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, OWN_TYPE), "{answer:?}");
        let document = answer.json();
        assert_eq!((&document["asyncapi"], &document["id"]), (&json!("3.0.0"), &json!("urn:sluice:shop")));
        assert_eq!(names(&document["channels"]), ["orders"]);
        let ways = ["publish.http", "publish.websocket", "subscribe.sse", "subscribe.websocket"];
        assert_eq!(names(&document["operations"]), ways.map(|way| format!("orders.{way}")));
        for hidden in ["private", "security"] {
            assert!(!answer.text().contains(hidden), "{hidden}: {document}");
        }
    }
    for header in [("authorization", bearer.as_str()), ("x-api-key", &key)] {
        let document = get(&sluice, SHOP, &[header]).await.json();
        assert_eq!(names(&document["channels"]), ["orders", "private"]);
        assert_eq!(names(&document["components"]["securitySchemes"]), ["apiKey", "bearer"]);
        for (name, operation) in document["operations"].as_object().expect("an object") {
            let asks = operation["security"].is_array();
            assert_eq!(asks, name.starts_with("private."), "{name}: {operation}");
            let action = if name.contains(".publish.") { "receive" } else { "send" };
            assert_eq!(operation["action"], action, "{name}");
        }
    }
    assert!(!sluice.log().contains(&key), "a key was logged");
    sluice.stop().await;
}

/// K01: what is applied appears in the catalogue.
#[tokio::test]
async fn the_list_has_the_apis_that_its_reader_may_use() {
    let (documents, key) = documents("list");
    let sluice = Sluice::start(&documents).await;
    let key = [("x-api-key", key.as_str())];
    assert_eq!(listed(&sluice, NONE).await, ["old", "shop"]);
    assert_eq!(listed(&sluice, &key).await, ["old", "shop", "vault"]);
    let list = get(&sluice, LIST, NONE).await.json();
    let old = json!({"namespace": "default", "name": "old", "description": null, "lifecycle": "Deprecated",
        "asyncapi": "/-/asyncapi/default/old"});
    assert_eq!(list["apis"][0], old);
    for api in list["apis"].as_array().expect("a list") {
        let path = api["asyncapi"].as_str().expect("a path");
        assert_eq!(get(&sluice, path, NONE).await.json()["info"]["title"], api["name"]);
    }
    let new = Api::new("new").memory().channel(Channel::both_ways("all", "all"));
    sluice.apply(&documents.api(new)).await;
    assert_eq!(listed(&sluice, NONE).await, ["new", "old", "shop"]);
    sluice.stop().await;
}

#[tokio::test]
async fn what_may_not_be_read_is_refused_as_its_channels_are() {
    let (documents, key) = documents("refusals");
    let channel = || Channel::both_ways("all", "all");
    let unresolved = json!({"authentication": {"apiKeys": {"secretRef": {"name": "nowhere"}}}});
    let documents = documents
        .api(Api::new("blocked").memory().channel(channel()).lifecycle(json!({"state": "Blocked"})))
        .api(Api::new("closed").memory().channel(channel()))
        .policy("closed", "closed", unresolved);
    let mut sluice = Sluice::start(&documents).await;
    sluice.expect_log(&["nowhere", "closed", "apis.yaml"]);
    let good = [("x-api-key", key.as_str())];
    for (path, without, with) in [
        (SHOP, 200, 200),
        ("/-/asyncapi/default/vault", 401, 200),
        ("/-/asyncapi/default/blocked", 410, 410),
        ("/-/asyncapi/default/closed", 503, 503),
        ("/-/asyncapi/default/nothing", 404, 404),
        ("/-/asyncapi/other/shop", 404, 404),
        ("/-/asyncapi/default", 404, 404),
        ("/-/asyncapi/default/shop/orders", 404, 404),
        ("/-/asyncapi/", 404, 404),
        ("/-/asyncapis", 404, 404),
    ] {
        for (headers, expected) in [(NONE, without), (&good, with)] {
            let answer = get(&sluice, path, headers).await;
            assert_eq!(answer.status, expected, "{path}: {answer:?}");
            if expected >= 400 {
                answer.problem();
            }
            let challenge = if expected == 401 { "Bearer realm=\"sluice\"" } else { "" };
            assert_eq!(answer.header("www-authenticate"), challenge, "{path}");
        }
    }
    assert_eq!(listed(&sluice, &good).await, ["old", "shop", "vault"]);
    sluice.stop().await;
}

#[tokio::test]
async fn documents_are_read_by_get_and_head_as_json() {
    let (documents, _) = documents("head");
    let sluice = Sluice::start(&documents).await;
    let path = "/-/asyncapi/default/old";
    for path in [LIST, path] {
        let whole = get(&sluice, path, NONE).await;
        let head = http::request(Method::HEAD, &sluice.url(path), &[], "").await.expect("answered");
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
        assert_eq!(head.header("content-length"), whole.body.len().to_string(), "{path}");
        for name in ["content-type", "vary", "cache-control"] {
            assert_eq!(head.header(name), whole.header(name), "{path}");
        }
        assert_eq!(whole.header("vary"), "Accept, Origin, Authorization, X-API-Key");
        assert_eq!(whole.header("cache-control"), "no-store");
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
            let answer = http::request(method, &sluice.url(path), &[], "").await.expect("answered");
            assert_eq!((answer.status, answer.header("allow")), (405, "GET, HEAD"), "{path}");
        }
    }
    let document = get(&sluice, path, NONE).await;
    assert_eq!(document.header("deprecation"), "?1");
    assert_eq!(document.json()["info"]["tags"], json!([{"name": "deprecated"}]));
    for (accept, expected) in
        [("*/*", OWN_TYPE), ("application/json", "application/json"), ("text/html, */*;q=0.1", OWN_TYPE)]
    {
        let answer = get(&sluice, path, &[("accept", accept)]).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, expected), "{accept}");
    }
    let answer = get(&sluice, path, &[("accept", "text/html")]).await;
    assert_eq!(answer.status, 406);
    answer.problem();
    sluice.stop().await;
}

#[tokio::test]
async fn servers_are_where_the_reader_found_them() {
    let (documents, _) = documents("hosts");
    let server = &sluice_tests::certs::bundle().server;
    let documents = documents.tls_secret("edge", &server.certificate, &server.key);
    let sluice = Sluice::with(&documents).arguments(&["--host", "laptop.example"]).tls("default/edge");
    let sluice = sluice.start().await;
    let servers = |host: &str, schemes: [&str; 2]| {
        let server = |scheme| json!({"host": host, "protocol": scheme});
        json!({(schemes[0]): server(schemes[0]), (schemes[1]): server(schemes[1])})
    };
    let (plain, secure) = (["ws", "http"], ["wss", "https"]);
    let here = format!("127.0.0.1:{}", sluice.port());
    for (headers, host, schemes) in [
        (NONE, here.as_str(), plain),
        (&[("host", "laptop.example")], "laptop.example", plain),
        (&[("host", "laptop.example"), ("x-forwarded-proto", "https")], "laptop.example", secure),
    ] {
        let answer = get(&sluice, SHOP, headers).await;
        assert_eq!(answer.json()["servers"], servers(host, schemes), "{headers:?}");
    }
    let url = sluice.tls_url(SHOP);
    let host = url.trim_start_matches("https://").trim_end_matches(SHOP);
    let answer = http::get(&url).await.expect("answered");
    assert_eq!(answer.json()["servers"], servers(host, secure));
    let answer = get(&sluice, SHOP, &[("host", "evil.example")]).await;
    assert_eq!(answer.status, 403, "{answer:?}");
    sluice.stop().await;
}

#[tokio::test]
async fn a_page_of_another_origin_reads_what_it_may_use() {
    let (documents, _) = documents("origins");
    let target = json!([{"kind": "StreamAPI", "name": "shop"}]);
    let cors = json!({"cors": {"allowedOrigins": ["https://app.example"]}});
    let sluice = Sluice::start(&documents.targeted("cors", target, cors)).await;
    let here = sluice.url("");
    for (origin, shop, old, apis) in [
        (here.as_str(), 200, 200, &["old", "shop"][..]),
        ("https://app.example", 200, 403, &["shop"]),
        ("https://evil.example", 403, 403, &[]),
    ] {
        let header = [("origin", origin)];
        for (path, status) in [(SHOP, shop), ("/-/asyncapi/default/old", old)] {
            let answer = get(&sluice, path, &header).await;
            assert_eq!(answer.status, status, "{path} from {origin}");
            let allowed = if status == 200 { origin } else { "" };
            assert_eq!(answer.header("access-control-allow-origin"), allowed, "{path} from {origin}");
        }
        if apis.is_empty() {
            assert_eq!(get(&sluice, LIST, &header).await.status, 403);
        } else {
            assert_eq!(listed(&sluice, &header).await, apis);
        }
    }
    sluice.stop().await;
}

#[tokio::test]
async fn who_asks_without_end_is_told_when_to_come_back() {
    let (documents, _) = documents("rate");
    let sluice = Sluice::start(&documents).await;
    let mut refused = None;
    for _ in 0..1000 {
        let answer = get(&sluice, LIST, NONE).await;
        if answer.status != 200 {
            refused = Some(answer);
            break;
        }
    }
    let answer = refused.expect("there is a limit");
    assert_eq!(answer.status, 429, "{answer:?}");
    answer.problem();
    assert_eq!(answer.header("retry-after"), "1");
    assert_eq!(answer.header("ratelimit-policy"), "\"asyncapi\";q=20;w=1");
    // Channels are another matter.
    assert_eq!(http::publish(&sluice.url("/shop/orders"), &[], "{}").await.status, 200);
    sluice.stop().await;
}

/// The command line says of files what a data plane says to the holder of every key.
#[tokio::test]
async fn the_command_line_prints_what_is_served() {
    let (documents, key) = documents("command line");
    let running = Sluice::start(&documents).await;
    let file = running.file().to_str().expect("text").to_owned();
    let url = running.url("");
    let printed = sluice::command(&["asyncapi", "-f", &file, "--api", "default/shop", "--url", url.as_str()]);
    assert_eq!(printed.status.code(), Some(0), "{printed:?}");
    let printed: Value = serde_json::from_slice(&printed.stdout).expect("JSON");
    assert_eq!(printed, get(&running, SHOP, &[("x-api-key", &key)]).await.json());
    for (arguments, code, told) in [
        (&["--api", "default/nothing"][..], 1, "default/nothing"),
        (&[], 1, "default/old, default/shop, default/vault"),
        (&["--api", "shop"], 2, "NAMESPACE/NAME"),
        (&["--url", "streams.example"], 2, "https://streams.example"),
    ] {
        let refused = sluice::command(&[&["asyncapi", "-f", file.as_str()][..], arguments].concat());
        let text = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(code), "{text}");
        assert!(text.contains(told) && refused.stdout.is_empty(), "{text}");
    }
    running.stop().await;
}
