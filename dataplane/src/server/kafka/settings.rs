//! The resolved configuration of one Kafka client: where, how to log in, and librdkafka's settings.
//! Two servers whose settings are equal share one client.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::bindings::rd_kafka_IsolationLevel_t;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use sluice_config::kafka::{Applies, Kafka, property};
use sluice_config::{Entry, Material, Problem};

/// Settings of both clients. Timeouts find a broker that is gone without a word within 15 s.
const COMMON: &[(&str, &str)] = &[
    ("client.id", "sluice"),
    ("allow.auto.create.topics", "false"),
    ("enable.metrics.push", "false"),
    ("reconnect.backoff.ms", "100"),
    ("reconnect.backoff.max.ms", "2000"),
    ("retry.backoff.max.ms", "1000"),
    ("socket.connection.setup.timeout.ms", "10000"),
    ("socket.keepalive.enable", "true"),
    ("socket.nagle.disable", "true"),
    ("socket.timeout.ms", "10000"),
];

/// Settings of the consumer. The end of a partition is told up to `fetch.wait.max.ms` after its
/// last record, and a new reader of a topic waits as long for the fetch under way.
const CONSUMER: &[(&str, &str)] = &[
    ("auto.offset.reset", "error"),
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("enable.partition.eof", "true"),
    ("fetch.error.backoff.ms", "200"),
    ("fetch.max.bytes", "8388608"),
    ("fetch.queue.backoff.ms", "20"),
    ("fetch.wait.max.ms", "100"),
    ("isolation.level", "read_committed"),
    ("queued.max.messages.kbytes", "16384"),
    ("queued.min.messages", "10000"),
];

/// Settings of the producer. What a message may weigh is decided by the broker, so the limit here
/// is out of its way; batches stay below `batch.size` whatever it is.
const PRODUCER: &[(&str, &str)] = &[
    ("acks", "all"),
    ("enable.idempotence", "true"),
    ("linger.ms", "0"),
    ("message.max.bytes", "67108864"),
    ("partitioner", "murmur2_random"),
    ("queue.buffering.max.kbytes", "32768"),
];

/// Names that mean the same setting, and the one that is used.
const ALIASES: &[(&str, &str)] = &[
    ("compression.type", "compression.codec"),
    ("max.in.flight", "max.in.flight.requests.per.connection"),
    ("max.partition.fetch.bytes", "fetch.message.max.bytes"),
    ("queue.buffering.max.ms", "linger.ms"),
];

type Properties = BTreeMap<String, String>;

/// Resolved client configuration. Equal if everything is, secrets included.
#[derive(Clone)]
pub struct Settings(Arc<Resolved>);

struct Resolved {
    brokers: String,
    digest: [u8; 32],
    consumer: Properties,
    producer: Properties,
    secrets: Vec<String>,
}

impl Settings {
    /// Resolves `kafka` of `entry` with the secret values in `material`. Paths of problems start
    /// at the server: `kafka.sasl.secretRef`.
    pub fn resolve(kafka: &Kafka, entry: &Entry, material: &Material) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let brokers = kafka.brokers.join(",");
        let mut common: Properties = owned(COMMON);
        common.insert("bootstrap.servers".into(), brokers.clone());
        let secrets = Secrets { entry, material };
        let login = login(kafka, &secrets, &mut problems);
        let tls = tls(kafka, &secrets, &mut problems);
        common.insert("security.protocol".into(), protocol(kafka).into());
        common.extend(login.clone());
        common.extend(tls);

