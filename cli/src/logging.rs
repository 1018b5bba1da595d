//! Logs: JSON lines in a container or a pipe, readable text on a terminal. `SLUICE_LOG` filters
//! (`info`, `sluice=debug`); payloads, header values and credentials are never logged.

use std::io::IsTerminal as _;
use std::path::Path;

use tracing_subscriber::EnvFilter;

/// librdkafka and others say at `info` what concerns only themselves, and every failed request of
/// the Kubernetes client is told by whoever made it, once.
const DEFAULT_FILTER: &str = "warn,sluice=info,kube_client=off";

/// Who reads what is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// A person at a terminal.
    Person,
    /// A program that collects lines.
    Program,
}

/// Sets logging up and says who reads.
pub fn start() -> Reader {
    let reader =
        if std::io::stderr().is_terminal() && !in_container() { Reader::Person } else { Reader::Program };
    let filter = EnvFilter::try_from_env("SLUICE_LOG").unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match reader {
        Reader::Person => builder.with_target(false).init(),
        Reader::Program => {
            builder.json().flatten_event(true).with_current_span(true).with_span_list(false).init()
        }
    }
    reader
}

fn in_container() -> bool {
    let marked = ["KUBERNETES_SERVICE_HOST", "container"].iter().any(|name| std::env::var_os(name).is_some());
    marked || ["/.dockerenv", "/run/.containerenv"].iter().any(|path| Path::new(path).exists())
}
