//! `sluice key create`: an API key for a client, and the Secret that knows only its digest.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use sluice_crds::{USE_LABEL, yaml::to_yaml};

use crate::{Failure, print};

/// `sluice key …`.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Make an API key: the key goes to standard error, once; the Secret to standard output
    #[command(after_help = "Example:\n  sluice key create shop-keys --id alice > shop-keys.yaml")]
    Create(Args),
}

/// Flags of `sluice key create`.
#[derive(clap::Args)]
pub struct Args {
    /// Name of the Secret
    #[arg(value_parser = secret_name)]
    name: String,
    /// Name of the key inside the Secret, which logs and limits know its holder by [default: random]
    #[arg(long, value_name = "ID", value_parser = id)]
    id: Option<String>,
    /// Namespace of the Secret
    #[arg(long, value_name = "NAMESPACE")]
    namespace: Option<String>,
}

/// Runs the command.
pub fn key(command: &Command) -> Result<(), Failure> {
    let Command::Create(args) = command;
    let key = format!("slk_{}", URL_SAFE_NO_PAD.encode(random::<32>()?));
    let id = match &args.id {
        Some(id) => id.clone(),
        None => format!("k{}", hex(&random::<4>()?)),
    };
    eprintln!("The key, shown only now (Authorization: Bearer …):\n{key}\n");
    print(&manifest(args, &id, &key))
}

fn manifest(args: &Args, id: &str, key: &str) -> String {
    let digest = format!("sha256:{}", hex(&Sha256::digest(key.as_bytes())));
    let mut secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": args.name, "labels": {USE_LABEL: "true"}},
        "stringData": {id: digest},
    });
    if let Some(namespace) = &args.namespace {
        secret["metadata"]["namespace"] = json!(namespace);
    }
    to_yaml(&secret)
}

fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| anyhow::anyhow!("the system gives no random bytes: {error}"))?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn secret_name(text: &str) -> Result<String, String> {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    let ends = |text: &str| text.ends_with(['-', '.']) || text.starts_with(['-', '.']);
    if (1..=253).contains(&text.len()) && text.bytes().all(good) && !ends(text) {
        Ok(text.to_owned())
    } else {
        Err("use a-z, 0-9, - and .".into())
    }
}

fn id(text: &str) -> Result<String, String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if (1..=63).contains(&text.len()) && text.bytes().all(good) {
        Ok(text.to_owned())
    } else {
        Err("use at most 63 letters, digits, '.', '_' and '-'".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_knows_the_digest_of_the_whole_key_and_nothing_else() {
        let args = Args { name: "shop-keys".into(), id: None, namespace: Some("a".into()) };
        let text = manifest(&args, "alice", "slk_abc");
        let digest = hex(&Sha256::digest(b"slk_abc"));
        let expected = format!(
            "apiVersion: v1\nkind: Secret\nmetadata:\n  labels:\n    sluice.dev/use: \"true\"\n  \
             name: shop-keys\n  namespace: a\nstringData:\n  alice: sha256:{digest}\n"
        );
        assert_eq!(text, expected);
        assert!(!text.contains("slk_"));
    }

    #[test]
    fn keys_are_random() {
        let (one, two) = (random::<32>().ok(), random::<32>().ok());
        assert!(one.is_some() && one != two);
    }
}
