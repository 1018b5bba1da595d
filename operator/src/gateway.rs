//! A data plane that many StreamAPIs share: which of them it serves, and what it consists of. Pure.
//!
//! Each API is judged alone: what is wrong with one keeps it as it last was, or out, and touches no
//! other. Of two on one path the older wins. What does not fit is left out: first who grew or is new, of these the
//! youngest.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sluice_config::placement::{GatewayRef, StreamGatewaySpec};
use sluice_config::{Config, Material, Problem};

use crate::children::{Child, Content, Owner, Settings, TooLarge, children};
use crate::dereference::{Secrets, age, certificate_of_listener, identity};
use crate::objects::{Kind, Objects};
use crate::validate::value;
use crate::{build, problems_of, render};

/// Keys of cursors by `namespace/name` of their API.
pub type Keys = BTreeMap<String, Vec<u8>>;

/// What a gateway comes to.
#[derive(Clone, Debug, Default)]
pub struct Hosted {
    /// What its pods serve.
    pub config: Config,
    /// Everything that is wrong with each API on it, by `namespace/name`.
    pub problems: BTreeMap<String, Vec<Problem>>,
    /// What is wrong with the gateway itself.
    pub own: Vec<Problem>,
    /// What it consists of.
    pub children: Vec<Child>,
}

/// Why a StreamAPI of `namespace` is not served where `reference` says; `gateway` is what is there.
pub fn obstacle(
    namespace: &str,
    reference: &GatewayRef,
    gateway: Option<&StreamGatewaySpec>,
) -> Option<Problem> {
    let (name, of) = (&reference.name, reference.namespace(namespace));
    let Some(gateway) = gateway else {
        let message = format!(
            "there is no StreamGateway `{name}` in namespace `{of}` that this operator sees; create it, or correct the \
             name"
        );
        return Some(Problem::new("spec.placement.gateway.name", message));
    };
    (!gateway.allowed_namespaces.includes(of, namespace)).then(|| {
        let message = format!(
            "StreamGateway `{of}/{name}` serves no APIs of namespace `{namespace}`; have its owner add that to \
             `spec.allowedNamespaces.names`"
        );
        Problem::new("spec.placement.gateway.namespace", message)
    })
}

/// Builds the gateway `owner`, which is among `objects`, with their StreamAPIs, all of which may be on it.
pub fn host(
    owner: &Owner<'_>,
    spec: &StreamGatewaySpec,
    objects: &Objects,
    last: &Config,
    keys: &Keys,
    settings: &Settings,
) -> Hosted {
    let rendered = render(objects, last);
    let mut hosted = Hosted::default();
    for refusal in rendered.refused.iter().filter(|refusal| refusal.kind == Kind::StreamApi) {
        let key = format!("{}/{}", refusal.namespace, refusal.name);
        hosted.problems.entry(key).or_default().extend(refusal.problems.clone());
    }
    for unread in objects.unread.iter().filter(|unread| unread.kind == Kind::StreamApi) {
        if let (Some(namespace), Some(name)) = (&unread.namespace, &unread.name) {
            let key = format!("{namespace}/{name}");
            let name = (namespace.clone(), name.clone());
            hosted.problems.insert(key, problems_of(objects, &rendered, Kind::StreamApi, &name));
        }
    }
    let mut material = rendered.material.clone();
    let mut config = rendered.config.clone();
    config.api_limits = spec.api_limits.clone();
    certificate(owner, spec, objects, &mut config, &mut material);
    let name = (owner.namespace.to_owned(), owner.name.to_owned());
    hosted.own = problems_of(objects, &rendered, Kind::StreamGateway, &name);
    config.apis.retain(|key, _| keys.contains_key(key));
    let mut ranked = by_age(objects, &config);
    // Who is served as it is comes before who grew or is new.
    let is_new = |key: &String| {
        config.apis.get(key).map(|it| &it.revision) != last.apis.get(key).map(|it| &it.revision)
    };
    ranked.sort_by_key(is_new);
    let whole = Whole { owner, spec, material: &material, keys, settings };
    let left_out = match whole.fit(&config, ranked, last) {
        Ok(fit) => {
            (hosted.config, hosted.children) = (fit.config, fit.children);
            fit.left_out
        }
        Err(error) => {
            hosted.own.push(Problem::new(
                "spec.listeners",
                format!("{error}, by its certificate alone; choose a shorter chain"),
            ));
            return hosted;
        }
    };
    for (key, error) in left_out {
        let message = format!(
            "there is no room for it on StreamGateway `{}/{}`: with it, {error}; place it on another gateway, or give it a \
             `placement.deployment`",
            owner.namespace, owner.name
        );
        hosted.problems.entry(key).or_default().push(Problem::new("spec.placement.gateway", message));
    }
    hosted
}

