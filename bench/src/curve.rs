//! How cost grows: with clients, with what is kept for replay, with channels.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use sluice_tests::curve::Curve;

use crate::entrant::{Entrant, Stage, channel, memory};
use crate::http::request;
use crate::measure::resident_bytes;
use crate::peer::Kind;
use crate::report::{CPU, P50, P99};
use crate::scenario::{BYTES, Scale, fanout};
use crate::server::Server;
use crate::system::System;
use crate::wire::{Wire, find};
use crate::{change, fanout};

/// Clients and messages per second whose product is always the same.
const CLIENTS: [(usize, u64); 4] = [(10, 2000), (100, 200), (1000, 20), (10_000, 2)];
/// Messages kept for replay.
const RINGS: [usize; 5] = [1, 25_000, 50_000, 75_000, 100_000];
/// Channels of a file.
const CHANNELS: [usize; 7] = [1, 3, 10, 30, 100, 300, 1000];
/// Requests on their way when a ring is filled.
const PIPELINED: usize = 50;
/// How long a server may take for those.
const PATIENCE: Duration = Duration::from_secs(10);

/// All curves, with nothing in them.
pub fn empty() -> Vec<Curve> {
    vec![
        Curve::new(
            "clients",
            "CPU per delivery, 20,000 deliveries/s of 200 B by WebSocket",
            ("clients", "CPU µs per delivery"),
            true,
        ),
        Curve::new(
            "ring",
            "Resident memory with what is kept for replay",
            ("messages of 200 B kept", "resident MiB"),
            false,
        ),
        Curve::new("channels", "File change → served", ("channels in the file", "ms"), true),
    ]
}

/// Adds one repeat to `curves`, which came from [`empty`].
pub fn run(stage: &Stage, scale: &Scale, curves: &mut [Curve]) -> Result<()> {
    let [clients, ring, channels] = curves else { anyhow::bail!("three curves are measured") };
    for entrant in [Entrant::Floor, Entrant::Sluice, Entrant::Peer(Kind::Bun)] {
        for (count, rate) in CLIENTS {
            // A system that cannot is missing in the picture, and has its row in the tables.
            let outcome = fanout::run(stage, scale, &fanout("clients", count, rate), entrant);
            let values = outcome.unwrap_or_default();
            let cpu = values.iter().find(|(measure, _)| *measure == CPU);
            cpu.iter().for_each(|(_, cpu)| clients.add(&entrant.name(), scale.clients(count) as f64, *cpu));
        }
    }
    for messages in RINGS {
        let mib = ring_mib(stage, scale, messages).with_context(|| format!("a ring of {messages}"))?;
        ring.add("Sluice", messages as f64, mib);
    }
    for count in CHANNELS {
        for (measure, value) in change::change(stage, scale, count)? {
            let name = if measure == P50 { "median" } else { "p99" };
            debug_assert!([P50, P99].contains(&measure));
            channels.add(name, count as f64, value);
        }
    }
    Ok(())
}

/// Resident memory once a ring is full.
fn ring_mib(stage: &Stage, scale: &Scale, messages: usize) -> Result<f64> {
    let replay = json!({"messages": messages, "bytes": 1 << 30});
    let documents = memory(channel("messages", "messages").set("/subscribe/replay", replay));
    let server = Server::start(&stage.binary, &documents, Wire::Sse)?;
    let mut stream = TcpStream::connect(("127.0.0.1", server.publication().port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let requests = request(&server.publication(), &[b'x'; BYTES]).repeat(PIPELINED);
    let mut buffer = vec![0; 64 * 1024];
    for _ in 0..messages.div_ceil(PIPELINED) {
        stream.write_all(&requests)?;
        let (mut answered, mut rest) = (0, Vec::new());
        while answered < PIPELINED {
            let length = stream.read(&mut buffer)?;
            ensure!(length > 0, "the server closed the connection");
            rest.extend_from_slice(&buffer[..length]);
            while let Some(at) = find(&rest, b"HTTP/1.1 200 ") {
                answered += 1;
                rest.drain(..at + 1);
            }
        }
    }
    std::thread::sleep(scale.warm);
    Ok(resident_bytes(&server.pids()?)? as f64 / (1024.0 * 1024.0))
}
