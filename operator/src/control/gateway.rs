//! Reconciles StreamGateways, and tells StreamAPIs what became of them there.
//!
//! The gateway's reconciler renders all its APIs together and writes its objects; what that came to is
//! kept here, and every API that it came to differently for is looked at again.

use std::collections::BTreeSet;
use std::sync::Arc;

use kube::ResourceExt as _;
use kube::api::DynamicObject;
use kube::runtime::controller::Action;
use serde_json::json;
use sluice_config::placement::StreamGatewaySpec;
use sluice_config::{Config, Problem};

use super::{Context, PAUSED, decode};
use crate::apply::{ApplyError, is_owned};
use crate::children::{CURSOR_SECRET_KEY, ChildKind, Owner, cursor_secret_name};
use crate::gateway::{Hosted, Keys, host, obstacle};
use crate::objects::Kind;
use crate::read::{self, Object};
use crate::report::{self, GatewayFindings};
use crate::world::{Name, document_of, gateway_of, gateway_resource, lenient_gateway, name_of, status_of};

/// A gateway as it was last looked at.
#[derive(Clone, Default)]
pub struct Host {
    /// Its uid.
    uid: Option<String>,
    /// What its pods serve, and what is wrong with each API.
    pub hosted: Hosted,
    /// What is wrong with all of it.
    pub fault: Option<String>,
    /// Where clients reach it inside the cluster.
    pub url: Option<String>,
    /// And outside.
    pub external_url: Option<String>,
}

/// The key of an API's cursors, and where it was read.
pub struct KnownKey {
    /// Of the API.
    uid: String,
    /// Of the Secret.
    version: String,
    key: Vec<u8>,
}

/// Where a StreamAPI is placed, as far as gateways are concerned.
pub enum Placed {
    /// On none.
    Elsewhere,
    /// On one that is not there, or that does not want it.
    Refused(Problem),
    /// On one that was not looked at yet; it will have the API looked at again.
    Soon,
    /// On this one.
    On(Name, Arc<Host>),
}

impl Context {
    /// Where `api` is placed.
    pub(super) fn placed(&self, (namespace, _): &Name, api: &DynamicObject) -> Placed {
        let Some(gateway) = gateway_of(api) else { return Placed::Elsewhere };
        match self.obstacle(namespace, api, &gateway) {
            Some(problem) => Placed::Refused(problem),
            None => match self.hosts.lock().get(&gateway) {
                Some(host) => Placed::On(gateway, host.clone()),
                None => Placed::Soon,
            },
        }
    }

    fn obstacle(&self, namespace: &str, api: &DynamicObject, gateway: &Name) -> Option<Problem> {
        let reference = &api.data["spec"]["placement"]["gateway"];
        let reference = serde_json::from_value(reference.clone()).expect("its gateway was read");
        let there = self.world.gateway(gateway);
        let spec = there.map(|gateway| lenient_gateway(&gateway));
        obstacle(namespace, &reference, spec.as_ref())
    }

    pub(super) async fn reconcile_gateway(
        &self,
        name: &Name,
        gateway: &DynamicObject,
    ) -> Result<Action, ApplyError> {
        if gateway.metadata.deletion_timestamp.is_some() {
            self.forget(Kind::StreamGateway, name);
            return Ok(Action::await_change());
        }
        let owner = Owner::gateway(&name.0, &name.1, gateway.metadata.uid.as_deref());
        let before = self.hosts.lock().get(name).filter(|host| host.uid == gateway.metadata.uid).cloned();
        let last = match &before {
            Some(host) => host.hosted.config.clone(),
            None => self.delivered(&owner),
        };
        let paused = gateway.annotations().get(PAUSED).is_some_and(|value| value == "true");
        let document = document_of(gateway).expect("an object is JSON");
        let (mut host, problems, failed, shut) = if paused {
            (as_before(before.as_deref(), last), Vec::new(), None, None)
        } else {
            let mut problems = match read::read(document, &name.0) {
                Ok(Object::Gateway(_)) => Vec::new(),
                Ok(_) => vec![Problem::new("kind", "is not that of a StreamGateway")],
                Err(unread) => unread.problems,
            };
            let hosted = self.render_gateway(&owner, gateway, &lenient_gateway(gateway), &last);
            problems
                .extend(hosted.own.iter().filter(|own| !problems.contains(own)).cloned().collect::<Vec<_>>());
            let failed = if problems.iter().all(report::is_reference) {
                self.write(&owner, &hosted.children).await.err()
            } else {
                // The pods stay as they are; policies, keys and grants of those who are served do not.
                let delivered = hosted.children.iter().filter(|child| !child.kind.is_optional());
                self.write_some(&owner, delivered).await.err()
            };
            // It is served all the same.
            let shut = match failed {
                None if problems.iter().all(report::is_reference) => {
                    self.write_outside(&owner, &hosted.children).await.err()
                }
                _ => None,
            };
            (Host { hosted, ..Host::default() }, problems, failed, shut)
        };
        if matches!(failed.as_ref().or(shut.as_ref()), Some(ApplyError::Ending { .. })) {
            return Ok(Action::await_change());
        }
        host.uid.clone_from(&gateway.metadata.uid);
        let deployment = lenient_gateway(gateway).deployment;
        let outside = self.outside(&owner, Some(&deployment));
        host.url = report::service_url(&owner, &deployment);
        host.external_url = outside.url;
        host.fault = failed.as_ref().map(ToString::to_string);
        if !problems.is_empty() {
            host.fault = Some("it has problems; see its conditions".to_owned());
        }
        if failed.is_none() {
            self.observer.expect_of_gateway(name, &host.hosted.config);
        }
        let pods = self.observer.pods_of_gateway(name);
        let findings = GatewayFindings {
            owner,
            problems: &problems,
            config: &host.hosted.config,
            failed: failed.as_ref().or(shut.as_ref()),
            pods: &pods,
            paused,
            unexposed: outside.fault.as_deref(),
        };
        let verdicts = report::gateway_verdicts(&findings);
        let earlier = report::conditions_of(&status_of(gateway));
        let generation = gateway.metadata.generation.unwrap_or_default();
        let mut conditions = report::conditions(&verdicts, &earlier, generation);
        if !self.observer.has_listed() || !pods.iter().all(|pod| pod.was_asked) {
            report::keep_what_pods_say(&mut conditions, &earlier);
        }
        let status = json!({
            "conditions": conditions, "attachedApis": host.hosted.config.apis.len(), "url": host.url,
            "externalUrl": host.external_url,
        });
        self.keep(name, host);
        let told = self.tell(gateway, &gateway_resource(), &status, &earlier, &conditions).await;
        match failed.or(shut) {
            Some(error) => Err(error),
            None => told.map(|()| Action::await_change()),
        }
    }

