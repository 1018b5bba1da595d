//! What disturbs the clients that are measured: others that come in thousands, others that hardly
//! read, and those of another API. Each kind on a thread of its own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Socket, Type};

use crate::client::{Client, Seen};
use crate::epoll::Epoll;
use crate::histogram::Histogram;
use crate::system::Subscription;

/// How long the last newcomers may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// A client that hardly reads has the segments of an Ethernet and a small buffer: on loopback,
/// megabytes would fit between it and the server, and no server would notice.
const SEGMENT: u32 = 1400;
/// See `SEGMENT`.
const RECEIVE_BUFFER: usize = 8 * 1024;
/// How often they read.
const SIPS: u32 = 5;

/// Newcomers, each of which leaves once its stream is open: had they stayed, there would be ten
/// times as much to deliver, and that would be another question.
#[derive(Debug)]
pub struct Storm {
    thread: JoinHandle<Result<Came>>,
}

/// How newcomers fared.
#[derive(Debug)]
pub struct Came {
    /// Streams opened per second.
    pub per_second: f64,
    /// From the moment each was meant to connect until its stream was open.
    pub took: Histogram,
}

impl Storm {
    /// `count` clients come within `time`, evenly, after `wait`.
    pub fn start(to: Subscription, count: usize, wait: Duration, time: Duration) -> Self {
        let come = move || {
            std::thread::sleep(wait);
            come(&to, count, time)
        };
        Self { thread: std::thread::spawn(come) }
    }

    /// Waits for the last one.
    pub fn finish(self) -> Result<Came> {
        self.thread.join().expect("a storm does not panic").context("newcomers failed")
    }
}

fn come(to: &Subscription, count: usize, time: Duration) -> Result<Came> {
    let mut epoll = Epoll::new()?;
    let mut waiting: Vec<Option<(Client, Instant)>> = Vec::with_capacity(count);
    let (mut opened, mut took, mut buffer) = (0, Histogram::default(), vec![0; 64 * 1024]);
    let begun = Instant::now();
    while opened < count {
        ensure!(begun.elapsed() < time + PATIENCE, "{opened} of {count} came in");
        let due = (count as f64 * begun.elapsed().as_secs_f64() / time.as_secs_f64()) as usize;
        while waiting.len() < due.min(count) {
            let meant = begun + time.mul_f64(waiting.len() as f64 / count as f64);
            let client = Client::connect(to, None)?.late();
            epoll.add(&client, waiting.len())?;
            waiting.push(Some((client, meant)));
        }
        for (name, _) in epoll.wait(1)? {
            let Some((client, meant)) = &mut waiting[name] else { continue };
            let mut open = false;
            client.read(&mut buffer, &mut |seen| open |= seen == Seen::Open)?;
            if open {
                took.record(meant.elapsed().as_micros() as u64);
                opened += 1;
                waiting[name] = None;
            }
        }
    }
    Ok(Came { per_second: count as f64 / begun.elapsed().as_secs_f64(), took })
}

/// Clients that read a little now and then. Whether the server keeps them is its own business.
#[derive(Debug)]
pub struct Sippers {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Sippers {
    /// Opens `count` clients that read `rate` bytes a second each.
    pub fn start(to: &Subscription, count: usize, rate: usize) -> Result<Self> {
        let clients = (0..count).map(|_| small(to)).collect::<Result<Vec<Client>>>()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || sip(clients, rate / SIPS as usize, &stopped));
        Ok(Self { stop, thread })
    }

    /// They leave.
    pub fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("sippers do not panic");
    }
}

fn sip(mut clients: Vec<Client>, bytes: usize, stop: &AtomicBool) {
    let mut buffer = vec![0; bytes];
    while !stop.load(Ordering::Relaxed) {
        // Who is sent away, or told that it missed something, stays away.
        clients.retain_mut(|client| client.read(&mut buffer, &mut |_| {}).is_ok());
        std::thread::sleep(Duration::from_secs(1) / SIPS);
    }
}

/// A client with little room, whose stream is open.
fn small(to: &Subscription) -> Result<Client> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.set_tcp_mss(SEGMENT)?;
    socket.connect(&SocketAddr::from(([127, 0, 0, 1], to.port)).into())?;
    let mut client = Client::over(socket.into(), to, None)?.late();
    let (begun, mut open, mut buffer) = (Instant::now(), false, [0; 4096]);
    while !open {
        ensure!(begun.elapsed() < PATIENCE, "a slow client is not let in");
        client.read(&mut buffer, &mut |seen| open |= seen == Seen::Open)?;
        std::thread::yield_now();
    }
    Ok(client)
}

/// Clients that read all they are sent and look at none of it, when nobody else wants the core.
#[derive(Debug)]
pub struct Drinkers {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<f64>>,
}

impl Drinkers {
    /// Opens `count` clients.
    pub fn start(to: &Subscription, count: usize) -> Result<Self> {
        let mut sockets = Vec::with_capacity(count);
        for _ in 0..count {
            let mut socket = TcpStream::connect(("127.0.0.1", to.port))?;
            socket.write_all(to.request.as_bytes())?;
            socket.set_nonblocking(true)?;
            sockets.push(socket);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        Ok(Self { stop, thread: std::thread::spawn(move || drink(sockets, &stopped)) })
    }

    /// They leave. How many MiB they read in a second.
    pub fn finish(self) -> Result<f64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("drinkers do not panic")
    }
}

fn drink(mut sockets: Vec<TcpStream>, stop: &AtomicBool) -> Result<f64> {
    stand_back();
    let mut epoll = Epoll::new()?;
    for (name, socket) in sockets.iter().enumerate() {
        epoll.add(socket, name)?;
    }
    let (begun, mut bytes, mut buffer) = (Instant::now(), 0, vec![0; 64 * 1024]);
    while !stop.load(Ordering::Relaxed) {
        for (name, _) in epoll.wait(10)? {
            bytes += sockets[name].read(&mut buffer)?;
        }
    }
    Ok(bytes as f64 / (1024.0 * 1024.0) / begun.elapsed().as_secs_f64())
}

/// This thread runs when no other one of its core wants to.
fn stand_back() {
    // SAFETY: the parameters live through the call; 0 is the calling thread.
    unsafe {
        let parameters: libc::sched_param = std::mem::zeroed();
        libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters);
    }
}
