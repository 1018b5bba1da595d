//! How soon Sluice serves: from the start of its process, and from a change of its file.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sluice_tests::documents::Channel;
use sluice_tests::{Api, Documents};

use crate::entrant::{Stage, channel, memory};
use crate::histogram::Histogram;
use crate::http::Http;
use crate::measure::resident_bytes;
use crate::report::{Measure, P50, P99, Values};
use crate::scenario::Scale;
use crate::server::Server;
use crate::system::System;
use crate::wire::{Decoder, Event, Wire};

/// How long anything may go without progress.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two questions, so that answering them is not what is measured.
const LOOK: Duration = Duration::from_micros(200);
/// Channels of one API, of which there are at most 256.
const CHANNELS_OF_AN_API: usize = 100;

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

/// Changes of a file that has `count` channels: how long until each is served.
pub fn change(stage: &Stage, scale: &Scale, count: usize) -> Result<Values> {
    let server = Server::start(&stage.binary, &channels("change", count), Wire::Sse)?;
    let mut client = Http::connect(server.port)?;
    let mut served = Histogram::default();
    for change in 0..scale.changes {
        let name = format!("change-{change}");
        let path = format!("/bench/{name}");
        ensure!(client.get(&path)?.0 == 404, "{path} is served before it is there");
        let begun = Instant::now();
        server.change(&channels(&name, count))?;
        // What is there answers 406: it has no JSON to poll.
        while client.get(&path)?.0 == 404 {
            ensure!(begun.elapsed() < PATIENCE, "{path} is not served after {PATIENCE:?}");
            std::thread::sleep(LOOK);
        }
        served.record(begun.elapsed().as_micros() as u64);
    }
    Ok(vec![(P50, served.quantile_ms(0.5)), (P99, served.quantile_ms(0.99))])
}

/// `count` channels, of which the first is called `name`.
fn channels(name: &str, count: usize) -> Documents {
    let mut documents = Documents::new();
    for first in (0..count).step_by(CHANNELS_OF_AN_API) {
        let title = if first == 0 { "bench".to_owned() } else { format!("bench-{first}") };
        let mut api = Api::new(&title).memory();
        for place in first..count.min(first + CHANNELS_OF_AN_API) {
            let address = if place == 0 { name.to_owned() } else { format!("channel-{place}") };
            api = api.channel(channel(&address, &address));
        }
        documents = documents.api(api);
    }
    documents
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
