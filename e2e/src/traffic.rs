//! Kafka on the host, and counted traffic through a Service: publishers by POST, followers on both
//! transports, one ledger.

use std::time::Duration;

use sluice_tests::client::Follower;
use sluice_tests::client::follower::Transport;
use sluice_tests::documents::{Api, Channel};
use sluice_tests::{Cluster, Ledger, Load};
use tokio::sync::OnceCell;

use crate::kubernetes::host;

/// Publishers at once.
const PUBLISHERS: usize = 8;
/// How long followers may take to get everything after the load ended.
const HEALING: Duration = Duration::from_secs(60);

/// The single node that all tests of this process share, where pods reach it.
pub async fn kafka() -> &'static Cluster {
    static SHARED: OnceCell<Cluster> = OnceCell::const_new();
    SHARED.get_or_init(|| async { Cluster::start_at(&host(), 1).await }).await
}

/// A StreamAPI `shop` whose channel `orders` is `topic`, with as many pods.
pub fn shop(kafka: &Cluster, topic: &str, replicas: u32) -> Api {
    let mut api =
        Api::new("shop").server("events", kafka.server()).channel(Channel::both_ways("orders", topic));
    api.0["spec"]["placement"] = serde_json::json!({"deployment": {"replicas": replicas}});
    api
}

/// Messages on their way, each counted at every follower.
#[derive(Debug)]
pub struct Traffic {
    /// What was offered and accepted.
    pub ledger: Ledger,
    /// Who publishes.
    pub load: Load,
    /// Who receives: two on each transport.
    pub followers: Vec<Follower>,
    count: usize,
}

impl Traffic {
    /// At least `count` messages from publishers at `url` to followers there, and then more until
    /// [`Traffic::check`]: whatever is done meanwhile meets them.
    pub async fn start(purpose: &str, url: &str, count: usize) -> Self {
        let ledger = Ledger::new(purpose, 1);
        let mut followers = Vec::new();
        for (name, transport) in [
            ("first WebSocket", Transport::WebSocket),
            ("second WebSocket", Transport::WebSocket),
            ("first SSE", Transport::Sse),
            ("second SSE", Transport::Sse),
        ] {
            followers.push(Follower::start(name, transport, url, &ledger).await);
        }
        let load = Load::http_until_stopped(url, &ledger, PUBLISHERS);
        let traffic = Self { ledger, load, followers, count };
        traffic.reaches(1, 20).await;
        traffic
    }

    /// Waits until `part` of `whole` of the messages were accepted.
    pub async fn reaches(&self, part: usize, whole: usize) {
        self.load.reaches(self.count * part / whole).await;
    }

    /// Waits until every follower is connected.
    pub async fn connected(&self) {
        for follower in &self.followers {
            follower.connected().await;
        }
    }

    /// Streams opened so far, over all followers.
    pub fn connections(&self) -> usize {
        self.followers.iter().map(|follower| follower.seen().connections).sum()
    }

    /// Publishes that were refused or had no answer.
    pub fn troubled(&self) -> usize {
        self.load.refused() + self.load.unknown()
    }

    /// Publishes at least as many messages as were asked for and checks that nothing was lost, corrupted, invented, reordered or told
    /// as a gap, that no follower was cut more than `cuts` times, and that nobody who was not cut got
    /// anything twice. Gives the publishes that were refused or had no answer.
    pub async fn check(self, cuts: usize) -> usize {
        self.load.reaches(self.count).await;
        let troubles = self.load.troubles();
        let troubled = self.load.stop().await;
        println!("{troubled} publishes were refused or had no answer: {troubles:?}");
        assert_eq!(self.ledger.accepted(), self.ledger.offered(), "everything is taken in the end");
        for follower in &self.followers {
            follower.check(HEALING).await;
            let seen = follower.seen();
            assert!(seen.connections <= 1 + cuts, "{} connections", seen.connections);
            assert_eq!(seen.reader.written_though_refused(), 0, "503 means not written");
            if cuts == 0 {
                assert_eq!(seen.reader.duplicated(), 0, "nothing twice on an uncut connection");
            }
        }
        troubled
    }
}
