//! How late messages are for 1,000 clients while others come, or hardly read.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::crowd::{Sippers, Storm};
use crate::entrant::{Entrant, Stage};
use crate::feed::Feeder;
use crate::load::{Clients, Until, Window};
use crate::measure::peak_bytes;
use crate::report::{CPU, DELIVERIES, Measure, P50, P99, P999, PEAK, Values};
use crate::scenario::{BYTES, Scale};

/// Messages per second, as in the scenario without a disturbance.
const RATE: u64 = 100;
/// Bytes of a message of which a slow client gets one hundred a second.
const SLOW_BYTES: usize = 1024;
/// Bytes per second that a slow client reads.
const SLOW_RATE: usize = 1000;
/// One in so many clients is slow.
const SLOW_SHARE: usize = 10;
/// How long newcomers come.
const STORM: Duration = Duration::from_secs(10);

/// Newcomers whose streams were opened.
pub const CONNECTS: Measure = "connects/s";
/// From when a newcomer was meant to connect to its open stream.
pub const OPEN: Measure = "p99 ms to an open stream";
/// p99 without the slow clients.
pub const UNDISTURBED: Measure = "p99 ms without them";

/// `count` clients, and ten times as many that come and go meanwhile.
pub fn storm(stage: &Stage, scale: &Scale, entrant: Entrant, count: usize) -> Result<Values> {
    let count = scale.clients(count);
    let window = Window { measured: STORM / scale.divisor as u32, ..scale.window(RATE) };
    let started = entrant.start(stage, false)?;
    let subscription = started.system.subscription();
    let mut clients = Clients::open(&subscription, None, count)?;
    let feeder = Feeder::start(&started, window, BYTES);
    let newcomers = count * 10 / scale.divisor;
    let storm = Storm::start(subscription, newcomers, window.warm, window.measured);
    let received = clients.receive(started.system.as_ref(), window, Until::Complete);
    let came = storm.finish();
    let received = feeder.finish().and(received)?;
    let came = came?;
    Ok(vec![
        (P50, received.latency.quantile_ms(0.5)),
        (P99, received.latency.quantile_ms(0.99)),
        (P999, received.latency.quantile_ms(0.999)),
        (CONNECTS, came.per_second),
        (OPEN, came.took.quantile_ms(0.99)),
        (DELIVERIES, received.deliveries as f64),
    ])
}

/// `count` clients of which one in ten hardly reads, and the same without those.
pub fn slow(stage: &Stage, scale: &Scale, entrant: Entrant, count: usize) -> Result<Values> {
    let count = scale.clients(count);
    let slow = count / SLOW_SHARE;
    let without = beside(stage, scale, entrant, (count - slow, 0)).context("without slow clients")?;
    let mut with = beside(stage, scale, entrant, (count - slow, slow))?;
    let p99 = without.iter().find(|(measure, _)| *measure == P99).map(|(_, value)| *value);
    with.extend(p99.map(|value| (UNDISTURBED, value)));
    Ok(with)
}

fn beside(stage: &Stage, scale: &Scale, entrant: Entrant, (count, slow): (usize, usize)) -> Result<Values> {
    let window = scale.window(RATE);
    let started = entrant.start(stage, false)?;
    let subscription = started.system.subscription();
    let mut clients = Clients::open(&subscription, None, count)?;
    let sippers = Sippers::start(&subscription, slow, SLOW_RATE)?;
    let feeder = Feeder::start(&started, window, SLOW_BYTES);
    let received = clients.receive(started.system.as_ref(), window, Until::Complete);
    sippers.finish();
    let received = feeder.finish().and(received)?;
    Ok(vec![
        (P99, received.latency.quantile_ms(0.99)),
        (P999, received.latency.quantile_ms(0.999)),
        (CPU, received.cpu_micros as f64 / received.deliveries as f64),
        // Who keeps for slow clients what they do not read, keeps it here.
        (PEAK, peak_bytes(&started.system.pids()?)? as f64 / (1024.0 * 1024.0)),
    ])
}