        let mut consumer = common.clone();
        consumer.extend(owned(CONSUMER));
        let mut producer = common;
        producer.extend(owned(PRODUCER));
        apply_properties(kafka, &mut consumer, &mut producer, &mut problems);
        if problems.is_empty() {
            let digest = digest(&consumer, &producer);
            let secrets = login.into_iter().filter(|(name, _)| name != "sasl.mechanism");
            let mut secrets: Vec<String> = secrets.map(|(_, value)| value).collect();
            // One may be part of the other.
            secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
            Ok(Self(Arc::new(Resolved { brokers, digest, consumer, producer, secrets })))
        } else {
            Err(problems)
        }
    }

    /// Differs if anything differs, secrets included; tells nothing about them.
    pub fn digest(&self) -> [u8; 32] {
        self.0.digest
    }

    /// The bootstrap brokers, for logs.
    pub fn brokers(&self) -> &str {
        &self.0.brokers
    }

    pub(super) fn consumer(&self) -> ClientConfig {
        client_config(&self.0.consumer)
    }

    pub(super) fn producer(&self, timeout: Duration) -> ClientConfig {
        let mut config = client_config(&self.0.producer);
        // librdkafka looks for messages whose time is over once a second.
        let timeout = timeout.saturating_sub(Duration::from_secs(1)).max(timeout / 2);
        config.set("message.timeout.ms", timeout.as_millis().to_string());
        config
    }

    pub(super) fn isolation(&self) -> rd_kafka_IsolationLevel_t {
        match self.0.consumer.get("isolation.level").map(String::as_str) {
            Some("read_uncommitted") => rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_UNCOMMITTED,
            _ => rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_COMMITTED,
        }
    }

    /// Takes user name and password out of `text`, should librdkafka ever put them in.
    pub(super) fn scrub(&self, text: &str) -> String {
        let secrets = self.0.secrets.iter().filter(|secret| secret.len() >= 3);
        secrets.fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "***"))
    }
}

impl PartialEq for Settings {
    fn eq(&self, other: &Self) -> bool {
        self.0.digest == other.0.digest
    }
}

impl Eq for Settings {}

impl std::hash::Hash for Settings {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.digest.hash(state);
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Settings({})", self.0.brokers)
    }
}

struct Secrets<'a> {
    entry: &'a Entry,
    material: &'a Material,
}

impl Secrets<'_> {
    fn text(&self, secret: &str, key: &str) -> Option<Result<String, &'static str>> {
        let bytes = self.material.find(self.entry, secret, key)?;
        let text = match std::str::from_utf8(&bytes) {
            Ok(text) if !text.contains('\0') => Ok(text.to_owned()),
            _ => Err("is not text"),
        };
        Some(text)
    }
}

fn owned(properties: &[(&str, &str)]) -> Properties {
    properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

const fn protocol(kafka: &Kafka) -> &'static str {
    match (&kafka.tls, &kafka.sasl) {
        (None, None) => "plaintext",
        (Some(_), None) => "ssl",
        (None, Some(_)) => "sasl_plaintext",
        (Some(_), Some(_)) => "sasl_ssl",
    }
}

fn login(kafka: &Kafka, secrets: &Secrets<'_>, problems: &mut Vec<Problem>) -> Properties {
    let mut properties = Properties::new();
    let Some(sasl) = &kafka.sasl else { return properties };
    properties.insert("sasl.mechanism".into(), sasl.mechanism.name().into());
    let secret = &sasl.secret_ref.name;
    for key in ["username", "password"] {
        let problem = match secrets.text(secret, key) {
            Some(Ok(text)) if text.is_empty() => "is empty".to_owned(),
            Some(Ok(text)) if text.ends_with(['\n', '\r']) => {
                "ends with a line break; store it without one (`printf %s` instead of `echo`)".to_owned()
            }
            Some(Ok(text)) => {
                properties.insert(format!("sasl.{key}"), text);
                continue;
            }
            Some(Err(problem)) => problem.to_owned(),
            None => "is missing; add it".to_owned(),
        };
        problems.push(Problem::new(
            "kafka.sasl.secretRef",
            format!("the key `{key}` of the Secret `{secret}` {problem}"),
        ));
    }
    properties
}

