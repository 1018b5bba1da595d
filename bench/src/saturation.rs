//! The highest rate that a system keeps up with: doubled until it does not, then halved in.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::entrant::{Entrant, Stage};
use crate::fanout::values;
use crate::feed::Feeder;
use crate::load::{Clients, Received, Until, Window};
use crate::report::{CPU, LOADED, OWN, P99, RATE, Values};
use crate::scenario::{BYTES, Scale};

/// Of what is sent in a window, so much must be delivered in it.
const DELIVERED: f64 = 0.99;
/// And no later than this, but for one in a hundred.
const MOST_P99_MS: f64 = 100.0;
/// The first rate that is tried, in messages per second to every client.
const FIRST: u64 = 50;
/// Nobody goes beyond.
const LAST: u64 = 6400;
/// How often what lies between a good and a bad rate is halved.
const HALVINGS: usize = 3;
/// Every rate is tried for so long.
const TRIED: Window = Window { warm: Duration::from_millis(700), measured: Duration::from_secs(2), rate: 0 };

/// Deliveries at the highest rate that is kept up with.
pub const REACHED: &str = "deliveries/s";

/// Searches the highest rate of a system.
pub fn run(stage: &Stage, scale: &Scale, entrant: Entrant, clients: usize) -> Result<Values> {
    let clients = scale.clients(clients);
    let mut best = attempt(stage, entrant, clients, FIRST)
        .with_context(|| format!("it does not keep up with {FIRST}/s"))?;
    let (mut good, mut bad) = (FIRST, FIRST * 2);
    while bad <= LAST
        && let Ok(values) = attempt(stage, entrant, clients, bad)
    {
        (good, bad, best) = (bad, bad * 2, values);
    }
    for _ in 0..HALVINGS {
        let between = good.midpoint(bad);
        match attempt(stage, entrant, clients, between) {
            Ok(values) => (good, best) = (between, values),
            Err(_) => bad = between,
        }
    }
    let mut reached = vec![(RATE, good as f64), (REACHED, (good * clients as u64) as f64)];
    for (measure, value) in best {
        match measure {
            CPU | P99 => reached.push((measure, value)),
            // Who is at its limit: the system, or who measures it.
            OWN => reached.push((LOADED, value)),
            _ => {}
        }
    }
    Ok(reached)
}

/// Two tries, because to give up at a stall of the machine would tell less than there is.
fn attempt(stage: &Stage, entrant: Entrant, count: usize, rate: u64) -> Result<Values> {
    attempt_once(stage, entrant, count, rate).or_else(|error| {
        eprintln!("{} at {rate}/s, first try: {error:#}", entrant.name());
        attempt_once(stage, entrant, count, rate)
    })
}

/// A run of its own, so that what one rate left behind does not burden the next.
fn attempt_once(stage: &Stage, entrant: Entrant, count: usize, rate: u64) -> Result<Values> {
    let window = Window { rate, ..TRIED };
    let started = entrant.start(stage, false)?;
    let mut clients = Clients::open(&started.system.subscription(), None, count)?;
    let feeder = Feeder::start(&started, window, BYTES);
    let received = clients.receive(started.system.as_ref(), window, Until::Over);
    // What is under way would be waited for, and so would be everything that is still owed.
    drop((clients, started));
    let _ = feeder.stop();
    kept_up(&received?, window, count)
}

fn kept_up(received: &Received, window: Window, clients: usize) -> Result<Values> {
    let seconds = window.measured.as_secs_f64();
    let share = received.deliveries as f64 / (window.rate as f64 * seconds * clients as f64);
    let p99 = received.latency.quantile_ms(0.99);
    ensure!(share >= DELIVERED, "{:.0} % were delivered", share * 100.0);
    ensure!(p99 <= MOST_P99_MS, "p99 is {p99:.0} ms");
    Ok(values(received, seconds))
}
