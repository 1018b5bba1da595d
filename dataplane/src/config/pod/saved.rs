//! Keeps what was applied last in a directory that outlives the container (an `emptyDir` in
//! memory), so that a restart needs neither the API server nor a mount that is up to date.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sluice_config::config::{DELIVERED_BYTES, INFLATED_BYTES};
use sluice_config::{Config, Material};

use super::gather::Keys;
use crate::config::{CursorKey, Loaded};

const FILE: &str = "applied.json.zst";
/// Of a gateway with thousands of APIs it is compressed within a fraction of the directory's size; more than
/// this cannot have been delivered.
const INFLATED: usize = INFLATED_BYTES + 2 * DELIVERED_BYTES;
/// Speed counts more than size.
const LEVEL: i32 = 1;

#[derive(Serialize, Deserialize)]
struct Saved {
    config: Config,
    /// Base64 by digest.
    material: std::collections::BTreeMap<String, String>,
    /// Base64 by API.
    keys: std::collections::BTreeMap<String, Vec<String>>,
}

/// What was kept, if anything usable was.
pub fn read(directory: &Path) -> Option<(Config, Material, Keys)> {
    let path = directory.join(FILE);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "what was applied last cannot be read");
            return None;
        }
    };
    let understood = decode(&text);
    if understood.is_none() {
        tracing::warn!(path = %path.display(), "what was applied last cannot be understood");
    }
    understood
}

fn decode(text: &[u8]) -> Option<(Config, Material, Keys)> {
    let text = zstd::bulk::decompress(text, INFLATED).ok()?;
    let saved: Saved = serde_json::from_slice(&text).ok()?;
    let values = saved
        .material
        .into_iter()
        .map(|(digest, value)| Some((digest, Arc::from(STANDARD.decode(value).ok()?))));
    let keys = saved.keys.into_iter().map(|(api, keys)| {
        let keys = keys.into_iter().map(|key| Some(CursorKey(STANDARD.decode(key).ok()?.try_into().ok()?)));
        Some((api, keys.collect::<Option<_>>()?))
    });
    Some((saved.config, Material(values.collect::<Option<_>>()?), keys.collect::<Option<_>>()?))
}

/// Keeps `loaded`: written aside and renamed, so that a crash leaves the one or the other.
pub fn write(directory: &Path, loaded: &Loaded) -> std::io::Result<()> {
    let encode = |bytes: &[u8]| STANDARD.encode(bytes);
    let saved = Saved {
        config: loaded.config.clone(),
        material: loaded.material.0.iter().map(|(digest, value)| (digest.clone(), encode(value))).collect(),
        keys: loaded
            .cursor_keys
            .iter()
            .map(|(api, keys)| (api.clone(), keys.iter().map(|key| encode(&key.0)).collect()))
            .collect(),
    };
    let aside = directory.join(format!(".{FILE}"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
    let text = serde_json::to_vec(&saved).map_err(std::io::Error::other)?;
    file.write_all(&zstd::bulk::compress(&text, LEVEL)?)?;
    std::fs::rename(aside, directory.join(FILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_comes_back_and_nobody_else_can_read_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().expect("a directory");
        assert!(read(directory.path()).is_none());
        let loaded = Loaded {
            config: Config { sequence: 9, ..Config::default() },
            material: Material([("d".to_owned(), Arc::from(&b"secret"[..]))].into()),
            cursor_keys: [("a/shop".to_owned(), vec![CursorKey([7; 32])])].into(),
            ..Loaded::default()
        };
        write(directory.path(), &loaded).expect("written");
        let (config, material, keys) = read(directory.path()).expect("kept");
        assert_eq!(config, loaded.config);
        assert_eq!(material.0, loaded.material.0);
        assert_eq!(keys, loaded.cursor_keys);
        let mode = std::fs::metadata(directory.path().join(FILE)).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn what_cannot_be_understood_is_as_good_as_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        for text in ["", "{", r#"{"config":{"sequence":1,"apis":{}},"material":{"d":"?"},"keys":{}}"#] {
            for bytes in
                [text.as_bytes().to_vec(), zstd::bulk::compress(text.as_bytes(), LEVEL).expect("zstd")]
            {
                std::fs::write(directory.path().join(FILE), bytes).expect("written");
                assert!(read(directory.path()).is_none(), "{text}");
            }
        }
    }
}
