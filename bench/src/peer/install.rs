//! What `scripts/peers` installed: where it is, and which versions.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use sluice_tests::parts;

use super::Kind;

/// Debian's nginx.
pub const NGINX: &str = "/usr/sbin/nginx";
/// Its module.
const NCHAN: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";
/// What pins the rest, in the order of `scripts/peers`.
const PINS: &[&str] = &[
    include_str!("../../peers/package.json"),
    include_str!("../../peers/package-lock.json"),
    include_str!("../../peers/centrifuge/main.go"),
    CENTRIFUGE,
    include_str!("../../peers/centrifuge/go.sum"),
    MERCURE,
    include_str!("../../peers/mercure/go.sum"),
    include_str!("../../peers/bento/main.go"),
    BENTO,
    include_str!("../../peers/bento/go.sum"),
];
const CENTRIFUGE: &str = include_str!("../../peers/centrifuge/go.mod");
const MERCURE: &str = include_str!("../../peers/mercure/go.mod");
const BENTO: &str = include_str!("../../peers/bento/go.mod");

/// Where everything is that is not Debian's.
pub fn directory() -> Result<PathBuf> {
    let directory = parts::directory("peers", PINS.concat().as_bytes());
    let there =
        directory.join(".complete").exists() && Path::new(NCHAN).exists() && Path::new(NGINX).exists();
    ensure!(there, "the peers are not installed: run scripts/peers");
    Ok(directory)
}

/// The version of `kind`.
pub fn version(kind: Kind) -> Result<String> {
    let installed = directory()?;
    match kind {
        Kind::Bun => said(Command::new(installed.join("bun")).arg("--version")),
        Kind::Ws => {
            let package = std::fs::read(installed.join("node_modules/ws/package.json"))?;
            let package: serde_json::Value = serde_json::from_slice(&package)?;
            let version = package["version"].as_str().context("ws has no version")?;
            Ok(format!("{version} on Node.js {}", said(Command::new("node").arg("--version"))?))
        }
        Kind::Nchan => {
            let version =
                |package| said(Command::new("dpkg-query").args(["-W", "-f", "${Version}", package]));
            Ok(format!("{} on nginx {}", version("libnginx-mod-nchan")?, version("nginx-core")?))
        }
        Kind::Centrifuge => locked(CENTRIFUGE, "github.com/centrifugal/centrifuge"),
        Kind::Mercure => locked(MERCURE, "github.com/dunglas/mercure"),
        Kind::Bento => locked(BENTO, "github.com/warpstreamlabs/bento"),
    }
}

/// What `command` says on one line.
fn said(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(output.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// The version of `module` that was built, by its `go.mod`.
fn locked(go_mod: &str, module: &str) -> Result<String> {
    let mut lines = go_mod.lines().map(|line| line.trim().trim_start_matches("require "));
    let version = lines.find_map(|line| line.strip_prefix(module)?.strip_prefix(' ')?.split(' ').next());
    version.map(str::to_owned).with_context(|| format!("{module} is not in its go.mod"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_module_is_pinned() {
        for (go_mod, module) in [
            (CENTRIFUGE, "github.com/centrifugal/centrifuge"),
            (MERCURE, "github.com/dunglas/mercure"),
            (BENTO, "github.com/warpstreamlabs/bento"),
        ] {
            let version = locked(go_mod, module).expect("it is there");
            assert!(version.starts_with('v'), "{module}: {version}");
        }
    }
}
