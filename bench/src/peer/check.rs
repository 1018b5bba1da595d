//! Whether every peer does what it is measured for: two clients get what is published, in order.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sluice_tests::Cluster;

use super::{Bento, Kind};
use crate::http::parse;
use crate::system::{Publication, Subscription, System};
use crate::wire::{Decoder, Event};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is published.
const MESSAGES: [&str; 3] = ["one", "two and more", "three"];
/// Clients of a peer.
const CLIENTS: usize = 2;

/// Checks all of them and prints a line each.
pub fn all() -> Result<()> {
    for kind in Kind::ALL {
        let version = kind.version()?;
        for &wire in kind.wires() {
            let peer = kind.start(wire)?;
            delivers(&peer).with_context(|| format!("{} by {}", kind.name(), wire.name()))?;
            println!("{} {version}, {}: in order at {CLIENTS} clients", kind.name(), wire.name());
        }
    }
    bento()?;
    println!("Bento {}: acknowledged, and in the topic", Kind::Bento.version()?);
    Ok(())
}

fn delivers(peer: &impl System) -> Result<()> {
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(Client::open(&peer.subscription())?);
    }
    publish(&peer.publication())?;
    for client in &mut clients {
        client.read(|client| client.got.len() >= MESSAGES.len())?;
        ensure!(client.got == MESSAGES, "a client got {:?}", client.got);
    }
    peer.pids().map(drop)
}

fn bento() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let cluster = runtime.block_on(Cluster::start(1));
    let topic = runtime.block_on(cluster.topic("peers", 1));
    let peer = Bento::start(&cluster.bootstrap(), &topic)?;
    publish(&peer.publication())?;
    let records = runtime.block_on(cluster.records(&topic));
    let payloads: Vec<_> = records.into_iter().filter_map(|record| record.payload).collect();
    ensure!(payloads == MESSAGES.map(Vec::from), "the topic has {payloads:?}");
    peer.pids().map(drop)
}

/// Publishes the messages on one connection.
fn publish(to: &Publication) -> Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", to.port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    for message in MESSAGES {
        let body = (to.body)(message.as_bytes());
        stream.write_all(format!("{}Content-Length: {}\r\n\r\n", to.head, body.len()).as_bytes())?;
        stream.write_all(&body)?;
        let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
        let (status, body) = loop {
            let length = stream.read(&mut buffer).context("no answer to a publish")?;
            ensure!(length > 0, "the publisher's connection was closed");
            answer.extend_from_slice(&buffer[..length]);
            if let Some(whole) = parse(&answer)? {
                break whole;
            }
        };
        ensure!((200..300).contains(&status), "a publish was answered by {status} {body}");
    }
    Ok(())
}

struct Client {
    stream: TcpStream,
    decoder: Decoder,
    open: bool,
    got: Vec<String>,
}

impl Client {
    /// Subscribes, and waits until that is done.
    fn open(to: &Subscription) -> Result<Self> {
        let mut stream = TcpStream::connect(("127.0.0.1", to.port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(to.request.as_bytes())?;
        let mut client = Self { stream, decoder: Decoder::new(to.wire), open: false, got: Vec::new() };
        client.read(|client| client.open)?;
        Ok(client)
    }

    fn read(&mut self, enough: impl Fn(&Self) -> bool) -> Result<()> {
        let begun = Instant::now();
        let mut buffer = [0; 4096];
        while !enough(self) {
            if begun.elapsed() > PATIENCE {
                bail!("only {:?} came", self.got);
            }
            let length =
                self.stream.read(&mut buffer).with_context(|| format!("only {:?} came", self.got))?;
            ensure!(length > 0, "a client's connection was closed");
            let mut answers = Vec::new();
            self.decoder.take(&buffer[..length], &mut |event| match event {
                Event::Open => self.open = true,
                Event::Message(payload) => self.got.push(String::from_utf8_lossy(payload).into_owned()),
                Event::Answer(bytes) => answers.extend_from_slice(bytes),
            })?;
            self.stream.write_all(&answers)?;
        }
        Ok(())
    }
}
