use std::fs;

use tempfile::TempDir;

use super::*;

/// A directory of files and a loader on it.
struct Bench {
    directory: TempDir,
    loader: Loader,
}

impl Bench {
    /// With files that are there at the start.
    fn new(files: &[(&str, &str)]) -> (Self, Update) {
        Self::with_tls(files, None)
    }

    fn with_tls(files: &[(&str, &str)], tls_secret: Option<ObjectName>) -> (Self, Update) {
        let directory = tempfile::tempdir().expect("a directory");
        let configs = directory.path().join("configs");
        fs::create_dir(&configs).expect("created");
        for (name, text) in files {
            fs::write(configs.join(name), text).expect("written");
        }
        let state = State::open(Some(directory.path().join("state"))).expect("opened");
        let mut loader = Loader::new(vec![configs], "default".into(), state, tls_secret);
        let update = loader.start();
        (Self { directory, loader }, update)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("configs").join(name)
    }

    fn write(&mut self, name: &str, text: &str) -> Option<Update> {
        fs::write(self.path(name), text).expect("written");
        self.changed(name)
    }

    fn changed(&mut self, name: &str) -> Option<Update> {
        self.loader.reload(&Changed::Files([self.path(name)].into()))
    }

    fn rendered(&self) -> &Config {
        &self.loader.config
    }
}

fn api(name: &str, address: &str) -> String {
    format!(
        "---\napiVersion: sluice.dev/v1alpha1\nkind: StreamAPI\nmetadata: {{name: {name}}}\nspec:\n  \
         servers: [{{name: log, memory: {{}}}}]\n  channels:\n  - {{name: orders, server: log, address: \
         {address}, subscribe: {{transports: {{sse: {{}}}}}}}}\n"
    )
}

const POLICY: &str = "---\napiVersion: sluice.dev/v1alpha1\nkind: StreamPolicy\nmetadata: {name: limits}\nspec:\n  \
                      targetRefs: [{kind: StreamAPI, name: shop}]\n  limits: {connections: 3}\n";

fn address(config: &Config, name: &str) -> Option<String> {
    Some(config.apis.get(&format!("default/{name}"))?.api.spec.channels[0].address.clone())
}

fn problems(update: &Update) -> Vec<String> {
    update.problems.iter().map(|report| format!("{}: {}", report.line, report.message)).collect()
}

#[test]
fn what_is_written_is_loaded_and_what_is_the_same_is_not() {
    let (mut bench, first) = Bench::new(&[("a.yaml", &api("shop", "one"))]);
    assert!(first.usable);
    assert_eq!(first.changes, [Change::Served("default/shop".into())]);
    assert_eq!(first.loaded.config.sequence, 1);
    assert_eq!(first.loaded.cursor_keys["default/shop"].len(), 1);
    let second = bench.write("a.yaml", &api("shop", "two")).expect("a difference");
    assert_eq!(address(&second.loaded.config, "shop").as_deref(), Some("two"));
    assert_eq!(second.changes, [Change::Changed("default/shop".into())]);
    assert_eq!(second.loaded.config.sequence, 2);
    assert!(bench.changed("a.yaml").is_none(), "nothing was written");
    let third = bench.write("a.yaml", &format!("# a word\n{}", api("shop", "two"))).expect("another text");
    assert_eq!((third.changes, third.loaded.config.sequence), (vec![], 2));
}

#[test]
fn a_file_that_says_nothing_changes_nothing_and_is_told_once() {
    let (mut bench, _) = Bench::new(&[("a.yaml", &api("shop", "one"))]);
    for (text, message) in
        [("", "is empty"), ("a: b: c", "is not YAML"), ("\n\n", "is empty"), ("a: [", "is not YAML")]
    {
        let update = bench.write("a.yaml", text).expect("a problem is news");
        assert!(problems(&update)[0].contains(message), "{:?}", update.problems);
        assert_eq!(address(&update.loaded.config, "shop").as_deref(), Some("one"));
        assert_eq!((update.changes, update.loaded.config.sequence), (vec![], 1));
        assert!(bench.changed("a.yaml").is_none(), "it was told");
    }
    let update = bench.write("a.yaml", &api("shop", "one")).expect("the problem is gone");
    assert_eq!((update.problems, update.changes), (vec![], vec![]));
}

