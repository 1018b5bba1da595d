//! A real Apache Kafka (KRaft): one or three nodes with plaintext, SASL and TLS listeners, started
//! as plain Java processes.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::certs;
use crate::logs;
use crate::parts;
use crate::process::{self, Process};

pub mod topics;

/// Ports of one node: plaintext, controller, SASL, SASL over TLS, mutual TLS.
const PORTS: u16 = 5;

/// How long a node may take to start. After a kill it first waits for the session of its former
/// self to expire, and other builds may have the cores.
const START: Duration = Duration::from_secs(90);

/// SASL users of the cluster with their passwords; `admin` is a super user, the others are
/// allowed nothing unless a test allows it.
pub const USERS: &[(&str, &str)] =
    &[("admin", "admin-secret"), ("alice", "alice-secret"), ("bob", "bob-secret")];

/// How clients reach the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// No encryption; everybody is a super user.
    Plaintext = 0,
    /// SASL without encryption.
    Sasl = 2,
    /// SASL over TLS.
    SaslTls = 3,
    /// TLS with a client certificate.
    MutualTls = 4,
}

/// A running cluster. Dropping it kills it.
#[derive(Debug)]
pub struct Cluster {
    home: PathBuf,
    host: String,
    first_port: u16,
    nodes: Vec<Mutex<Option<Process>>>,
}

