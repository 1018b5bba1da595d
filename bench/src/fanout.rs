//! Runs a fan-out: starts the system, opens the clients, feeds, receives.

use anyhow::{Context, Result};

use crate::client;
use crate::entrant::{Entrant, Stage};
use crate::feed::Feeder;
use crate::load::{Clients, Received, Until};
use crate::measure::peak_bytes;
use crate::report::{CPU, DELIVERIES, FRAME, OWN, P50, P99, P999, PEAK, Values};
use crate::scenario::{Fanout, Scale};

/// One run of one system: what it cost, how late messages were, what it occupied at most.
pub fn run(stage: &Stage, scale: &Scale, fanout: &Fanout, entrant: Entrant) -> Result<Values> {
    let window = scale.window(fanout.rate);
    let started = entrant.start(stage, fanout.sse).context("it does not start")?;
    let tls = (entrant == Entrant::SluiceTls).then(client::trusting);
    let subscription = started.system.subscription();
    let mut clients = Clients::open(&subscription, tls.as_ref(), scale.clients(fanout.clients))?;
    let feeder = Feeder::start(&started, window, fanout.bytes);
    let received = clients.receive(started.system.as_ref(), window, Until::Complete);
    let received = feeder.end(received)?;
    let mut values = values(&received, window.measured.as_secs_f64());
    values.push((PEAK, peak_bytes(&started.system.pids()?)? as f64 / (1024.0 * 1024.0)));
    Ok(values)
}

/// What a reception tells, whose window was so many seconds.
pub fn values(received: &Received, seconds: f64) -> Values {
    vec![
        (CPU, received.cpu_micros as f64 / received.deliveries as f64),
        (P50, received.latency.quantile_ms(0.5)),
        (P99, received.latency.quantile_ms(0.99)),
        (P999, received.latency.quantile_ms(0.999)),
        (DELIVERIES, received.deliveries as f64),
        (FRAME, received.frame_bytes as f64),
        (OWN, received.own_micros as f64 / 10_000.0 / seconds),
    ]
}
