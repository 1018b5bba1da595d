//! What is said to whoever applies an object: pure. The same steps judge it that would reconcile it.

use kube::api::{DynamicObject, ObjectMeta};
use serde_json::Value;
use sluice_config::placement::Deployment;
use sluice_config::policy::Authentication;
use sluice_config::server::ServerKind;
use sluice_config::{Config, Problem};
use sluice_crds::{StreamAPI, StreamGateway, StreamPolicy, shape};

use crate::children::{Owner, Settings, exposure};
use crate::dereference::identity;
use crate::impact::{gateway_impact, impact};
use crate::objects::{Kind, Objects};
use crate::read::{self, Object};
use crate::report::is_reference;
use crate::world::lenient_gateway;
use crate::{Refusal, problems_of, render};

/// Most warnings with one answer, and the longest: API servers cut off what is longer together.
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
    let is_it = |metadata: &ObjectMeta| {
        (metadata.namespace.as_ref(), metadata.name.as_ref())
            == (Some(&applied.name.0), Some(&applied.name.1))
    };
    if applied.kind == Kind::StreamGateway {
        for gateway in objects.gateways.iter().filter(|gateway| is_it(&gateway.metadata)) {
            warnings.extend(gateway_consequences(applied, gateway, objects, settings));
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
        for api in objects.apis.iter().filter(|api| is_it(&api.metadata)) {
            warnings.extend(consequences(applied, api, settings));
            warnings.extend(risks_of_api(api));
            let deployment = api.spec.0.placement.deployment();
            let at = "spec.placement.deployment";
            warnings.extend(deployment.and_then(|deployment| unexposed(at, deployment, settings)));
        }
    } else {
        let policies = objects.policies.iter().filter(|policy| is_it(&policy.metadata));
        warnings.extend(policies.filter_map(risks_of_policy));
    }
    let more = warnings.len().saturating_sub(MAX_WARNINGS);
    warnings.truncate(MAX_WARNINGS);
    warnings.extend((more > 0).then(|| format!("and {more} more")));
    warnings.iter_mut().for_each(|warning| *warning = shape::clip_to(MAX_WARNING, warning));
    Judgement { problems, warnings, is_early }
}

/// Whether it names a channel that is not there.
fn is_section(problem: &Problem) -> bool {
    problem.at.ends_with(".sectionName")
}

/// What the change does to those who use the API.
fn consequences(applied: &Applied<'_>, new: &StreamAPI, settings: &Settings) -> Vec<String> {
    let old = applied.old.and_then(|old| serde_json::to_value(old).ok());
    let old = old.map(|old| read::read(old, &applied.name.0));
    // What could not be read serves as it last was good; what that is, is not known here.
    let Some(Ok(Object::Api(old))) = old else { return Vec::new() };
    let owner = Owner::api(&applied.name.0, &applied.name.1, None);
    impact(&owner, &old.spec.0, &new.spec.0, settings)
}

/// What the change does to those who use the APIs on a gateway.
fn gateway_consequences(
    applied: &Applied<'_>,
    new: &StreamGateway,
    objects: &Objects,
    settings: &Settings,
) -> Vec<String> {
    let Some(old) = applied.old.map(lenient_gateway) else { return Vec::new() };
    let owner = Owner::gateway(&applied.name.0, &applied.name.1, None);
    let apis = objects.apis.iter().map(|api| identity(&api.metadata));
    gateway_impact(&owner, &old, &new.spec.0, apis, settings)
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
