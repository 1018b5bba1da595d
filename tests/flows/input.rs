//! Hostile clients and files: the answers of the contract, bounded memory, and no secret anywhere.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sluice_tests::client::http::{self, publish};
use sluice_tests::client::raw::Raw;
use sluice_tests::client::websocket::JSON;
use sluice_tests::documents::{Api, Channel, Documents, key_entry};
use sluice_tests::kafka::{Listener, USERS};
use sluice_tests::otel::Collector;
use sluice_tests::wait::within;
use sluice_tests::{Cluster, Sluice, Sse, WebSocket, certs, seed, sluice};

fn memory() -> Documents {
    Documents::new().api(Api::new("shop").memory().channel(Channel::both_ways("orders", "orders")))
}

/// Resident bytes and open files of a process.
fn usage(pid: u32) -> (u64, usize) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a size");
    let kib: u64 = line.split_whitespace().nth(1).and_then(|it| it.parse().ok()).expect("a number");
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count();
    (kib * 1024, files)
}

/// Publishing and receiving work, quickly.
async fn serves(sluice: &Sluice) {
    let url = sluice.url("/shop/orders");
    let begun = Instant::now();
    let mut stream = Sse::begin(&url).await;
    let text = seed::unique("serves");
    assert_eq!(publish(&url, &[("content-type", "text/plain")], text.clone()).await.status, 200);
    assert_eq!(stream.message().await.data, Some(text));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

/// Seeded canaries in every place where a secret or a payload can stand are found in no log, no
/// metric, no configuration dump and no telemetry.
#[tokio::test]
async fn canaries_are_found_nowhere() {
    let kafka = Cluster::start(1).await;
    let collector = Collector::start().await;
    let mut rng = seed::rng("canaries");
    let mut canary = |kind: &str| -> String {
        let tail: String = std::iter::repeat_with(|| rng.alphanumeric()).take(24).collect();
        format!("canary{kind}{tail}")
    };
    let (password, payload, key, header) =
        (canary("password"), canary("payload"), canary("key"), canary("header"));
    let (good, wrong) = (format!("slk_{}", canary("good")), format!("slk_{}", canary("wrong")));
    let (agent, cookie, query) = (canary("agent"), canary("cookie"), canary("query"));
    let user = USERS[1].0;
    kafka.set_password(user, &password);
    let topic = kafka.topic("canary", 1).await;
    kafka.allow(user, &topic);
    let bundle = certs::bundle();
    let server = kafka.sasl_server(Listener::Sasl, "SCRAM-SHA-512", "login");
    let documents = Documents::new()
        .api(Api::new("shop").server("events", server).channel(Channel::both_ways("orders", &topic)))
        .policy("keys", "shop", json!({"authentication": {"apiKeys": {"secretRef": {"name": "keys"}}}}))
        .secret("keys", &[("laptop", &key_entry(&good))])
        .secret("login", &[("username", user), ("password", &password)])
        .tls_secret("edge", &bundle.server.certificate, &bundle.server.key);
    let setup = Sluice::with(&documents)
        .tls("default/edge")
        .environment("SLUICE_LOG", "debug")
        .environment("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint());
    let mut sluice = setup.start().await;
    sluice.expect_log(&["apis.yaml", "shop", "kafka", "Kafka"]);
    let url = sluice.url("/shop/orders");
    let opened = WebSocket::request(&url).protocol(JSON).header("x-api-key", &good).open().await;
    let mut socket = opened.unwrap_or_else(|answer| panic!("{answer:?}"));
    socket.frame().await;
    let header_name = format!("message-header-{}", header.to_lowercase());
    let headers = [
        ("x-api-key", good.as_str()),
        ("message-key", &key),
        (header_name.as_str(), &header),
        ("user-agent", &agent),
        ("cookie", &cookie),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ];
    assert_eq!(publish(&format!("{url}?x={query}"), &headers, payload.clone()).await.status, 200);
    let message = socket.message().await;
    assert_eq!(message.payload(), Some(payload.clone().into()));
    let cursor = message.cursor.expect("a cursor");
    // Everything that fails, too.
    for headers in [[("x-api-key", wrong.as_str())], [("authorization", wrong.as_str())]] {
        assert_eq!(publish(&url, &headers, payload.clone()).await.status, 401);
    }
    let _ = Sse::request(&format!("{url}?cursor={query}")).header("x-api-key", &good).open().await;
    let _ = Sse::request(&format!("{url}?access_token={wrong}")).open().await;
    let _ = http::get(&sluice.url(&format!("/{payload}/{key}?{query}"))).await;
    socket.send(&json!({"type": payload, "data": payload})).await;
    socket.send(&json!({"type": "publish", "id": key, "dataBase64": payload})).await;
    let broken = documents.text().replace("\"spec\"", &format!("\"{query}\": 1, \"spec\""));
    sluice.write_text(&broken);
    within(Duration::from_secs(10), "the edit is judged", || async {
        sluice.log().contains("apis.yaml").then_some(())
    })
    .await;
    let secret_lines: Vec<String> =
        bundle.server.key.lines().filter(|line| line.len() > 40).map(str::to_owned).collect();
    let telemetry = collector
        .find("telemetry", |documents| (documents.len() > 1).then(|| json!(documents).to_string()))
        .await;
    let (_, ready) = sluice.readyz().await;
    let metrics = http::get(&sluice.admin("/metrics")).await.expect("served").text();
    let config = sluice.config().await.to_string();
    let state: String = walk(sluice.state()).into_iter().map(|(_, text)| text).collect();
    drop(socket);
    sluice.signal(libc::SIGTERM);
    assert!(sluice.ended(Duration::from_secs(20)).await.success());
    let log = sluice.log();
    for (place, text) in [
        ("log", &log),
        ("metrics", &metrics),
        ("config", &config),
        ("readyz", &ready),
        ("telemetry", &telemetry),
        ("state", &state),
    ] {
        for secret in [&password, &payload, &key, &header, &good, &wrong, &agent, &cookie, &cursor] {
            assert!(!text.contains(secret.as_str()), "{secret} in the {place}");
            let lower = secret.to_lowercase();
            assert!(!text.contains(lower.as_str()), "{lower} in the {place}");
        }
        for line in &secret_lines {
            assert!(!text.contains(line.as_str()), "the private key in the {place}");
        }
    }
    for line in log.lines().filter(|line| line.starts_with('{')) {
        assert!(serde_json::from_str::<Value>(line).is_ok(), "not one JSON line an event: {line}");
    }
}

/// Every file below `path` with its text.
fn walk(path: &std::path::Path) -> Vec<(std::path::PathBuf, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(walk(&path));
        } else {
            let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap_or_default()).into_owned();
            found.push((path, text));
        }
    }
    found
}

