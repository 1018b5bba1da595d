//! How soon Sluice serves: from the start of its process, and from a change of its file.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sluice_tests::documents::Channel;
use sluice_tests::{Api, Documents};

use crate::entrant::{Stage, channel, memory};
use crate::measure::resident_bytes;
use crate::report::{Measure, Values};
use crate::scenario::Scale;
use crate::server::Server;
use crate::system::System;
use crate::wire::{Decoder, Event, Wire};

/// How long anything may go without progress.
const PATIENCE: Duration = Duration::from_secs(10);

/// From the start of a process to a message that a client has, of a generator at 100/s.
pub const START: Measure = "start → first message, ms";
/// Resident memory of a process without clients.
pub const RESIDENT: Measure = "resident idle, MiB";

/// A process that starts, and one that has nothing to do.
pub fn start(stage: &Stage, scale: &Scale) -> Result<Values> {
    let orders = Channel::new("messages", "messages").subscribe();
    let api = Api::new("bench").generator(100, 1).channel(orders);
    let begun = Instant::now();
    let mut server = Server::launch(&stage.binary, &Documents::new().api(api))?;
    while let Err(error) = first_message(server.port) {
        server.check()?;
        ensure!(begun.elapsed() < PATIENCE, "no message after {PATIENCE:?}: {error}");
        std::thread::sleep(Duration::from_millis(1));
    }
    let took = begun.elapsed().as_secs_f64() * 1000.0;
    drop(server);
    let idle = Server::start(&stage.binary, &memory(channel("messages", "messages")), Wire::Sse)?;
    std::thread::sleep(scale.warm);
    Ok(vec![(START, took), (RESIDENT, resident_bytes(&idle.pids()?)? as f64 / (1024.0 * 1024.0))])
}

/// Connects, subscribes and waits for the first message.
fn first_message(port: u16) -> Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(Wire::Sse.request("/bench/messages").as_bytes())?;
    let (mut decoder, mut buffer, mut seen) = (Decoder::new(Wire::Sse), [0; 8192], false);
    while !seen {
        let length = stream.read(&mut buffer)?;
        ensure!(length > 0, "closed");
        decoder.take(&buffer[..length], &mut |event| seen |= matches!(event, Event::Message(_)))?;
    }
    Ok(())
}
