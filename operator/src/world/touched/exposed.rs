//! What a Service that asks for a StreamAPI touches, and what touches it.

use kube::ResourceExt as _;
use kube::api::DynamicObject;
use kube::runtime::reflector::Store;

use super::Touched;
use crate::expose::{maker, wanted};
use crate::world::{name_of, within};

impl Touched {
    /// The same with Services, of which StreamAPIs are made.
    pub fn with_services(self, services: Option<Store<DynamicObject>>) -> Self {
        Self { all_services: services, ..self }
    }

    /// By a Service: itself, and the StreamAPIs that were made of it, which it may ask for no more.
    pub fn service(&self, service: &DynamicObject) {
        let (namespace, name) = name_of(service);
        for api in within(&self.all_apis, &namespace) {
            if maker(&api).is_some_and(|maker| maker.name == name) {
                self.dirty.apis.add(name_of(&api));
            }
        }
        self.dirty.services.add((namespace, name));
    }

    /// By a StreamAPI: the Service that it was made of, and those that would have the name.
    pub(super) fn services_of(&self, api: &DynamicObject) {
        let Some(services) = &self.all_services else { return };
        let (namespace, name) = name_of(api);
        if let Some(maker) = maker(api) {
            self.dirty.services.add((namespace.clone(), maker.name.clone()));
        }
        for service in within(services, &namespace) {
            if wanted(&service) == Some(name.as_str()) {
                self.dirty.services.add((namespace.clone(), service.name_any()));
            }
        }
    }
}
