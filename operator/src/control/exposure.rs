//! Tells whether clients outside the cluster reach a data plane that is to be exposed.

use sluice_config::placement::Deployment;

use super::Context;
use crate::apply::is_owned;
use crate::children::exposure::{kind, obstacle};
use crate::children::{ChildKind, Owner};
use crate::report::refused_route;

/// Where clients outside the cluster find a data plane, and why they do not although that is asked for.
#[derive(Default)]
pub struct Outside {
    /// Once there is what leads there, and as far as that tells a URL.
    pub url: Option<String>,
    /// In words.
    pub fault: Option<String>,
}

impl Context {
    /// How `owner` is seen from outside the cluster with that deployment.
    pub(super) fn outside(&self, owner: &Owner<'_>, deployment: Option<&Deployment>) -> Outside {
        let asked = deployment.and_then(|deployment| Some((deployment, deployment.exposure.as_deref()?)));
        let Some((deployment, exposure)) = asked else { return Outside::default() };
        let kind = kind(exposure);
        let live = self.world.child(kind, owner.namespace, &owner.child_name());
        let live = live.filter(|live| is_owned(live, owner));
        let refused = || live.as_ref().and_then(|live| refused_route(live.metadata.generation, &live.data));
        let fault = obstacle(deployment, &self.settings).or_else(|| self.absence(kind)).or_else(refused);
        let url = live.as_ref().filter(|_| fault.is_none()).and_then(|_| exposure.url());
        Outside { url, fault }
    }

    /// Why children of that kind cannot be made in this cluster.
    fn absence(&self, kind: ChildKind) -> Option<String> {
        let (group, version, name, _) = kind.names();
        self.world.lacks(kind).then(|| {
            format!(
                "the cluster does not know {name} of {group}/{version}; have the Gateway API's definitions installed, and it \
                 is made"
            )
        })
    }
}
