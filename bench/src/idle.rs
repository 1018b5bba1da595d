//! What clients that only stay connected cost.

use anyhow::Result;

use crate::entrant::{Entrant, Stage};
use crate::load::Clients;
use crate::measure::{cpu_micros, resident_bytes};
use crate::report::{IDLE, Values};
use crate::scenario::Scale;

/// CPU time of the system's processes to let a client in.
pub const HANDSHAKE: &str = "CPU µs per handshake";

/// Opens `count` clients and sees what they occupy.
pub fn run(stage: &Stage, scale: &Scale, entrant: Entrant, count: usize) -> Result<Values> {
    let count = scale.clients(count);
    let started = entrant.start(stage, false)?;
    let pids = started.system.pids()?;
    std::thread::sleep(scale.warm);
    let (memory, cpu) = (resident_bytes(&pids)?, cpu_micros(&pids)?);
    let mut clients = Clients::open(&started.system.subscription(), None, count)?;
    let cpu = cpu_micros(&pids)? - cpu;
    clients.rest(scale.warm)?;
    let bytes = resident_bytes(&pids)?.saturating_sub(memory);
    Ok(vec![(IDLE, bytes as f64 / 1024.0 / count as f64), (HANDSHAKE, cpu as f64 / count as f64)])
}
