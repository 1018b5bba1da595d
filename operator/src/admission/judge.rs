//! What is said to whoever applies an object: pure. The same steps judge it that would reconcile it.

use std::sync::Arc;

use kube::api::DynamicObject;
use serde_json::Value;
use sluice_config::policy::Authentication;
use sluice_config::server::ServerKind;
use sluice_config::{Config, Problem};
use sluice_crds::shape;

use crate::children::{Owner, Settings};
use crate::impact::impact;
use crate::objects::{Kind, Objects};
use crate::read::{self, Object};
use crate::report::is_reference;
use crate::{problems_of, render};

/// Most warnings with one answer, and the longest: API servers cut off what is longer together.
const MAX_WARNINGS: usize = 12;
const MAX_WARNING: usize = 256;

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
    /// StreamAPI or StreamPolicy.
    pub kind: Kind,
    /// Its namespace and name.
    pub name: &'a (String, String),
    /// What it was before; `None` for a new one.
    pub old: Option<&'a DynamicObject>,
    /// What it is to be.
    pub new: &'a DynamicObject,
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
    if applied.kind == Kind::StreamApi {
        for refusal in rendered.refused.iter().filter(|refusal| refusal.kind == Kind::StreamPolicy) {
            let closing = refusal.problems.iter().filter(|problem| is_section(problem));
            warnings.extend(closing.map(|problem| format!("StreamPolicy {}: {problem}", refusal.name)));
        }
        warnings.extend(consequences(applied, settings));
    }
    warnings.extend(risks(applied, objects));
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
fn consequences(applied: &Applied<'_>, settings: &Settings) -> Vec<String> {
    let spec = |object: &DynamicObject| {
        let document = serde_json::to_value(object).ok()?;
        match read::read(document, &applied.name.0) {
            Ok(Object::Api(api)) => Some(Arc::clone(&api.spec.0)),
            _ => None,
        }
    };
    let Some((old, new)) = applied.old.and_then(spec).zip(spec(applied.new)) else { return Vec::new() };
    let owner = Owner { namespace: &applied.name.0, name: &applied.name.1, uid: None };
    impact(&owner, &old, &new, settings)
}

/// What is allowed and seldom meant.
fn risks(applied: &Applied<'_>, objects: &Objects) -> Vec<String> {
    let (namespace, name) = applied.name;
    let is_it = |metadata: &kube::api::ObjectMeta| {
        metadata.namespace.as_ref() == Some(namespace) && metadata.name.as_ref() == Some(name)
    };
    let mut risks = Vec::new();
    if applied.kind == Kind::StreamApi {
        let specs = objects.apis.iter().filter(|api| is_it(&api.metadata)).map(|api| &api.spec.0);
        for (index, server) in specs.flat_map(|spec| &spec.servers).enumerate() {
            if let ServerKind::Kafka(kafka) = &server.kind
                && kafka.sasl.is_some()
                && kafka.tls.is_none()
            {
                risks.push(format!(
                    "spec.servers[{index}].kafka: has `sasl` without `tls`: whoever is in between reads and \
                     changes what is sent; add `tls: {{}}`"
                ));
            }
        }
    } else {
        let policies = objects.policies.iter().filter(|policy| is_it(&policy.metadata));
        for policy in policies {
            let spec = &policy.spec.0;
            let open = matches!(spec.authentication, Some(Authentication::None(_)));
            let anywhere =
                spec.cors.as_ref().is_some_and(|cors| cors.allowed_origins.iter().any(|o| o == "*"));
            if open && anywhere {
                risks.push(
                    "spec: `authentication: {none: {}}` with the origin `*` lets every web page that a person \
                     visits read and publish in their network; name the origins"
                        .to_owned(),
                );
            }
        }
    }
    risks
}

/// The causes of a refusal as an API server tells them.
pub fn causes(problems: &[Problem]) -> Value {
    let cause = |problem: &Problem| serde_json::json!({"reason": "FieldValueInvalid", "field": problem.at, "message": problem.message});
    problems.iter().map(cause).collect()
}

#[cfg(test)]
mod tests;
