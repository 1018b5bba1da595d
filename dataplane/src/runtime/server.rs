//! A server of an API as it runs, and what of it survives a reload.

use std::collections::BTreeMap;
use std::sync::Arc;

use sluice_config::server::ServerKind;

use crate::server::{Sink, Source, Status, kafka, memory};

/// A Kafka client and the state of its connection.
pub(super) struct KafkaClient {
    pub(super) client: Arc<kafka::Client>,
    pub(super) status: Arc<Status>,
}

/// A server of an API.
#[derive(Clone)]
pub(super) struct RunningServer {
    pub(super) kind: ServerKind,
    pub(super) status: Arc<Status>,
    pub(super) client: Option<Arc<KafkaClient>>,
    pub(super) logs: BTreeMap<String, Arc<memory::Log>>,
}

impl RunningServer {
    /// Whether `address` holds the same messages: its feed can go on.
    pub(super) fn holds_the_same(&self, new: &mut Self, address: &str) -> bool {
        if let (ServerKind::Memory(_), ServerKind::Memory(_)) = (&self.kind, &new.kind) {
            let log = new.log(address);
            return self.logs.get(address).is_some_and(|old| Arc::ptr_eq(old, &log));
        }
        match (&self.kind, &new.kind) {
            (ServerKind::Kafka(old), ServerKind::Kafka(new)) => old.brokers == new.brokers,
            (ServerKind::Generator(_), ServerKind::Generator(_)) => true,
            _ => false,
        }
    }

    /// Whether the reader can go on as it is.
    pub(super) fn reads_the_same(&self, new: &Self) -> bool {
        let same_client = match (&self.client, &new.client) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            _ => true,
        };
        let same_kind = matches!(self.kind, ServerKind::Kafka(_)) || self.kind == new.kind;
        same_client && same_kind
    }

    fn log(&mut self, address: &str) -> Arc<memory::Log> {
        self.logs.entry(address.to_owned()).or_insert_with(|| memory::Log::new(address)).clone()
    }

    pub(super) fn source(&mut self, address: &str) -> Source {
        match (&self.kind, &self.client) {
            (ServerKind::Generator(settings), _) => {
                Source::Generator { settings: settings.clone(), address: address.to_owned() }
            }
            (ServerKind::Kafka(_), Some(client)) => {
                Source::Kafka { client: client.client.clone(), topic: address.to_owned() }
            }
            (ServerKind::Kafka(_) | ServerKind::Memory(_), _) => Source::Memory(self.log(address)),
        }
    }

    pub(super) fn sink(&mut self, address: &str) -> Option<Sink> {
        match (&self.kind, &self.client) {
            (ServerKind::Generator(_), _) => None,
            (ServerKind::Kafka(_), Some(client)) => {
                Some(Sink::Kafka { client: client.client.clone(), topic: address.to_owned() })
            }
            (ServerKind::Kafka(_) | ServerKind::Memory(_), _) => Some(Sink::Memory(self.log(address))),
        }
    }
}
