//! Reconciles Services of brokers: each that asks for it has its StreamAPI, which goes when it asks no more.
//!
//! A Service has no conditions of ours, so what is wrong with one is told by an Event, once each time it is another.

use std::sync::Arc;
use std::time::Instant;

use kube::Resource as _;
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType, Recorder};

use super::{Context, publish};
use crate::apply::{Applied, ApplyError, LATE_WATCH};
use crate::children::{Child, ChildKind, Owner};
use crate::expose::{API, LABEL, expose, is_left, maker};
use crate::objects::Kind;
use crate::world::{Name, name_of};

/// What Events are about.
const ACTION: &str = "Expose";
/// Longest text of an Event, in characters.
const NOTE: usize = 1000;

/// What came of a Service: when to look again, and the outcome that is counted.
type Looked = (Action, &'static str);

pub(super) async fn reconcile(
    service: Arc<DynamicObject>,
    context: Arc<Context>,
) -> Result<Action, ApplyError> {
    let name = name_of(&service);
    let begun = Instant::now();
    let looked = context.reconcile_service(&name, &service).await;
    let outcome = looked.as_ref().map_or_else(ApplyError::category, |(_, outcome)| *outcome);
    context.metrics.reconciled(Kind::Service.name(), outcome, begun.elapsed());
    if looked.is_ok() {
        context.failures.lock().remove(&(Kind::Service, name));
    }
    looked.map(|(action, _)| action)
}

impl Context {
    async fn reconcile_service(&self, name: &Name, service: &DynamicObject) -> Result<Looked, ApplyError> {
        if service.metadata.deletion_timestamp.is_some() {
            return Ok((Action::await_change(), "ok"));
        }
        let child = match expose(service) {
            Ok(child) => child,
            Err(problems) => {
                let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
                let why = "no StreamAPI is made or changed until this is corrected";
                self.complain(name, service, "Invalid", format!("{why}: {}", problems.join("; "))).await;
                return Ok((Action::await_change(), "invalid"));
            }
        };
        let seen = self.world.api(&name.0, &child.name);
        // When it is gone, the Service is looked at again.
        if seen.as_ref().is_some_and(|seen| self.is_left(&name.0, seen)) {
            return Ok((Action::await_change(), "ok"));
        }
        let owner = Owner::service(&name.0, &name.1, service.metadata.uid.as_deref());
        match self.writer.apply(&owner, &child, seen.as_deref()).await {
            Ok(Applied::Late) => Ok((Action::requeue(LATE_WATCH), "ok")),
            Ok(applied) => {
                self.made(name, service, &child, applied, seen.is_none()).await;
                Ok((Action::await_change(), "ok"))
            }
            // The Service is about to go the same way.
            Err(ApplyError::Ending { .. }) => Ok((Action::await_change(), "ok")),
            // When that one goes, the Service is looked at again.
            Err(error @ ApplyError::NameTaken { .. }) => {
                let api = &child.name;
                let message = format!(
                    "StreamAPI `{api}` exists and was not made of this Service; delete it, or name another with the \
                     annotation {API}"
                );
                self.complain(name, service, "NameTaken", message).await;
                Ok((Action::await_change(), error.category()))
            }
            Err(error) => {
                if matches!(error, ApplyError::Refused { .. }) {
                    self.complain(name, service, "Refused", error.to_string()).await;
                }
                Err(error)
            }
        }
    }

    /// The StreamAPI of a Service is as it should be. Told when it is new, and when something else was told last.
    async fn made(
        &self,
        name: &Name,
        service: &DynamicObject,
        child: &Child,
        applied: Applied,
        is_new: bool,
    ) {
        let complained = self.told.lock().remove(name).is_some();
        if applied == Applied::Written {
            let kind = child.kind.names().2;
            self.metrics.wrote(kind);
            tracing::info!(namespace = name.0, service = name.1, kind, name = child.name, "applied");
        }
        if complained || (is_new && applied == Applied::Written) {
            let message = format!("StreamAPI `{}` is made of this Service", child.name);
            self.tell_service(service, EventType::Normal, "Exposed", message).await;
        }
    }

    /// Tells what is wrong with a Service, unless that was what was told last.
    async fn complain(&self, name: &Name, service: &DynamicObject, reason: &str, message: String) {
        let before = self.told.lock().insert(name.clone(), message.clone());
        if before.as_ref() == Some(&message) {
            return;
        }
        let message: String = message.chars().take(NOTE).collect();
        tracing::warn!(
            namespace = name.0,
            service = name.1,
            reason,
            problem = message,
            "a Service is not exposed"
        );
        self.tell_service(service, EventType::Warning, reason, message).await;
    }

    async fn tell_service(&self, service: &DynamicObject, type_: EventType, reason: &str, message: String) {
        let (reason, action) = (reason.to_owned(), ACTION.to_owned());
        let event = Event { type_, reason, note: Some(message), action, secondary: None };
        // One that remembers would take another text for the same Event again, for it compares reasons.
        let recorder = Recorder::new(self.writer.client.clone(), self.reporter.clone());
        publish(&recorder, &event, &service.object_ref(&ChildKind::Service.resource())).await;
    }

    /// Deletes a StreamAPI that was made of a Service which asks for it no more. Whether it did.
    pub(super) async fn take_back(&self, name: &Name, api: &DynamicObject) -> Result<bool, ApplyError> {
        let Some(maker) = maker(api).filter(|_| self.is_left(&name.0, api)) else { return Ok(false) };
        let owner = Owner::service(&name.0, &maker.name, Some(&maker.uid));
        // With the StreamAPI its streams go, and the key of its cursors: that is not done on the word of a watch that may
        // be late.
        let service = self.writer.find(&owner, ChildKind::Service, &maker.name).await?;
        let is_labelled =
            |service: &&DynamicObject| service.labels().get(LABEL).is_some_and(|it| it == "true");
        if !is_left(api, service.as_ref().filter(is_labelled)) {
            return Ok(false);
        }
        self.writer.prune(&owner, ChildKind::StreamApi, api).await?;
        let (kind, name) = (ChildKind::StreamApi.names().2, api.name_any());
        tracing::info!(namespace = owner.namespace, service = owner.name, kind, name, "deleted");
        Ok(true)
    }

    /// Whether `api` was made of a Service that asks for it no more, where this operator exposes Services.
    fn is_left(&self, namespace: &str, api: &DynamicObject) -> bool {
        self.world.services.is_some()
            && maker(api).is_some_and(|maker| {
                let service = self.world.service(namespace, &maker.name);
                is_left(api, service.as_deref())
            })
    }
}