fn tls(kafka: &Kafka, secrets: &Secrets<'_>, problems: &mut Vec<Problem>) -> Properties {
    let mut properties = Properties::new();
    let Some(tls) = &kafka.tls else { return properties };
    // librdkafka verifies chain and host name by default; said here because much rests on it.
    properties.insert("enable.ssl.certificate.verification".into(), "true".into());
    properties.insert("ssl.endpoint.identification.algorithm".into(), "https".into());
    let secret = tls.secret_ref.as_ref().map(|secret| secret.name.as_str());
    let mut take = |key: &str, property: &str, what: &str, fits: fn(&str) -> bool| {
        let secret = secret?;
        let problem = match secrets.text(secret, key)? {
            Ok(text) if fits(&text) => {
                properties.insert(property.to_owned(), text);
                return Some(());
            }
            Ok(_) => format!("holds no {what} in PEM"),
            Err(problem) => problem.to_owned(),
        };
        problems.push(Problem::new(
            "kafka.tls.secretRef",
            format!("the key `{key}` of the Secret `{secret}` {problem}"),
        ));
        Some(())
    };
    let authority = take("ca.crt", "ssl.ca.pem", "certificate", has_certificate);
    let certificate = take("tls.crt", "ssl.certificate.pem", "certificate", has_certificate);
    let key = take("tls.key", "ssl.key.pem", "unencrypted private key", has_key);
    if authority.is_none() {
        properties.insert("ssl.ca.location".into(), "probe".into());
    }
    if certificate.is_some() != key.is_some() {
        problems.push(Problem::new(
            "kafka.tls.secretRef",
            "a client certificate needs both keys of the Secret, `tls.crt` and `tls.key`; add the other one",
        ));
    }
    properties
}

fn has_certificate(text: &str) -> bool {
    CertificateDer::from_pem_slice(text.as_bytes()).is_ok()
}

/// Encrypted keys are none: there is nobody to ask for the passphrase.
fn has_key(text: &str) -> bool {
    PrivateKeyDer::from_pem_slice(text.as_bytes()).is_ok()
}

fn apply_properties(
    kafka: &Kafka,
    consumer: &mut Properties,
    producer: &mut Properties,
    problems: &mut Vec<Problem>,
) {
    let mut given = BTreeMap::new();
    for (name, value) in &kafka.properties {
        let at = format!("kafka.properties[{name:?}]");
        let Some(applies) = property(name) else {
            problems.push(Problem::new(at, "is not a setting that may be passed; remove it"));
            continue;
        };
        let canonical = ALIASES.iter().find(|(alias, _)| alias == name).map_or(name.as_str(), |(_, to)| to);
        if let Some(other) = given.insert(canonical, name) {
            problems.push(Problem::new(at, format!("means the same as {other:?}; keep one of them")));
            continue;
        }
        if let Err(problem) = try_property(canonical, &value.0) {
            problems.push(Problem::new(at, problem));
            continue;
        }
        if applies != Applies::Producer {
            consumer.insert(canonical.to_owned(), value.0.clone());
        }
        if applies != Applies::Consumer {
            producer.insert(canonical.to_owned(), value.0.clone());
        }
    }
}

/// Lets librdkafka judge the value, and refuses what it would only refuse when publishing.
fn try_property(name: &str, value: &str) -> Result<(), String> {
    let mut config = ClientConfig::new();
    config.set(name, value);
    config.create_native_config().map_err(|error| match error {
        KafkaError::ClientConfig(_, description, ..) => description,
        other => other.to_string(),
    })?;
    let number = value.trim().parse::<u64>();
    match name {
        "max.in.flight.requests.per.connection" if number.is_ok_and(|number| number > 5) => {
            Err("must be at most 5, or the order of messages cannot be kept".into())
        }
        _ => Ok(()),
    }
}

fn client_config(properties: &Properties) -> ClientConfig {
    let mut config = ClientConfig::new();
    for (name, value) in properties {
        config.set(name, value);
    }
    config.set_log_level(RDKafkaLogLevel::Info);
    config
}

fn digest(consumer: &Properties, producer: &Properties) -> [u8; 32] {
    let mut hash = Sha256::new();
    for properties in [consumer, producer] {
        for (name, value) in properties {
            for part in [name, value] {
                hash.update((part.len() as u64).to_be_bytes());
                hash.update(part);
            }
        }
        hash.update([0; 8]);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests;
