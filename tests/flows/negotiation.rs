//! One URL, negotiated: who gets which transport, and who gets which refusal.

use reqwest::Method;
use serde_json::json;
use sluice_tests::client::http::{self, Answer};
use sluice_tests::client::raw::Raw;
use sluice_tests::client::websocket::JSON;
use sluice_tests::documents::{Api, Channel, Documents, api_key};
use sluice_tests::{Sluice, Sse, WebSocket, seed};

/// `/shop/all` both ways by everything, `/shop/sse`, `/shop/websocket`, `/shop/post` by one
/// transport alone.
fn shop() -> Documents {
    let one = |name: &str, direction: &str, transports| {
        Channel::new(name, name).set(&format!("/{direction}"), json!({"transports": transports}))
    };
    Documents::new().api(
        Api::new("shop")
            .memory()
            .channel(Channel::both_ways("all", "all"))
            .channel(one("sse", "subscribe", json!({"sse": {}})))
            .channel(one("websocket", "subscribe", json!({"websocket": {}})))
            .channel(one("post", "publish", json!({"http": {}}))),
    )
}

async fn ask(sluice: &Sluice, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let method: Method = method.parse().expect("a method");
    // The head is enough: a stream would never end.
    let mut request = http::client().request(method, sluice.url(path));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.expect("answered");
    let stream = response.headers().get("content-type").is_some_and(|it| it == "text/event-stream");
    if stream {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        return Answer { status, headers, body: bytes::Bytes::new() };
    }
    Answer::read(response).await.expect("a body")
}

