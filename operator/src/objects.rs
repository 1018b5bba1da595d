//! What there is: the objects that everything else is made from.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::Secret;
use sluice_config::Problem;
use sluice_config::policy::TargetRef;
use sluice_crds::{StreamAPI, StreamGateway, StreamPolicy};

/// Everything that was read. Objects of equal age come in the order that breaks ties: by name in a
/// cluster, by place in files. Every `metadata.namespace` and `metadata.name` is set.
#[derive(Clone, Default)]
pub struct Objects {
    /// Readable StreamAPIs.
    pub apis: Vec<StreamAPI>,
    /// Readable StreamGateways.
    pub gateways: Vec<StreamGateway>,
    /// Readable StreamPolicies.
    pub policies: Vec<StreamPolicy>,
    /// Secrets, whether labelled for use or not.
    pub secrets: Vec<Secret>,
    /// What is there and cannot be understood.
    pub unread: Vec<Unread>,
    /// What is wrong with readable StreamAPIs that only a cluster knows, by namespace and name.
    pub elsewhere: BTreeMap<(String, String), Vec<Problem>>,
}

/// Secrets stay out of logs and panics.
impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let readable = [self.apis.len(), self.gateways.len(), self.policies.len(), self.secrets.len()];
        let counts = (readable, self.unread.len());
        write!(f, "Objects({counts:?})")
    }
}

/// An object that cannot be understood. It blinds nobody: an API keeps what it was, a policy closes
/// what it targets.
#[derive(Clone, Debug, PartialEq)]
pub struct Unread {
    /// Its kind, as far as it can be told.
    pub kind: Kind,
    /// Its namespace, if that can be read.
    pub namespace: Option<String>,
    /// Its name, if that can be read.
    pub name: Option<String>,
    /// Everything found, at least one.
    pub problems: Vec<Problem>,
    /// What a StreamPolicy targets; `None` if that cannot be read.
    pub targets: Option<Vec<TargetRef>>,
}

/// Kinds of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A StreamAPI.
    StreamApi,
    /// A StreamGateway.
    StreamGateway,
    /// A StreamPolicy.
    StreamPolicy,
    /// A Secret.
    Secret,
    /// A ConfigMap; nothing refers to one yet.
    ConfigMap,
    /// A Service of a broker, which a StreamAPI is made from. No document is read as one.
    Service,
    /// Anything else.
    Other,
}

impl Kind {
    /// The kind of that name, of those that are read.
    pub fn of(name: &str) -> Option<Self> {
        [Self::StreamApi, Self::StreamGateway, Self::StreamPolicy, Self::Secret, Self::ConfigMap]
            .into_iter()
            .find(|kind| kind.name() == name)
    }

    /// As it is written in `kind:`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::StreamApi => "StreamAPI",
            Self::StreamGateway => "StreamGateway",
            Self::StreamPolicy => "StreamPolicy",
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
            Self::Service => "Service",
            Self::Other => "object",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
