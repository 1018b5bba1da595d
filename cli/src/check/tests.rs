use super::*;
use crate::yaml::tests::{BUDGET, cpu_time};

/// Fourteen good lines; cases put others in their place or after them.
const API: &str = "\
apiVersion: sluice.dev/v1alpha1
kind: StreamAPI
metadata:
  name: shop
spec:
  servers:
  - name: log
    memory: {}
  channels:
  - name: orders
    server: log
    address: orders
    subscribe:
      transports: {sse: {}}
";

const POLICY: &str = "\
apiVersion: sluice.dev/v1alpha1
kind: StreamPolicy
metadata: {name: keys}
spec:
  targetRefs: [{kind: StreamAPI, name: shop}]
  authentication: {apiKeys: {secretRef: {name: shop-keys}}}
";

const SECRET: &str = "\
apiVersion: v1
kind: Secret
metadata: {name: shop-keys, labels: {sluice.dev/use: \"true\"}}
stringData:
  alice: sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
";

/// What `check` says of files with these contents: `file:line: at: message` each.
fn found(files: &[(&str, &str)]) -> Vec<String> {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, text) in files {
        std::fs::write(directory.path().join(name), text).expect("written");
    }
    let args = Input { files: vec![directory.path().to_owned()], namespace: "default".into() };
    let begun = cpu_time();
    let reports = args.read().reports;
    let took = cpu_time() - begun;
    assert!(took < BUDGET, "{took:?}");
    let root = format!("{}/", directory.path().display());
    reports.iter().map(|report| report.to_string().replace(&root, "")).collect()
}

/// The API with `from` replaced by `to`.
fn api(from: &str, to: &str) -> String {
    assert_eq!(API.matches(from).count(), 1, "{from}");
    API.replace(from, to)
}

/// The API and what follows it as further documents.
fn with(more: &[&str]) -> String {
    more.iter().fold(API.to_owned(), |text, document| format!("{text}---\n{document}"))
}

/// The API with a Kafka server that has these lines in it.
fn kafka(lines: &str) -> String {
    let lines = lines.replace('\n', "\n      ");
    api("    memory: {}", &format!("    kafka:\n      brokers: [\"kafka:9092\"]\n      {lines}"))
}

#[test]
fn good_files_have_no_problems() {
    assert_eq!(found(&[("a.yaml", &with(&[POLICY, SECRET]))]), Vec::<String>::new());
    let list =
        "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: ConfigMap\n  metadata: {name: x}\n";
    assert_eq!(found(&[("a.yaml", list), ("b.yaml", API)]), Vec::<String>::new());
    assert_eq!(found(&[("a.json", &json(API))]), Vec::<String>::new());
}

fn json(text: &str) -> String {
    let documents = crate::yaml::tests::parse(text).expect("parses");
    serde_json::to_string_pretty(&documents[0].root.value()).expect("JSON")
}

/// One problem each: a name, the file, and what is said of it.
#[test]
fn each_problem_is_told_with_line_path_and_what_to_write() {
    let megabyte = "x".repeat(1 << 20);
    let cases: Vec<(&str, String, &str)> = vec![
        (
            "unknown field",
            api("    address:", "    adress: a\n    address:"),
            "12: spec.channels[0].adress: `adress` is not a field; did you mean `address`?",
        ),
        (
            "unknown field of the root",
            format!("{API}extra: 1\n"),
            "15: extra: `extra` is not a field; remove it",
        ),
        (
            "gateway without a name",
            format!("{API}  placement: {{gateway: {{}}}}\n"),
            "15: spec.placement.gateway.name: is missing; add `name: …`",
        ),
        (
            "transport of the future",
            api("{sse: {}}", "{sse: {}, poll: {}}"),
            "14: spec.channels[0].subscribe.transports.poll: `poll` is not implemented by this build",
        ),
        (
            "start of the future",
            api("      transports", "      start: earliest\n      transports"),
            "14: spec.channels[0].subscribe.start: `start` is not implemented by this build",
        ),
        (
            "acknowledgements of the future",
            api("      transports", "      guarantee: atLeastOnce\n      transports"),
            "`guarantee` is not implemented by this build",
        ),
        (
            "a type of a message schema misspelt",
            api(
                "    address: orders\n",
                "    address: orders\n    message:\n      payload:\n        properties:\n          total: {type: nubmer}\n",
            ),
            "16: spec.channels[0].message.payload.properties.total.type: `nubmer` is not a type; write one of",
        ),
        (
            "a message schema that leads elsewhere",
            api(
                "    address: orders\n",
                "    address: orders\n    message: {payload: {$ref: \"https://a.example/b\"}}\n",
            ),
            "13: spec.channels[0].message.payload.$ref: `https://a.example/b` leads out of this schema",
        ),
        (
            "server of the future",
            api("memory: {}", "rabbitmq: {url: x}"),
            "8: spec.servers[0].rabbitmq: `rabbitmq` is not implemented by this build",
        ),
        (
            "state of the future",
            format!("{API}  lifecycle: {{state: Draft}}\n"),
            "15: spec.lifecycle.state: `Draft` is not implemented by this build; write `Published`",
        ),
        (
            "kind of a gateway misspelt",
            "apiVersion: sluice.dev/v1alpha1\nkind: StreamGatewai\nmetadata: {name: x}\n".into(),
            "2: kind: `StreamGatewai` is not a kind; did you mean `StreamGateway`?",
        ),
        (
            "no kind set in a union",
            api("\n    memory: {}", ""),
            "7: spec.servers[0]: sets no kind; add one of `kafka`, `memory`, `generator`",
        ),
        (
            "two kinds set in a union",
            api("memory: {}", "memory: {}\n    generator: {}"),
            "7: spec.servers[0]: sets `memory`, `generator`; keep exactly one",
        ),
        (
            "union as a word",
            api("- name: log\n    memory: {}", "- memory"),
            "7: spec.servers[0]: must be a mapping; write `{memory: {}}`",
        ),
        (
            "empty transport",
            api("{sse: {}}", "{sse: }"),
            "14: spec.channels[0].subscribe.transports.sse: is empty; write `sse: {}`",
        ),
        (
            "transports as a list",
            api("{sse: {}}", "[sse]"),
            "14: spec.channels[0].subscribe.transports: must be a mapping, not a list; write `transports: {sse: {}}`",
        ),
        (
            "no transport",
            api("{sse: {}}", "{}"),
            "14: spec.channels[0].subscribe.transports: add `websocket: {}`, `sse: {}` or both",
        ),
        (
            "channel that does nothing",
            api("    subscribe:\n      transports: {sse: {}}\n", ""),
            "10: spec.channels[0]: does nothing; add `subscribe`, `publish` or both",
        ),
        (
            "missing field",
            api("    address: orders\n", ""),
            "10: spec.channels[0].address: is missing; add `address: …`",
        ),
        (
            "missing list",
            api("  servers:\n  - name: log\n    memory: {}\n", ""),
            "5: spec.servers: is missing; add `servers: […]`",
        ),
        ("missing name", api("metadata:\n  name: shop", "metadata: {}"), "3: metadata.name: is missing"),
        (
            "missing spec",
            "apiVersion: sluice.dev/v1alpha1\nkind: StreamAPI\nmetadata: {name: x}\n".into(),
            "1: spec: is missing; add `spec: {…}`",
        ),
        (
            "misspelt kind",
            api("StreamAPI", "StreamApi"),
            "2: kind: `StreamApi` is not a kind; did you mean `StreamAPI`?",
        ),
        (
            "foreign kind",
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n".into(),
            "2: kind: `Deployment` is not a kind that is used here; remove it",
        ),
        ("no kind", "metadata: {name: x}\n".into(), "1: kind: is missing; add `kind: StreamAPI`"),
        (
            "another version",
            api("v1alpha1", "v2"),
            "1: apiVersion: `sluice.dev/v2` has no StreamAPI that is known here; write `apiVersion: sluice.dev/v1alpha1`",
        ),
        (
            "not an object",
            "- a\n- b\n".into(),
            "1: is not an object; write apiVersion, kind, metadata and spec",
        ),
        (
            "name of an API",
            api("name: shop", "name: Shop_1"),
            "4: metadata.name: `Shop_1` does not fit; use a-z",
        ),
        (
            "duplicate server",
            api("  channels:", "  - name: log\n    generator: {}\n  channels:"),
            "9: spec.servers[1].name: `log` stands at servers[0] too; give each its own",
        ),
        (
            "duplicate channel",
            format!(
                "{API}  - {{name: orders, server: log, address: b, publish: {{transports: {{http: {{}}}}}}}}\n"
            ),
            "15: spec.channels[1].name: `orders` stands at channels[0] too",
        ),
        (
            "duplicate path",
            format!(
                "{API}  - {{name: b, path: /orders, server: log, address: b, publish: {{transports: {{http: {{}}}}}}}}\n"
            ),
            "15: spec.channels[1].path: is the path of channels[0] too; set another `path`",
        ),
        (
            "duplicate key",
            api("    server: log", "    server: log\n    server: log"),
            "12: spec.channels[0].server: is set on line 11 already; keep one",
        ),
        (
            "merge key",
            api("    server: log", "    <<: {a: b}\n    server: log"),
            "11: spec.channels[0][\"<<\"]: merge keys are not used here; write the fields out",
        ),
        (
            "tag",
            api("name: shop", "name: !env SHOP"),
            "4: metadata.name: has a tag that is not used here; remove the tag",
        ),
        (
            "dangling server",
            api("server: log", "server: lag"),
            "11: spec.channels[0].server: no server is called `lag`; the servers are: log",
        ),
        (
            "reserved path",
            format!("{API}  basePath: /-/x\n"),
            "15: spec.basePath: /-/ is reserved; choose another path",
        ),
        (
            "channel parameter",
            api("address: orders", "address: \"rooms.{roomId}\""),
            "12: spec.channels[0].address: channel parameters are not implemented by this build",
        ),
        (
            "number as a string",
            api("address: orders", "address: 5"),
            "12: spec.channels[0].address: must be a string; put it in quotes",
        ),
        (
            "word that YAML takes for a boolean",
            api("address: orders", "address: on"),
            "12: spec.channels[0].address: must be a string; put it in quotes",
        ),
        (
            "string as a number",
            api("    subscribe:\n", "    subscribe:\n      replay: {messages: \"5\"}\n"),
            "14: spec.channels[0].subscribe.replay.messages: must be a whole number, without quotes",
        ),
        (
            "number out of bounds",
            api("    subscribe:\n", "    subscribe:\n      replay: {messages: 0}\n"),
            "14: spec.channels[0].subscribe.replay.messages: must be between 1 and 1000000",
        ),
        (
            "huge number",
            api("    subscribe:\n", "    subscribe:\n      replay: {bytes: 99999999999999999999999}\n"),
            "14: spec.channels[0].subscribe.replay.bytes: must be",
        ),
        (
            "duration",
            api("    subscribe:\n", "    subscribe:\n      timeout: 5 seconds\n"),
            "14: spec.channels[0].subscribe.timeout: `5 seconds` does not fit; write a duration like",
        ),
        (
            "duration out of bounds",
            api("    subscribe:\n", "    subscribe:\n      timeout: 2h\n"),
            "14: spec.channels[0].subscribe.timeout: must be between 1s and 1m",
        ),
        (
            "date",
            format!("{API}  lifecycle: {{sunsetAt: tomorrow}}\n"),
            "15: spec.lifecycle.sunsetAt: is not an RFC 3339 time; write it like 2026-12-31T00:00:00Z",
        ),
        (
            "a string of one MiB",
            api("address: orders", &format!("address: {megabyte}")),
            "12: spec.channels[0].address: has 1048576 characters; write at most 249",
        ),
        (
            "an enum of one MiB",
            format!("{API}  lifecycle: {{state: {megabyte}}}\n"),
            "15: spec.lifecycle.state: `xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…` is not a value here",
        ),
        (
            "a key of one MiB",
            format!("{API}  ? {megabyte}\n  : 1\n"),
            "15: spec[\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…\"]: `xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…` is not a field",
        ),
        (
            "NUL in an address",
            api("address: orders", "address: \"a\\0b\""),
            "12: spec.channels[0].address: must not contain control characters",
        ),
        (
            "line break in a name",
            api("name: orders", "name: \"a\\nb\""),
            "10: spec.channels[0].name: `a\u{fffd}b` does not fit",
        ),
        (
            "terminal codes in a field",
            format!("{API}  \"\\e[2J\": 1\n"),
            "15: spec[\"\u{fffd}[2J\"]: `\u{fffd}[2J` is not a field",
        ),
        (
            "text that turns direction",
            api("name: orders", "name: \"a\\u202eb\""),
            "10: spec.channels[0].name: `a\u{fffd}b` does not fit",
        ),
        (
            "program as a property",
            kafka("properties: {sasl.kerberos.kinit.cmd: rm}"),
            "10: spec.servers[0].kafka.properties[\"sasl.kerberos.kinit.cmd\"]: is not a setting that may be passed; remove it",
        ),
        (
            "plug-in as a property",
            kafka("properties:\n  plugin.library.paths: /tmp/x.so"),
            "11: spec.servers[0].kafka.properties[\"plugin.library.paths\"]: is not a setting",
        ),
        (
            "credential as a property",
            kafka("properties: {ssl.key.pem: hunter2}"),
            "[\"ssl.key.pem\"]: is not a setting that may be passed; remove it (credentials go to `sasl` and `tls`",
        ),
        (
            "hostile property key",
            kafka("properties: {\"a\\nb\\\"]\": x}"),
            "10: spec.servers[0].kafka.properties[\"a\u{fffd}b\\\"]\"]: is not a setting",
        ),
        (
            "property with a line break",
            kafka("properties: {client.id: \"a\\nacks=0\"}"),
            "10: spec.servers[0].kafka.properties[\"client.id\"]: must be at most 256 characters without control",
        ),
        (
            "property as a number",
            kafka("properties: {linger.ms: 5}"),
            "10: spec.servers[0].kafka.properties[\"linger.ms\"]: must be a string; put it in quotes",
        ),
        (
            "broker without a port",
            api("memory: {}", "kafka: {brokers: [kafka]}"),
            "8: spec.servers[0].kafka.brokers[0]: `kafka` does not fit; write host:port",
        ),
        (
            "password in the clear",
            kafka("sasl: {mechanism: PLAIN, secretRef: {name: shop-keys}}")
                + "---\n"
                + &SECRET.replace("alice:", "username: u\n  password:"),
            "spec.servers[0].kafka.sasl.mechanism: PLAIN without tls would send the password readable",
        ),
        (
            "dangling Secret",
            with(&[POLICY]),
            "21: spec.authentication.apiKeys.secretRef.name: there is no Secret `shop-keys` in namespace `default`",
        ),
        (
            "Secret without the label",
            with(&[POLICY, &SECRET.replace(", labels: {sluice.dev/use: \"true\"}", "")]),
            "21: spec.authentication.apiKeys.secretRef.name: Secret `shop-keys` is not labelled for use; run `kubectl label secret shop-keys -n default sluice.dev/use=true`",
        ),
        (
            "label as a boolean",
            with(&[&SECRET.replace("\"true\"", "true")]),
            "18: metadata.labels[\"sluice.dev/use\"]: must be a string; put it in quotes",
        ),
        (
            "plain key in a Secret",
            with(&[POLICY, &SECRET.replace("sha256:", "")]),
            "21: spec.authentication.apiKeys.secretRef.name: entry `alice` of Secret `shop-keys` is not `<id>: sha256:<64 hex digits>`; make one with `sluice key create shop-keys`",
        ),
        (
            "base64",
            with(&[&SECRET.replace("stringData", "data")]),
            "20: data[\"alice\"]: is not base64; put plain text under `stringData`",
        ),
        (
            "dangling target",
            with(&[&POLICY.replace("name: shop}", "name: shp}"), SECRET]),
            "20: spec.targetRefs[0].name: there is no StreamAPI `shp` in namespace `default`",
        ),
        (
            "dangling channel",
            with(&[&POLICY.replace("name: shop}", "name: shop, sectionName: x}"), SECRET]),
            "20: spec.targetRefs[0].sectionName: StreamAPI `shop` has no channel `x`; its channels are: orders",
        ),
        (
            "part of the future",
            with(&[&format!("{POLICY}  validation: {{}}\n"), SECRET]),
            "22: spec.validation: `validation` is not implemented by this build",
        ),
        (
            "authentication as a word",
            with(&[&POLICY.replace("{apiKeys: {secretRef: {name: shop-keys}}}", "none")]),
            "21: spec.authentication: must be a mapping; write `{none: {}}`",
        ),
        (
            "origin with a path",
            with(&[&POLICY.replace(
                "authentication: {apiKeys: {secretRef: {name: shop-keys}}}",
                "cors: {allowedOrigins: [\"https://a.example/\"]}",
            )]),
            "21: spec.cors.allowedOrigins[0]: `https://a.example/` is not an origin; write scheme, host and port only",
        ),
        (
            "credentials for everybody",
            with(&[&POLICY.replace(
                "authentication: {apiKeys: {secretRef: {name: shop-keys}}}",
                "cors: {allowedOrigins: [\"*\"], allowCredentials: true}",
            )]),
            "21: spec.cors.allowCredentials: not with `\"*\"`; list the origins",
        ),
        (
            "policy that sets nothing",
            with(&[&POLICY.replace("  authentication: {apiKeys: {secretRef: {name: shop-keys}}}\n", "")]),
            "19: spec: sets nothing; add `authentication`, `cors` or `limits`",
        ),
        (
            "an API twice",
            with(&[API]),
            "19: metadata.name: StreamAPI `default/shop` stands at a.yaml:1 too; remove one",
        ),
        (
            "two APIs on one path",
            with(&[&API
                .replace("name: shop", "name: other")
                .replace("  servers:", "  basePath: /shop\n  servers:")]),
            "26: spec.channels[0].path: `/shop/orders` belongs to the older StreamAPI `default/shop`; set another",
        ),
        ("timestamp", api("  name: shop", "  name: shop\n  creationTimestamp: yesterday"), "cannot be read"),
        ("not YAML", format!("{API}a: b: c\n"), "15: is not YAML: "),
        ("tab", api("  servers", "\tservers"), "6: is not YAML: "),
        ("NUL in the file", format!("{API}\0"), "is not YAML: "),
        ("unclosed", format!("{API}  x: [\n"), "is not YAML: "),
        ("unknown alias", api("name: shop", "name: *shop"), "4: is not YAML: "),
        ("empty file", String::new(), "a.yaml: is empty"),
        ("alias bomb", bomb(), "has more than 100000 values"),
        ("deep file", "[".repeat(10_000), "is not YAML: "),
        ("wide file", format!("[{}]", "1,".repeat(150_000)), "has more than 100000 values"),
    ];
    let mut names = std::collections::BTreeSet::new();
    let mut wrong = Vec::new();
    for (name, text, expected) in &cases {
        assert!(names.insert(*name), "{name} stands twice");
        let found = found(&[("a.yaml", text)]);
        let told = found.len() == 1 && found[0].starts_with("a.yaml:") && found[0].contains(expected);
        let clean = found
            .iter()
            .all(|line| !line.chars().any(char::is_control) && !line.contains("hunter2") && line.len() < 600);
        if !told || !clean {
            wrong.push(format!("{name}\nwanted {expected}\nfound  {found:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(cases.len() >= 40);
}

/// Nine levels of nine: 10⁹ values if they were written out.
fn bomb() -> String {
    let mut text = String::from("a: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..9 {
        let aliases = vec![format!("*a{}", level - 1); 9].join(", ");
        text.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    text
}

#[test]
fn every_problem_of_every_file_is_told_in_order() {
    let broken = "\
apiVersion: sluice.dev/v1alpha1
kind: StreamAPI
metadata: {name: b}
spec:
  bridges: []
  servers: [{name: log, memory: {}}, {name: log, memory: {}}]
  channels:
  - {name: x, server: lag, address: x, subscribe: {transports: {sse: {}}}}
  - {name: z, server: log, address: \"\", publish: {transports: {}}}
";
    let found = found(&[("b.yaml", broken), ("a.yaml", "a: b: c\n"), ("c.yaml", &with(&[POLICY]))]);
    let places: Vec<_> =
        found.iter().map(|line| line.split(": ").take(2).collect::<Vec<_>>().join(": ")).collect();
    assert_eq!(
        places,
        [
            "a.yaml:1: is not YAML",
            "b.yaml:5: spec.bridges",
            "b.yaml:6: spec.servers[1].name",
            "b.yaml:8: spec.channels[0].server",
            "b.yaml:9: spec.channels[1].address",
            "b.yaml:9: spec.channels[1].publish.transports",
            "c.yaml:21: spec.authentication.apiKeys.secretRef.name",
        ],
        "{found:#?}"
    );
}

#[test]
fn a_missing_file_is_a_problem() {
    let args = Input { files: vec!["/nowhere/a.yaml".into()], namespace: "default".into() };
    let reports = args.read().reports;
    assert_eq!(reports.iter().map(Report::to_string).collect::<Vec<_>>(), ["/nowhere/a.yaml: is not there"]);
}

#[test]
fn the_examples_have_no_problems() {
    let package = std::env::var("CARGO_MANIFEST_DIR").expect("cargo tells");
    let directory = std::path::Path::new(&package).join("../examples");
    let mut files: Vec<_> = files::list(&directory).expect("listed");
    assert!(files.len() >= 4);
    for file in files.drain(..) {
        let args = Input { files: vec![file], namespace: "default".into() };
        assert_eq!(args.read().reports, Vec::new());
    }
}
