use std::path::Path;

use serde_json::json;
use sluice_config::config::CONFIG_KEY;

use super::*;

/// Swaps what is mounted at `directory`, as a kubelet does: a new version aside, and one link renamed.
fn swap(directory: &Path, version: u32, files: &[(&str, String)]) {
    let version = format!("..{version}");
    let place = directory.join(&version);
    std::fs::create_dir_all(&place).expect("a directory");
    for (name, text) in files {
        std::fs::write(place.join(name), text).expect("a file");
    }
    let aside = directory.join("..data_tmp");
    std::os::unix::fs::symlink(&version, &aside).expect("a link");
    std::fs::rename(aside, directory.join("..data")).expect("renamed");
}

fn config(api: &str, sequence: u64) -> [(&'static str, String); 1] {
    let spec = json!({"servers": [{"name": "log", "memory": {}}], "channels": [{
        "name": "orders", "server": "log", "address": "orders", "subscribe": {"transports": {"sse": {}}},
    }]});
    let entry = json!({"generation": 1, "revision": format!("{api}-{sequence}"), "policies": {}, "material": {},
        "api": {"namespace": "a", "name": api, "spec": spec}});
    let key = format!("a/{api}");
    [(CONFIG_KEY, json!({"sequence": sequence, "apis": {key: entry}}).to_string())]
}

/// The revisions that are loaded, once they are `expected`.
async fn serves(loaded: &mut watch::Receiver<Arc<Loaded>>, expected: &[&str]) {
    let are = |loaded: &Arc<Loaded>| {
        loaded.config.apis.values().map(|entry| entry.revision.as_str()).collect::<Vec<_>>() == expected
    };
    let waiting = tokio::time::timeout(Duration::from_secs(10), loaded.wait_for(are)).await;
    waiting.unwrap_or_else(|_| panic!("{expected:?} is not loaded")).expect("it is followed");
}

#[tokio::test]
async fn the_apis_of_a_sidecar_come_and_go_each_with_its_mount() {
    let home = tempfile::tempdir().expect("a directory");
    let mount = |api: &str| Mount {
        config: home.path().join(format!("{api}-config")),
        material: home.path().join(format!("{api}-material")),
    };
    let (shop, stock) = (mount("shop"), mount("stock"));
    for mount in [&shop, &stock] {
        swap(&mount.material, 0, &[]);
        // Not written yet, and optional.
        swap(&mount.config, 0, &[]);
    }
    swap(&shop.config, 1, &config("shop", 1));
    let source = PodSource { mounts: vec![shop.clone(), stock.clone()], watch: None };
    let mut loaded = source.follow().await.expect("both are followed");
    serves(&mut loaded, &["shop-1"]).await;
    swap(&stock.config, 1, &config("stock", 7));
    serves(&mut loaded, &["shop-1", "stock-7"]).await;
    swap(&shop.config, 2, &config("shop", 2));
    serves(&mut loaded, &["shop-2", "stock-7"]).await;
    // Its StreamAPI was deleted, and the other one made again.
    swap(&shop.config, 3, &[]);
    swap(&stock.config, 2, &config("stock", 1));
    serves(&mut loaded, &["stock-1"]).await;
}