/// Keys of cursors are nobody else's.
#[tokio::test]
async fn the_state_is_readable_by_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let sluice = Sluice::start(&memory()).await;
    let files = walk(sluice.state());
    assert!(!files.is_empty(), "the key of the cursors is kept");
    for (path, _) in files {
        let mode = path.metadata().expect("a file").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} is {mode:o}", path.display());
    }
    sluice.stop().await;
}

#[tokio::test]
async fn ten_thousand_connects_leave_nothing_behind() {
    let sluice = Sluice::start(&memory()).await;
    serves(&sluice).await;
    let port = sluice.port();
    let url = sluice.url("/shop/orders");
    let mut before = None;
    for round in 0..20 {
        let mut tasks = Vec::new();
        for kind in 0..500 {
            let url = url.clone();
            tasks.push(tokio::spawn(async move {
                match kind % 5 {
                    0 | 1 => drop(Raw::connect(port).await),
                    2 => {
                        let mut raw = Raw::connect(port).await;
                        raw.send("GET /shop/orders HTTP/1.1\r\nHost: loc").await;
                    }
                    3 => drop(WebSocket::open(&url, JSON).await),
                    _ => {
                        let mut raw = Raw::connect(port).await;
                        raw.send("GET /shop/orders HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
                        raw.until("text/event-stream").await;
                    }
                }
            }));
        }
        for task in tasks {
            task.await.expect("a client");
        }
        if round == 3 {
            before = Some(settled(&sluice).await);
        }
    }
    let (bytes_before, files_before) = before.expect("there were rounds");
    let (bytes, files) = settled(&sluice).await;
    assert!(files <= files_before + 2, "{files_before} files became {files}");
    assert!(bytes < bytes_before + (12 << 20), "{bytes_before} bytes became {bytes}");
    serves(&sluice).await;
    sluice.stop().await;
}

/// Usage once no connection is open any more.
async fn settled(sluice: &Sluice) -> (u64, usize) {
    within(Duration::from_secs(20), "all connections are gone", || async {
        let open = sluice.metrics().await.sum("connections", &[]);
        let (_, files) = usage(sluice.pid());
        (open == 0.0 && files < 60).then_some(())
    })
    .await;
    usage(sluice.pid())
}

/// Slowloris: five hundred clients that never finish, and one that does.
#[tokio::test]
async fn clients_that_never_finish_a_request_hold_nobody_up() {
    let sluice = Sluice::start(&memory()).await;
    let begun = Instant::now();
    let mut held = Vec::new();
    for n in 0..500 {
        let mut raw = Raw::connect(sluice.port()).await;
        let text = [
            "",
            "GET /shop/orders HT",
            "GET /shop/orders HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
            "POST /shop/orders HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nx",
        ];
        raw.send(text[n % text.len()]).await;
        held.push(raw);
    }
    serves(&sluice).await;
    // They are ended, each within a deadline of its own.
    for raw in &mut held {
        let left = Duration::from_secs(75).saturating_sub(begun.elapsed());
        assert!(raw.to_end(left).await.is_some(), "still open after {:?}", begun.elapsed());
    }
    serves(&sluice).await;
    sluice.stop().await;
}

#[tokio::test]
async fn what_is_not_http_is_refused() {
    let sluice = Sluice::start(&memory()).await;
    let long = "x".repeat(200_000);
    let many: String = (0..2_000).map(|n| format!("x-{n}: 1\r\n")).collect();
    let cases = [
        ("\0\0\0\0".to_owned(), &[400][..]),
        ("\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\u{3}\u{3}".into(), &[400]),
        ("GET\r\n\r\n".into(), &[400]),
        ("GET / HTTP/9.9\r\n\r\n".into(), &[400, 505]),
        ("GET /shop/orders HTTP/1.1\r\n\r\n".into(), &[400, 403, 421]),
        ("GET /shop/orders HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n".into(), &[400, 403, 421]),
        ("GET /shop/orders HTTP/1.1\r\nHost: localhost\r\nbad header\r\n\r\n".into(), &[400]),
        ("GET /shop/orders HTTP/1.1\r\nHost: localhost\r\nx: a\0b\r\n\r\n".into(), &[400]),
        ("GET /shop/orders HTTP/1.1\r\nHost: localhost\r\n continued\r\n\r\n".into(), &[400]),
        (format!("GET /{long} HTTP/1.1\r\nHost: localhost\r\n\r\n"), &[400, 414, 431]),
        (format!("GET /shop/orders HTTP/1.1\r\nHost: localhost\r\nx: {long}\r\n\r\n"), &[400, 431]),
        (format!("GET /shop/orders HTTP/1.1\r\nHost: localhost\r\n{many}\r\n"), &[400, 431]),
        ("GET http://evil.example/shop/orders HTTP/1.1\r\nHost: localhost\r\n\r\n".into(), &[400, 403, 421]),
        ("CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n".into(), &[400, 403, 404, 405, 421]),
        ("GET /shop/../-/ HTTP/1.1\r\nHost: localhost\r\n\r\n".into(), &[400, 404]),
        ("GET /shop/orders%00 HTTP/1.1\r\nHost: localhost\r\n\r\n".into(), &[400, 404]),
        ("GET /shop%2forders HTTP/1.1\r\nHost: localhost\r\n\r\n".into(), &[400, 404]),
    ];
    for (text, expected) in cases {
        let mut raw = Raw::connect(sluice.port()).await;
        raw.send(&text).await;
        let answer = raw.until_line_or_end().await;
        let shown: String = text.chars().take(60).collect();
        if answer.is_empty() {
            continue; // Closed without a word: what is no HTTP needs none.
        }
        let status: u16 = answer.split(' ').nth(1).and_then(|it| it.parse().ok()).unwrap_or_default();
        assert!(expected.contains(&status), "{shown:?}: {answer}");
    }
    serves(&sluice).await;
    for line in sluice.log().lines() {
        assert!(serde_json::from_str::<Value>(line).is_ok(), "not one JSON line an event: {line}");
    }
    sluice.stop().await;
}

/// A client that never reads costs a bounded number of bytes.
#[tokio::test]
async fn clients_that_never_read_cost_bounded_memory() {
    let channel = Channel::both_ways("orders", "orders")
        .set("/subscribe/replay", json!({"messages": 100, "bytes": 4_000_000}));
    let mut sluice = Sluice::start(&Documents::new().api(Api::new("shop").memory().channel(channel))).await;
    sluice.expect_log(&["slow"]);
    let url = sluice.url("/shop/orders");
    let body = "x".repeat(50_000);
    publish(&url, &[], body.clone()).await;
    let (before, _) = usage(sluice.pid());
    let mut silent = Vec::new();
    for n in 0..100 {
        let mut raw = Raw::connect(sluice.port()).await;
        raw.send(if n % 2 == 0 {
            "GET /shop/orders HTTP/1.1\r\nHost: localhost\r\n\r\n"
        } else {
            "GET /shop/orders HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        })
        .await;
        raw.head().await;
        silent.push(raw);
    }
    for _ in 0..600 {
        assert_eq!(publish(&url, &[], body.clone()).await.status, 200);
    }
    let (after, _) = usage(sluice.pid());
    assert!(after < before + (48 << 20), "{before} bytes became {after}");
    drop(silent);
    serves(&sluice).await;
    sluice.stop().await;
}

/// Every problem of a file at once, with what to write instead.
#[tokio::test]
async fn hostile_files_are_refused_with_every_problem() {
    let directory = sluice_tests::process::directory("hostile");
    let check = |name: &str, text: &str| {
        let file = directory.join(format!("{name}.yaml"));
        std::fs::write(&file, text).expect("a file can be written");
        let begun = Instant::now();
        let output = sluice::command(&["check", "-f", &file.display().to_string()]);
        assert!(begun.elapsed() < Duration::from_secs(3), "{name} took {:?}", begun.elapsed());
        let told =
            [output.stdout, output.stderr].map(|it| String::from_utf8_lossy(&it).into_owned()).concat();
        assert!(told.len() < 100_000, "{name}: {} bytes of problems", told.len());
        assert!(!told.contains("panicked"), "{name}: {told}");
        (output.status.code(), told)
    };
    let api = |spec: Value| {
        json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "StreamAPI", "metadata": {"name": "shop"}, "spec": spec}).to_string()
    };
    let good = json!({
        "servers": [{"name": "events", "memory": {}}],
        "channels": [{"name": "orders", "server": "events", "address": "a", "subscribe": {"transports": {"sse": {}}}}],
    });
    let with = |pointer: &str, value: Value| {
        let mut spec = good.clone();
        let (parent, field) = pointer.rsplit_once('/').expect("a pointer");
        spec.pointer_mut(parent).expect("it exists")[field] = value;
        api(spec)
    };
    assert_eq!(check("good", &api(good.clone())).0, Some(0));
    let two = format!(
        "{}\n---\n{}",
        with("/basePath", json!("/same")),
        with("/basePath", json!("/same")).replace("\"shop\"", "\"other\"")
    );
    let anchors: String = (1..10).fold("a: &a0 [x, x]\n".into(), |text, n| {
        format!("{text}b{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(","))
    });
    #[rustfmt::skip]
    let cases = [
        ("unknown-field", with("/colour", json!("blue")), &["colour"][..]),
        ("two-kinds", with("/servers", json!([{"name": "events", "memory": {}, "generator": {}}])), &["memory", "generator"]),
        ("no-kind", with("/servers", json!([{"name": "events"}])), &["servers[0]"]),
        ("unknown-kind", with("/servers", json!([{"name": "events", "rabbitmq": {}}])), &["rabbitmq"]),
        ("duplicate-server", with("/servers", json!([{"name": "events", "memory": {}}, {"name": "events", "memory": {}}])), &["servers[1].name"]),
        ("dangling", with("/channels/0/server", json!("nowhere")), &["nowhere"]),
        ("poll", with("/channels/0/subscribe", json!({"transports": {"poll": {}}})), &["poll"]),
        ("earliest", with("/channels/0/subscribe/start", json!("earliest")), &["start"]),
        ("queue", with("/channels/0/subscribe/delivery", json!("queue")), &["delivery"]),
        ("long-name", with("/channels/0/name", json!("x".repeat(1 << 20))), &["name"]),
        ("long-address", with("/channels/0/address", json!("x".repeat(1 << 20))), &["address"]),
        ("wrong-type", with("/channels", json!({"orders": 1})), &["channels"]),
        ("numbers", with("/channels/0/subscribe/replay", json!({"messages": -1, "bytes": 1e300, "age": "x"})), &["messages", "age"]),
        ("reserved", with("/basePath", json!("/-/admin")), &["basePath"]),
        ("traversal", with("/channels/0/path", json!("/../x")), &["path"]),
        ("retired", with("/lifecycle", json!({"state": "Retired"})), &["Retired"]),
        ("two-on-one-path", two, &["/same/orders"]),
        ("property", with("/servers", json!([{"name": "events", "kafka": {"brokers": ["k:9092"],
            "properties": {"sasl.kerberos.kinit.cmd": "touch /tmp/pwned", "ssl.engine.location": "x", "a\nb": "c"}}}])),
            &["sasl.kerberos.kinit.cmd", "ssl.engine.location"]),
        ("alias-bomb", anchors, &["yaml"]),
        ("deep", "[".repeat(100_000), &["yaml"]),
        ("deep-map", "a: ".repeat(100_000), &["yaml"]),
        ("duplicate-key", "apiVersion: sluice.dev/v1alpha1\napiVersion: x\nkind: StreamAPI\n".into(), &["apiVersion"]),
        ("binary", "\u{1}\u{2}\u{3}".into(), &["yaml"]),
        ("tag", "!!python/object/apply:os.system ['touch /tmp/pwned']".into(), &["yaml"]),
    ];
    for (name, text, parts) in cases {
        let (code, told) = check(name, &text);
        assert_eq!(code, Some(1), "{name}: {told}");
        for part in parts {
            assert!(told.contains(part), "{name} does not tell {part}: {told}");
        }
    }
    let mut many = good.clone();
    many["channels"] =
        (0..200).map(|n| json!({"name": format!("Bad{n}"), "server": "no", "address": "", "x": 1})).collect();
    let (code, told) = check("many", &api(many));
    assert_eq!(code, Some(1));
    assert!(told.contains("channels[0]") && told.lines().count() > 20, "{told}");
    assert!(!std::path::Path::new("/tmp/pwned").exists());
}
