//! Leadership among the operator's replicas: one Lease, held by one process at a time.
//!
//! Whoever leads knows until when by its own monotonic clock: a process that was paused finds its
//! time over before it asks anybody, so there are never two writers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};

/// For how long a Lease is held without renewal.
const DURATION: Duration = Duration::from_secs(10);
/// How often the leader renews.
const EVERY: Duration = Duration::from_secs(2);
/// How often others look whether the Lease is free.
const LOOK: Duration = Duration::from_secs(1);
/// How long a request about the Lease may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// The leader stops writing this much earlier than others may take over.
const MARGIN: Duration = Duration::from_secs(2);

/// Whether this process leads.
#[derive(Clone)]
pub struct Leadership {
    begun: Instant,
    /// Milliseconds after `begun` until which writing is allowed.
    until: Arc<AtomicU64>,
    /// The API server has answered about the Lease.
    answered: Arc<AtomicBool>,
}

impl Leadership {
    /// Nobody leads yet.
    fn new() -> Self {
        Self { begun: Instant::now(), until: Arc::default(), answered: Arc::default() }
    }

    /// Whether writing is allowed right now.
    pub fn holds(&self) -> bool {
        self.begun.elapsed().as_millis() < u128::from(self.until.load(Ordering::SeqCst))
    }

    /// Whether the API server was ever reached: a replica that waits to lead is as ready as it gets.
    pub fn is_known(&self) -> bool {
        self.answered.load(Ordering::SeqCst)
    }

    fn extend(&self, asked: Instant) {
        let until = asked.duration_since(self.begun) + DURATION - MARGIN;
        self.until.store(u64::try_from(until.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    fn end(&self) {
        self.until.store(0, Ordering::SeqCst);
    }
}

/// A candidate for the Lease `name`.
pub struct Candidate {
    api: Api<Lease>,
    name: String,
    identity: String,
    leadership: Leadership,
    /// What was seen of the holder, and when it was new.
    seen: Option<(LeaseSpec, Instant)>,
}

impl Candidate {
    /// `identity` is the pod's name.
    pub fn new(client: Client, namespace: &str, name: String, identity: String) -> Self {
        let api = Api::namespaced(client, namespace);
        Self { api, name, identity, leadership: Leadership::new(), seen: None }
    }

    /// The candidate's view of whether it leads.
    pub fn leadership(&self) -> Leadership {
        self.leadership.clone()
    }

    /// Waits until this process leads.
    pub async fn acquire(&mut self) {
        loop {
            match tokio::time::timeout(PATIENCE, self.attempt()).await {
                Ok(Ok(true)) => return,
                Ok(Ok(false)) => {}
                Ok(Err(error)) => tracing::warn!(%error, "the Lease cannot be read or written; trying again"),
                Err(_) => tracing::warn!("the API server does not answer about the Lease; trying again"),
            }
            tokio::time::sleep(LOOK.mul_f64(0.8 + 0.4 * fastrand::f64())).await;
        }
    }

    /// Renews until that fails for too long or somebody else leads.
    pub async fn keep(&mut self) {
        loop {
            tokio::time::sleep(EVERY).await;
            match tokio::time::timeout(PATIENCE, self.attempt()).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => {
                    self.leadership.end();
                    return;
                }
                Ok(Err(error)) => tracing::warn!(%error, "the Lease was not renewed; trying again"),
                Err(_) => tracing::warn!("the API server does not answer about the Lease; trying again"),
            }
            if !self.leadership.holds() {
                return;
            }
        }
    }

    /// Gives the Lease back, so that another one need not wait for it to expire.
    pub async fn release(&mut self) {
        let held = self.leadership.holds();
        self.leadership.end();
        if !held {
            return;
        }
        let give_back = async {
            let mut lease = self.api.get(&self.name).await?;
            if let Some(spec) =
                lease.spec.as_mut().filter(|spec| spec.holder_identity == Some(self.identity.clone()))
            {
                spec.holder_identity = None;
                self.api.replace(&self.name, &PostParams::default(), &lease).await?;
            }
            Ok::<_, kube::Error>(())
        };
        if !matches!(tokio::time::timeout(PATIENCE, give_back).await, Ok(Ok(()))) {
            tracing::warn!("the Lease could not be given back; it expires by itself");
        }
    }

    /// Takes or renews the Lease if that is due; whether this process leads then.
    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        let asked = Instant::now();
        let found = self.api.get_opt(&self.name).await?;
        self.leadership.answered.store(true, Ordering::SeqCst);
        let Some(mut lease) = found else {
            let lease = Lease {
                metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
                spec: Some(self.spec(&LeaseSpec::default())),
            };
            return self.written(asked, self.api.create(&PostParams::default(), &lease).await);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let ours = spec.holder_identity.as_deref() == Some(&self.identity);
        let free = spec.holder_identity.as_deref().is_none_or(str::is_empty);
        if !ours && !free && !self.is_expired(&spec) {
            return Ok(false);
        }
        lease.spec = Some(self.spec(&spec));
        // The version that was read goes along: of two that take it at once, one is refused.
        self.written(asked, self.api.replace(&self.name, &PostParams::default(), &lease).await)
    }

    fn written(&self, asked: Instant, result: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
        match result {
            Ok(_) => {
                self.leadership.extend(asked);
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether the holder has not renewed for its whole duration, by our own clock: the clocks of
    /// two machines are not compared.
    fn is_expired(&mut self, spec: &LeaseSpec) -> bool {
        match &self.seen {
            Some((seen, since)) if seen == spec => {
                let held = spec.lease_duration_seconds.map_or(DURATION, |seconds| {
                    Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
                });
                since.elapsed() > held
            }
            _ => {
                self.seen = Some((spec.clone(), Instant::now()));
                false
            }
        }
    }

    fn spec(&self, before: &LeaseSpec) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let ours = before.holder_identity.as_deref() == Some(&self.identity);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(i32::try_from(DURATION.as_secs()).expect("seconds")),
            renew_time: Some(now.clone()),
            acquire_time: if ours { before.acquire_time.clone() } else { Some(now) },
            lease_transitions: Some(before.lease_transitions.unwrap_or(0) + i32::from(!ours)),
            ..LeaseSpec::default()
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The view of a process that renewed its Lease so long ago.
    pub fn renewed(ago: Duration) -> Leadership {
        let leadership = Leadership { begun: Instant::now() - DURATION * 2, ..Leadership::new() };
        leadership.extend(Instant::now() - ago);
        leadership
    }

    #[test]
    fn a_leader_stops_before_another_may_begin() {
        assert!(!Leadership::new().holds(), "nobody leads from the start");
        assert!(renewed(Duration::ZERO).holds());
        assert!(renewed(DURATION - MARGIN - Duration::from_secs(1)).holds());
        for paused in [DURATION - MARGIN, DURATION, DURATION * 2] {
            assert!(!renewed(paused).holds(), "{paused:?}");
        }
        let given_back = renewed(Duration::ZERO);
        given_back.end();
        assert!(!given_back.holds());
    }
}