/// Method, path, headers, status.
type Row = (&'static str, &'static str, &'static [(&'static str, &'static str)], u16);

#[tokio::test]
async fn the_answer_follows_method_and_accept() {
    const SSE: &str = "text/event-stream";
    let sluice = Sluice::start(&shop()).await;
    #[rustfmt::skip]
    let table: &[Row] = &[
        ("GET", "/shop/all", &[("accept", SSE)], 200),
        ("GET", "/shop/all", &[("accept", "*/*")], 200),
        ("GET", "/shop/all", &[], 200),
        ("GET", "/shop/all", &[("accept", "text/event-stream;q=0.2, text/html")], 200),
        ("GET", "/shop/all", &[("accept", "text/*")], 200),
        ("GET", "/shop/all", &[("accept", "application/json")], 406),
        ("GET", "/shop/all", &[("accept", "application/x-ndjson")], 406),
        ("GET", "/shop/all", &[("accept", "image/png")], 406),
        ("GET", "/shop/all", &[("accept", "text/event-stream;q=0")], 406),
        ("GET", "/shop/sse", &[], 200),
        ("GET", "/shop/websocket", &[], 426),
        ("GET", "/shop/websocket", &[("accept", SSE)], 406),
        ("GET", "/shop/post", &[], 405),
        ("POST", "/shop/post", &[], 200),
        ("POST", "/shop/all", &[], 200),
        ("POST", "/shop/sse", &[], 405),
        ("POST", "/shop/websocket", &[], 405),
        ("PUT", "/shop/all", &[], 405),
        ("DELETE", "/shop/all", &[], 405),
        ("GET", "/shop/nothing", &[], 404),
        ("POST", "/shop/nothing", &[], 404),
        ("GET", "/nothing/all", &[], 404),
        ("GET", "/shop", &[], 404),
        ("GET", "/shop/all/more", &[], 404),
        ("GET", "/shop//all", &[], 404),
        ("GET", "/SHOP/all", &[], 404),
    ];
    let mut wrong = Vec::new();
    for (method, path, headers, expected) in table {
        let answer = ask(&sluice, method, path, headers).await;
        if answer.status != *expected {
            wrong.push(format!("{method} {path} {headers:?}: {} instead of {expected}", answer.status));
            continue;
        }
        if answer.status >= 400 {
            answer.problem();
        }
        if answer.status == 200 && *method == "GET" {
            assert_eq!(answer.header("content-type"), SSE, "{method} {path}");
            assert_eq!(answer.header("vary").to_ascii_lowercase(), "accept, origin", "{method} {path}");
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    sluice.stop().await;
}

/// W14, W15: a subscribe channel takes nothing, a publish channel gives nothing.
#[tokio::test]
async fn a_refusal_says_what_there_is() {
    let sluice = Sluice::start(&shop()).await;
    let allow = |answer: &Answer| {
        let mut methods: Vec<String> =
            answer.header("allow").split(',').map(|it| it.trim().to_owned()).collect();
        methods.sort();
        methods
    };
    let answer = ask(&sluice, "PUT", "/shop/all", &[]).await;
    assert_eq!(allow(&answer), ["GET", "OPTIONS", "POST"], "{answer:?}");
    let answer = ask(&sluice, "POST", "/shop/sse", &[]).await;
    assert_eq!(allow(&answer), ["GET", "OPTIONS"], "{answer:?}");
    let answer = ask(&sluice, "GET", "/shop/post", &[]).await;
    assert_eq!(allow(&answer), ["OPTIONS", "POST"], "{answer:?}");
    let answer = ask(&sluice, "GET", "/shop/all", &[("accept", "image/png")]).await;
    assert!(answer.text().contains("text/event-stream"), "{answer:?}");
    let answer = ask(&sluice, "GET", "/shop/websocket", &[]).await;
    assert_eq!(answer.header("upgrade").to_ascii_lowercase(), "websocket", "{answer:?}");
    sluice.stop().await;
}

#[tokio::test]
async fn the_server_selects_a_subprotocol_that_was_offered() {
    let sluice = Sluice::start(&shop()).await;
    let url = sluice.url("/shop/all");
    for (offered, selected) in [
        (&["sluice.v1.json"][..], Some("sluice.v1.json")),
        (&["sluice.v1.raw"], Some("sluice.v1.raw")),
        (&["cloudevents.json"], Some("cloudevents.json")),
        (&["mqtt", "sluice.v1.raw"], Some("sluice.v1.raw")),
        (&[], None),
    ] {
        let mut request = WebSocket::request(&url);
        for protocol in offered {
            request = request.protocol(protocol);
        }
        let socket = request.open().await.unwrap_or_else(|answer| panic!("{offered:?}: {answer:?}"));
        assert_eq!(socket.protocol.as_deref(), selected, "{offered:?}");
    }
    sluice.stop().await;
}

#[tokio::test]
async fn a_foreign_origin_is_refused_on_every_transport() {
    let policy = json!({"cors": {"allowedOrigins": ["https://app.example"]}});
    let sluice = Sluice::start(&shop().policy("cors", "shop", policy)).await;
    let port = sluice.port();
    let here = format!("http://127.0.0.1:{port}");
    let upper = format!("HTTP://127.0.0.1:{port}");
    let tls = format!("https://127.0.0.1:{port}");
    let cases = [
        ("https://app.example", true),
        (here.as_str(), true),
        ("https://evil.example", false),
        ("https://app.example.evil", false),
        ("https://evil.app.example", false),
        ("http://app.example", false),
        ("https://app.example:8443", false),
        ("https://APP.example", false),
        ("https://app.example/", false),
        ("http://127.0.0.1:1", false),
        (upper.as_str(), false),
        (tls.as_str(), false),
        ("null", false),
        ("", false),
    ];
    for (origin, allowed) in cases {
        let expected = |good: u16| if allowed { good } else { 403 };
        let header = [("origin", origin)];
        let stream = ask(&sluice, "GET", "/shop/all", &header).await;
        assert_eq!(stream.status, expected(200), "SSE from {origin:?}");
        let publish = ask(&sluice, "POST", "/shop/all", &header).await;
        assert_eq!(publish.status, expected(200), "POST from {origin:?}");
        let upgrade = WebSocket::request(&sluice.url("/shop/all")).header("origin", origin).open().await;
        let status = upgrade.map_or_else(|answer| answer.status, |_| 101);
        assert_eq!(status, expected(101), "WebSocket from {origin:?}");
        if allowed && origin.starts_with("https") {
            for answer in [&stream, &publish] {
                assert_eq!(answer.header("access-control-allow-origin"), origin);
            }
        } else if !allowed {
            assert_eq!(stream.header("access-control-allow-origin"), "", "{origin:?}");
            stream.problem();
        }
    }
    sluice.stop().await;
}

#[tokio::test]
async fn a_preflight_tells_browsers_what_they_may() {
    let policy = json!({"cors": {"allowedOrigins": ["https://app.example"], "allowCredentials": true, "maxAge": "5m"}});
    let sluice = Sluice::start(&shop().policy("cors", "shop", policy)).await;
    let preflight = |origin| {
        [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization,content-type,message-key"),
        ]
    };
    let answer = ask(&sluice, "OPTIONS", "/shop/all", &preflight("https://app.example")).await;
    assert!(matches!(answer.status, 200 | 204), "{answer:?}");
    assert_eq!(answer.header("access-control-allow-origin"), "https://app.example");
    assert_eq!(answer.header("access-control-allow-credentials"), "true");
    assert_eq!(answer.header("access-control-max-age"), "300");
    assert!(answer.header("access-control-allow-methods").contains("POST"), "{answer:?}");
    let allowed = answer.header("access-control-allow-headers").to_ascii_lowercase();
    for name in ["authorization", "content-type", "message-key"] {
        assert!(allowed.contains(name), "{name}: {answer:?}");
    }
    let answer = ask(&sluice, "OPTIONS", "/shop/all", &preflight("https://evil.example")).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (403, ""));
    sluice.stop().await;
}

#[tokio::test]
async fn any_origin_may_be_allowed_by_name() {
    let policy = json!({"cors": {"allowedOrigins": ["*"]}});
    let sluice = Sluice::start(&shop().policy("cors", "shop", policy)).await;
    let answer = ask(&sluice, "POST", "/shop/all", &[("origin", "https://anybody.example")]).await;
    assert_eq!(answer.status, 200);
    assert!(
        matches!(answer.header("access-control-allow-origin"), "*" | "https://anybody.example"),
        "{answer:?}"
    );
    assert_eq!(answer.header("access-control-allow-credentials"), "");
    sluice.stop().await;
}

/// DNS rebinding: a page of another site whose name points here.
#[tokio::test]
async fn a_foreign_host_is_refused() {
    let sluice = Sluice::with(&shop()).arguments(&["--host", "laptop.example"]).start().await;
    let port = sluice.port();
    for (host, allowed) in [
        (format!("127.0.0.1:{port}"), true),
        (format!("localhost:{port}"), true),
        (format!("laptop.example:{port}"), true),
        ("localhost".into(), true),
        (format!("evil.example:{port}"), false),
        (format!("localhost.evil.example:{port}"), false),
        (format!("127.0.0.1.evil.example:{port}"), false),
        ("169.254.169.254".into(), false),
        (String::new(), false),
    ] {
        for head in [
            format!(
                "POST /shop/all HTTP/1.1\r\nHost: {host}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}"
            ),
            format!("GET /shop/all HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\n\r\n"),
            format!(
                "GET /shop/all HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            ),
        ] {
            let mut raw = Raw::connect(port).await;
            raw.send(&head).await;
            let status = raw.status().await;
            assert_eq!(status < 300, allowed, "{status} to {head}");
        }
    }
    sluice.stop().await;
}

/// K03: no credential, a wrong one, and a good one in each place where it may stand.
#[tokio::test]
async fn an_api_key_opens_what_its_policy_closes() {
    let mut rng = seed::rng("keys");
    let ((key, entry), (other, other_entry), (wrong, _)) =
        (api_key(&mut rng), api_key(&mut rng), api_key(&mut rng));
    let documents = shop()
        .policy("keys", "shop", json!({"authentication": {"apiKeys": {"secretRef": {"name": "keys"}}}}))
        .secret("keys", &[("laptop", &entry), ("phone", &other_entry)]);
    let sluice = Sluice::start(&documents).await;
    let offer = |key: &str| {
        use base64::Engine;
        format!("sluice.key.{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(key))
    };
    for (name, allowed) in
        [(key.as_str(), true), (&other, true), (&wrong, false), ("slk_", false), ("", false)]
    {
        let bearer = format!("Bearer {name}");
        for header in [("authorization", bearer.as_str()), ("x-api-key", name)] {
            let (good, bad) = (200, 401);
            let expected = if allowed { good } else { bad };
            assert_eq!(ask(&sluice, "GET", "/shop/all", &[header]).await.status, expected, "{header:?}");
            let answer = ask(&sluice, "POST", "/shop/all", &[header]).await;
            assert_eq!(answer.status, expected, "{header:?}");
            if !allowed {
                answer.problem();
            }
            let upgrade =
                WebSocket::request(&sluice.url("/shop/all")).header(header.0, header.1).open().await;
            assert_eq!(upgrade.map_or_else(|answer| answer.status, |_| 200), expected, "{header:?}");
        }
        if name.is_empty() {
            continue;
        }
        let upgrade =
            WebSocket::request(&sluice.url("/shop/all")).protocol(&offer(name)).protocol(JSON).open().await;
        match upgrade {
            Ok(socket) => assert_eq!((allowed, socket.protocol.as_deref()), (true, Some(JSON))),
            Err(answer) => assert_eq!((allowed, answer.status), (false, 401), "{answer:?}"),
        }
    }
    assert_eq!(ask(&sluice, "GET", "/shop/all", &[]).await.status, 401);
    let alone = WebSocket::request(&sluice.url("/shop/all")).protocol(&offer(&key)).open().await;
    assert_eq!(alone.map_or_else(|answer| answer.status, |_| 101), 400, "a key offered alone");
    for parameter in ["key", "token", "ticket", "access_token", "api_key"] {
        let status = ask(&sluice, "GET", &format!("/shop/all?{parameter}={key}"), &[]).await.status;
        assert!(matches!(status, 400 | 401 | 501), "a key in the URL gave {status}");
    }
    assert!(!sluice.log().contains(&key) && !sluice.log().contains(&wrong), "a key was logged");
    sluice.stop().await;
}

/// What `sluice key create` prints is what a Secret wants.
#[tokio::test]
async fn a_key_made_by_the_command_line_works() {
    let output = sluice_tests::sluice::command(&["key", "create", "keys"]);
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).expect("text")).concat();
    let key =
        text.split_whitespace().find(|word| word.starts_with("slk_")).unwrap_or_else(|| panic!("{text}"));
    let line = text.lines().find(|line| line.contains(": sha256:")).unwrap_or_else(|| panic!("{text}"));
    let (id, entry) = line.trim().split_once(": ").expect("an entry");
    let documents = shop()
        .policy("keys", "shop", json!({"authentication": {"apiKeys": {"secretRef": {"name": "keys"}}}}))
        .secret("keys", &[(id, entry.trim_matches('"'))]);
    let sluice = Sluice::start(&documents).await;
    let bearer = format!("Bearer {key}");
    assert_eq!(ask(&sluice, "POST", "/shop/all", &[("authorization", &bearer)]).await.status, 200);
    assert_eq!(ask(&sluice, "POST", "/shop/all", &[]).await.status, 401);
    sluice.stop().await;
}

/// Browsers cannot see the status of a refused upgrade: they get 101 and a close code.
#[tokio::test]
async fn a_browser_sees_why_its_websocket_is_refused() {
    let documents = shop()
        .api(Api::new("secret").memory().channel(Channel::both_ways("all", "all")))
        .policy("keys", "secret", json!({"authentication": {"apiKeys": {"secretRef": {"name": "keys"}}}}))
        .secret("keys", &[("laptop", &api_key(&mut seed::rng("browser")).1)]);
    let sluice = Sluice::start(&documents).await;
    let here = format!("http://127.0.0.1:{}", sluice.port());
    for (path, status, code) in [
        ("/shop/nothing", 404, 4404),
        ("/nothing/all", 404, 4404),
        ("/shop/all?cursor=nonsense", 400, 4400),
        ("/secret/all", 401, 4401),
    ] {
        let plain = WebSocket::request(&sluice.url(path)).protocol(JSON).open().await;
        assert_eq!(plain.map_or_else(|answer| answer.status, |_| 101), status, "{path}");
        let browser =
            WebSocket::request(&sluice.url(path)).protocol(JSON).header("origin", &here).open().await;
        let mut socket = browser.unwrap_or_else(|answer| panic!("{path}: {answer:?}"));
        let (seen, reason) = socket.close_code().await;
        assert_eq!(seen, code, "{path}: {reason}");
        assert!(!reason.is_empty(), "{path}: a reason is given");
    }
    sluice.stop().await;
}

/// EventSource gives up for ever after any status but 200.
#[tokio::test]
async fn a_transient_refusal_does_not_end_an_event_source() {
    let documents = shop().policy("limits", "shop", json!({"limits": {"connections": 1}}));
    let sluice = Sluice::start(&documents).await;
    let url = sluice.url("/shop/all");
    let _holds_the_only_place = Sse::begin(&url).await;
    let mut refused = Sse::open(&url).await;
    let mut retry = None;
    let throttled = loop {
        let block = refused.block().await;
        retry = retry.or(block.retry);
        if !block.event.is_empty() {
            break block;
        }
        assert_eq!((block.id, block.data), (None, None));
    };
    assert_eq!(throttled.event, "throttled");
    assert!(throttled.frame().detail.is_some_and(|detail| !detail.is_empty()), "it says why");
    assert!(retry.is_some_and(|ms| ms > 0), "it says when to come back");
    assert_eq!(refused.next().await, None, "then it ends");
    let strict = Sse::request(&format!("{url}?sse=strict")).open().await;
    let answer = strict.expect_err("strict clients get a status");
    assert_eq!(answer.status, 429, "{answer:?}");
    assert!(answer.header("retry-after").parse::<u32>().is_ok(), "{answer:?}");
    answer.problem();
    let upgrade = WebSocket::request(&url).open().await.expect_err("the only place is taken");
    assert_eq!(upgrade.status, 429);
    // A final refusal is a status for everybody.
    let unknown =
        Sse::request(&sluice.url("/shop/nothing")).open().await.expect_err("there is no such channel");
    assert_eq!(unknown.status, 404);
    sluice.stop().await;
}
