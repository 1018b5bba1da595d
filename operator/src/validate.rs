//! What may be served: each API as it is now or as it last was good, which policies have problems,
//! and what those close. Every problem is collected.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use sluice_config::StreamApiSpec;
use sluice_config::channel::path;
use sluice_config::policy::TargetRef;
use sluice_config::shown::clip;
use sluice_config::{Problem, check, placement};

use crate::Refusal;
use crate::dereference::{
    Api, Policy, Purpose, References, Secrets, Use, certificate_of, certificate_of_listener, secrets_of,
};
use crate::objects::Kind;

/// What may be served.
pub struct Valid<'a> {
    /// The APIs that are served, with the spec that is: the newest good one.
    pub apis: Vec<(&'a Api<'a>, &'a Arc<StreamApiSpec>)>,
    /// What is closed, and why.
    pub closures: Vec<Closure<'a>>,
    /// Objects with problems.
    pub refused: Vec<Refusal>,
}

/// Channels that stay closed because a policy that targets them has a problem.
pub struct Closure<'a> {
    /// Which.
    pub scope: Scope<'a>,
    /// Why, in words that a client may read.
    pub reason: String,
}

/// Some channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope<'a> {
    /// Every channel.
    Everything,
    /// Every channel of a namespace.
    Namespace(&'a str),
    /// Every channel of an API: namespace and name.
    Api(&'a str, &'a str),
    /// One channel: namespace, API and name.
    Channel(&'a str, &'a str, &'a str),
}

impl Scope<'_> {
    /// Whether the channel is one of them.
    pub fn covers(&self, namespace: &str, api: &str, channel: &str) -> bool {
        match *self {
            Self::Everything => true,
            Self::Namespace(in_namespace) => in_namespace == namespace,
            Self::Api(in_namespace, of_api) => (in_namespace, of_api) == (namespace, api),
            Self::Channel(in_namespace, of_api, name) => {
                (in_namespace, of_api, name) == (namespace, api, channel)
            }
        }
    }
}

/// Checks everything; collects every problem.
pub fn validate<'a>(references: &'a References<'a>) -> Valid<'a> {
    let mut valid = Valid { apis: Vec::new(), closures: Vec::new(), refused: Vec::new() };
    let mut paths = BTreeMap::new();
    for api in &references.apis {
        let mut problems = api.spec.map(|spec| api_problems(api, spec, references)).unwrap_or_default();
        problems.extend(references.elsewhere(api).iter().cloned());
        let now = api.spec.filter(|_| problems.is_empty());
        // The newest good spec whose paths nobody older has.
        let served = [now, api.last].into_iter().flatten().find(|spec| {
            let taken = taken_paths(api, spec, &paths);
            let free = taken.is_empty();
            if now == Some(*spec) {
                problems.extend(taken);
            }
            free
        });
        if let Some(spec) = served {
            for channel in &spec.channels {
                paths.insert(path(api.name, spec, channel), api);
            }
            valid.apis.push((api, spec));
        }
        valid.refuse(Kind::StreamApi, api.namespace, api.name, problems);
    }
    for gateway in &references.gateways {
        let mut problems = placement::check_gateway(gateway.spec);
        if let Some(place) = certificate_of_listener("spec", &gateway.spec.deployment) {
            problems.extend(secret_problems(gateway.namespace, &place, &references.secrets));
        }
        valid.refuse(Kind::StreamGateway, gateway.namespace, gateway.name, problems);
    }
    for policy in &references.policies {
        let (problems, closures) = policy_problems(policy, references, &valid);
        valid.closures.extend(closures);
        valid.refuse(Kind::StreamPolicy, policy.namespace, policy.name, problems);
    }
    valid.closures.extend(unread_closures(references));
    valid
}

impl Valid<'_> {
    fn refuse(&mut self, kind: Kind, namespace: &str, name: &str, problems: Vec<Problem>) {
        if !problems.is_empty() {
            self.refused.push(Refusal { kind, namespace: namespace.into(), name: name.into(), problems });
        }
    }
}

fn api_problems(api: &Api<'_>, spec: &Arc<StreamApiSpec>, references: &References<'_>) -> Vec<Problem> {
    // What is the very same as before was good then, and is again.
    let known = api.last.is_some_and(|last| Arc::ptr_eq(last, spec));
    let mut problems = if known { Vec::new() } else { spec_problems(api.name, spec) };
    let servers = secrets_of(spec).into_iter().map(|(_, secret)| secret);
    for secret in servers.chain(certificate_of(spec)) {
        problems.extend(secret_problems(api.namespace, &secret, &references.secrets));
    }
    problems
}

/// What is wrong with the definition of an API, whatever else there is.
pub fn spec_problems(name: &str, spec: &StreamApiSpec) -> Vec<Problem> {
    let mut problems = check::check_api(name, spec);
    problems.extend(sluice_schema::check(spec));
    problems
}

