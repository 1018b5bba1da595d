//! Policies as data and plain functions: who is let in, and how much is allowed. No I/O.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderMap;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use sluice_config::policy::{Authentication, Cors, Limits, PublishRate};
use sluice_config::{ChannelPolicy, Entry, Material};
use subtle::ConstantTimeEq;

use crate::respond::Refusal;

/// What is in force on a channel, with its secrets resolved.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Why nobody is let in.
    pub closed: Option<String>,
    keys: Option<Vec<Key>>,
    /// Allowed origins.
    pub cors: Cors,
    /// Limits.
    pub limits: Limits,
}

#[derive(Clone)]
struct Key {
    id: Arc<str>,
    hash: [u8; 32],
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({})", self.id)
    }
}

/// Who a client is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Principal {
    key: Option<(Arc<str>, [u8; 32])>,
}

impl Principal {
    /// The id of its API key.
    pub fn key_id(&self) -> Option<&str> {
        self.key.as_ref().map(|(id, _)| &**id)
    }
}

impl Policy {
    /// Resolves what the config says. What cannot be resolved closes the channel.
    pub fn resolve(policy: &ChannelPolicy, entry: &Entry, material: &Material) -> Self {
        let mut closed = policy.closed.clone();
        let keys = match &policy.authentication {
            None | Some(Authentication::None(_)) => None,
            Some(Authentication::ApiKeys(keys)) => match read_keys(&keys.secret_ref.name, entry, material) {
                Ok(keys) => Some(keys),
                Err(reason) => {
                    closed.get_or_insert(reason);
                    Some(Vec::new())
                }
            },
        };
        Self { closed, keys, cors: policy.cors.clone().unwrap_or_default(), limits: policy.limits.clone() }
    }

    /// Whether a credential is asked for.
    pub const fn needs_key(&self) -> bool {
        self.keys.is_some()
    }

    /// Who the holder of `presented` is.
    pub fn authenticate(&self, presented: Option<&[u8]>) -> Result<Principal, Refusal> {
        if self.needs_key() {
            self.recognise(presented.map(digest).as_ref())
        } else {
            Ok(Principal::default())
        }
    }

    /// The same by the [`digest`] of what is presented. Every entry is compared in constant time, and
    /// all of them always.
    pub fn recognise(&self, presented: Option<&[u8; 32]>) -> Result<Principal, Refusal> {
        let Some(keys) = &self.keys else { return Ok(Principal::default()) };
        let presented = presented.ok_or(Refusal::Unauthorized)?;
        let mut found = None;
        for key in keys {
            if bool::from(key.hash.ct_eq(presented)) {
                found = Some((key.id.clone(), key.hash));
            }
        }
        found.map(|key| Principal { key: Some(key) }).ok_or(Refusal::Unauthorized)
    }

    /// Whether a stream that `principal` opened may stay open.
    pub fn reevaluate(&self, principal: &Principal) -> Result<(), Refusal> {
        let Some(keys) = &self.keys else { return Ok(()) };
        match &principal.key {
            Some((id, hash)) if keys.iter().any(|key| key.id == *id && key.hash == *hash) => Ok(()),
            Some(_) => Err(Refusal::Revoked),
            None => Err(Refusal::Unauthorized),
        }
    }

    /// Whether a page of `origin` may use what is reached at `host` by `scheme`.
    pub fn allows_origin(&self, origin: &str, scheme: &str, host: Option<&str>) -> bool {
        let own = host.is_some_and(|host| origin == format!("{scheme}://{}", host.to_ascii_lowercase()));
        own || self.allows_foreign(origin)
    }

    /// Whether a page of `origin`, which is not this host, may use the channel.
    pub fn allows_foreign(&self, origin: &str) -> bool {
        self.cors.allowed_origins.iter().any(|allowed| allowed == "*" || allowed == origin)
    }
}

fn read_keys(secret: &str, entry: &Entry, material: &Material) -> Result<Vec<Key>, String> {
    let mut keys = Vec::new();
    for (id, value) in material.of_secret(entry, secret) {
        let hash = std::str::from_utf8(&value).ok().and_then(|text| parse_hash(text.trim()));
        let hash =
            hash.ok_or_else(|| format!("entry `{id}` of Secret `{secret}` is not sha256:<64 hex digits>"))?;
        keys.push(Key { id: id.into(), hash });
    }
    Ok(keys)
}

fn parse_hash(text: &str) -> Option<[u8; 32]> {
    let hex = text.strip_prefix("sha256:")?;
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    let mut hash = [0; 32];
    for (index, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[index * 2..index * 2 + 2], 16).ok()?;
    }
    Some(hash)
}

/// What API keys are compared by.
pub fn digest(presented: &[u8]) -> [u8; 32] {
    Sha256::digest(presented).into()
}

/// The API key a request carries: `Authorization: Bearer`, `X-API-Key`, or the WebSocket
/// subprotocol `sluice.key.<base64url>` (which the caller found and decoded).
pub fn presented(headers: &HeaderMap, subprotocol: Option<Vec<u8>>) -> Option<Vec<u8>> {
    let bearer = headers.get(http::header::AUTHORIZATION).and_then(|value| {
        let (scheme, token) = value.as_bytes().split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii().to_vec())
    });
    let header = || headers.get("x-api-key").map(|value| value.as_bytes().trim_ascii().to_vec());
    bearer.or_else(header).or(subprotocol)
}

/// Token buckets, like those of `limits.publishRate`: one a client.
#[derive(Default)]
pub struct Rates(Mutex<std::collections::HashMap<Box<str>, Bucket>>);

struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Rates {
    /// Buckets kept at most; full ones are dropped first, and full is what an absent one is.
    const MOST: usize = 10_000;

    /// Takes one token of `client` for a message, or tells when there will be one.
    pub fn take(&self, client: &str, rate: &PublishRate, now: Instant) -> Result<(), Refusal> {
        let per_second = rate.messages_per_second;
        let refused = |retry_after| Refusal::TooManyMessages { per_second, retry_after };
        self.spend(client, rate, now).map_err(refused)
    }

    /// Takes one token of `client` for anything; an error is the time until there will be one.
    pub fn spend(&self, client: &str, rate: &PublishRate, now: Instant) -> Result<(), Duration> {
        let per_second = f64::from(rate.messages_per_second);
        let burst = f64::from(rate.burst.unwrap_or(rate.messages_per_second)).max(1.0);
        let mut buckets = self.0.lock();
        if buckets.len() >= Self::MOST && !buckets.contains_key(client) {
            buckets.retain(|_, bucket| bucket.level(per_second, burst, now) < burst);
        }
        if !buckets.contains_key(client) && buckets.len() < Self::MOST {
            buckets.insert(client.into(), Bucket { tokens: burst, at: now });
        }
        let Some(bucket) = buckets.get_mut(client) else {
            // So many clients at their limit at once: newcomers wait.
            return Err(Duration::from_secs(1));
        };
        bucket.tokens = bucket.level(per_second, burst, now);
        bucket.at = now;
        if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - bucket.tokens) / per_second))
    }
}

impl Bucket {
    fn level(&self, per_second: f64, burst: f64, now: Instant) -> f64 {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        (self.tokens + since * per_second).min(burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(keys: &[(&str, &str)]) -> Policy {
        let keys = keys
            .iter()
            .map(|(id, key)| Key { id: (*id).into(), hash: Sha256::digest(key.as_bytes()).into() })
            .collect();
        Policy { keys: Some(keys), ..Policy::default() }
    }

    #[test]
    fn several_keys_are_valid_at_once_and_each_can_be_revoked() {
        let both = policy(&[("old", "slk_a"), ("new", "slk_b")]);
        let old = both.authenticate(Some(b"slk_a")).expect("valid");
        let new = both.authenticate(Some(b"slk_b")).expect("valid");
        assert_eq!((old.key_id(), new.key_id()), (Some("old"), Some("new")));
        assert_eq!(both.authenticate(Some(b"slk_c")), Err(Refusal::Unauthorized));
        assert_eq!(both.authenticate(None), Err(Refusal::Unauthorized));
        let rotated = policy(&[("new", "slk_b")]);
        assert_eq!(rotated.reevaluate(&old), Err(Refusal::Revoked));
        assert_eq!(rotated.reevaluate(&new), Ok(()));
        let reused = policy(&[("old", "slk_z"), ("new", "slk_b")]);
        assert_eq!(reused.reevaluate(&old), Err(Refusal::Revoked));
    }

    #[test]
    fn a_policy_that_comes_later_closes_anonymous_streams() {
        let nobody = Principal::default();
        assert_eq!(Policy::default().reevaluate(&nobody), Ok(()));
        assert_eq!(policy(&[("a", "slk_a")]).reevaluate(&nobody), Err(Refusal::Unauthorized));
    }

    #[test]
    fn origins_are_compared_exactly() {
        let mut policy = Policy::default();
        policy.cors.allowed_origins = vec!["https://good.example".into()];
        let allows = |origin: &str| policy.allows_origin(origin, "http", Some("Localhost:8080"));
        for good in ["https://good.example", "http://localhost:8080"] {
            assert!(allows(good), "{good}");
        }
        for bad in [
            "null",
            "http://good.example",
            "https://good.example:8443",
            "https://good.example.evil",
            "https://GOOD.example",
            "https://localhost:8080",
            "http://localhost",
            "http://evil",
            "",
        ] {
            assert!(!allows(bad), "{bad}");
        }
    }

    #[test]
    fn a_rate_allows_its_burst_and_then_tells_when() {
        let rates = Rates::default();
        let rate = PublishRate { messages_per_second: 10, burst: Some(3) };
        let start = Instant::now();
        for _ in 0..3 {
            assert_eq!(rates.take("a", &rate, start), Ok(()));
        }
        let Err(Refusal::TooManyMessages { retry_after, .. }) = rates.take("a", &rate, start) else {
            panic!("over the burst");
        };
        assert!(retry_after <= Duration::from_millis(100));
        assert_eq!(rates.take("b", &rate, start), Ok(()));
        assert_eq!(rates.take("a", &rate, start + Duration::from_millis(100)), Ok(()));
        assert!(rates.take("a", &rate, start + Duration::from_millis(100)).is_err());
    }

    #[test]
    fn keys_come_in_three_ways() {
        let mut headers = HeaderMap::new();
        assert_eq!(presented(&headers, None), None);
        assert_eq!(presented(&headers, Some(b"slk_w".to_vec())).as_deref(), Some(b"slk_w".as_slice()));
        headers.insert("x-api-key", "slk_x".parse().expect("a value"));
        assert_eq!(presented(&headers, None).as_deref(), Some(b"slk_x".as_slice()));
        headers.insert("authorization", "bearer slk_b".parse().expect("a value"));
        assert_eq!(presented(&headers, None).as_deref(), Some(b"slk_b".as_slice()));
        headers.insert("authorization", "Basic x".parse().expect("a value"));
        assert_eq!(presented(&headers, None).as_deref(), Some(b"slk_x".as_slice()));
    }
}
