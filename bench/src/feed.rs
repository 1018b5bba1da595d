//! Puts messages into a Kafka topic at a rate, each with the time it was meant to be sent.

use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};

use crate::load::{Window, payload};
use crate::measure::now_nanos;
use crate::publish::settings;

/// How long the last messages may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sends what `window` announces from a thread of its own.
pub fn start(brokers: &str, topic: &str, window: Window, bytes: usize) -> JoinHandle<Result<()>> {
    let (settings, topic) = (settings(brokers), topic.to_owned());
    std::thread::spawn(move || {
        let producer: ThreadedProducer<DefaultProducerContext> = settings.create()?;
        // The first message would otherwise wait for this and the schedule with it.
        producer.client().fetch_metadata(Some(&topic), PATIENCE).context("Kafka does not know the topic")?;
        let interval = 1_000_000_000 / window.rate;
        let begun = now_nanos();
        for sequence in 0..window.messages() {
            let meant = begun + (sequence + 1) * interval;
            std::thread::sleep(Duration::from_nanos(meant.saturating_sub(now_nanos())));
            let payload = payload(meant, sequence, bytes);
            let record: BaseRecord<'_, (), [u8]> = BaseRecord::to(&topic).partition(0).payload(&payload);
            producer.send(record).map_err(|(error, _)| anyhow!(error))?;
        }
        Ok(producer.flush(PATIENCE)?)
    })
}