/// Paths of `spec` that an older API has.
fn taken_paths(api: &Api<'_>, spec: &StreamApiSpec, paths: &BTreeMap<String, &Api<'_>>) -> Vec<Problem> {
    let taken = spec.channels.iter().enumerate().filter_map(|(index, channel)| {
        let path = path(api.name, spec, channel);
        let older = paths.get(&path)?;
        let at = format!("spec.channels[{index}].path");
        Some(Problem::new(
            at,
            format!(
                "`{path}` belongs to the older StreamAPI `{}/{}`; set another `path` or `basePath`",
                older.namespace, older.name
            ),
        ))
    });
    taken.collect()
}

/// Problems of a policy, and what they close.
fn policy_problems<'a>(
    policy: &Policy<'a>,
    references: &References<'a>,
    valid: &Valid<'a>,
) -> (Vec<Problem>, Vec<Closure<'a>>) {
    let mut problems = check::check_policy(policy.spec);
    if let Some(keys) = &policy.keys {
        problems.extend(secret_problems(policy.namespace, keys, &references.secrets));
    }
    let mut dangling = Vec::new();
    let mut scopes = Vec::new();
    for (index, target) in policy.spec.target_refs.iter().enumerate() {
        match target_problem(policy, index, target, references, valid) {
            None => scopes.push(scope_of(policy.namespace, target)),
            // Which channel was meant cannot be told, so all of them close.
            Some((problem, true)) => {
                problems.push(problem);
                scopes.push(Scope::Api(policy.namespace, &target.name));
            }
            // Nothing of that name is served, so nothing is left unprotected.
            Some((problem, false)) => dangling.push(problem),
        }
    }
    let reason = (!problems.is_empty()).then(|| closed_by(policy.name));
    let closures = reason
        .into_iter()
        .flat_map(|reason| scopes.iter().map(move |scope| Closure { scope: *scope, reason: reason.clone() }));
    let closures = closures.collect();
    problems.extend(dangling);
    (problems, closures)
}

/// Clients may read this, so it tells no more than whom to ask; the problems tell the rest.
fn closed_by(policy: &str) -> String {
    format!("StreamPolicy `{policy}` is not in force")
}

fn scope_of<'a>(namespace: &'a str, target: &'a TargetRef) -> Scope<'a> {
    match &target.section_name {
        Some(channel) => Scope::Channel(namespace, &target.name, channel),
        None => Scope::Api(namespace, &target.name),
    }
}

/// What is wrong with a target, and whether the API that it names is there.
fn target_problem(
    policy: &Policy<'_>,
    index: usize,
    target: &TargetRef,
    references: &References<'_>,
    valid: &Valid<'_>,
) -> Option<(Problem, bool)> {
    let namespace = policy.namespace;
    let mut specs: Vec<&Arc<StreamApiSpec>> = Vec::new();
    specs.extend(
        references.apis.iter().filter(|api| api.is_target(namespace, target)).filter_map(|api| api.spec),
    );
    specs
        .extend(valid.apis.iter().filter(|(api, _)| api.is_target(namespace, target)).map(|(_, spec)| *spec));
    let name = clip(&target.name);
    if specs.is_empty() {
        // Being there is enough for one that cannot be read; its channels are not known.
        let unread = references.unread.iter().any(|unread| {
            unread.kind == Kind::StreamApi
                && unread.namespace.as_deref() == Some(namespace)
                && unread.name.as_ref() == Some(&target.name)
        });
        let at = format!("spec.targetRefs[{index}].name");
        let message = format!("there is no StreamAPI `{name}` in namespace `{namespace}`; correct the name");
        return (!unread).then(|| (Problem::new(at, message), false));
    }
    let section = target.section_name.as_ref()?;
    let channels: BTreeSet<_> =
        specs.iter().flat_map(|spec| &spec.channels).map(|channel| channel.name.as_str()).collect();
    (!channels.contains(section.as_str())).then(|| {
        let channels = channels.into_iter().collect::<Vec<_>>().join(", ");
        let message = format!(
            "StreamAPI `{name}` has no channel `{}`; its channels are: {channels}. A policy that says so \
             closes all of them",
            clip(section)
        );
        (Problem::new(format!("spec.targetRefs[{index}].sectionName"), message), true)
    })
}

/// What the policies that cannot be understood close.
fn unread_closures<'a>(references: &References<'a>) -> Vec<Closure<'a>> {
    let mut closures = Vec::new();
    for unread in references.unread.iter().filter(|unread| unread.kind == Kind::StreamPolicy) {
        let reason = match &unread.name {
            Some(name) => closed_by(&clip(name)),
            None => "a StreamPolicy cannot be read".to_owned(),
        };
        let scopes = match (&unread.namespace, &unread.targets) {
            (None, _) => vec![Scope::Everything],
            (Some(namespace), None) => vec![Scope::Namespace(namespace)],
            (Some(namespace), Some(targets)) => {
                targets.iter().map(|target| unread_scope(namespace, target, references)).collect()
            }
        };
        closures.extend(scopes.into_iter().map(|scope| Closure { scope, reason: reason.clone() }));
    }
    closures
}