impl Cluster {
    /// The single node that all tests of this process share. Topics are theirs, the node is not:
    /// who stops nodes or changes users starts a cluster of their own.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Cluster> = OnceCell::const_new();
        SHARED.get_or_init(|| Self::start(1)).await
    }

    /// Starts a cluster of `size` nodes and waits until it is ready.
    pub async fn start(size: usize) -> Self {
        Self::start_at("127.0.0.1", size).await
    }

    /// Like [`Cluster::start`], with the listeners without TLS on the address `host` of this machine.
    pub async fn start_at(host: &str, size: usize) -> Self {
        let first_port = process::port_block(PORTS * u16::try_from(size).expect("few nodes"));
        let home = process::directory("kafka");
        let nodes = (0..size).map(|_| Mutex::new(None)).collect();
        let cluster = Self { home, host: host.into(), first_port, nodes };
        let formats: Vec<Process> = (1..=size).map(|node| cluster.format(node)).collect();
        for mut format in formats {
            let status = format.ended(START).await;
            assert!(
                status.success(),
                "Kafka's storage cannot be formatted:\n{}",
                logs::tail(&cluster.log(1), 30)
            );
        }
        for node in 1..=size {
            cluster.launch(node);
        }
        for node in 1..=size {
            cluster.started(node).await;
        }
        cluster.sees(size).await;
        // An idempotent producer asks for its id of a coordinator that loads only when first asked.
        let warm = cluster.topic("warm", 1).await;
        cluster.produce(&warm, &[topics::Record::new("")]).await;
        cluster
    }

    /// Number of nodes.
    pub fn size(&self) -> usize {
        self.nodes.len()
    }

    /// `host:port` of every node on `listener`.
    pub fn brokers(&self, listener: Listener) -> Vec<String> {
        let host = match listener {
            Listener::Plaintext | Listener::Sasl => self.host.as_str(),
            Listener::SaslTls | Listener::MutualTls => "localhost",
        };
        (1..=self.size()).map(|node| format!("{host}:{}", self.port(node) + listener as u16)).collect()
    }

    /// Brokers without encryption, as clients want them.
    pub fn bootstrap(&self) -> String {
        self.brokers(Listener::Plaintext).join(",")
    }

    /// The server of a StreamAPI that connects without encryption, with `properties` that let it
    /// notice changes quickly.
    pub fn server(&self) -> Value {
        json!({"kafka": {"brokers": self.brokers(Listener::Plaintext), "properties": quick()}})
    }

    /// The server of a StreamAPI that logs in by SASL with the Secret `secret`.
    pub fn sasl_server(&self, listener: Listener, mechanism: &str, secret: &str) -> Value {
        let mut server = json!({"kafka": {
            "brokers": self.brokers(listener),
            "sasl": {"mechanism": mechanism, "secretRef": {"name": secret}},
            "properties": quick(),
        }});
        if listener == Listener::SaslTls {
            server["kafka"]["tls"] = json!({"secretRef": {"name": "ca"}});
        }
        server
    }

    /// SIGKILL.
    pub fn kill(&self, node: usize) {
        self.node(node).take();
    }

    /// SIGSTOP: connections stay open and nobody answers.
    pub fn pause(&self, node: usize) {
        self.node(node).as_mut().expect("the node runs").signal(libc::SIGSTOP);
    }

    /// SIGCONT after [`Cluster::pause`].
    pub fn unpause(&self, node: usize) {
        self.node(node).as_mut().expect("the node runs").signal(libc::SIGCONT);
    }

    /// SIGTERM, and waits until the node has handed over and ended.
    pub async fn stop(&self, node: usize) {
        let mut process = self.node(node).take().expect("the node runs");
        process.signal(libc::SIGTERM);
        process.ended(START).await;
    }

    /// Starts a node that was killed or stopped.
    pub async fn restart(&self, node: usize) {
        self.launch(node);
        self.started(node).await;
    }

    /// Runs one of Kafka's own tools against the cluster and gives its output.
    ///
    /// # Panics
    /// If it fails.
    pub fn tool(&self, class: &str, arguments: &[&str]) -> String {
        let mut command = java();
        command.arg(class).args(arguments).arg("--bootstrap-server").arg(self.bootstrap());
        let output = command.output().expect("java can be started");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{class}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// Gives `user` a new password for SCRAM-SHA-512.
    pub fn set_password(&self, user: &str, password: &str) {
        let config = format!("SCRAM-SHA-512=[password={password}]");
        self.tool(
            "kafka.admin.ConfigCommand",
            &["--alter", "--add-config", &config, "--entity-type", "users", "--entity-name", user],
        );
    }

    /// Allows `user` everything on `topic`.
    pub fn allow(&self, user: &str, topic: &str) {
        let principal = format!("User:{user}");
        self.tool(
            "org.apache.kafka.tools.AclCommand",
            &["--add", "--allow-principal", &principal, "--operation", "All", "--topic", topic],
        );
    }

    /// Takes back what [`Cluster::allow`] allowed.
    pub fn forbid(&self, user: &str, topic: &str) {
        let principal = format!("User:{user}");
        self.tool(
            "org.apache.kafka.tools.AclCommand",
            &["--remove", "--force", "--allow-principal", &principal, "--operation", "All", "--topic", topic],
        );
    }

    fn node(&self, node: usize) -> MutexGuard<'_, Option<Process>> {
        self.nodes[node - 1].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn port(&self, node: usize) -> u16 {
        self.first_port + PORTS * u16::try_from(node - 1).expect("few nodes")
    }

    fn log(&self, node: usize) -> PathBuf {
        self.home.join(format!("{node}.log"))
    }

    fn properties(&self, node: usize) -> PathBuf {
        self.home.join(format!("{node}.properties"))
    }

    fn format(&self, node: usize) -> Process {
        std::fs::write(self.properties(node), self.configuration(node)).expect("a file can be written");
        let mut command = java();
        command.args(["kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c"]);
        command.arg(self.properties(node));
        for (user, password) in USERS {
            for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
                command.arg("--add-scram").arg(format!("{mechanism}=[name={user},password={password}]"));
            }
        }
        Process::spawn("kafka format", command, &self.log(node))
    }

    fn launch(&self, node: usize) {
        let _ = std::fs::remove_file(self.log(node));
        let mut command = java();
        command.arg("kafka.Kafka").arg(self.properties(node));
        let process = Process::spawn("kafka", command, &self.log(node));
        let former = self.node(node).replace(process);
        assert!(former.is_none(), "the node ran already");
    }

    /// Waits for the log line that says that the node serves.
    async fn started(&self, node: usize) {
        let begun = Instant::now();
        loop {
            let log = std::fs::read(self.log(node)).unwrap_or_default();
            if String::from_utf8_lossy(&log).contains("Kafka Server started") {
                return;
            }
            let runs = self.node(node).as_mut().is_some_and(Process::runs);
            assert!(
                runs && begun.elapsed() < START,
                "Kafka node {node} did not start:\n{}",
                logs::tail(&self.log(node), 40)
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn configuration(&self, node: usize) -> String {
        let size = self.size();
        let voters: Vec<String> =
            (1..=size).map(|node| format!("{node}@127.0.0.1:{}", self.port(node) + 1)).collect();
        let bundle = certs::bundle();
        let plain: String =
            USERS.iter().map(|(user, password)| format!(" user_{user}=\"{password}\"")).collect();
        let logins: String = ["sasl", "sasltls"]
            .iter()
            .map(|listener| {
                format!(
                    "listener.name.{listener}.plain.sasl.jaas.config=\
                     org.apache.kafka.common.security.plain.PlainLoginModule required{plain};\n\
                     listener.name.{listener}.scram-sha-256.sasl.jaas.config=\
                     org.apache.kafka.common.security.scram.ScramLoginModule required;\n\
                     listener.name.{listener}.scram-sha-512.sasl.jaas.config=\
                     org.apache.kafka.common.security.scram.ScramLoginModule required;\n"
                )
            })
            .collect();
        let replicas = size.min(3);
        let in_sync = if size >= 3 { 2 } else { 1 };
        let port = self.port(node);
        format!(
            include_str!("kafka/server.properties"),
            node = node,
            host = self.host,
            voters = voters.join(","),
            plain = port,
            controller = port + 1,
            sasl = port + 2,
            sasl_tls = port + 3,
            mutual_tls = port + 4,
            data = self.home.join(format!("data-{node}")).display(),
            replicas = replicas,
            in_sync = in_sync,
            key_store = bundle.server_file.display(),
            trust_store = bundle.ca_file.display(),
            logins = logins,
        )
    }
}

/// Client settings of the StreamAPI under test that let it notice changes of the cluster soon.
pub fn quick() -> Value {
    json!({
        "topic.metadata.refresh.interval.ms": "1000",
        "reconnect.backoff.ms": "50",
        "reconnect.backoff.max.ms": "500",
    })
}

/// A JVM that starts fast and stays small.
fn java() -> Command {
    let kafka = parts::find("kafka", &["pom.xml"]);
    let mut jars: Vec<String> = std::fs::read_dir(kafka.join("libs"))
        .expect("the jars are there")
        .map(|entry| entry.expect("a directory entry").path().display().to_string())
        .filter(|path| path.ends_with(".jar"))
        .collect();
    jars.sort();
    let mut command = Command::new("java");
    command.args(["-Xmx192m", "-Xms64m", "-Xss512k", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]);
    command.args(["-XX:-UsePerfData", "-Djava.net.preferIPv4Stack=true", "-Xshare:auto", "-Xlog:cds=off"]);
    command.arg("-Xlog:class+path=off");
    command.arg(format!("-XX:SharedArchiveFile={}", kafka.join("kafka.jsa").display()));
    command
        .arg(format!("-Dlog4j2.configurationFile={}", parts::source().join("parts/log4j2.yaml").display()));
    command.arg("-cp").arg(jars.join(":"));
    command
}
