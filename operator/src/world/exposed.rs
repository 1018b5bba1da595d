//! The Services of brokers that ask for StreamAPIs: watched only where that is switched on.

use std::sync::Arc;

use kube::api::DynamicObject;
use kube::runtime::reflector::{ObjectRef, Store, store::Writer};
use kube::runtime::watcher;

use super::touched::Touched;
use super::watches::Watches;
use super::{World, api_resource};
use crate::children::ChildKind;
use crate::expose::LABEL;

impl Watches<'_> {
    /// Keeps a store of the Services that are labelled to be exposed.
    pub fn services(&mut self, writer: Writer<DynamicObject>) -> Store<DynamicObject> {
        let labelled = watcher::Config::default().labels(&format!("{LABEL}=true"));
        self.dynamic(&ChildKind::Service.resource(), writer, labelled, Touched::service)
    }
}

impl World {
    /// The Service of that name, if it is labelled to be exposed.
    pub fn service(&self, namespace: &str, name: &str) -> Option<Arc<DynamicObject>> {
        let reference = ObjectRef::new_with(name, ChildKind::Service.resource()).within(namespace);
        self.services.as_ref()?.get(&reference)
    }

    /// The StreamAPI of that name.
    pub fn api(&self, namespace: &str, name: &str) -> Option<Arc<DynamicObject>> {
        self.apis.get(&ObjectRef::new_with(name, api_resource()).within(namespace))
    }
}
