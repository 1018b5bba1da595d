//! Reconciles StreamAPIs: each is written here, but for what a gateway serves.

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt as _;
use kube::api::DynamicObject;
use kube::runtime::controller::Action;
use sluice_config::{Entry, Problem};
use sluice_crds::resource::ConditionStatus;

use super::gateway::Placed;
use super::{Context, PAUSED};
use crate::apply::ApplyError;
use crate::children::{Child, Content, Owner, children, emptied, sidecar};
use crate::objects::Kind;
use crate::observe::{Place, PodView};
use crate::report::{self, ApiFindings, Sidecars};
use crate::world::{Name, api_resource, status_of};
use crate::{Rendered, problems_of, render};

/// How often it is looked whether pods have ended that are no longer needed.
const ENDING: Duration = Duration::from_secs(5);

impl Context {
    pub(super) async fn reconcile_api(&self, name: &Name, api: &DynamicObject) -> Result<Action, ApplyError> {
        if api.metadata.deletion_timestamp.is_some() {
            self.forget(Kind::StreamApi, name);
            return Ok(Action::await_change());
        }
        if self.take_back(name, api).await? {
            return Ok(Action::await_change());
        }
        let (namespace, api_name) = name;
        let key = format!("{namespace}/{api_name}");
        let owner = Owner::api(namespace, api_name, api.metadata.uid.as_deref());
        let placed = self.placed(name, api);
        // A gateway waits for it.
        let made = match &placed {
            Placed::Soon | Placed::On(..) => self.cursor_key(&owner).await.map(drop),
            Placed::Elsewhere | Placed::Refused(_) => Ok(()),
        };
        if matches!(placed, Placed::Soon) {
            return made.map(|()| Action::await_change());
        }
        let paused = api.annotations().get(PAUSED).is_some_and(|value| value == "true");
        let Attempt { problems, entry, failed } = match made {
            Ok(()) => self.attempt(name, &owner, &placed, paused).await,
            Err(error) => Attempt { failed: Some(error), ..self.judge(name, &owner, &placed).1 },
        };
        if matches!(failed, Some(ApplyError::Ending { .. })) {
            // The StreamAPI is about to go the same way.
            return Ok(Action::await_change());
        }
        let entry = entry.as_deref();
        let gateway = match &placed {
            Placed::On(gateway, host)
                if entry.is_some_and(|it| it.api.spec.placement.gateway().is_some()) =>
            {
                Some((gateway, host))
            }
            _ => None,
        };
        let paused = paused && gateway.is_none();
        let pods = self.pods(name, gateway.map(|(gateway, _)| gateway), entry);
        let has_asked = self.observer.has_listed() && pods.iter().all(|pod| pod.was_asked);
        let (sidecars, look_again) = match entry.filter(|_| !paused && failed.is_none()) {
            Some(entry) => self.sidecars(name, entry, &pods).await,
            None => (None, None),
        };
        let serving = gateway.map_or(owner, |(gateway, _)| Owner::gateway(&gateway.0, &gateway.1, None));
        let outside = self.outside(&owner, entry.and_then(|entry| entry.api.spec.placement.deployment()));
        let findings = ApiFindings {
            key: &key,
            problems: &problems,
            entry,
            owner: serving,
            failed: failed.as_ref(),
            gateway_fault: gateway.and_then(|(_, host)| host.fault.as_deref()),
            pods: &pods,
            paused,
            sidecars: sidecars.as_ref(),
            unexposed: outside.fault.as_deref(),
        };
        let mut verdicts = report::api_verdicts(&findings);
        let is_programmed = verdicts
            .iter()
            .any(|verdict| verdict.kind == "Programmed" && verdict.status == ConditionStatus::True);
        let before = report::conditions_of(&status_of(api));
        let again = self.damp(name, &mut verdicts, &before);
        let again = again.into_iter().chain(look_again).min();
        let mut conditions =
            report::conditions(&verdicts, &before, api.metadata.generation.unwrap_or_default());
        if !has_asked {
            report::keep_what_pods_say(&mut conditions, &before);
        }
        let bases = match gateway {
            Some((_, host)) => [host.url.clone(), host.external_url.clone()],
            None => [entry.and_then(|entry| base_url(&owner, entry)), outside.url],
        };
        let bases: Vec<_> = bases.into_iter().flatten().collect();
        let status = report::api_status(conditions.clone(), entry, &bases);
        self.tell(api, &api_resource(), &status, &before, &conditions).await?;
        let leaving = match gateway {
            Some(_) if is_programmed => self.leave(name, &owner).await?,
            Some(_) => {
                self.keep_up(name, &owner).await?;
                None
            }
            None => None,
        };
        let again = again.into_iter().chain(leaving).min();
        match failed {
            Some(error) => Err(error),
            None => Ok(again.map_or_else(Action::await_change, Action::requeue)),
        }
    }

