//! The commands that start peers. Their scripts and configuration are written from this program, so
//! that what is measured belongs to what measures.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};
use sluice_tests::process;

use super::{Kind, install, post};

/// Where subscribers of Mercure ask.
pub const MERCURE_SUBSCRIBE: &str = "/.well-known/mercure?topic=bench";
/// What signs [`MERCURE_TOKEN`].
const MERCURE_KEY: &str = "a-key-of-the-benchmark-and-of-nothing-else";
/// `{"mercure":{"publish":["*"]}}`, signed by HS256.
const MERCURE_TOKEN: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJtZXJjdXJlIjp7InB1Ymxpc2giOlsiKiJdfX0.\
                             2-EaQag7USomS_CiYSm63yaf6uDhIDvkDjz4Bfh7Wb4";

/// Starts `kind` on `port` with one channel.
pub fn fan_out(kind: Kind, port: u16) -> Result<Command> {
    let installed = install::directory()?;
    let home = process::directory("peer");
    let (address, port) = (format!("127.0.0.1:{port}"), port.to_string());
    let mut command = match kind {
        Kind::Bun => {
            let script = write(&home, "bun.js", include_str!("../../peers/bun.js"))?;
            command(installed.join("bun"), [script, port])
        }
        Kind::Ws => {
            let script = write(&home, "ws.js", include_str!("../../peers/ws.js"))?;
            let mut node = command("node", [script, port]);
            node.env("NODE_PATH", installed.join("node_modules"));
            node
        }
        Kind::Nchan => {
            let config = include_str!("../../peers/nchan.conf").replace("ADDRESS", &address);
            let config = write(&home, "nchan.conf", &config)?;
            let mut nginx = command(install::NGINX, ["-e", "stderr", "-c", &config, "-p"]);
            nginx.arg(&home);
            nginx
        }
        Kind::Centrifuge => command(installed.join("centrifuge"), [address]),
        Kind::Mercure => {
            let mut mercure = Command::new(installed.join("mercure"));
            mercure.env("ADDR", address).env("TRANSPORT_URL", "local://local").env("ALLOW_ANONYMOUS", "1");
            mercure.env("PUBLISHER_JWT_KEY", MERCURE_KEY);
            // Neither heartbeats nor an end of long streams.
            mercure.env("HEARTBEAT_INTERVAL", "0s").env("WRITE_TIMEOUT", "0s");
            mercure
        }
        Kind::Bento => bail!("Bento brings each message to one client only"),
    };
    command.current_dir(home).env("GOMAXPROCS", "1");
    Ok(command)
}

/// Starts Bento on `port`, to publish to `topic`.
pub fn bento(port: u16, brokers: &str, topic: &str) -> Result<Command> {
    let home = process::directory("peer");
    let config = include_str!("../../peers/bento.yaml").replace("ADDRESS", &format!("127.0.0.1:{port}"));
    let config = write(&home, "bento.yaml", &config.replace("BROKERS", brokers).replace("TOPIC", topic))?;
    let mut bento = command(install::directory()?.join("bento"), ["-c", &config]);
    bento.current_dir(home).env("GOMAXPROCS", "1");
    Ok(bento)
}

/// What a publisher says to Mercure.
pub fn mercure_head() -> String {
    let head = post("/.well-known/mercure", "application/x-www-form-urlencoded");
    format!("{head}Authorization: Bearer {MERCURE_TOKEN}\r\n")
}

/// The payload in a form.
pub fn mercure_body(payload: &[u8]) -> Vec<u8> {
    let mut body = b"topic=bench&data=".to_vec();
    for &byte in payload {
        match byte {
            b' ' => body.push(b'+'),
            _ if byte.is_ascii_alphanumeric() => body.push(byte),
            _ => body.extend(format!("%{byte:02X}").bytes()),
        }
    }
    body
}

fn command(program: impl AsRef<OsStr>, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// Writes a file and says where it is.
fn write(home: &Path, name: &str, text: &str) -> Result<String> {
    let path = home.join(name);
    std::fs::write(&path, text)?;
    Ok(path.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_in_a_form_is_encoded() {
        assert_eq!(mercure_body(b"1 x&=+"), b"topic=bench&data=1+x%26%3D%2B");
    }
}
