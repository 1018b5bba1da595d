use sluice_config::config::{Api, cursor_key};
use sluice_config::{Entry, StreamApiSpec};

use super::*;

fn digest(value: &str) -> String {
    Sha256::digest(value).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A config that needs `value` as `login/password`.
fn config(sequence: u64, value: &str) -> Config {
    let entry = Entry {
        generation: 1,
        revision: format!("r{sequence}"),
        api: Api { namespace: "a".into(), name: "shop".into(), spec: StreamApiSpec::default().into() },
        policies: BTreeMap::new(),
        material: [("login/password".to_owned(), digest(value))].into(),
    };
    Config { sequence, apis: [("a/shop".to_owned(), entry.into())].into(), ..Config::default() }
}

fn secret(values: &[&str]) -> Data {
    values.iter().map(|value| (format!("a_shop_login_{value}"), value.as_bytes().to_vec())).collect()
}

fn sequence(gatherer: &Gatherer) -> u64 {
    served(gatherer).config.sequence
}

fn served(gatherer: &Gatherer) -> Loaded {
    let mut loaded = Loaded::default();
    gatherer.add_to(&mut loaded);
    loaded
}

#[test]
fn a_mount_that_is_alone_counts_as_soon_as_it_is_whole() {
    let mut gatherer = Gatherer::of_mounts();
    assert!(!gatherer.gone(), "nothing is there yet");
    gatherer.material(Origin::Mount, &secret(&["old"]));
    assert!(gatherer.config(Origin::Mount, config(9, "old")));
    // The kubelet may swap the ConfigMap before the Secret.
    assert!(!gatherer.config(Origin::Mount, config(10, "new")));
    assert_eq!(sequence(&gatherer), 9);
    assert!(gatherer.material(Origin::Mount, &secret(&["new"])));
    assert_eq!(sequence(&gatherer), 10);
    // An API that was deleted and made again begins at one; a cluster may come from a backup.
    assert!(gatherer.config(Origin::Mount, config(1, "new")));
    assert_eq!(sequence(&gatherer), 1);
    assert!(gatherer.gone());
    assert!(served(&gatherer).config.apis.is_empty());
    // What waited for its material when the API went is of no interest any more.
    assert!(gatherer.config(Origin::Mount, config(2, "new")));
    assert!(!gatherer.config(Origin::Mount, config(3, "newest")));
    assert!(gatherer.gone());
    gatherer.material(Origin::Mount, &secret(&["newest"]));
    assert!(served(&gatherer).config.apis.is_empty());
    // With a watch there is no such thing: whoever deleted the object will be corrected.
    let mut watched = Gatherer::default();
    watched.config(Origin::Mount, config(1, "x"));
    assert!(!watched.gone());
    assert_eq!(sequence(&watched), 1);
}

#[test]
fn the_watch_wins_also_backwards_and_a_late_mount_does_not() {
    let mut gatherer = Gatherer::default();
    assert!(gatherer.material(Origin::Mount, &secret(&["x"])));
    assert!(gatherer.config(Origin::Mount, config(7, "x")));
    assert!(gatherer.config(Origin::Watch, config(3, "x")));
    assert_eq!(sequence(&gatherer), 3);
    assert!(!gatherer.config(Origin::Mount, config(2, "x")));
    assert_eq!(sequence(&gatherer), 3);
    assert!(gatherer.config(Origin::Mount, config(8, "x")));
}

#[test]
fn at_the_start_the_highest_sequence_whose_material_is_there_counts() {
    let data =
        |config: &Config| Data::from([(CONFIG_KEY.to_owned(), serde_json::to_vec(config).expect("JSON"))]);
    let kept = Kept {
        config: data(&config(5, "new")),
        values: Material([(digest("new"), Arc::from(&b"new"[..]))].into()),
        keys: Keys::new(),
    };
    // The mount lags behind what was applied.
    let mut gatherer = Gatherer::default();
    gatherer.restore(kept.clone()).expect("it was kept by the same program");
    assert_eq!(gatherer.kept(), kept);
    gatherer.material(Origin::Mount, &secret(&["old"]));
    assert!(!gatherer.config(Origin::Mount, config(4, "old")));
    assert_eq!(sequence(&gatherer), 5);
    // The mounted config is newer than the mounted Secret.
    assert!(!gatherer.config(Origin::Mount, config(6, "newest")));
    assert_eq!(sequence(&gatherer), 5);
    // With its material it counts.
    gatherer.material(Origin::Mount, &secret(&["newest"]));
    assert_eq!(gatherer.deliver(Origin::Mount, data(&config(6, "newest"))), Ok(true));
    assert_eq!(gatherer.kept().config, data(&config(6, "newest")), "it is kept as it was delivered");
    assert_eq!(gatherer.deliver(Origin::Mount, data(&config(2, "old"))), Ok(false));
    assert_eq!(gatherer.kept().config, data(&config(6, "newest")), "what is not served is not kept");
}

#[test]
fn values_of_the_config_in_force_stay_until_it_is_replaced() {
    let mut gatherer = Gatherer::default();
    gatherer.material(Origin::Watch, &secret(&["old"]));
    gatherer.config(Origin::Watch, config(1, "old"));
    assert!(gatherer.material(Origin::Watch, &secret(&["new"])));
    let loaded = served(&gatherer);
    assert!(loaded.material.missing(&loaded.config.apis["a/shop"]).is_empty());
    gatherer.config(Origin::Watch, config(2, "new"));
    gatherer.material(Origin::Watch, &secret(&["new"]));
    assert_eq!(served(&gatherer).material.0.len(), 1, "what nothing names is dropped");
}

#[test]
fn a_late_mounted_secret_does_not_take_back_what_the_watch_brought() {
    let mut gatherer = Gatherer::default();
    let mut watched = secret(&["new"]);
    watched.insert(cursor_key("a", "shop"), vec![2; 32]);
    gatherer.material(Origin::Watch, &watched);
    let mut mounted = secret(&["old"]);
    mounted.insert(cursor_key("a", "shop"), vec![1; 32]);
    gatherer.material(Origin::Mount, &mounted);
    let loaded = served(&gatherer);
    assert!(loaded.material.0.contains_key(&digest("new")));
    assert_eq!(loaded.cursor_keys["a/shop"], [CursorKey([2; 32])]);
}

#[test]
fn the_same_again_changes_nothing() {
    let mut gatherer = Gatherer::default();
    assert!(gatherer.material(Origin::Watch, &secret(&["x"])));
    assert!(gatherer.config(Origin::Watch, config(1, "x")));
    assert!(!gatherer.material(Origin::Watch, &secret(&["x"])));
    assert!(!gatherer.config(Origin::Watch, config(1, "x")));
    assert!(!gatherer.config(Origin::Mount, config(1, "x")));
}

#[test]
fn several_cursor_keys_keep_their_order() {
    let mut gatherer = Gatherer::default();
    let mut data = Data::new();
    data.insert(cursor_key("a", "shop"), [[9; 32], [8; 32]].concat());
    gatherer.material(Origin::Watch, &data);
    assert_eq!(served(&gatherer).cursor_keys["a/shop"], [CursorKey([9; 32]), CursorKey([8; 32])]);
    assert!(served(&gatherer).material.0.is_empty());
}

#[test]
fn a_compressed_config_is_read_and_a_bomb_is_not() {
    let text = serde_json::to_vec(&config(4, "x")).expect("JSON");
    let compress = |text: &[u8]| zstd::encode_all(text, 3).expect("compressed");
    let data = |bytes: Vec<u8>| Data::from([(CONFIG_KEY_ZSTD.to_owned(), bytes)]);
    let parse = |data: &Data| Reader::default().parse(data);
    assert_eq!(parse(&data(compress(&text))).expect("read").sequence, 4);
    let bomb = compress(&vec![b' '; INFLATED_BYTES + 2]);
    assert!(bomb.len() < 100_000);
    assert!(parse(&data(bomb)).expect_err("refused").contains("inflates"));
    assert!(parse(&Data::new()).is_err());
    assert!(parse(&data(b"not zstd".to_vec())).is_err());
}

#[test]
fn what_says_the_same_is_not_read_again() {
    let data =
        |config: &Config| Data::from([(CONFIG_KEY.to_owned(), serde_json::to_vec(config).expect("JSON"))]);
    let mut two = config(1, "x");
    let other = Entry { generation: 7, ..(*two.apis["a/shop"]).clone() };
    two.apis.insert("a/chat".into(), other.into());
    let mut reader = Reader::default();
    let first = reader.parse(&data(&two)).expect("read");
    assert_eq!(first, two);
    let mut changed = Config { sequence: 2, ..two.clone() };
    let other = Entry { generation: 8, ..(*two.apis["a/chat"]).clone() };
    changed.apis.insert("a/chat".into(), other.into());
    let second = reader.parse(&data(&changed)).expect("read");
    assert_eq!(second, changed);
    let same = |key: &str| Arc::ptr_eq(&first.apis[key], &second.apis[key]);
    assert!(same("a/shop") && !same("a/chat"));
    // What is broken stays as it was, and holds up nothing else.
    let mut next = Config { sequence: 3, ..changed.clone() };
    let other = Entry { generation: 9, ..(*changed.apis["a/shop"]).clone() };
    next.apis.insert("a/shop".into(), other.into());
    let broken = String::from_utf8(data(&next)[CONFIG_KEY].clone()).expect("text");
    let broken = broken.replace("\"generation\":8", "\"generation\":\"x\"");
    let third = reader.parse(&Data::from([(CONFIG_KEY.to_owned(), broken.into_bytes())])).expect("read");
    assert_eq!((third.sequence, third.apis["a/shop"].generation), (3, 9));
    assert_eq!(third.apis["a/chat"], changed.apis["a/chat"]);
    assert_eq!(reader.parse(&data(&changed)).expect("read"), changed);
}