    /// Renders the API, without writing anything.
    fn judge(&self, name: &Name, owner: &Owner<'_>, placed: &Placed) -> (Rendered, Attempt) {
        let key = format!("{}/{}", name.0, name.1);
        let on_gateway = match placed {
            Placed::Refused(problem) => vec![problem.clone()],
            Placed::On(_, host) => host.hosted.problems.get(&key).cloned().unwrap_or_default(),
            Placed::Elsewhere | Placed::Soon => Vec::new(),
        };
        // What was found out for the gateway is not found out again.
        if let Placed::On(_, host) = placed
            && let Some(entry) = host.hosted.config.apis.get(&key)
        {
            let entry = Some(entry.clone());
            return (Rendered::default(), Attempt { problems: on_gateway, entry, failed: None });
        }
        let last = self.last(name, owner);
        let timer = self.metrics.step(Kind::StreamApi.name(), "read");
        let mut objects = self.world.around_api(&name.0, &name.1);
        drop(timer);
        if !on_gateway.is_empty() {
            objects.elsewhere.insert(name.clone(), on_gateway);
        }
        let timer = self.metrics.step(Kind::StreamApi.name(), "render");
        let rendered = render(&objects, &last);
        drop(timer);
        let problems = problems_of(&objects, &rendered, Kind::StreamApi, name);
        // The gateway told what the API itself has, too.
        let mut told: Vec<Problem> = Vec::new();
        for problem in problems {
            if !told.contains(&problem) {
                told.push(problem);
            }
        }
        let own = rendered.config.apis.get(&key).filter(|entry| entry.api.spec.placement.gateway().is_none());
        let entry = own.cloned();
        (rendered, Attempt { problems: told, entry, failed: None })
    }

    /// Renders the API and writes what it consists of, unless that is a gateway's.
    async fn attempt(&self, name: &Name, owner: &Owner<'_>, placed: &Placed, paused: bool) -> Attempt {
        let (Rendered { config, material, .. }, mut attempt) = self.judge(name, owner, placed);
        let key = format!("{}/{}", name.0, name.1);
        let Some(built) = attempt.entry.clone().filter(|it| it.api.spec.placement.gateway().is_none()) else {
            return attempt;
        };
        if paused {
            attempt.entry = self.last(name, owner).apis.get(&key).cloned();
            return attempt;
        }
        let cursor_key = match self.cursor_key(owner).await {
            Ok(cursor_key) => cursor_key,
            Err(error) => return Attempt { failed: Some(error), ..attempt },
        };
        let content = Content {
            config: &config,
            material: &material,
            keys: &[(key.clone(), cursor_key)].into(),
            deployment: built.api.spec.placement.deployment(),
        };
        let children = match children(owner, &content, &self.settings) {
            Ok(children) => children,
            Err(error) => {
                attempt.problems.push(Problem::new("spec", format!("{error}; split the API")));
                attempt.entry = self.last(name, owner).apis.get(&key).cloned();
                return attempt;
            }
        };
        let mut done = self.write(owner, &children).await;
        if done.is_ok() {
            self.observer.expect(name, &built.revision);
            let uid = owner.uid.unwrap_or_default().to_owned();
            self.last.lock().insert(name.clone(), (uid, config));
            done = self.write_outside(owner, &children).await;
        }
        attempt.failed = done.err();
        attempt
    }

