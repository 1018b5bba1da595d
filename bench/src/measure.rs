//! What is measured from outside a process, and what it is measured on.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

/// The system under test runs here.
pub const SERVER_CPU: usize = 0;
/// The load, and the broker, run here.
pub const LOAD_CPU: usize = 1;

/// Keeps this thread, and every thread and process it starts, on `cpu`. A machine with one core
/// has no choice, so a refusal is not an error.
pub fn pin(cpu: usize) {
    // SAFETY: the set is plain data, written before it is read.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}

/// `command` will run on the server's core.
pub fn on_server_cpu(command: &mut Command) {
    // SAFETY: the closure only makes a system call that is safe between fork and exec.
    unsafe {
        command.pre_exec(|| {
            pin(SERVER_CPU);
            Ok(())
        });
    }
}

/// Nanoseconds since 1970, as payloads carry them.
pub fn now_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    u64::try_from(since.as_nanos()).expect("the year is before 2554")
}

/// CPU time that processes used so far, in microseconds.
pub fn cpu_micros(pids: &[u32]) -> Result<u64> {
    pids.iter().map(|pid| process_micros(*pid)).sum()
}

/// The kernel's own clock of a process is exact; `/proc` counts in hundredths of a second.
fn process_micros(pid: u32) -> Result<u64> {
    let (mut clock, mut time) = (0, libc::timespec { tv_sec: 0, tv_nsec: 0 });
    // SAFETY: both places live through the calls.
    let told = unsafe {
        libc::clock_getcpuclockid(pid as libc::pid_t, &raw mut clock) == 0
            && libc::clock_gettime(clock, &raw mut time) == 0
    };
    ensure!(told, "the process {pid} is gone");
    Ok(time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1000)
}

/// Resident bytes of processes.
pub fn resident_bytes(pids: &[u32]) -> Result<u64> {
    memory(pids, "VmRSS:")
}

/// The most they ever had resident.
pub fn peak_bytes(pids: &[u32]) -> Result<u64> {
    memory(pids, "VmHWM:")
}

fn memory(pids: &[u32], field: &str) -> Result<u64> {
    let mut bytes = 0;
    for pid in pids {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the process is gone")?;
        let line = status.lines().find_map(|line| line.strip_prefix(field)).context("no such field")?;
        bytes += line.trim_end_matches("kB").trim().parse::<u64>()? * 1024;
    }
    Ok(bytes)
}

/// The machine, for the reader of a table.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// Model name of the processor.
    pub processor: String,
    /// Cores.
    pub cores: usize,
    /// Memory.
    pub memory_gib: u64,
    /// Kernel release.
    pub kernel: String,
    /// Congestion control of TCP, which small writes on loopback feel.
    pub congestion_control: String,
    /// Load average of the last minute, before the bench began.
    pub load: String,
}

impl Machine {
    /// This one.
    pub fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_once(':').map_or(String::new(), |(_, value)| value.trim().to_owned())
        };
        let kib = field(&read("/proc/meminfo"), "MemTotal");
        let kib: u64 = kib.trim_end_matches("kB").trim().parse().unwrap_or(0);
        let info = read("/proc/cpuinfo");
        Self {
            processor: field(&info, "model name"),
            cores: info.lines().filter(|line| line.starts_with("processor")).count(),
            memory_gib: kib.div_ceil(1024 * 1024),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            congestion_control: read("/proc/sys/net/ipv4/tcp_congestion_control").trim().to_owned(),
            load: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
        }
    }
}
