//! What was found out about a change: sentences, and what becomes of each stream that is open.
//!
//! A stream may meet several things at once. It is counted for the worst of them and once.

use sluice_config::{Channel, Entry, StreamApiSpec};

use crate::streams::{ByApi, Open, Streams};

/// The consequences of a change.
#[derive(Debug, Default)]
pub struct Impact {
    /// Each a sentence; none if nobody notices.
    pub told: Vec<String>,
    /// The streams that are open; `None` if that is not known.
    groups: Option<Vec<Group>>,
    /// How many servers are connected anew.
    pub(super) servers: usize,
    /// Everything that can end a stream was looked at.
    pub(super) is_whole: bool,
}

/// Streams that all meet the same.
#[derive(Debug)]
struct Group {
    /// Their channel, or their API where it is about many.
    of: String,
    transport: Transport,
    open: u64,
    fate: Fate,
}

/// How a stream is read, or published to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    /// WebSocket.
    WebSocket,
    /// Server-sent events.
    Sse,
}

/// What becomes of a stream, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fate {
    /// Nothing.
    Stays,
    /// It is judged again, and stays if it may.
    Checked,
    /// Some of those that are meant have to go to another pod.
    MayMove,
    /// It has to go to another pod.
    Moves,
    /// It ends.
    Closed,
}

impl Impact {
    /// Of a change that concerns nobody yet.
    pub(super) fn on_nobody() -> Self {
        Self { groups: Some(Vec::new()), is_whole: true, ..Self::default() }
    }

    /// Of a change to an API that is `spec` now, with its open streams if they are known.
    pub(super) fn on_api(spec: &StreamApiSpec, streams: Option<&Streams>) -> Self {
        let channels = |streams: &Streams| {
            let channels = spec.channels.iter();
            channels.flat_map(|channel| groups(&channel.name, streams.of(&channel.name))).collect::<Vec<_>>()
        };
        Self { groups: streams.map(channels), is_whole: true, ..Self::default() }
    }

    /// Of a change to a gateway, with the open streams of the APIs on it if they are known.
    pub(super) fn on_gateway(streams: Option<&ByApi>) -> Self {
        let apis = |streams: &ByApi| {
            streams.iter().flat_map(|(api, streams)| groups(api, streams.all())).collect::<Vec<_>>()
        };
        Self { groups: streams.map(apis), is_whole: true, ..Self::default() }
    }

    /// Tells a consequence.
    pub(super) fn tell(&mut self, what: String) {
        self.told.push(what);
    }

    /// Tells a consequence for a channel.
    pub(super) fn tell_of(&mut self, channel: &Channel, what: &str) {
        self.tell(format!("channel {}: {what}", channel.name));
    }

    /// The streams that are meant meet `fate`; how many they are.
    pub(super) fn meet(&mut self, fate: Fate, is_meant: impl Fn(&str, Transport) -> bool) -> Option<Open> {
        let mut met = Open::default();
        for group in self.groups.as_mut()? {
            if is_meant(&group.of, group.transport) {
                group.fate = group.fate.max(fate);
                met = met.and(group.streams());
            }
        }
        Some(met)
    }

    /// As [`Self::meet`], the streams of a channel by `transports`.
    pub(super) fn meet_of(
        &mut self,
        channel: &Channel,
        transports: &[Transport],
        fate: Fate,
    ) -> Option<Open> {
        self.meet(fate, |of, transport| of == channel.name && transports.contains(&transport))
    }

    /// As [`Self::meet`], every stream.
    pub(super) fn meet_all(&mut self, fate: Fate) -> Option<Open> {
        self.meet(fate, |_, _| true)
    }

    /// Channels of the API that are closed, as it is to be served: a policy on them cannot be resolved, or their server
    /// has no credentials. Those that nobody is connected to may have been before, and are not told.
    pub fn close(&mut self, entry: &Entry, whose: &str) {
        for (channel, policy) in &entry.policies {
            let Some(reason) = &policy.closed else { continue };
            let open = self.meet(Fate::Closed, |of, _| of == channel);
            if open.is_some_and(|open| open.total() > 0) {
                let open = open_now(open);
                self.tell(format!("{whose}channel {channel}: is closed and its streams{open} end: {reason}"));
            }
        }
    }

    /// Adds what the same change does to others.
    pub(super) fn join(&mut self, other: Self) {
        self.told.extend(other.told);
        self.groups = self.groups.take().zip(other.groups).map(|(mut all, more)| {
            all.extend(more);
            all
        });
        self.servers += other.servers;
        self.is_whole &= other.is_whole;
    }

    /// The sum of it all in one sentence, if it is known. That nobody loses a stream is told in a dry run only:
    /// whoever applies for good is told what has consequences, and otherwise left alone.
    pub fn conclusion(&self, is_dry_run: bool) -> Option<String> {
        let groups = self.groups.as_ref().filter(|_| self.is_whole)?;
        let sum = |is_meant: &dyn Fn(Fate) -> bool| {
            let meant = groups.iter().filter(|group| is_meant(group.fate));
            meant.fold(Open::default(), |sum, group| sum.and(group.streams()))
        };
        if self.told.is_empty() {
            let open = sum(&|_| true);
            let is_told = is_dry_run && open.total() > 0;
            return is_told.then(|| format!("no open stream is closed{}", open_now(Some(open))));
        }
        let met = |fate| sum(&|met| met == fate).total();
        let mut parts = vec![format!("{} closed", counted(met(Fate::Closed), "stream"))];
        for (count, before, after) in [
            (met(Fate::Moves), "", "moved"),
            (met(Fate::MayMove), "up to ", "moved"),
            (met(Fate::Checked), "", "checked anew"),
        ] {
            parts.extend((count > 0).then(|| format!("{before}{count} {after}")));
        }
        let servers = u64::try_from(self.servers).unwrap_or(u64::MAX);
        parts.extend((servers > 0).then(|| format!("{} connected anew", counted(servers, "server"))));
        Some(format!("in all: {}", parts.join(", ")))
    }
}

impl Group {
    const fn streams(&self) -> Open {
        match self.transport {
            Transport::WebSocket => Open { websocket: self.open, sse: 0 },
            Transport::Sse => Open { websocket: 0, sse: self.open },
        }
    }
}

fn groups(of: &str, open: Open) -> [Group; 2] {
    [(Transport::WebSocket, open.websocket), (Transport::Sse, open.sse)].map(|(transport, open)| Group {
        of: of.to_owned(),
        transport,
        open,
        fate: Fate::Stays,
    })
}

fn counted(count: u64, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// How many are open, to stand behind what is told of them; nothing if that is not known.
pub(super) fn open_now(open: Option<Open>) -> String {
    open.map(|open| format!(" ({open} open now)")).unwrap_or_default()
}

/// As [`open_now`], where it happens to some of them.
pub(super) fn among(open: Option<Open>) -> String {
    match open {
        Some(open) if open.total() > 0 => format!(" (of {open} open now)"),
        none => open_now(none),
    }
}