    /// The pods that serve `entry`. Those of a former placement, which may still be there, tell nothing.
    fn pods(&self, name: &Name, gateway: Option<&Name>, entry: Option<&Entry>) -> Vec<PodView> {
        if let Some(gateway) = gateway {
            return self.observer.pods_of_gateway(gateway);
        }
        let is_sidecar = entry.is_some_and(|entry| entry.api.spec.placement.sidecar().is_some());
        let place = if is_sidecar { Place::Sidecar } else { Place::Deployment };
        let mut pods = self.observer.pods(name);
        pods.retain(|pod| pod.placement == place);
        pods
    }

    /// Until the gateway serves the API its own pods do, if it has any: they follow policies, keys and secrets.
    async fn keep_up(&self, name: &Name, owner: &Owner<'_>) -> Result<(), ApplyError> {
        let last = self.last(name, owner);
        if last.apis.is_empty() {
            return Ok(());
        }
        let mut objects = self.world.around_api(&name.0, &name.1);
        // What it says now is the gateway's to serve.
        objects.elsewhere.insert(name.clone(), vec![Problem::new("spec.placement", "is another")]);
        let Rendered { config, material, .. } = render(&objects, &last);
        let keys = [(format!("{}/{}", name.0, name.1), self.cursor_key(owner).await?)].into();
        let content = Content { config: &config, material: &material, keys: &keys, deployment: None };
        match children(owner, &content, &self.settings) {
            Ok(delivered) => self.write_some(owner, delivered.iter()).await?,
            Err(error) => {
                tracing::warn!(namespace = name.0, api = name.1, %error, "its own pods stay as they are")
            }
        }
        self.last.lock().insert(name.clone(), (owner.uid.unwrap_or_default().to_owned(), config));
        Ok(())
    }

    /// Takes away what an API that a gateway serves had of its own, but for the key of its cursors.
    /// When to look again, as long as its pods have not ended.
    async fn leave(&self, name: &Name, owner: &Owner<'_>) -> Result<Option<Duration>, ApplyError> {
        self.last.lock().remove(name);
        self.observer.forget(name);
        self.prune(owner, &[]).await?;
        if self.world.has_pods(name) {
            return Ok(Some(ENDING));
        }
        let there = |child: &Child| self.world.child(child.kind, owner.namespace, &child.name).is_some();
        let left: Vec<_> = emptied(owner).into_iter().filter(there).collect();
        self.write(owner, &left).await?;
        Ok(None)
    }

    /// Looks after the pods that have the API as a sidecar, if it is one; when to look again.
    async fn sidecars(
        &self,
        name: &Name,
        entry: &Entry,
        pods: &[PodView],
    ) -> (Option<Sidecars>, Option<Duration>) {
        let Some(sidecar) = entry.api.spec.placement.sidecar() else {
            self.care.forget(name);
            return (None, None);
        };
        if !self.settings.injection {
            return (Some(Sidecars { is_off: true, ..Sidecars::default() }), None);
        }
        let touch = self.care.sync(&self.writer, name, entry, pods).await;
        let (found, look) = self.care.look(&self.writer, &self.world, &self.settings, name, sidecar).await;
        (Some(found), touch.into_iter().chain([look]).min())
    }
}

/// What came of an API.
struct Attempt {
    /// Everything wrong with it.
    problems: Vec<Problem>,
    /// What is to be served of it: its newest good self.
    entry: Option<Arc<Entry>>,
    /// Why that could not be written.
    failed: Option<ApplyError>,
}

/// Where clients reach an API that is on no gateway: inside the cluster, or inside the pods.
fn base_url(owner: &Owner<'_>, entry: &Entry) -> Option<String> {
    match entry.api.spec.placement.deployment() {
        Some(deployment) => report::service_url(owner, deployment),
        None => Some(sidecar::url()),
    }
}