    /// Builds the gateway with all APIs that may be on it.
    fn render_gateway(
        &self,
        owner: &Owner<'_>,
        gateway: &DynamicObject,
        spec: &StreamGatewaySpec,
        last: &Config,
    ) -> Hosted {
        let mut apis = self.world.placed_on(&name_of(gateway));
        apis.retain(|api| {
            let namespace = api.metadata.namespace.as_deref().unwrap_or_default();
            spec.allowed_namespaces.includes(owner.namespace, namespace)
        });
        let keys: Keys = apis.iter().filter_map(|api| self.kept_cursor_key(api)).collect();
        apis.retain(|api| {
            let (namespace, name) = name_of(api);
            keys.contains_key(&format!("{namespace}/{name}"))
        });
        let timer = self.metrics.step(Kind::StreamGateway.name(), "read");
        let objects = self.world.around_gateway(gateway, apis);
        drop(timer);
        let _timer = self.metrics.step(Kind::StreamGateway.name(), "render");
        host(owner, spec, &objects, last, &keys, &self.settings)
    }

    /// The key of an API's cursors, if there is one: whoever reconciles the API makes it.
    fn kept_cursor_key(&self, api: &DynamicObject) -> Option<(String, Vec<u8>)> {
        let (namespace, name) = name_of(api);
        let secret_name = cursor_secret_name(&name);
        let version = self.world.version_of(ChildKind::Secret, &namespace, &secret_name);
        let found = format!("{namespace}/{name}");
        let uid = api.metadata.uid.clone().unwrap_or_default();
        // One that was deleted is good until there is another.
        let is_good = |known: &&KnownKey| {
            known.uid == uid && version.as_ref().is_none_or(|version| known.version == *version)
        };
        if let Some(known) = self.keys.lock().get(&found).filter(is_good) {
            return Some((found, known.key.clone()));
        }
        let secret = self.world.child(ChildKind::Secret, &namespace, &secret_name)?;
        let owner = Owner::api(&namespace, &name, api.metadata.uid.as_deref());
        let key = decode(&secret.data["data"][CURSOR_SECRET_KEY]).filter(|_| is_owned(&secret, &owner))?;
        if key.len() < 32 {
            return None;
        }
        let known = KnownKey { uid, version: version?, key: key.clone() };
        self.keys.lock().insert(found.clone(), known);
        Some((found, key))
    }

    /// Keeps what the gateway came to, and has the APIs looked at that it came to differently for.
    fn keep(&self, name: &Name, mut host: Host) {
        // They are written, and made again from the rest.
        host.hosted.children = Vec::new();
        let host = Arc::new(host);
        let before = self.hosts.lock().insert(name.clone(), host.clone());
        let placed = self.world.placed_on(name);
        let frame = |host: &Host| (host.fault.clone(), host.url.clone(), host.external_url.clone());
        let Some(before) = before.filter(|before| frame(before) == frame(&host)) else {
            placed.iter().for_each(|api| self.dirty.apis.add(name_of(api)));
            return;
        };
        let differs = |key: &str| {
            let (was, is) = (before.hosted.config.apis.get(key), host.hosted.config.apis.get(key));
            was != is || before.hosted.problems.get(key) != host.hosted.problems.get(key)
        };
        let all = before.hosted.config.apis.keys().chain(host.hosted.config.apis.keys());
        let all = all.chain(before.hosted.problems.keys()).chain(host.hosted.problems.keys());
        for key in all.collect::<BTreeSet<_>>().into_iter().filter(|key| differs(key)) {
            if let Some((namespace, api)) = key.split_once('/') {
                self.dirty.apis.add((namespace.to_owned(), api.to_owned()));
            }
        }
    }
}

/// What the gateway was, for it is not to be touched.
fn as_before(before: Option<&Host>, last: Config) -> Host {
    let delivered = || Host { hosted: Hosted { config: last, ..Hosted::default() }, ..Host::default() };
    before.cloned().unwrap_or_else(delivered)
}
