//! The webhook's certificate: made and renewed by the leader, held in a Secret, served by every
//! replica, trusted by the API server through the `caBundle` of the webhook's configuration.
//!
//! A certificate comes with an authority of its own, whose key is thrown away. The new authority is
//! trusted before its certificate is served, and the old one until the next renewal, so that every
//! replica is trusted at every moment, whenever it notices.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::tz::TimeZone;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{DynamicObject, ObjectMeta, Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::ServerConfig;
use serde_json::json;
use tokio::sync::watch;

use crate::apply::FIELD_MANAGER;
use crate::children::{MANAGED_BY, resource};
use crate::lease::Leadership;

/// How long a certificate is good for, and how long before its end it is renewed.
const LIFE: SignedDuration = SignedDuration::from_hours(90 * 24);
const RENEWAL: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Clocks of API servers may be late by this much.
const SKEW: SignedDuration = SignedDuration::from_hours(24);
/// How often the leader looks whether everything is as it should be, if nothing changes.
const EVERY: Duration = Duration::from_secs(60);
/// How soon again after a failure.
const AGAIN: Duration = Duration::from_secs(5);
/// How long one look may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// What names the webhook to the API server: for what is applied, and for pods.
const CONFIGURATIONS: [(&str, &str); 2] = [
    ("ValidatingWebhookConfiguration", "validatingwebhookconfigurations"),
    ("MutatingWebhookConfiguration", "mutatingwebhookconfigurations"),
];
/// Annotation of the Secret: when the certificate ends.
const NOT_AFTER: &str = "sluice.dev/not-after";
/// Annotation of the Secret: the names that it is for.
const NAMES: &str = "sluice.dev/names";

/// What the Secret holds.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// Who is trusted to have signed: the authority, and the one before. PEM.
    pub authorities: String,
    /// The certificate, PEM.
    pub certificate: String,
    /// Its key, PEM.
    pub key: String,
}

impl Identity {
    /// A certificate for `names` that is good from now on. `before` stays trusted.
    fn make(names: &[String], before: Option<&str>, now: Timestamp) -> Result<Self, rcgen::Error> {
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.distinguished_name.push(DnType::CommonName, "sluice-operator webhook authority");
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let mut leaf = CertificateParams::new(names.to_vec())?;
        leaf.distinguished_name.push(DnType::CommonName, "sluice-operator webhook");
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        // Certificates begin and end at midnight.
        let day = |at: Timestamp| {
            let date = at.to_zoned(TimeZone::UTC).date();
            let part = |number: i8| u8::try_from(number).expect("months and days are positive");
            rcgen::date_time_ymd(date.year().into(), part(date.month()), part(date.day()))
        };
        for params in [&mut authority, &mut leaf] {
            (params.not_before, params.not_after) = (day(now - SKEW), day(now + LIFE + SKEW));
        }
        let authority_key = KeyPair::generate()?;
        let newest = authority.self_signed(&authority_key)?.pem();
        let key = KeyPair::generate()?;
        let certificate = leaf.signed_by(&key, &Issuer::new(authority, authority_key))?;
        let authorities =
            before.map_or_else(|| newest.clone(), |before| format!("{newest}{}", first(before)));
        Ok(Self { authorities, certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// What `secret` holds, if that is whole.
    pub fn of(secret: &Secret) -> Option<Self> {
        let text = |key: &str| String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).ok();
        Some(Self { authorities: text("ca.crt")?, certificate: text("tls.crt")?, key: text("tls.key")? })
    }
}

/// The first certificate of a bundle: of several authorities the newest.
fn first(bundle: &str) -> &str {
    const END: &str = "-----END CERTIFICATE-----\n";
    bundle.find(END).map_or("", |at| &bundle[..at + END.len()])
}

/// Keeps the certificate good and trusted while this process leads.
pub struct Keeper {
    /// The API server.
    pub client: Client,
    /// Whether this process may write.
    pub leadership: Leadership,
    /// Namespace of the Secret.
    pub namespace: String,
    /// Name of the Secret.
    pub secret: String,
    /// Name of the webhook's configurations.
    pub configuration: String,
    /// Whether there is one for pods, too.
    pub sidecars: bool,
    /// Names under which the API server reaches the webhook.
    pub names: Vec<String>,
    /// Tells that the Secret changed.
    pub changed: watch::Receiver<Option<Arc<ServerConfig>>>,
}

/// Why the certificate could not be looked after.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The API server could not be asked.
    #[error("the API server: {0}")]
    Api(#[from] kube::Error),
    /// It took too long.
    #[error("the API server did not answer within {PATIENCE:?}")]
    Late,
    /// The names are not ones that a certificate can have.
    #[error("no certificate can be made for the webhook's names: {0}")]
    Names(#[from] rcgen::Error),
    /// Somebody else's Secret has the name.
    #[error(
        "Secret `{0}` exists and was not made by the operator; delete it, or leave certificates to cert-manager"
    )]
    Taken(String),
    /// Another replica leads.
    #[error("this process no longer leads")]
    NotLeading,
}

impl Keeper {
    /// Looks after it for ever.
    pub async fn run(mut self) {
        loop {
            let looked = tokio::time::timeout(PATIENCE, self.look(Timestamp::now())).await;
            let pause = match looked.unwrap_or(Err(KeepError::Late)) {
                Ok(()) => EVERY,
                Err(error) => {
                    tracing::warn!(%error, "the webhook's certificate was not looked after; trying again");
                    AGAIN
                }
            };
            let changed = async {
                if self.changed.changed().await.is_err() {
                    std::future::pending().await
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = changed => {}
            }
        }
    }

    async fn look(&self, now: Timestamp) -> Result<(), KeepError> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let found = secrets.get_opt(&self.secret).await?;
        let ours = |secret: &Secret| secret.labels().get(MANAGED_BY.0).is_some_and(|by| by == MANAGED_BY.1);
        if found.as_ref().is_some_and(|secret| !ours(secret)) {
            return Err(KeepError::Taken(self.secret.clone()));
        }
        let known = found.as_ref().and_then(Identity::of);
        match known.as_ref().filter(|_| found.as_ref().is_some_and(|secret| self.is_good(secret, now))) {
            Some(good) => self.trust(&good.authorities).await,
            None => {
                let before = known.as_ref().map(|known| known.authorities.as_str());
                let new = Identity::make(&self.names, before, now)?;
                self.trust(&new.authorities).await?;
                self.store(&secrets, &new, now).await?;
                tracing::info!(secret = self.secret, "the webhook has a new certificate");
                Ok(())
            }
        }
    }

