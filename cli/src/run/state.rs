//! What outlives the process: the keys that authenticate each API's cursors.
//!
//! Several processes may share the directory. A key is created whole: written aside and linked into
//! place, so of two that start together one wins and both use its key.

use std::fmt::Write as _;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use sluice_dataplane::CursorKey;

/// The directory.
pub struct State(PathBuf);

impl State {
    /// Opens `directory`, by default the user's own for state, and creates it if need be.
    pub fn open(directory: Option<PathBuf>) -> anyhow::Result<Self> {
        let directory = match directory {
            Some(directory) => directory,
            None => {
                default_directory().ok_or_else(|| anyhow!("no home directory; name one with --state DIR"))?
            }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(&directory).with_context(|| {
            format!("cannot create {}; name another with --state DIR", directory.display())
        })?;
        Ok(Self(directory))
    }

    /// The cursor key of an API; made when it is first asked for.
    pub fn cursor_key(&self, namespace: &str, name: &str) -> anyhow::Result<CursorKey> {
        let path = self.0.join(format!("{namespace}.{name}.cursor-key"));
        if let Some(key) = read_key(&path)? {
            return Ok(key);
        }
        self.create(&path)?;
        read_key(&path)?.ok_or_else(|| anyhow!("{} vanished; start again", path.display()))
    }

    /// Creates the key at `path` unless somebody else was faster.
    fn create(&self, path: &Path) -> anyhow::Result<()> {
        let aside = self.0.join(format!(".new-{}", hex(&random()?)));
        let write = || -> std::io::Result<()> {
            let bytes = random().map_err(std::io::Error::other)?;
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
            writeln!(file, "{}", hex(&bytes))?;
            file.sync_all()?;
            match std::fs::hard_link(&aside, path) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
                _ => Ok(()),
            }
        };
        let written = write();
        let _ = std::fs::remove_file(&aside);
        written.with_context(|| {
            format!("cannot write {}; name another directory with --state DIR", path.display())
        })
    }
}

fn default_directory() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(state.join("sluice"))
}

fn read_key(path: &Path) -> anyhow::Result<Option<CursorKey>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let hex = text.trim_end().as_bytes();
    let mut key = [0; 32];
    if hex.len() != 64 || !hex.iter().all(u8::is_ascii_hexdigit) {
        bail!("{} holds no key; remove it, and a new one is made", path.display());
    }
    for (byte, digits) in key.iter_mut().zip(hex.chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16).unwrap_or_default() as u8;
        *byte = digit(digits[0]) << 4 | digit(digits[1]);
    }
    Ok(Some(CursorKey(key)))
}

fn random() -> anyhow::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| anyhow!("the system gives no random bytes: {error}"))?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_only_its_owner_reads_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a/b");
        let key =
            State::open(Some(path.clone())).expect("opened").cursor_key("default", "shop").expect("made");
        assert!(
            key == State::open(Some(path.clone()))
                .expect("opened")
                .cursor_key("default", "shop")
                .expect("read")
        );
        let mode = |path: &Path| path.metadata().expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&path.join("default.shop.cursor-key")), 0o600);
        let files: Vec<_> = path.read_dir().expect("listed").collect();
        assert_eq!(files.len(), 1, "nothing is left aside: {files:?}");
    }

    #[test]
    fn processes_that_start_together_agree() {
        let directory = tempfile::tempdir().expect("a directory");
        for round in 0..20 {
            let name = format!("api-{round}");
            let keys: Vec<_> = std::thread::scope(|scope| {
                let start = || {
                    let state = State::open(Some(directory.path().to_owned())).expect("opened");
                    state.cursor_key("default", &name).expect("made")
                };
                let threads: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
                threads.into_iter().map(|thread| thread.join().expect("ends")).collect()
            });
            assert!(keys.iter().all(|key| *key == keys[0]));
        }
    }

    #[test]
    fn a_broken_key_is_told_and_never_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("default.shop.cursor-key");
        for broken in ["", "abc", &"g".repeat(64)] {
            std::fs::write(&path, broken).expect("written");
            let state = State::open(Some(directory.path().to_owned())).expect("opened");
            let error = state.cursor_key("default", "shop").expect_err("is refused");
            assert!(error.to_string().contains("remove it"), "{error}");
            assert_eq!(std::fs::read_to_string(&path).expect("there"), broken);
        }
    }
}
