//! Keeps what was applied last in a directory that outlives the container (an `emptyDir` in
//! memory), so that a restart needs neither the API server nor a mount that is up to date.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sluice_config::Material;

use super::gather::Kept;
use crate::config::CursorKey;

const FILE: &str = "applied.json";

#[derive(Serialize, Deserialize)]
struct Saved {
    /// Base64 by key of the ConfigMap.
    config: BTreeMap<String, String>,
    /// Base64 by digest.
    material: BTreeMap<String, String>,
    /// Base64 by API.
    keys: BTreeMap<String, Vec<String>>,
}

/// What was kept, if anything usable was.
pub fn read(directory: &Path) -> Option<Kept> {
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

fn decode(text: &[u8]) -> Option<Kept> {
    let saved: Saved = serde_json::from_slice(text).ok()?;
    let config = saved.config.into_iter().map(|(key, content)| Some((key, STANDARD.decode(content).ok()?)));
    let values = saved
        .material
        .into_iter()
        .map(|(digest, value)| Some((digest, Arc::from(STANDARD.decode(value).ok()?))));
    let keys = saved.keys.into_iter().map(|(api, keys)| {
        let keys = keys.into_iter().map(|key| Some(CursorKey(STANDARD.decode(key).ok()?.try_into().ok()?)));
        Some((api, keys.collect::<Option<_>>()?))
    });
    Some(Kept {
        config: config.collect::<Option<_>>()?,
        values: Material(values.collect::<Option<_>>()?),
        keys: keys.collect::<Option<_>>()?,
    })
}

/// Keeps what was applied: written aside and renamed, so that a crash leaves the one or the other.
pub fn write(directory: &Path, kept: &Kept) -> std::io::Result<()> {
    let encode = |bytes: &[u8]| STANDARD.encode(bytes);
    let saved = Saved {
        config: kept.config.iter().map(|(key, content)| (key.clone(), encode(content))).collect(),
        material: kept.values.0.iter().map(|(digest, value)| (digest.clone(), encode(value))).collect(),
        keys: kept
            .keys
            .iter()
            .map(|(api, keys)| (api.clone(), keys.iter().map(|key| encode(&key.0)).collect()))
            .collect(),
    };
    let aside = directory.join(format!(".{FILE}"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
    file.write_all(&serde_json::to_vec(&saved).map_err(std::io::Error::other)?)?;
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
        let kept = Kept {
            config: [("config-v1.json".to_owned(), b"{}".to_vec())].into(),
            values: Material([("d".to_owned(), Arc::from(&b"secret"[..]))].into()),
            keys: [("a/shop".to_owned(), vec![CursorKey([7; 32])])].into(),
        };
        write(directory.path(), &kept).expect("written");
        assert_eq!(read(directory.path()), Some(kept));
        let mode = std::fs::metadata(directory.path().join(FILE)).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn what_cannot_be_understood_is_as_good_as_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        for text in [
            "",
            "{",
            r#"{"config":{},"material":{"d":"?"},"keys":{}}"#,
            r#"{"config":{"a":"?"},"material":{},"keys":{}}"#,
        ] {
            std::fs::write(directory.path().join(FILE), text).expect("written");
            assert!(read(directory.path()).is_none(), "{text}");
        }
    }
}
