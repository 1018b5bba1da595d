//! What refers to what: of each API and policy, the Secrets and targets it names, found or not.
//!
//! Nothing is judged here but one thing: a Secret without the label is as good as none, for whoever
//! may write a StreamAPI need not be one who may read any Secret.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sluice_config::placement::{Deployment, Protocol, StreamGatewaySpec};
use sluice_config::policy::{Authentication, StreamPolicySpec, TargetRef};
use sluice_config::server::ServerKind;
use sluice_config::{Config, Problem, StreamApiSpec};
use sluice_crds::USE_LABEL;

use crate::objects::{Kind, Objects, Unread};

/// All objects with their references, oldest first.
pub struct References<'a> {
    /// The APIs that are there: readable, or served before.
    pub apis: Vec<Api<'a>>,
    /// The readable gateways.
    pub gateways: Vec<Gateway<'a>>,
    /// The readable policies.
    pub policies: Vec<Policy<'a>>,
    /// What cannot be understood.
    pub unread: &'a [Unread],
    /// The Secrets.
    pub secrets: Secrets<'a>,
    elsewhere: &'a BTreeMap<(String, String), Vec<Problem>>,
}

impl References<'_> {
    /// What is wrong with a readable API that only a cluster knows.
    pub fn elsewhere(&self, api: &Api<'_>) -> &[Problem] {
        if self.elsewhere.is_empty() || api.spec.is_none() {
            return &[];
        }
        let name = (api.namespace.to_owned(), api.name.to_owned());
        self.elsewhere.get(&name).map_or(&[], Vec::as_slice)
    }
}

/// A StreamAPI.
pub struct Api<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its generation; that of the last good one while it cannot be read.
    pub generation: i64,
    /// What it says now, if that can be read.
    pub spec: Option<&'a Arc<StreamApiSpec>>,
    /// What was last served of it.
    pub last: Option<&'a Arc<StreamApiSpec>>,
}

/// A StreamGateway.
pub struct Gateway<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// What it says.
    pub spec: &'a StreamGatewaySpec,
}

/// A StreamPolicy.
pub struct Policy<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// What it sets.
    pub spec: &'a StreamPolicySpec,
    /// The Secret of its API keys, if it has any.
    pub keys: Option<Use<'a>>,
}

/// A place that names a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use<'a> {
    /// Path of the name inside the object.
    pub at: String,
    /// Name of the Secret.
    pub secret: &'a str,
    /// What for.
    pub purpose: Purpose,
}

/// What a Secret is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// `ca.crt`, `tls.crt`, `tls.key` towards a broker.
    BrokerTls,
    /// `username`, `password` at a broker.
    BrokerLogin,
    /// `tls.crt`, `tls.key` towards clients.
    ListenerTls,
    /// Digests of API keys.
    ApiKeys,
}

/// Why a Secret cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unresolved {
    /// There is none of that name.
    Missing,
    /// It is there and lacks the label.
    Unlabelled,
    /// It is there and cannot be understood.
    Unread,
}

impl Unresolved {
    /// What to do about it.
    pub fn message(self, namespace: &str, name: &str) -> String {
        match self {
            // On a cluster only labelled Secrets are seen, so this may be one without the label.
            Self::Missing => format!(
                "there is no Secret `{name}` in namespace `{namespace}` that may be used; create it, or label it: \
                 `kubectl label secret {name} -n {namespace} {USE_LABEL}=true`"
            ),
            Self::Unlabelled => format!(
                "Secret `{name}` is not labelled for use; run `kubectl label secret {name} -n {namespace} \
                 {USE_LABEL}=true`, in a file add `labels: {{{USE_LABEL}: \"true\"}}` to its metadata"
            ),
            Self::Unread => format!("Secret `{name}` cannot be read; correct its problems"),
        }
    }
}

/// The Secrets by namespace and name.
pub struct Secrets<'a>(BTreeMap<(&'a str, &'a str), Result<&'a Secret, Unresolved>>);

impl<'a> Secrets<'a> {
    /// Of everything that was read.
    pub fn of(objects: &'a Objects) -> Self {
        let mut secrets = BTreeMap::new();
        for secret in &objects.secrets {
            let labels = secret.metadata.labels.as_ref();
            let labelled =
                labels.and_then(|labels| labels.get(USE_LABEL)).is_some_and(|label| label == "true");
            let found = if labelled { Ok(secret) } else { Err(Unresolved::Unlabelled) };
            secrets.insert(identity(&secret.metadata), found);
        }
        // Of two Secrets of one name, one cannot be read: then neither is used.
        for unread in objects.unread.iter().filter(|unread| unread.kind == Kind::Secret) {
            if let (Some(namespace), Some(name)) = (&unread.namespace, &unread.name) {
                secrets.insert((namespace, name), Err(Unresolved::Unread));
            }
        }
        Self(secrets)
    }

    /// The Secret, if it is there and may be used.
    pub fn find(&self, namespace: &str, name: &str) -> Result<&'a Secret, Unresolved> {
        self.0.get(&(namespace, name)).copied().unwrap_or(Err(Unresolved::Missing))
    }
}

