//! What a process takes, as Linux tells it.

/// A running process.
#[derive(Clone, Copy)]
pub struct Usage(pub u32);

impl Usage {
    fn status(self, field: &str) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0)).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("Linux tells it");
        line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<f64>().expect("KiB") / 1024.0
    }

    /// Resident now, in MiB.
    pub fn memory(self) -> f64 {
        self.status("VmRSS:")
    }

    /// The most that was resident, in MiB.
    pub fn most_memory(self) -> f64 {
        self.status("VmHWM:")
    }

    /// Seconds of CPU so far.
    pub fn cpu(self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0)).expect("it runs");
        let (_, fields) = stat.rsplit_once(") ").expect("a name in brackets");
        let ticks =
            |field: usize| fields.split(' ').nth(field).and_then(|it| it.parse::<f64>().ok()).expect("ticks");
        // Of a hundredth of a second, whatever the kernel counts in itself.
        (ticks(11) + ticks(12)) / 100.0
    }
}
