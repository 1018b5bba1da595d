//! Where `scripts/setup` put the real parts: in the cache, named by the digest of what pins them.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// The tests' own folder in the checkout. Cargo tells at run time which checkout that is; what was
/// compiled may come from another one that shares its target directory.
pub fn source() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&package).join("../tests")
}

/// The directory that `scripts/setup` made for `part`, pinned by `files` below `tests/parts/`.
///
/// # Panics
/// If it is not there: a test without its real part fails, it never skips.
pub fn find(part: &str, files: &[&str]) -> PathBuf {
    let mut pins = Vec::new();
    for file in files {
        let path = source().join("parts").join(file);
        pins.extend(std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())));
    }
    let path = directory(part, &pins);
    assert!(path.join(".complete").exists(), "{} is missing: run scripts/setup {part}", path.display());
    path
}

/// Where in the cache `part` is, if it is there, when `pins` pins it.
pub fn directory(part: &str, pins: &[u8]) -> PathBuf {
    let digest = Sha256::digest(pins);
    let name: String = digest[..6].iter().map(|byte| format!("{byte:02x}")).collect();
    cache().join(format!("{part}-{name}"))
}

fn cache() -> PathBuf {
    if let Some(cache) = std::env::var_os("SLUICE_CACHE") {
        return cache.into();
    }
    let home = std::env::var_os("HOME").expect("HOME or SLUICE_CACHE is set");
    Path::new(&home).join(".cache/sluice")
}

/// The binary under test: `SLUICE_BIN`, else the one in this build's own directory.
///
/// # Panics
/// If it was not built.
pub fn sluice() -> PathBuf {
    let path = std::env::var_os("SLUICE_BIN").map_or_else(
        || {
            let this = std::env::current_exe().expect("a program knows its path");
            let release = this.parent().and_then(Path::parent).expect("target/<triple>/release/deps/test");
            release.join("sluice")
        },
        PathBuf::from,
    );
    assert!(path.exists(), "{} is missing: run `make build` or `make flows`", path.display());
    path
}