/// Takes the certificate of the HTTPS listener over, if there is to be one.
fn certificate(
    owner: &Owner<'_>,
    spec: &StreamGatewaySpec,
    objects: &Objects,
    config: &mut Config,
    material: &mut Material,
) {
    let Some(place) = certificate_of_listener("spec", &spec.deployment) else { return };
    if let Ok(secret) = Secrets::of(objects).find(owner.namespace, place.secret) {
        for key in ["tls.crt", "tls.key"] {
            if let Some(value) = value(secret, key) {
                config.certificate.insert(key.into(), build::add(material, value));
            }
        }
    }
}

/// What is to be served, the oldest first; what is served without being readable now came before all.
fn by_age(objects: &Objects, config: &Config) -> Vec<String> {
    let key = |metadata: &ObjectMeta| {
        let (namespace, name) = identity(metadata);
        format!("{namespace}/{name}")
    };
    let mut readable: Vec<_> =
        objects.apis.iter().map(|api| (age(&api.metadata), key(&api.metadata))).collect();
    readable.sort();
    let known: BTreeSet<&String> = readable.iter().map(|(_, key)| key).collect();
    let unread = config.apis.keys().filter(|key| !known.contains(key)).cloned();
    let mut all: Vec<_> = unread.collect();
    all.extend(readable.into_iter().map(|(_, key)| key).filter(|key| config.apis.contains_key(key)));
    all
}

/// What was found to fit.
struct Fit {
    config: Config,
    children: Vec<Child>,
    /// The others, and why.
    left_out: BTreeMap<String, String>,
}

/// APIs that are skipped one by one when not all fit; after that many all that come later are left out.
const MOST_SKIPPED: usize = 8;

/// What stays the same however many APIs there are.
struct Whole<'a> {
    owner: &'a Owner<'a>,
    spec: &'a StreamGatewaySpec,
    material: &'a Material,
    keys: &'a Keys,
    settings: &'a Settings,
}

impl Whole<'_> {
    /// As many of `ranked`, the first of them first, as can be delivered; what the gateway is made of with them,
    /// and why the others are left out. One that is too large by itself keeps out no other.
    fn fit(&self, config: &Config, ranked: Vec<String>, last: &Config) -> Result<Fit, TooLarge> {
        let mut rest = ranked;
        let mut left_out = BTreeMap::new();
        let mut fits = 0;
        loop {
            let tried = with(config, &rest, last);
            let mut reason = match self.children(&tried) {
                Ok(children) => return Ok(Fit { config: tried, children, left_out }),
                Err(error) if rest.is_empty() => return Err(error),
                Err(error) => error.to_string(),
            };
            // The longest beginning that fits; after one was skipped the next one is often too much as well.
            let (mut too_many, mut count) = (rest.len(), fits + 1);
            while too_many - fits > 1 {
                match self.children(&with(config, &rest[..count], last)) {
                    Ok(_) => fits = count,
                    Err(error) => (too_many, reason) = (count, error.to_string()),
                }
                count = fits.midpoint(too_many);
            }
            left_out.insert(rest.remove(fits), reason.clone());
            if left_out.len() >= MOST_SKIPPED {
                left_out.extend(rest.drain(fits..).map(|key| (key, reason.clone())));
            }
        }
    }

    fn children(&self, config: &Config) -> Result<Vec<Child>, TooLarge> {
        let keys = self.keys.iter().filter(|(key, _)| config.apis.contains_key(*key));
        let keys = keys.map(|(key, bytes)| (key.clone(), bytes.clone())).collect();
        let content =
            Content { config, material: self.material, keys: &keys, deployment: Some(&self.spec.deployment) };
        children(self.owner, &content, self.settings)
    }
}

/// What `config` says of the gateway itself.
fn frame(config: &Config) -> Config {
    let Config { certificate, api_limits, .. } = config;
    Config { certificate: certificate.clone(), api_limits: api_limits.clone(), ..Config::default() }
}

/// `config` with the APIs `some`, numbered after `last`.
fn with(config: &Config, some: &[String], last: &Config) -> Config {
    let apis = some.iter().filter_map(|key| Some((key.clone(), config.apis.get(key)?.clone())));
    let mut config = Config { sequence: last.sequence, apis: apis.collect(), ..frame(config) };
    config.sequence += u64::from(config != *last);
    config
}

#[cfg(test)]
mod tests;