#[test]
fn a_document_that_is_gone_is_gone_and_a_file_takes_its_documents_along() {
    let both = format!("{}{}", api("shop", "one"), api("chat", "lobby"));
    let (mut bench, _) = Bench::new(&[("a.yaml", &both), ("b.yaml", &api("desk", "ticks"))]);
    let update = bench.write("a.yaml", &format!("{}---\na: [", api("shop", "one"))).expect("a problem");
    assert_eq!(update.loaded.config.apis.len(), 3, "half a file says nothing");
    let update = bench.write("a.yaml", &api("shop", "one")).expect("a difference");
    assert_eq!(update.changes, [Change::Gone("default/chat".into())]);
    fs::remove_file(bench.path("b.yaml")).expect("removed");
    let update = bench.changed("b.yaml").expect("a difference");
    assert_eq!(update.changes, [Change::Gone("default/desk".into())]);
    let update = bench.write("a.yaml", "# nothing any more\n").expect("a difference");
    assert!(update.loaded.config.apis.is_empty());
}

#[test]
fn a_new_file_counts_when_it_is_closed() {
    let (mut bench, _) = Bench::new(&[("a.yaml", &api("shop", "one"))]);
    fs::write(bench.path("b.yaml"), api("chat", "half")).expect("written");
    assert!(bench.changed("a.yaml").is_none(), "the new file is not closed yet");
    let update = bench.changed("b.yaml").expect("now it is");
    assert_eq!(update.changes, [Change::Served("default/chat".into())]);
    assert!(bench.write(".hidden.yaml", &api("x", "x")).is_none());
    assert!(bench.write("notes.txt", &api("x", "x")).is_none());
}

#[test]
fn a_refused_api_stays_as_it_was_and_the_others_are_not_affected() {
    let (mut bench, _) = Bench::new(&[("a.yaml", &api("shop", "one")), ("b.yaml", &api("chat", "lobby"))]);
    let before = bench.rendered().apis["default/chat"].clone();
    let broken = api("shop", "two").replace("server: log", "server: lag");
    let update = bench.write("a.yaml", &broken).expect("a problem");
    assert_eq!(address(&update.loaded.config, "shop").as_deref(), Some("one"));
    assert_eq!(update.loaded.config.apis["default/chat"], before);
    assert_eq!(update.loaded.refused.len(), 1);
    assert_eq!(update.loaded.refused[0].api, "default/shop");
    assert!(update.loaded.refused[0].problems[0].at.starts_with("spec.channels[0].server"));
}

#[test]
fn a_broken_policy_closes_its_targets_until_it_is_whole() {
    let (mut bench, _) = Bench::new(&[("a.yaml", &api("shop", "one")), ("p.yaml", POLICY)]);
    let closed =
        |update: &Update| update.loaded.config.apis["default/shop"].policies["orders"].closed.clone();
    let update = bench.write("p.yaml", &POLICY.replace("connections", "conections")).expect("a problem");
    assert_eq!(closed(&update).as_deref(), Some("StreamPolicy `limits` is not in force"));
    assert!(
        matches!(&update.changes[..], [Change::Changed(_), Change::Closed(channel, _)] if channel == "default/shop/orders")
    );
    let update = bench.write("p.yaml", POLICY).expect("whole again");
    assert_eq!(closed(&update), None);
    assert!(update.changes.contains(&Change::Opened("default/shop/orders".into())));
    let update = bench.write("p.yaml", "a: [").expect("a problem");
    assert_eq!(closed(&update), None, "what it said before stays in force");
    assert_eq!(update.loaded.config.apis["default/shop"].policies["orders"].limits.connections, Some(3));
}