/// As [`scope_of`], but a channel that is not there stands for all of its API.
fn unread_scope<'a>(namespace: &'a str, target: &'a TargetRef, references: &References<'_>) -> Scope<'a> {
    let known = target.section_name.as_ref().is_none_or(|section| {
        references.apis.iter().filter(|api| api.is_target(namespace, target)).any(|api| {
            [api.spec, api.last]
                .into_iter()
                .flatten()
                .any(|spec| spec.channels.iter().any(|channel| channel.name == *section))
        })
    });
    if known { scope_of(namespace, target) } else { Scope::Api(namespace, &target.name) }
}

/// What is wrong with the Secret that is used at `place`.
pub fn secret_problems(namespace: &str, place: &Use<'_>, secrets: &Secrets<'_>) -> Vec<Problem> {
    let problem = |message: String| Problem::new(&place.at, message);
    let secret = match secrets.find(namespace, place.secret) {
        Ok(secret) => secret,
        Err(unresolved) => return vec![problem(unresolved.message(namespace, place.secret))],
    };
    let name = place.secret;
    match place.purpose {
        Purpose::BrokerLogin => ["username", "password"]
            .into_iter()
            .filter(|key| !value(secret, key).is_some_and(is_login_text))
            .map(|key| {
                problem(format!("Secret `{name}` has no usable key `{key}`; put the {key} there as text"))
            })
            .collect(),
        Purpose::BrokerTls => tls_problems(secret, name).into_iter().map(problem).collect(),
        Purpose::ListenerTls => {
            let absent = ["tls.crt", "tls.key"].into_iter().filter(|key| value(secret, key).is_none());
            let absent = absent.map(|key| format!("Secret `{name}` has no key `{key}`; add it as PEM"));
            let absent: Vec<_> = absent.collect();
            let found = if absent.is_empty() { tls_problems(secret, name) } else { absent };
            found.into_iter().map(problem).collect()
        }
        Purpose::ApiKeys => entries(secret)
            .filter(|(id, value)| api_key_entry(id, value).is_none())
            .map(|(id, _)| {
                problem(format!(
                    "entry `{id}` of Secret `{name}` is not `<id>: sha256:<64 hex digits>`; make one with \
                     `sluice key create {name}`"
                ))
            })
            .collect(),
    }
}

fn tls_problems(secret: &Secret, name: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let present = |key: &str| value(secret, key).is_some();
    if !present("ca.crt") && !present("tls.crt") && !present("tls.key") {
        problems
            .push(format!("Secret `{name}` has none of the keys `ca.crt`, `tls.crt`, `tls.key`; add them"));
    }
    for (has, lacks) in [("tls.crt", "tls.key"), ("tls.key", "tls.crt")] {
        if present(has) && !present(lacks) {
            problems.push(format!("Secret `{name}` has `{has}` without `{lacks}`; add it"));
        }
    }
    for (key, begin) in
        [("ca.crt", "CERTIFICATE-----"), ("tls.crt", "CERTIFICATE-----"), ("tls.key", "PRIVATE KEY-----")]
    {
        let is_pem = |value: &[u8]| {
            std::str::from_utf8(value).is_ok_and(|text| text.contains("-----BEGIN ") && text.contains(begin))
        };
        if value(secret, key).is_some_and(|value| !is_pem(value)) {
            problems
                .push(format!("`{key}` of Secret `{name}` is not PEM; it begins with -----BEGIN …{begin}"));
        }
    }
    problems
}

fn is_login_text(value: &[u8]) -> bool {
    std::str::from_utf8(value).is_ok_and(|text| !text.is_empty() && !text.chars().any(char::is_control))
}

/// The bytes of one key of a Secret.
pub fn value<'s>(secret: &'s Secret, key: &str) -> Option<&'s [u8]> {
    secret.data.as_ref()?.get(key).map(|value| value.0.as_slice())
}

/// The entries of a Secret.
pub fn entries(secret: &Secret) -> impl Iterator<Item = (&str, &[u8])> {
    secret.data.iter().flatten().map(|(key, value)| (key.as_str(), value.0.as_slice()))
}

/// The entry of an API key in its one notation (`sha256:<hex>`, lower case), if it is one.
pub fn api_key_entry(id: &str, value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?.trim_end();
    let hex = text.strip_prefix("sha256:")?;
    let good = hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()) && id.len() <= 63;
    good.then(|| text.to_ascii_lowercase())
}
