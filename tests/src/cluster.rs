//! A Kubernetes API of a test's own: etcd, kube-apiserver and kube-controller-manager as
//! `e2e/cluster/cluster control-plane` starts them. No node, no root.
//!
//! A keeper process of its own waits for the end of this one, however that comes, and takes the
//! control plane down.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, OnceLock};

use serde_json::Value;

use crate::{parts, process};

/// A running control plane. Dropping it takes it down.
#[derive(Debug)]
pub struct ControlPlane {
    dir: PathBuf,
    bin: PathBuf,
}

/// One line of the API server's audit log.
#[derive(Clone, Debug)]
pub struct Request {
    /// Who asked: a user, or `system:serviceaccount:<namespace>:<name>`.
    pub user: String,
    /// What was asked for: `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`.
    pub verb: String,
    /// API group; empty for the core.
    pub group: String,
    /// `streamapis`, or `streamapis/status`.
    pub resource: String,
    /// Namespace, if it was about one.
    pub namespace: String,
    /// Name, if it was about one.
    pub name: String,
    /// Status of the answer.
    pub code: u64,
    /// When it was received, RFC 3339.
    pub received: String,
}

impl Request {
    fn parse(line: &str) -> Option<Self> {
        let event: Value = serde_json::from_str(line).ok()?;
        let verb = event["verb"].as_str()?;
        // A watch is told when it begins, everything else when it is answered.
        if event["stage"] != if verb == "watch" { "ResponseStarted" } else { "ResponseComplete" } {
            return None;
        }
        let object = &event["objectRef"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let resource = match object["subresource"].as_str() {
            Some(part) => format!("{}/{part}", text(&object["resource"])),
            None => text(&object["resource"]),
        };
        Some(Self {
            user: text(&event["user"]["username"]),
            verb: verb.to_owned(),
            group: text(&object["apiGroup"]),
            resource,
            namespace: text(&object["namespace"]),
            name: text(&object["name"]),
            code: event["responseStatus"]["code"].as_u64().unwrap_or_default(),
            received: text(&event["requestReceivedTimestamp"]),
        })
    }

    /// Whether it was to change something.
    pub fn is_write(&self) -> bool {
        matches!(self.verb.as_str(), "create" | "update" | "patch" | "delete" | "deletecollection")
    }
}

impl ControlPlane {
    /// The control plane that the tests of this process share.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<ControlPlane> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// Starts one, with its controllers and an audit log: four seconds.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start() -> Self {
        let dir = process::directory("cluster");
        keep(&dir);
        let started = script(&dir, &["control-plane", "--controller-manager", "--audit-log"]);
        let (said, worked) = (String::from_utf8_lossy(&started.stderr), started.status.success());
        assert!(worked, "the control plane does not start; scripts/setup kubernetes? {said}");
        let environment = script(&dir, &["env"]);
        let environment = String::from_utf8_lossy(&environment.stdout);
        let bin = environment.split_once(" PATH=").and_then(|(_, rest)| rest.split_once(':'));
        let bin = bin.expect("`cluster env` tells where its tools are").0.into();
        Self { dir, bin }
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Credentials that may do everything.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// The certificate of its authority.
    pub fn authority(&self) -> PathBuf {
        self.dir.join("pki/ca.crt")
    }

    /// `stop`, `kill` or `start` of `etcd`, `kube-apiserver` or `kube-controller-manager`.
    ///
    /// # Panics
    /// If that fails.
    pub fn component(&self, action: &str, name: &str) {
        let done = script(&self.dir, &[action, name]);
        assert!(done.status.success(), "{action} {name}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// Runs `kubectl` or `helm` with `input` on its standard input.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn tool(&self, name: &str, arguments: &[&str], input: &str) -> Output {
        let home = self.dir.join("home");
        let mut command = Command::new(self.bin.join(name));
        // Nothing of the person who runs this: no caches, plug-ins or repositories.
        command.args(arguments).env("KUBECONFIG", self.kubeconfig()).env("HOME", &home);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let mut stdin = child.stdin.take().expect("it was asked for");
        // Who does not read its input ends early; its answer tells.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        child.wait_with_output().expect("a child can be waited for")
    }

    /// [`Self::tool`] that has to succeed; what it prints.
    ///
    /// # Panics
    /// If it fails.
    pub fn run(&self, name: &str, arguments: &[&str], input: &str) -> String {
        let done = self.tool(name, arguments, input);
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{name} {}: {said}", arguments.join(" "));
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    /// A place in the audit log: its end as it is now.
    pub fn mark(&self) -> u64 {
        std::fs::metadata(self.audit_log()).map_or(0, |file| file.len())
    }

    /// The requests since `mark`, in the order in which they were answered.
    ///
    /// # Panics
    /// If the log cannot be read.
    pub fn requests(&self, mark: u64) -> Vec<Request> {
        let mut file = std::fs::File::open(self.audit_log()).expect("the audit log is there");
        file.seek(SeekFrom::Start(mark)).expect("a file can be read from anywhere");
        // A last line that is not whole yet is read the next time.
        let lines = BufReader::new(file).split(b'\n').map_while(Result::ok);
        lines.filter_map(|line| Request::parse(&String::from_utf8_lossy(&line))).collect()
    }

    fn audit_log(&self) -> PathBuf {
        self.dir.join("log/audit.log")
    }
}

impl ControlPlane {
    /// Stops it, as dropping it does: one that goes on takes its part of the machine from the tests that follow.
    pub fn end(&self) {
        let keeper = keepers().remove(&self.dir);
        keeper.into_iter().for_each(release);
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.end();
    }
}

fn script(dir: &Path, arguments: &[&str]) -> Output {
    let cluster = parts::source().join("../e2e/cluster/cluster");
    let mut command = Command::new(cluster);
    command.arg("--dir").arg(dir).args(arguments).stdin(Stdio::null());
    command.output().expect("the cluster's script can be started")
}

/// Starts the keeper of the control plane in `dir`: its standard input ends with this process.
fn keep(dir: &Path) {
    static AT_END: OnceLock<()> = OnceLock::new();
    // After `home` was registered, so before it goes.
    // SAFETY: the function is a plain `extern "C" fn` that outlives the program.
    AT_END.get_or_init(|| unsafe { assert_eq!(libc::atexit(end), 0, "there is room for it") });
    let mut keeper = Command::new("bash");
    keeper.args(["-c", "read -r _; exec \"$1\" --dir \"$2\" down", "keeper"]);
    keeper.arg(parts::source().join("../e2e/cluster/cluster")).arg(dir);
    keeper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let keeper = keeper.spawn().expect("bash can be started");
    keepers().insert(dir.to_owned(), keeper);
}

fn keepers() -> std::sync::MutexGuard<'static, BTreeMap<PathBuf, Child>> {
    static KEEPERS: Mutex<BTreeMap<PathBuf, Child>> = Mutex::new(BTreeMap::new());
    KEEPERS.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Has the keeper do its work, and waits for that.
fn release(mut keeper: Child) {
    drop(keeper.stdin.take());
    let _ = keeper.wait();
}

extern "C" fn end() {
    let all = std::mem::take(&mut *keepers());
    all.into_values().for_each(release);
}
