//! What tests do with topics, by librdkafka: create, grow, delete, produce, read back.

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Offset, TopicPartitionList};

use super::Cluster;
use crate::seed::unique;
use crate::wait::within;

/// The longest a request to the cluster may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A record to produce, or one that was read back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Partition; chosen by the key when producing without one.
    pub partition: Option<i32>,
    /// Offset, of records read back.
    pub offset: i64,
    /// Key.
    pub key: Option<Vec<u8>>,
    /// Payload; `None` is a tombstone.
    pub payload: Option<Vec<u8>>,
    /// Headers, in order.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Milliseconds since 1970.
    pub timestamp: Option<i64>,
}

impl Record {
    /// A record of `payload` without a key.
    pub fn new(payload: impl Into<Vec<u8>>) -> Self {
        Self { payload: Some(payload.into()), ..Self::default() }
    }

    /// Sets the key.
    #[must_use]
    pub fn key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sets the partition.
    #[must_use]
    pub fn partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

impl Cluster {
    /// Settings of a client without encryption.
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.bootstrap()).set("log_level", "2");
        config
    }

    /// A producer that waits for all replicas.
    pub fn producer(&self) -> FutureProducer {
        let mut config = self.client();
        config.set("enable.idempotence", "true").set("linger.ms", "1").set("message.timeout.ms", "60000");
        config.set("message.max.bytes", "8000000");
        config.create().expect("a producer can be made")
    }

    /// Creates a topic whose name begins with `prefix` and gives its name.
    pub async fn topic(&self, prefix: &str, partitions: i32) -> String {
        self.topic_with(prefix, partitions, &[]).await
    }

    /// Creates a topic with settings.
    pub async fn topic_with(&self, prefix: &str, partitions: i32, settings: &[(&str, &str)]) -> String {
        let name = unique(prefix);
        self.create(&name, partitions, settings).await;
        name
    }

    /// Creates the topic `name` and waits until it is led.
    ///
    /// # Panics
    /// If it cannot be created.
    pub async fn create(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) {
        let replicas = i32::try_from(self.size().min(3)).expect("few nodes");
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(replicas));
        for (key, value) in settings {
            topic = topic.set(key, value);
        }
        let results = self.admin().create_topics([&topic], &options()).await.expect("the cluster answers");
        assert!(results[0].is_ok(), "{name} cannot be created: {results:?}");
        self.led(name, partitions).await;
    }

    /// Raises the partition count.
    ///
    /// # Panics
    /// If it cannot be raised.
    pub async fn grow(&self, topic: &str, partitions: usize) {
        let grown = NewPartitions::new(topic, partitions);
        let results =
            self.admin().create_partitions([&grown], &options()).await.expect("the cluster answers");
        assert!(results[0].is_ok(), "{topic} cannot grow: {results:?}");
        self.led(topic, i32::try_from(partitions).expect("few partitions")).await;
    }

    /// Deletes a topic and waits until the cluster has forgotten it.
    ///
    /// # Panics
    /// If it cannot be deleted.
    pub async fn delete(&self, topic: &str) {
        let results = self.admin().delete_topics(&[topic], &options()).await.expect("the cluster answers");
        assert!(results[0].is_ok(), "{topic} cannot be deleted: {results:?}");
        within(PATIENCE, "the topic is gone", || async {
            (!self.topics().contains(&topic.to_owned())).then_some(())
        })
        .await;
    }

    /// Deletes what lies below `offset` in `partition`, as retention does.
    ///
    /// # Panics
    /// If it cannot be deleted.
    pub async fn truncate(&self, topic: &str, partition: i32, offset: i64) {
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(topic, partition, Offset::Offset(offset)).expect("a valid offset");
        let result = self.admin().delete_records(&offsets, &options()).await.expect("the cluster answers");
        assert!(result.elements()[0].error().is_ok(), "{topic} cannot be truncated: {result:?}");
    }

    /// Names of all topics; asking creates none.
    pub fn topics(&self) -> Vec<String> {
        let metadata = self.metadata(None).expect("the cluster answers");
        metadata.topics().iter().map(|topic| topic.name().to_owned()).collect()
    }

    /// The node that leads a partition.
    pub fn leader(&self, topic: &str, partition: i32) -> Option<i32> {
        let metadata = self.metadata(Some(topic))?;
        let partitions = metadata.topics().first()?.partitions();
        partitions.iter().find(|it| it.id() == partition).map(|it| it.leader()).filter(|leader| *leader > 0)
    }

    /// Waits until all in-sync replicas of every partition are back.
    pub async fn healed(&self, topic: &str) {
        let size = self.size().min(3);
        within(Duration::from_secs(60), "all replicas are in sync", || async {
            let metadata = self.metadata(Some(topic))?;
            let partitions = metadata.topics().first()?.partitions();
            partitions.iter().all(|it| it.isr().len() == size && it.leader() > 0).then_some(())
        })
        .await;
    }

    /// Moves the leadership of every partition of `topic` to `node`, without stopping anything.
    pub async fn lead(&self, topic: &str, partitions: i32, node: i32) {
        let others: Vec<i32> = (1..=3).filter(|it| *it != node).collect();
        let moves: Vec<String> = (0..partitions)
            .map(|partition| {
                let (a, b) = (others[0], others[1]);
                format!(r#"{{"topic":"{topic}","partition":{partition},"replicas":[{node},{a},{b}]}}"#)
            })
            .collect();
        let file = self.home.join(unique("reassign"));
        std::fs::write(&file, format!(r#"{{"version":1,"partitions":[{}]}}"#, moves.join(",")))
            .expect("a file can be written");
        let path = file.display().to_string();
        self.tool(
            "org.apache.kafka.tools.reassign.ReassignPartitionsCommand",
            &["--execute", "--reassignment-json-file", &path],
        );
        self.tool(
            "org.apache.kafka.tools.LeaderElectionCommand",
            &["--election-type", "preferred", "--all-topic-partitions"],
        );
        within(PATIENCE, "the leader moves", || async {
            (0..partitions).all(|partition| self.leader(topic, partition) == Some(node)).then_some(())
        })
        .await;
    }

    /// Produces `records` in order and gives where each went.
    pub async fn produce(&self, topic: &str, records: &[Record]) -> Vec<(i32, i64)> {
        let producer = self.producer();
        let mut reports = Vec::with_capacity(records.len());
        for record in records {
            let mut headers = OwnedHeaders::new();
            for (key, value) in &record.headers {
                headers = headers.insert(rdkafka::message::Header { key, value: Some(value) });
            }
            let mut out: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(topic).headers(headers);
            out.key = record.key.as_deref();
            out.payload = record.payload.as_deref();
            out.partition = record.partition;
            out.timestamp = record.timestamp;
            reports.push(producer.send_result(out).map_err(|(error, _)| error).expect("the queue has room"));
        }
        let mut positions = Vec::with_capacity(reports.len());
        for report in reports {
            let delivery = report.await.expect("a report comes").map_err(|(error, _)| error);
            let delivery = delivery.expect("the record is written");
            positions.push((delivery.partition, delivery.offset));
        }
        positions
    }

    /// Everything in `topic` now, by partition and offset.
    ///
    /// # Panics
    /// If it cannot be read in time.
    pub async fn records(&self, topic: &str) -> Vec<Record> {
        let (config, topic) = (self.client(), topic.to_owned());
        tokio::task::spawn_blocking(move || read_all(config, &topic)).await.expect("reading does not panic")
    }

    /// Waits until `count` nodes are seen.
    pub(super) async fn sees(&self, count: usize) {
        within(Duration::from_secs(60), "all brokers are there", || async {
            self.metadata(None).filter(|metadata| metadata.brokers().len() == count).map(|_| ())
        })
        .await;
    }

    async fn led(&self, topic: &str, partitions: i32) {
        within(PATIENCE, "every partition is led", || async {
            (0..partitions).all(|partition| self.leader(topic, partition).is_some()).then_some(())
        })
        .await;
    }

    fn metadata(&self, topic: Option<&str>) -> Option<rdkafka::metadata::Metadata> {
        let mut config = self.client();
        config.set("allow.auto.create.topics", "false").set("group.id", "metadata");
        let client: BaseConsumer = config.create().expect("a client can be made");
        client.fetch_metadata(topic, Duration::from_secs(5)).ok()
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client().create().expect("a client can be made")
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(PATIENCE)).request_timeout(Some(PATIENCE))
}

fn read_all(mut config: ClientConfig, topic: &str) -> Vec<Record> {
    config
        .set("group.id", "reader")
        .set("enable.auto.commit", "false")
        .set("allow.auto.create.topics", "false");
    config.set("isolation.level", "read_committed").set("check.crcs", "true");
    let consumer: BaseConsumer = config.create().expect("a consumer can be made");
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).expect("the cluster answers");
    let mut remaining = 0;
    let mut positions = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        let (low, high) =
            consumer.fetch_watermarks(topic, partition.id(), PATIENCE).expect("the cluster answers");
        remaining += high - low;
        positions.add_partition_offset(topic, partition.id(), Offset::Beginning).expect("a valid offset");
    }
    consumer.assign(&positions).expect("partitions can be assigned");
    let mut records = Vec::new();
    let begun = Instant::now();
    while remaining > 0 {
        assert!(begun.elapsed() < PATIENCE, "{remaining} records of {topic} did not come");
        // Lost connections are librdkafka's to mend; the deadline above bounds them.
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(200)) else { continue };
        let headers = message.headers().map(|headers| {
            headers.iter().map(|it| (it.key.to_owned(), it.value.unwrap_or_default().to_vec())).collect()
        });
        records.push(Record {
            partition: Some(message.partition()),
            offset: message.offset(),
            key: message.key().map(<[u8]>::to_vec),
            payload: message.payload().map(<[u8]>::to_vec),
            headers: headers.unwrap_or_default(),
            timestamp: message.timestamp().to_millis(),
        });
        remaining -= 1;
    }
    records.sort_by_key(|record| (record.partition, record.offset));
    records
}
