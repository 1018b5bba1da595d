//! What is measured, as data.

use std::time::Duration;

use crate::entrant::Entrant;
use crate::load::Window;
use crate::neighbours;

/// Something to measure, by its name on the command line.
#[derive(Debug)]
pub struct Scenario {
    /// `make bench SCENARIO=<name>`.
    pub name: &'static str,
    /// Repeats it gets at most, if there is time.
    pub repeats: usize,
    /// What is done.
    pub work: Work,
}

/// What is done in a scenario. Every system has its turn once a repeat.
#[derive(Debug)]
pub enum Work {
    /// A message goes to everybody, at a fixed rate.
    Fanouts(&'static [Fanout]),
    /// The highest rate that so many clients are kept up with.
    Saturation(usize),
    /// Memory of so many clients that only stay.
    Idle(usize),
    /// Newcomers while so many clients are served.
    Storm(usize),
    /// So many clients, some of which hardly read.
    Slow(usize),
    /// So many clients, each with a selection, of which there are so many.
    Selections(usize, &'static [u64]),
    /// A quiet API beside a hot one, at these rates.
    Neighbours(&'static [u32]),
    /// HTTP to Kafka.
    Publish,
    /// A changed file with so many channels.
    Change(&'static [usize]),
    /// Start of a process, and what it occupies.
    Start,
    /// How cost grows.
    Curves,
}

/// Messages to many clients at a fixed rate. Fields that are the same in many have defaults.
#[derive(Debug)]
pub struct Fanout {
    /// Names its table.
    pub table: &'static str,
    /// Server-sent events instead of WebSocket.
    pub sse: bool,
    /// How many clients.
    pub clients: usize,
    /// Messages per second.
    pub rate: u64,
    /// Bytes of a message.
    pub bytes: usize,
    /// Who takes part beside everybody who can.
    pub also: &'static [Entrant],
    /// Only these take part, if there are any.
    pub only: &'static [Entrant],
}

/// Bytes of a usual message.
pub const BYTES: usize = 200;
/// Variants of Sluice that are measured where everybody is.
const VARIANTS: &[Entrant] = &[Entrant::SluiceFlush, Entrant::SluiceKafka];

/// A usual fan-out.
pub const fn fanout(table: &'static str, clients: usize, rate: u64) -> Fanout {
    Fanout { table, sse: false, clients, rate, bytes: BYTES, also: &[], only: &[] }
}

/// All scenarios, in order.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "a",
        repeats: 5,
        work: Work::Fanouts(&[
            Fanout { also: VARIANTS, ..fanout("a-100", 1000, 100) },
            Fanout { also: VARIANTS, ..fanout("a-20", 1000, 20) },
        ]),
    },
    Scenario { name: "b", repeats: 1, work: Work::Fanouts(&[fanout("b", 10_000, 10)]) },
    Scenario { name: "c", repeats: 1, work: Work::Saturation(1000) },
    Scenario {
        name: "d",
        repeats: 5,
        work: Work::Fanouts(&[
            Fanout { sse: true, ..fanout("d-100", 1000, 100) },
            Fanout { sse: true, ..fanout("d-20", 1000, 20) },
        ]),
    },
    Scenario {
        name: "e",
        repeats: 2,
        work: Work::Fanouts(&[Fanout { bytes: 16 * 1024, ..fanout("e", 100, 50) }]),
    },
    Scenario { name: "f", repeats: 2, work: Work::Idle(10_000) },
    Scenario { name: "g", repeats: 1, work: Work::Storm(1000) },
    Scenario { name: "h", repeats: 1, work: Work::Slow(1000) },
    Scenario { name: "i", repeats: 5, work: Work::Publish },
    Scenario { name: "j", repeats: 5, work: Work::Change(&[1, 100, 1000]) },
    Scenario { name: "k", repeats: 2, work: Work::Selections(1000, &[1, 50, 500]) },
    Scenario {
        name: "l",
        repeats: 3,
        work: Work::Fanouts(&[Fanout {
            only: &[Entrant::Sluice, Entrant::SluiceTls],
            ..fanout("l", 1000, 100)
        }]),
    },
    Scenario { name: "n", repeats: 3, work: Work::Neighbours(&neighbours::RATES) },
    Scenario { name: "start", repeats: 5, work: Work::Start },
    Scenario { name: "curves", repeats: 1, work: Work::Curves },
];

impl Fanout {
    /// What a reader needs to know of it.
    pub fn title(&self, scale: &Scale) -> String {
        format!(
            "{} {} clients, {} at {}/s{}",
            thousands(scale.clients(self.clients)),
            if self.sse { "SSE" } else { "WebSocket" },
            if self.bytes < 1024 {
                format!("{} B", self.bytes)
            } else {
                format!("{} KiB", self.bytes / 1024)
            },
            self.rate,
            if self.only.contains(&Entrant::SluiceTls) { ", without and with TLS" } else { "" }
        )
    }

    /// Who takes part.
    pub fn entrants(&self) -> Vec<Entrant> {
        if self.only.is_empty() {
            Entrant::all(self.sse).into_iter().chain(self.also.iter().copied()).collect()
        } else {
            self.only.to_vec()
        }
    }
}

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Clients are divided by this.
    pub divisor: usize,
    /// Unmeasured and measured time of a run.
    pub warm: Duration,
    /// See `warm`.
    pub measured: Duration,
    /// Changes of the file.
    pub changes: usize,
}

impl Scale {
    /// What is worth quoting.
    pub const FULL: Self =
        Self { divisor: 1, warm: Duration::from_secs(1), measured: Duration::from_secs(3), changes: 100 };
    /// A smoke test.
    pub const QUICK: Self =
        Self { divisor: 10, warm: Duration::from_millis(500), measured: Duration::from_secs(1), changes: 10 };

    /// How many clients stand for `count`.
    pub fn clients(&self, count: usize) -> usize {
        (count / self.divisor).max(1)
    }

    /// A run at `rate`.
    pub fn window(&self, rate: u64) -> Window {
        Window { warm: self.warm, measured: self.measured, rate }
    }
}

/// A number with its thousands set apart.
pub fn thousands(count: usize) -> String {
    if count < 1000 { count.to_string() } else { format!("{},{:03}", count / 1000, count % 1000) }
}
