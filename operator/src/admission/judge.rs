//! What is said to whoever applies an object: pure. The same steps judge it that would reconcile it.

use kube::api::{DynamicObject, ObjectMeta};
use serde_json::Value;
use sluice_config::placement::Deployment;
use sluice_config::policy::Authentication;
use sluice_config::server::ServerKind;
use sluice_config::{Config, Problem};
use sluice_crds::{StreamAPI, StreamPolicy, shape};

use crate::children::{Owner, Settings, exposure};
use crate::dereference::identity;
use crate::impact::{Impact, gateway_impact, impact, policy_impact};
use crate::objects::{Kind, Objects};
use crate::read::{self, Object};
use crate::report::is_reference;
use crate::streams::ByApi;
use crate::world::lenient_gateway;
use crate::{Refusal, problems_of, render};

/// Most warnings with one answer, besides how many more there are and what they come to, and the longest: API servers
/// cut off what is longer together.
const MAX_WARNINGS: usize = 12;
pub const MAX_WARNING: usize = 256;

/// An answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Why it is refused; it is not if there are none.
    pub problems: Vec<Problem>,
    /// What its author should know.
    pub warnings: Vec<String>,
    /// Whether it refers to something that is not there, as far as is known.
    pub is_early: bool,
}

/// An object as it is applied.
pub struct Applied<'a> {
    /// StreamAPI, StreamGateway or StreamPolicy.
    pub kind: Kind,
    /// Its namespace and name.
    pub name: &'a (String, String),
    /// What it was before; `None` for a new one.
    pub old: Option<&'a DynamicObject>,
    /// It is only tried.
    pub is_dry_run: bool,
    /// Open streams of whatever it concerns, if they are known of all of it.
    pub streams: Option<&'a ByApi>,
}

impl Applied<'_> {
    fn is(&self, metadata: &ObjectMeta) -> bool {
        identity(metadata) == (self.name.0.as_str(), self.name.1.as_str())
    }
}

/// Judges `applied` among `objects`, which has it as it is to be.
///
/// What is missing elsewhere is a warning, for a Secret or a StreamAPI may be applied after what
/// refers to it. A channel that an existing StreamAPI does not have is a mistake.
pub fn judge(applied: &Applied<'_>, objects: &Objects, settings: &Settings) -> Judgement {
    let rendered = render(objects, &Config::default());
    let (later, problems): (Vec<_>, Vec<_>) = problems_of(objects, &rendered, applied.kind, applied.name)
        .into_iter()
        .partition(|problem| is_reference(problem) && !is_section(problem));
    if !problems.is_empty() {
        return Judgement { problems, ..Judgement::default() };
    }
    let is_early = !later.is_empty();
    let mut warnings: Vec<String> = later.iter().map(ToString::to_string).collect();
    if applied.kind == Kind::StreamGateway {
        for gateway in objects.gateways.iter().filter(|gateway| applied.is(&gateway.metadata)) {
            warnings.extend(unexposed("spec", &gateway.spec.0.deployment, settings));
        }
    } else if applied.kind == Kind::StreamApi {
        // Of two on one path the older has it.
        for refusal in rendered.refused.iter().filter(|refusal| refusal.kind == Kind::StreamApi) {
            let ours = format!("`{}/{}`", applied.name.0, applied.name.1);
            let losing = refusal.problems.iter().filter(|problem| problem.message.contains(&ours));
            warnings.extend(losing.map(|problem| format!("StreamAPI {}: {problem}", refusal.name)));
        }
        // On a gateway there are others' policies too, which are nobody else's business.
        let own =
            |refusal: &&Refusal| refusal.kind == Kind::StreamPolicy && refusal.namespace == applied.name.0;
        for refusal in rendered.refused.iter().filter(own) {
            let closing = refusal.problems.iter().filter(|problem| is_section(problem));
            warnings.extend(closing.map(|problem| format!("StreamPolicy {}: {problem}", refusal.name)));
        }
        for api in objects.apis.iter().filter(|api| applied.is(&api.metadata)) {
            warnings.extend(risks_of_api(api));
            let deployment = api.spec.0.placement.deployment();
            let at = "spec.placement.deployment";
            warnings.extend(deployment.and_then(|deployment| unexposed(at, deployment, settings)));
        }
    } else {
        let policies = objects.policies.iter().filter(|policy| applied.is(&policy.metadata));
        warnings.extend(policies.filter_map(risks_of_policy));
    }
    let impact = consequences(applied, objects, &rendered.config, settings).unwrap_or_default();
    let conclusion = impact.conclusion(applied.is_dry_run);
    warnings.extend(impact.told);
    let more = warnings.len().saturating_sub(MAX_WARNINGS);
    warnings.truncate(MAX_WARNINGS);
    warnings.extend((more > 0).then(|| format!("and {more} more")));
    warnings.extend(conclusion);
    warnings.iter_mut().for_each(|warning| *warning = shape::clip_to(MAX_WARNING, warning));
    Judgement { problems, warnings, is_early }
}

