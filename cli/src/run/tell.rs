//! What a person at a terminal is told, and a program in its stead: where things are, what changed,
//! what was refused.

use std::fmt::Write as _;
use std::net::SocketAddr;

use sluice_config::channel::{Channel, path};
use sluice_config::config::Entry;
use sluice_config::policy::Authentication;
use sluice_dataplane::ServeError;
use tracing::{error, info, warn};

use super::changes::Change;
use super::load::Update;
use super::reachable;
use crate::documents::Report;
use crate::logging::Reader;
use crate::print;

/// How to tell.
#[derive(Clone, Copy, Debug)]
pub struct Voice(Reader);

/// Where the data plane listens.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// HTTP.
    pub plain: SocketAddr,
    /// HTTPS.
    pub tls: Option<SocketAddr>,
    /// The admin port.
    pub admin: SocketAddr,
}

impl Voice {
    /// For whoever reads.
    pub const fn of(reader: Reader) -> Self {
        Self(reader)
    }

    /// Problems that are new.
    pub fn problems(self, reports: &[Report]) {
        for report in reports {
            match self.0 {
                Reader::Person => self.say(&format!("problem  {report}\n")),
                Reader::Program => {
                    warn!(file = report.file, line = report.line, at = report.at, "{}", report.message);
                }
            }
        }
    }

    /// The end before the beginning: the problems were told.
    pub fn not_started(self) {
        match self.0 {
            Reader::Person => self.say("not started; correct the problems above\n"),
            Reader::Program => error!("not started; correct the problems above"),
        }
    }

    /// The end, for this reason.
    pub fn failed(self, reason: &ServeError) {
        match self.0 {
            Reader::Person => self.say(&format!("sluice: {reason}\n")),
            Reader::Program => error!("{reason}"),
        }
    }

    /// The listeners are open.
    pub fn listening(self, addresses: &Addresses) {
        let Addresses { plain, tls, admin } = addresses;
        match self.0 {
            Reader::Person => {
                let plain = reachable(*plain);
                let mut text =
                    format!("console  http://{plain}/-/\nadmin    http://{}/readyz\n", reachable(*admin));
                if let Some(tls) = tls {
                    let _ = writeln!(text, "https    https://{}", reachable(*tls));
                }
                self.say(&text);
            }
            Reader::Program => {
                let tls = tls.map(|tls| tls.to_string());
                info!(address = %plain, tls_address = tls, admin_address = %admin, "listening");
            }
        }
    }

    /// What is served differently.
    pub fn changes(self, update: &Update, addresses: &Addresses) {
        for change in &update.changes {
            match self.0 {
                Reader::Person => self.say(&sentence(change, update, addresses)),
                Reader::Program => log(change, update, addresses),
            }
        }
    }

    fn say(self, text: &str) {
        // There is nobody to tell that nobody reads.
        let _ = print(text);
    }
}

fn sentence(change: &Change, update: &Update, addresses: &Addresses) -> String {
    match change {
        Change::Served(name) => {
            let mut text = format!("serving  {name}\n");
            if update.placed.contains(name) {
                text.push_str("         its `placement` is for clusters and has no effect here\n");
            }
            if let Some(entry) = update.loaded.config.apis.get(name) {
                for channel in &entry.api.spec.channels {
                    text.push_str(&invitation(entry, channel, addresses));
                }
            }
            text
        }
        Change::Changed(name) => format!("changed  {name}\n"),
        Change::Gone(name) => format!("gone     {name}\n"),
        Change::Closed(channel, reason) => format!("closed   {channel}: {reason}\n"),
        Change::Opened(channel) => format!("opened   {channel}\n"),
    }
}

fn log(change: &Change, update: &Update, addresses: &Addresses) {
    let revision = |name: &str| update.loaded.config.apis.get(name).map(|entry| entry.revision.clone());
    match change {
        Change::Served(name) => {
            let entry = update.loaded.config.apis.get(name);
            let urls = entry.map(|entry| {
                let url = |channel: &Channel| url("http", addresses.plain, entry, channel);
                entry.api.spec.channels.iter().map(url).collect::<Vec<_>>().join(" ")
            });
            let placement = update.placed.contains(name).then_some("for clusters, no effect here");
            info!(api = name, revision = revision(name), urls, placement, "serving");
        }
        Change::Changed(name) => info!(api = name, revision = revision(name), "changed"),
        Change::Gone(name) => info!(api = name, "gone"),
        Change::Closed(channel, reason) => warn!(channel, reason, "closed"),
        Change::Opened(channel) => info!(channel, "opened"),
    }
}

fn url(scheme: &str, address: SocketAddr, entry: &Entry, channel: &Channel) -> String {
    format!("{scheme}://{}{}", reachable(address), path(&entry.api.name, &entry.api.spec, channel))
}

/// The channel's URL and commands to paste.
fn invitation(entry: &Entry, channel: &Channel, addresses: &Addresses) -> String {
    let http = url("http", addresses.plain, entry, channel);
    let keyed = entry
        .policies
        .get(&channel.name)
        .is_some_and(|policy| matches!(policy.authentication, Some(Authentication::ApiKeys(_))));
    let key = if keyed { " -H 'Authorization: Bearer slk_…'" } else { "" };
    let mut text = format!("  {:<10} {http}\n", channel.name);
    let mut command = |line: String| {
        let _ = writeln!(text, "  {:<10} {line}", "");
    };
    if let Some(subscribe) = &channel.subscribe {
        if subscribe.transports.sse.is_some() {
            command(format!("curl -N{key} {http}"));
        } else if subscribe.transports.websocket.is_some() {
            command(format!("websocat{key} {}", url("ws", addresses.plain, entry, channel)));
        }
    }
    if channel.publish.as_ref().is_some_and(|publish| publish.transports.http.is_some()) {
        let content_type = channel.message.content_type().unwrap_or("application/octet-stream");
        let body =
            if content_type.starts_with("application/json") { r#"{"hello":"world"}"# } else { "hello" };
        command(format!("curl{key} -H 'Content-Type: {content_type}' -d '{body}' {http}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use std::sync::Arc;

    use sluice_config::Config;
    use sluice_dataplane::Loaded;

    use super::*;
    use crate::documents;

    #[test]
    fn a_served_api_shows_urls_and_commands_to_paste() {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/secured.yaml"));
        let documents = documents::parse("secured.yaml", &text.expect("there"), "default").expect("parses");
        let objects = documents::assemble(documents.iter()).objects;
        let config = sluice_operator::render(&objects, &Config::default()).config;
        let change = Change::Served("default/desk".into());
        let loaded = Arc::new(Loaded { config, ..Loaded::default() });
        let update =
            Update { loaded, problems: vec![], changes: vec![], placed: BTreeSet::new(), usable: true };
        let plain = "0.0.0.0:8080".parse().expect("an address");
        let addresses = Addresses { plain, tls: None, admin: plain };
        let expected = "\
serving  default/desk
  ticks      http://127.0.0.1:8080/desk/ticks
             curl -N -H 'Authorization: Bearer slk_…' http://127.0.0.1:8080/desk/ticks
  notes      http://127.0.0.1:8080/desk/notes
             curl -N -H 'Authorization: Bearer slk_…' http://127.0.0.1:8080/desk/notes
             curl -H 'Authorization: Bearer slk_…' -H 'Content-Type: text/plain' -d 'hello' http://127.0.0.1:8080/desk/notes
  status     http://127.0.0.1:8080/desk/status
             curl -N http://127.0.0.1:8080/desk/status
";
        assert_eq!(sentence(&change, &update, &addresses), expected);
    }
}
