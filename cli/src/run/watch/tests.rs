use std::fs::{self, File};
use std::io::Write as _;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

use tempfile::TempDir;

use super::*;

/// Longest wait for what must come.
const DEADLINE: Duration = Duration::from_secs(10);

struct Bench {
    directory: TempDir,
    changes: Receiver<Changed>,
    _following: Following,
}

impl Bench {
    fn new(prepare: impl FnOnce(&Path), sources: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        prepare(directory.path());
        let sources: Vec<_> = sources.iter().map(|source| directory.path().join(source)).collect();
        let (send, changes) = channel();
        let watch = Watch::start(&sources).expect("watched");
        let following = watch.follow(move |changed| send.send(changed.clone()).expect("received"));
        Self { directory, changes, _following: following.expect("followed") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Waits until `name` changed; nothing else may change before.
    fn expect(&self, name: &str) {
        let changed = self.changes.recv_timeout(DEADLINE).expect("a change in time");
        assert_eq!(changed, Changed::Files([self.path(name)].into()));
    }

    /// Nothing changed up to now: the next thing noticed is a mark made now.
    fn expect_nothing(&self) {
        fs::write(self.path("mark.yaml"), "x").expect("written");
        self.expect("mark.yaml");
    }
}

#[test]
fn a_file_counts_when_it_is_closed_and_not_while_it_is_written() {
    let bench = Bench::new(|_| {}, &[""]);
    let mut file = File::create(bench.path("a.yaml")).expect("created");
    file.write_all(b"half").expect("written");
    file.sync_all().expect("synced");
    bench.expect_nothing();
    file.write_all(b"whole").expect("written");
    drop(file);
    bench.expect("a.yaml");
    fs::read(bench.path("a.yaml")).expect("read");
    bench.expect_nothing();
}

#[test]
fn a_file_counts_when_it_is_renamed_into_place() {
    let bench = Bench::new(|_| {}, &["a.yaml"]);
    fs::write(bench.path("a.yaml.new"), "x").expect("written");
    bench.expect("a.yaml.new");
    fs::rename(bench.path("a.yaml.new"), bench.path("a.yaml")).expect("renamed");
    bench.expect("a.yaml");
    bench.expect("a.yaml.new");
}

#[test]
fn a_removed_file_counts_after_a_moment() {
    let bench = Bench::new(|root| fs::write(root.join("a.yaml"), "x").expect("written"), &["a.yaml"]);
    let begun = Instant::now();
    fs::remove_file(bench.path("a.yaml")).expect("removed");
    bench.expect("a.yaml");
    assert!(begun.elapsed() >= REMOVAL);
}

#[test]
fn the_target_of_a_link_and_a_link_made_anew_count() {
    let prepare = |root: &Path| {
        fs::create_dir(root.join("real")).expect("created");
        fs::create_dir(root.join("named")).expect("created");
        fs::write(root.join("real/a.yaml"), "x").expect("written");
        std::os::unix::fs::symlink("../real/a.yaml", root.join("named/a.yaml")).expect("linked");
    };
    let bench = Bench::new(prepare, &["named/a.yaml"]);
    fs::write(bench.path("real/a.yaml"), "y").expect("written");
    let changed = bench.changes.recv_timeout(DEADLINE).expect("a change in time");
    assert!(changed.has(&bench.path("named/a.yaml")), "{changed:?}");
    std::os::unix::fs::symlink("../real/a.yaml", bench.path("named/b.yaml")).expect("linked");
    bench.expect("named/b.yaml");
}

#[test]
fn an_exchanged_directory_may_have_changed_everything() {
    let bench = Bench::new(|root| fs::create_dir(root.join("one")).expect("created"), &[""]);
    std::os::unix::fs::symlink("one", bench.path("..data_tmp")).expect("linked");
    fs::rename(bench.path("..data_tmp"), bench.path("..data")).expect("renamed");
    let mut changes = Vec::new();
    while !changes.contains(&Changed::Anything) {
        changes.push(bench.changes.recv_timeout(DEADLINE).expect("a change in time"));
    }
}

#[test]
fn following_ends_when_it_is_stopped() {
    let directory = tempfile::tempdir().expect("a directory");
    let (send, changes) = channel();
    let watch = Watch::start(&[directory.path().to_owned()]).expect("watched");
    let following =
        watch.follow(move |changed| send.send(changed.clone()).expect("received")).expect("followed");
    following.stop();
    assert_eq!(changes.recv_timeout(DEADLINE), Err(RecvTimeoutError::Disconnected));
}