    /// Whether the certificate is for the right names, can be served, and does not end soon.
    fn is_good(&self, secret: &Secret, now: Timestamp) -> bool {
        let annotation = |name: &str| secret.metadata.annotations.as_ref()?.get(name);
        let end = annotation(NOT_AFTER).and_then(|end| end.parse::<Timestamp>().ok());
        let named = annotation(NAMES).is_some_and(|names| *names == self.names.join(","));
        let served = Identity::of(secret).is_some_and(|identity| super::tls(&identity).is_ok());
        named && served && end.is_some_and(|end| end - RENEWAL > now)
    }

    /// Has the API server trust `authorities`, if it does not yet.
    async fn trust(&self, authorities: &str) -> Result<(), KeepError> {
        let bundle = json!(ByteString(authorities.as_bytes().to_vec()));
        for (kind, plural) in CONFIGURATIONS.into_iter().take(1 + usize::from(self.sidecars)) {
            let kind = resource("admissionregistration.k8s.io", "v1", kind, plural);
            let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &kind);
            let Some(configuration) = api.get_opt(&self.configuration).await? else {
                // Somebody took it away, to be rid of what it does. The other one goes on.
                tracing::warn!(
                    kind = kind.kind,
                    name = self.configuration,
                    "there is none; the API server does not ask"
                );
                continue;
            };
            let webhooks = configuration.data["webhooks"].as_array().into_iter().flatten();
            let late = webhooks.filter(|webhook| webhook["clientConfig"]["caBundle"] != bundle);
            let late: Vec<_> = late
                .map(|webhook| json!({"name": webhook["name"], "clientConfig": {"caBundle": bundle}}))
                .collect();
            if late.is_empty() {
                continue;
            }
            self.lead()?;
            let patch = Patch::Strategic(json!({"webhooks": late}));
            api.patch(&self.configuration, &parameters(), &patch).await?;
        }
        Ok(())
    }

    async fn store(
        &self,
        secrets: &Api<Secret>,
        identity: &Identity,
        now: Timestamp,
    ) -> Result<(), KeepError> {
        self.lead()?;
        let body = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": ObjectMeta {
                name: Some(self.secret.clone()),
                labels: Some([(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned())].into()),
                annotations: Some([
                    (NOT_AFTER.to_owned(), (now + LIFE).to_string()),
                    (NAMES.to_owned(), self.names.join(",")),
                ].into()),
                ..ObjectMeta::default()
            },
            "stringData": {
                "ca.crt": identity.authorities, "tls.crt": identity.certificate, "tls.key": identity.key,
            },
        });
        secrets.patch(&self.secret, &parameters().force(), &Patch::Apply(&body)).await?;
        Ok(())
    }

    fn lead(&self) -> Result<(), KeepError> {
        if self.leadership.holds() { Ok(()) } else { Err(KeepError::NotLeading) }
    }
}

/// A patch in our name.
fn parameters() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    #[test]
    fn the_authority_before_stays_trusted_and_none_before_it() {
        let names = ["sluice.example.svc".to_owned()];
        let now = at("2026-11-21T12:00:00Z");
        let first = Identity::make(&names, None, now).expect("made");
        let second = Identity::make(&names, Some(&first.authorities), now).expect("made");
        let third = Identity::make(&names, Some(&second.authorities), now).expect("made");
        let count = |bundle: &str| bundle.matches("BEGIN CERTIFICATE").count();
        assert_eq!([&first, &second, &third].map(|it| count(&it.authorities)), [1, 2, 2]);
        assert!(second.authorities.ends_with(&first.authorities));
        assert!(!third.authorities.contains(&first.authorities));
        assert!(super::super::tls(&third).is_ok());
        assert!(Identity::make(&["nön.example".into()], None, now).is_err());
    }
}