/// Whether it names a channel that is not there.
fn is_section(problem: &Problem) -> bool {
    problem.at.ends_with(".sectionName")
}

/// What the change, which is rendered as `config`, does to those who are connected; `None` if there is none, or nobody
/// can tell.
fn consequences(
    applied: &Applied<'_>,
    objects: &Objects,
    config: &Config,
    settings: &Settings,
) -> Option<Impact> {
    match applied.kind {
        Kind::StreamApi => of_api(applied, objects, config, settings),
        Kind::StreamGateway => of_gateway(applied, objects, settings),
        _ => of_policy(applied, objects, config),
    }
}

fn of_api(applied: &Applied<'_>, objects: &Objects, config: &Config, settings: &Settings) -> Option<Impact> {
    let new = objects.apis.iter().find(|api| applied.is(&api.metadata))?;
    // What could not be read serves as it last was good; what that is, is not known here.
    let Some(Object::Api(old)) = understood(applied.old?, &applied.name.0) else { return None };
    let (namespace, name) = applied.name;
    let owner = Owner::api(namespace, name, None);
    let key = format!("{namespace}/{name}");
    let streams = applied.streams.map(|streams| streams.get(&key).cloned().unwrap_or_default());
    if old.spec == new.spec {
        return None;
    }
    let mut impact = impact(&owner, &old.spec.0, &new.spec.0, settings, streams.as_ref());
    if let Some(entry) = config.apis.get(&key) {
        impact.close(entry, "");
    }
    Some(impact)
}

/// Those who use the APIs on it.
fn of_gateway(applied: &Applied<'_>, objects: &Objects, settings: &Settings) -> Option<Impact> {
    let new = &objects.gateways.iter().find(|gateway| applied.is(&gateway.metadata))?.spec.0;
    let old = lenient_gateway(applied.old?);
    let owner = Owner::gateway(&applied.name.0, &applied.name.1, None);
    let apis = objects.apis.iter().map(|api| identity(&api.metadata));
    (old != *new).then(|| gateway_impact(&owner, [&old, new], apis, settings, applied.streams))
}

/// Those who use what it targets, or no longer does.
fn of_policy(applied: &Applied<'_>, objects: &Objects, config: &Config) -> Option<Impact> {
    let new = objects.policies.iter().find(|policy| applied.is(&policy.metadata))?;
    let old = match applied.old {
        Some(old) => match understood(old, &applied.name.0)? {
            Object::Policy(old) => Some(*old),
            _ => return None,
        },
        None => None,
    };
    if old.as_ref().is_some_and(|old| old.spec == new.spec) {
        return None;
    }
    let before = objects.policies.iter().filter_map(|policy| {
        let is_it = applied.is(&policy.metadata);
        if is_it { old.clone() } else { Some(policy.clone()) }
    });
    let before = Objects { apis: objects.apis.clone(), policies: before.collect(), ..Objects::default() };
    Some(policy_impact(&before, objects, config, applied.streams))
}

fn understood(object: &DynamicObject, namespace: &str) -> Option<Object> {
    read::read(serde_json::to_value(object).ok()?, namespace).ok()
}

/// Why clients outside the cluster will not reach what is described at `at`, although that is asked for.
fn unexposed(at: &str, deployment: &Deployment, settings: &Settings) -> Option<String> {
    let reason = exposure::obstacle(deployment, settings)?;
    let field = exposure::field(deployment.exposure.as_deref()?);
    Some(format!("{at}.{field}: {reason}"))
}

/// Servers whose connection is allowed and seldom meant.
fn risks_of_api(api: &StreamAPI) -> impl Iterator<Item = String> {
    let servers = api.spec.0.servers.iter().enumerate();
    servers.filter_map(|(index, server)| match &server.kind {
        ServerKind::Kafka(kafka) if kafka.sasl.is_some() && kafka.tls.is_none() => Some(format!(
            "spec.servers[{index}].kafka: has `sasl` without `tls`: whoever is in between reads and changes \
             what is sent; add `tls: {{}}`"
        )),
        _ => None,
    })
}

/// Parts that are allowed together and seldom meant.
fn risks_of_policy(policy: &StreamPolicy) -> Option<String> {
    let spec = &policy.spec.0;
    let open = matches!(spec.authentication, Some(Authentication::None(_)));
    let anywhere =
        spec.cors.as_ref().is_some_and(|cors| cors.allowed_origins.iter().any(|origin| origin == "*"));
    (open && anywhere).then(|| {
        "spec: `authentication: {none: {}}` with the origin `*` lets every web page that a person visits read and \
         publish in their network; name the origins"
            .to_owned()
    })
}

/// The causes of a refusal as an API server tells them.
pub fn causes(problems: &[Problem]) -> Value {
    let cause = |problem: &Problem| serde_json::json!({"reason": "FieldValueInvalid", "field": problem.at, "message": problem.message});
    problems.iter().map(cause).collect()
}

#[cfg(test)]
mod tests;