/// Finds out what refers to what.
pub fn dereference<'a>(objects: &'a Objects, last: &'a Config) -> References<'a> {
    let mut policies: Vec<_> = objects.policies.iter().collect();
    policies.sort_by_key(|policy| age(&policy.metadata));
    let policies = policies.into_iter().map(|policy| {
        let (namespace, name) = identity(&policy.metadata);
        let spec = &policy.spec.0;
        Policy { namespace, name, spec, keys: keys_of(spec) }
    });
    let gateways = objects.gateways.iter().map(|gateway| {
        let (namespace, name) = identity(&gateway.metadata);
        Gateway { namespace, name, spec: &gateway.spec.0 }
    });
    References {
        apis: apis(objects, last),
        gateways: gateways.collect(),
        policies: policies.collect(),
        unread: &objects.unread,
        secrets: Secrets::of(objects),
        elsewhere: &objects.elsewhere,
    }
}

/// Unreadable APIs that are still served come first: what they serve was there before.
fn apis<'a>(objects: &'a Objects, last: &'a Config) -> Vec<Api<'a>> {
    let served = |namespace: &str, name: &str| last.apis.get(&format!("{namespace}/{name}"));
    let mut readable: Vec<_> = objects.apis.iter().collect();
    readable.sort_by_key(|api| age(&api.metadata));
    let mut apis = Vec::new();
    for unread in objects.unread.iter().filter(|unread| unread.kind == Kind::StreamApi) {
        let (Some(namespace), Some(name)) = (&unread.namespace, &unread.name) else { continue };
        let Some(entry) = served(namespace, name) else { continue };
        let twice = apis.iter().any(|api: &Api<'_>| api.namespace == namespace && api.name == name);
        if !twice && !readable.iter().any(|api| identity(&api.metadata) == (namespace, name)) {
            let last = Some(&entry.api.spec);
            apis.push(Api { namespace, name, generation: entry.generation, spec: None, last });
        }
    }
    apis.extend(readable.into_iter().map(|api| {
        let (namespace, name) = identity(&api.metadata);
        Api {
            namespace,
            name,
            generation: api.metadata.generation.unwrap_or(1),
            spec: Some(&api.spec.0),
            last: served(namespace, name).map(|entry| &entry.api.spec),
        }
    }));
    apis
}

pub(crate) fn identity(metadata: &ObjectMeta) -> (&str, &str) {
    (metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
}

/// Sorts by creation; what has no timestamp (files) comes last, and equals keep their order.
pub(crate) fn age(metadata: &ObjectMeta) -> impl Ord + use<> {
    let created = metadata.creation_timestamp.as_ref().map(|time| time.0);
    (created.is_none(), created)
}

/// The Secrets that `spec` names, with the server that names each.
pub fn secrets_of(spec: &StreamApiSpec) -> Vec<(&str, Use<'_>)> {
    let mut uses = Vec::new();
    for (index, server) in spec.servers.iter().enumerate() {
        match &server.kind {
            ServerKind::Kafka(kafka) => {
                let tls = kafka.tls.as_ref().and_then(|tls| tls.secret_ref.as_ref());
                let login = kafka.sasl.as_ref().map(|sasl| &sasl.secret_ref);
                let found = [("tls", tls, Purpose::BrokerTls), ("sasl", login, Purpose::BrokerLogin)];
                uses.extend(found.into_iter().filter_map(|(part, reference, purpose)| {
                    let at = format!("spec.servers[{index}].kafka.{part}.secretRef.name");
                    Some((server.name.as_str(), Use { at, secret: &reference?.name, purpose }))
                }));
            }
            ServerKind::Memory(_) | ServerKind::Generator(_) => {}
        }
    }
    uses
}

/// The Secret of the certificate that clients see, if there is one.
pub fn certificate_of(spec: &StreamApiSpec) -> Option<Use<'_>> {
    certificate_of_listener("spec.placement.deployment", spec.placement.deployment()?)
}

/// The same of the listeners that stand at `at`.
pub fn certificate_of_listener<'a>(at: &str, deployment: &'a Deployment) -> Option<Use<'a>> {
    let index = deployment.listeners.iter().position(|listener| listener.protocol == Protocol::Https)?;
    let at = format!("{at}.listeners[{index}].tls.secretRef.name");
    Some(Use { at, secret: &deployment.certificate()?.name, purpose: Purpose::ListenerTls })
}

fn keys_of(spec: &StreamPolicySpec) -> Option<Use<'_>> {
    match spec.authentication.as_ref()? {
        Authentication::ApiKeys(keys) => Some(Use {
            at: "spec.authentication.apiKeys.secretRef.name".into(),
            secret: &keys.secret_ref.name,
            purpose: Purpose::ApiKeys,
        }),
        Authentication::None(_) => None,
    }
}

impl Api<'_> {
    /// Whether `target` of a policy in `namespace` means this API.
    pub fn is_target(&self, namespace: &str, target: &TargetRef) -> bool {
        self.namespace == namespace && self.name == target.name
    }
}