#[test]
fn at_the_start_a_file_that_may_hold_a_policy_closes_everything() {
    let garbled = format!("{POLICY}  a: b: c\n");
    let (mut bench, update) = Bench::new(&[("a.yaml", &api("shop", "one")), ("p.yaml", &garbled)]);
    assert!(update.loaded.config.apis["default/shop"].policies["orders"].closed.is_some());
    assert_eq!(update.problems.len(), 1);
    let update = bench.write("p.yaml", POLICY).expect("whole");
    assert_eq!(update.loaded.config.apis["default/shop"].policies["orders"].closed, None);
    let utf16: Vec<u8> = POLICY.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let cases: [(&[u8], bool); 5] = [
        (b"no: policy: here", false),
        (b"", false),
        (b"\xff", false),
        (b"kind: StreamPolicy\n\xff", true),
        (&utf16, true),
    ];
    for (bytes, closes) in cases {
        let (bench, _) = Bench::new(&[("a.yaml", &api("shop", "one"))]);
        fs::write(bench.path("b.yaml"), bytes).expect("written");
        let state = State::open(Some(bench.directory.path().join("state"))).expect("opened");
        let sources = vec![bench.directory.path().join("configs")];
        let update = Loader::new(sources, "default".into(), state, None).start();
        let closed = update.loaded.config.apis["default/shop"].policies["orders"].closed.is_some();
        assert_eq!(closed, closes, "{bytes:?}");
    }
}

#[test]
fn a_list_stands_for_its_items_and_hides_no_policy() {
    let item = |text: &str| {
        let lines = text.trim_start_matches("---\n").lines().map(|line| format!("  {line}\n"));
        format!("- {}", lines.collect::<String>().trim_start())
    };
    let list = |items: &[&str]| {
        let items = items.iter().map(|text| item(text)).collect::<String>();
        format!("apiVersion: v1\nkind: List\nitems:\n{items}")
    };
    let shop = api("shop", "one");
    let of = |text: &str| Bench::new(&[("a.yaml", text)]).1;
    let policy = |update: &Update| update.loaded.config.apis["default/shop"].policies["orders"].clone();
    assert_eq!(policy(&of(&list(&[&shop, POLICY]))).limits.connections, Some(3));
    assert_eq!(policy(&of(&list(&[&shop, &list(&[POLICY])]))).limits.connections, Some(3));
    let doubled = format!("{POLICY}spec: {{}}\n");
    let update = of(&list(&[&shop, &doubled]));
    assert!(policy(&update).closed.is_some());
    assert_eq!(problems(&update).len(), 1, "{:?}", update.problems);
    assert!(problems(&update)[0].starts_with("17: is set on line"), "{:?}", update.problems);
    let update = of("apiVersion: v1\nkind: List\nitems: 5\n");
    assert_eq!(problems(&update), ["1: must be a list; write one `- …` a line"]);
}

#[test]
fn moving_a_document_between_files_closes_nothing() {
    let (mut bench, _) = Bench::new(&[("a.yaml", &format!("{}{POLICY}", api("shop", "one")))]);
    let update = bench.write("p.yaml", POLICY).expect("it stands twice");
    assert!(problems(&update)[0].contains("stands at"), "{:?}", update.problems);
    assert_eq!(update.changes, []);
    let update = bench.write("a.yaml", &api("shop", "one")).expect("it stands once");
    assert_eq!((update.changes, update.problems), (vec![], vec![]));
    let other = POLICY.replace("connections: 3", "connections: 4");
    let update = bench.write("q.yaml", &other).expect("two that differ");
    assert!(matches!(&update.changes[..], [Change::Changed(_), Change::Closed(..)]), "{:?}", update.changes);
}

#[test]
fn nothing_to_serve_is_told() {
    for files in [&[][..], &[("a.yaml", "")], &[("a.yaml", "a: [")], &[("p.yaml", POLICY)]] {
        let (_, update) = Bench::new(files);
        assert!(!update.usable, "{files:?}");
    }
    let broken = api("shop", "one").replace("server: log", "server: lag");
    assert!(!Bench::new(&[("a.yaml", &broken)]).1.usable);
    assert!(Bench::new(&[("a.yaml", &broken), ("b.yaml", &api("chat", "x"))]).1.usable);
}

