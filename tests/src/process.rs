//! Child processes, ports and directories of a test process, none of which outlives it: children
//! get SIGKILL from the kernel when their parent dies however it dies, and at a normal end they
//! are reaped before the directory goes.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::TcpListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

/// Ports are taken from below the kernel's range for outgoing connections, so that nobody's
/// connection sits on a port between its choice and its use.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// How long a killed child may take to be gone.
const DEATH: Duration = Duration::from_secs(10);

/// A child process. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `command` with its output in `log`.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Self {
        let out = File::options().create(true).append(true).open(log).expect("the log can be opened");
        let err = out.try_clone().expect("a file handle can be cloned");
        command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
        // SAFETY: the closure only makes a system call that is safe between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let program = command.get_program().to_string_lossy().into_owned();
        let child = spawn_on_lasting_thread(command)
            .unwrap_or_else(|error| panic!("cannot start {name} ({program}): {error}; run scripts/setup"));
        children().insert(child.id());
        Self { name: name.into(), child, status: None }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its exit status, if it has ended.
    pub fn status(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("a child can be waited for");
            if self.status.is_some() {
                children().remove(&self.child.id());
            }
        }
        self.status
    }

    /// Whether it runs.
    pub fn runs(&mut self) -> bool {
        self.status().is_none()
    }

    /// Sends `signal` if it runs.
    pub fn signal(&mut self, signal: i32) {
        if self.runs() {
            // SAFETY: the child was not reaped, so the id is still its own.
            unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
        }
    }

    /// Waits for its end, at most `patience`.
    ///
    /// # Panics
    /// If it goes on.
    pub async fn ended(&mut self, patience: Duration) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.status() {
                return status;
            }
            assert!(begun.elapsed() < patience, "{} did not end within {patience:?}", self.name);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) -> ExitStatus {
        self.signal(libc::SIGKILL);
        let status = self.child.wait().unwrap_or_else(|_| ExitStatus::from_raw(libc::SIGKILL));
        children().remove(&self.child.id());
        *self.status.insert(status)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.status.is_none() {
            self.kill();
        }
    }
}

/// The kernel sends the death signal when the *thread* that forked ends, and test threads end
/// with their test: so one thread that lasts forks for all.
fn spawn_on_lasting_thread(command: Command) -> std::io::Result<Child> {
    type Order = (Command, Sender<std::io::Result<Child>>);
    static SPAWNER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        std::thread::Builder::new()
            .name("spawner".into())
            .spawn(move || {
                for (mut command, answer) in inbox {
                    let _ = answer.send(command.spawn());
                }
            })
            .expect("a thread can be started");
        Mutex::new(orders)
    });
    let (answer, answered) = channel();
    spawner.lock().expect("not poisoned").send((command, answer)).expect("the spawner lasts");
    answered.recv().expect("the spawner answers")
}

fn children() -> std::sync::MutexGuard<'static, BTreeSet<u32>> {
    static CHILDREN: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());
    CHILDREN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The directory of this test process; it goes when the process ends.
pub fn home() -> &'static Path {
    static HOME: OnceLock<PathBuf> = OnceLock::new();
    HOME.get_or_init(|| {
        let home = std::env::temp_dir().join(format!("sluice-tests-{}", std::process::id()));
        std::fs::create_dir_all(&home).expect("a directory can be made");
        // SAFETY: the function is a plain `extern "C" fn` that outlives the program.
        unsafe { libc::atexit(end) };
        home
    })
}

/// A new directory under [`home`].
pub fn directory(prefix: &str) -> PathBuf {
    let path = home().join(crate::seed::unique(prefix));
    std::fs::create_dir_all(&path).expect("a directory can be made");
    path
}

/// A port nobody listens on and that this process gives out once.
pub fn port() -> u16 {
    port_block(1)
}

/// The first of `count` neighbouring free ports.
///
/// # Panics
/// If there are none left.
pub fn port_block(count: u16) -> u16 {
    static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut taken = TAKEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for _ in 0..10_000 {
        let first = fastrand::u16(PORTS.start..PORTS.end - count);
        let mut block = first..first + count;
        if block.all(|port| !taken.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            taken.extend(first..first + count);
            return first;
        }
    }
    panic!("no free ports in {PORTS:?}");
}

/// At the end of the process: children first, then the directory.
extern "C" fn end() {
    static ONCE: AtomicBool = AtomicBool::new(false);
    if ONCE.swap(true, Ordering::SeqCst) {
        return;
    }
    let pids: Vec<u32> = children().iter().copied().collect();
    for pid in &pids {
        // SAFETY: ids in the list were not reaped, so they are still our children's.
        unsafe { libc::kill(*pid as libc::pid_t, libc::SIGKILL) };
    }
    let begun = Instant::now();
    for pid in pids {
        let mut status = 0;
        // SAFETY: `status` is a valid place to write to.
        while unsafe { libc::waitpid(pid as libc::pid_t, &raw mut status, libc::WNOHANG) } == 0
            && begun.elapsed() < DEATH
        {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    let _ = std::fs::remove_dir_all(home());
}
