//! The little of epoll and timerfd that the load generator and the floor need.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Events taken from the kernel at once.
const BATCH: usize = 512;

/// An epoll instance; what is watched is named by a number.
#[derive(Debug)]
pub struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Epoll {
    /// A new instance.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers are passed.
        let fd = checked(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the descriptor is new and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd, events: Vec::with_capacity(BATCH) })
    }

    /// Reports `watched` as `name` while it can be read.
    pub fn add(&self, watched: &impl AsRawFd, name: usize) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, watched, name, libc::EPOLLIN)
    }

    /// From now on also (or no longer) reports that `watched` can be written.
    pub fn want_write(&self, watched: &impl AsRawFd, name: usize, wanted: bool) -> io::Result<()> {
        let interest = if wanted { libc::EPOLLIN | libc::EPOLLOUT } else { libc::EPOLLIN };
        self.control(libc::EPOLL_CTL_MOD, watched, name, interest)
    }

    fn control(&self, what: i32, watched: &impl AsRawFd, name: usize, interest: i32) -> io::Result<()> {
        let mut event = libc::epoll_event { events: interest as u32, u64: name as u64 };
        // SAFETY: `event` lives through the call and both descriptors are open.
        checked(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), what, watched.as_raw_fd(), &raw mut event) })?;
        Ok(())
    }

    /// Waits up to `millis` and gives the name of what is ready, and whether it can be written.
    pub fn wait(&mut self, millis: i32) -> io::Result<impl Iterator<Item = (usize, bool)> + use<>> {
        // SAFETY: the vector has room for `BATCH` events, of which the kernel fills `ready`.
        let ready =
            unsafe { libc::epoll_wait(self.fd.as_raw_fd(), self.events.as_mut_ptr(), BATCH as i32, millis) };
        let ready = match checked(ready) {
            Ok(ready) => ready as usize,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        // SAFETY: as above.
        unsafe { self.events.set_len(ready) };
        let events = self.events.clone();
        Ok(events.into_iter().map(|event| (event.u64 as usize, event.events & libc::EPOLLOUT as u32 != 0)))
    }
}

/// A timer that becomes readable at a fixed rate.
#[derive(Debug)]
pub struct Ticks(OwnedFd);

impl Ticks {
    /// Ticks every `nanos`, first after that time.
    pub fn every(nanos: u64) -> io::Result<Self> {
        // SAFETY: no pointers are passed.
        let fd = checked(unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK) })?;
        // SAFETY: the descriptor is new and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let time = libc::timespec {
            tv_sec: (nanos / 1_000_000_000) as i64,
            tv_nsec: (nanos % 1_000_000_000) as i64,
        };
        let spec = libc::itimerspec { it_interval: time, it_value: time };
        // SAFETY: `spec` lives through the call; no old value is asked for.
        checked(unsafe { libc::timerfd_settime(fd.as_raw_fd(), 0, &raw const spec, std::ptr::null_mut()) })?;
        Ok(Self(fd))
    }

    /// How many ticks passed since the last look.
    pub fn passed(&self) -> u64 {
        let mut passed = 0u64;
        // SAFETY: eight bytes are what a timerfd writes.
        let read = unsafe { libc::read(self.0.as_raw_fd(), (&raw mut passed).cast(), 8) };
        if read == 8 { passed } else { 0 }
    }
}

impl AsRawFd for Ticks {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

fn checked(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