#[test]
fn a_source_that_is_not_there_is_told_once_and_nothing_starts_without_it() {
    let (mut bench, first) = Bench::new(&[("a.yaml", &api("shop", "one"))]);
    assert!(first.usable);
    let path = bench.path("../p.yaml");
    bench.loader.sources.push(path.clone());
    let update = bench.loader.start();
    assert_eq!((update.usable, problems(&update)), (false, vec!["0: is not there".to_owned()]));
    fs::write(&path, POLICY).expect("written");
    let changed = Changed::Files([path.canonicalize().expect("there")].into());
    let update = bench.loader.reload(&changed).expect("a difference");
    assert_eq!(update.changes, [Change::Changed("default/shop".into())]);
    assert!(bench.loader.reload(&changed).is_none());
}

#[test]
fn documents_are_ordered_as_their_files_were_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let named = |name: &str| directory.path().join(name);
    let at_shop = |name: &str| api(name, "x").replace("spec:\n", "spec:\n  basePath: /shop\n");
    for name in ["a", "z"] {
        fs::write(named(&format!("{name}.yaml")), at_shop(name)).expect("written");
    }
    for (sources, winner) in [(["a.yaml", "z.yaml"], "default/a"), (["z.yaml", "a.yaml"], "default/z")] {
        let state = State::open(Some(named("state"))).expect("opened");
        let sources = sources.map(named).into();
        let update = Loader::new(sources, "default".into(), state, None).start();
        assert_eq!(update.loaded.config.apis.keys().collect::<Vec<_>>(), [winner]);
    }
}

fn certificate(name: &str) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("made");
    (made.cert.pem(), made.signing_key.serialize_pem())
}

fn tls_secret((certificate, key): (&str, &str)) -> String {
    let indented = |pem: &str| pem.lines().map(|line| format!("    {line}\n")).collect::<String>();
    format!(
        "---\napiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata: {{name: tls, labels: \
         {{sluice.dev/use: \"true\"}}}}\nstringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
        indented(certificate),
        indented(key)
    )
}

#[test]
fn the_listeners_certificate_follows_its_secret_and_stays_while_that_is_broken() {
    let ((one, one_key), (two, two_key)) = (certificate("one"), certificate("two"));
    let name = || Some(ObjectName { namespace: "default".into(), name: "tls".into() });
    let shop = api("shop", "one");
    let files = |secret: &str| [("a.yaml", shop.clone()), ("s.yaml", secret.to_owned())];
    let good = files(&tls_secret((&one, &one_key)));
    let good = good.each_ref().map(|(name, text)| (*name, text.as_str()));
    let (mut bench, first) = Bench::with_tls(&good, name());
    assert!(first.usable);
    let held = |update: &Update| update.loaded.tls.as_ref().map(|tls| tls.certificate.clone());
    assert_eq!(held(&first).as_deref(), Some(one.as_bytes()));
    let update = bench.write("s.yaml", &tls_secret((&two, &one_key))).expect("a problem");
    assert!(problems(&update)[0].contains("do not work together"), "{:?}", update.problems);
    assert_eq!(held(&update), held(&first));
    let update = bench.write("s.yaml", &tls_secret(("x", &one_key))).expect("a problem");
    assert!(problems(&update)[0].contains("`tls.crt` is not a PEM certificate"), "{:?}", update.problems);
    let update = bench.write("s.yaml", &tls_secret((&two, &two_key))).expect("a difference");
    assert_eq!(held(&update).as_deref(), Some(two.as_bytes()));
    assert!(!Bench::with_tls(&[("a.yaml", &shop)], name()).1.usable, "without a certificate nothing starts");
}

#[test]
fn a_placement_is_told_and_has_no_effect() {
    let listener = "placement: {deployment: {listeners: [{name: tls, protocol: HTTPS, tls: {secretRef: {name: cert}}}]}}";
    let placed = api("shop", "a").replace("spec:\n", &format!("spec:\n  {listener}\n"));
    let (bench, update) = Bench::new(&[("a.yaml", &format!("{placed}{}", api("chat", "b")))]);
    assert!(update.usable && update.problems.is_empty(), "{:?}", update.problems);
    assert_eq!(update.placed, ["default/shop".to_owned()].into());
    assert_eq!(bench.rendered().apis["default/shop"].api.spec.placement, Placement::default());
}
