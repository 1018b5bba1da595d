//! What a hot API beside it does to a quiet one in the same process: 50 clients at 100/s, alone and
//! beside 1,000 clients of another API, whose messages come faster and faster.

use anyhow::Result;
use sluice_tests::documents::{Api, Channel, Documents};

use crate::crowd::Drinkers;
use crate::entrant::{Inlet, Stage, Started, channel};
use crate::fanout::values;
use crate::feed::Feeder;
use crate::load::{Clients, Until, Window};
use crate::report::{CPU, Measure, Values};
use crate::scenario::{BYTES, Scale};
use crate::server::Server;
use crate::system::Subscription;
use crate::wire::Wire;

/// Messages per second of the hot API, of which each of its clients gets all; none is alone.
pub const RATES: [u32; 4] = [0, 20, 100, 400];
/// Clients of the quiet API.
const CLIENTS: usize = 50;
/// Messages per second of it.
const RATE: u64 = 100;
/// Clients of the hot API.
const CROWD: usize = 1000;
/// What the hot API's clients received.
pub const HOT: Measure = "MiB/s to the hot API's clients";

/// Name of the row of the quiet API beside a hot one at `rate`.
pub fn row(rate: u32) -> String {
    match rate {
        0 => "alone".into(),
        rate => format!("beside {rate}/s to 1,000"),
    }
}

/// The quiet API beside a hot one at `rate`.
pub fn measure(stage: &Stage, scale: &Scale, rate: u32) -> Result<Values> {
    let window = scale.window(RATE);
    // The latest of a hundred messages: it takes many for that to be no chance.
    let window = Window { measured: window.measured * 2, ..window };
    let quiet = Api::new("bench").memory().channel(channel("messages", "messages"));
    let hot = Api::new("hot").generator(rate.max(1), 1).channel(Channel::new("ticks", "ticks").subscribe());
    let server = Server::start(&stage.binary, &Documents::new().api(quiet).api(hot), Wire::WebSocket)?;
    let ticks = Subscription::to_all(server.port, Wire::WebSocket, "/hot/ticks");
    let started = Started { system: Box::new(server), inlet: Inlet::Http };
    let subscription = started.system.subscription();
    let mut clients = Clients::open(&subscription, None, scale.clients(CLIENTS))?;
    let crowd = if rate == 0 { 0 } else { scale.clients(CROWD) };
    let drinkers = Drinkers::start(&ticks, crowd)?;
    let feeder = Feeder::start(&started, window, BYTES);
    let received = clients.receive(started.system.as_ref(), window, Until::Complete);
    let drunk = drinkers.finish()?;
    let received = feeder.end(received)?;
    let seconds = window.measured.as_secs_f64();
    let mut values = values(&received, seconds);
    // Of both APIs together, and therefore of neither.
    values.retain(|(measure, _)| *measure != CPU);
    values.push((HOT, drunk));
    Ok(values)
}
