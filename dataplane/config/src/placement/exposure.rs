//! How clients outside the cluster reach a data plane.
//!
//! What a controller is told is typed, down to its annotations: whoever may write a StreamAPI need not be one who
//! may configure a proxy that others share, so no annotation can be expressed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A DNS name, as Kubernetes has it.
const DNS_NAME: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// The same, of which the first label may be `*`.
const HOST: &str = r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

/// What stands in front of a data plane's Service. Exactly one kind is set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Exposure {
    /// An Ingress. The chart has to allow it: `exposure.ingress`.
    Ingress(Ingress),
    /// An HTTPRoute of the Gateway API, without a timeout for requests. Whether the Gateway's implementation heeds that is
    /// for its documentation to say. It speaks to an `HTTP` listener. The chart has to allow it: `exposure.httpRoute`.
    HttpRoute(HttpRoute),
}

impl Exposure {
    /// The names by which clients ask.
    pub fn hosts(&self) -> &[String] {
        match self {
            Self::Ingress(ingress) => std::slice::from_ref(&ingress.host),
            Self::HttpRoute(route) => &route.hostnames,
        }
    }

    /// Where that is, by the first name that is no pattern. An HTTPRoute does not tell which scheme its Gateway's
    /// listener speaks, so the URL of one has none.
    pub fn url(&self) -> Option<String> {
        let host = self.hosts().iter().find(|host| !host.starts_with('*'))?;
        let scheme = match self {
            Self::Ingress(ingress) if ingress.tls_secret_name.is_some() => "https:",
            Self::Ingress(_) => "http:",
            Self::HttpRoute(_) => "",
        };
        Some(format!("{scheme}//{host}"))
    }
}

/// An Ingress for one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ingress {
    /// The name by which clients ask, a DNS name. Its first label may be `*`.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = HOST)
    )]
    pub host: String,
    /// Name of the IngressClass, which says who serves it.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = DNS_NAME)
    )]
    pub class_name: String,
    /// A `kubernetes.io/tls` Secret of the same namespace with the certificate for the host. It is read by the Ingress
    /// controller, so it needs no label. Default: none, and what is served by HTTPS is the controller's to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = DNS_NAME)
    )]
    pub tls_secret_name: Option<String>,
    /// Who serves that class, and so by which annotations it is told what streams need and an Ingress has no fields for:
    /// that a stream may be silent for two hours, that nothing is buffered, and to speak HTTPS where there is no `HTTP`
    /// listener. `Nginx` is ingress-nginx. `HAProxy` is HAProxy Technologies' controller, from 1.11 on; it takes the timeouts of its
    /// clients and tunnels from its own ConfigMap only. `None` writes no annotation: for Traefik, whose timeouts are
    /// its entry points' (`transport.respondingTimeouts`), and for others, whose administrators have to see to it.
    #[serde(default)]
    pub controller: Controller,
}

/// Ingress controllers that are told by annotations what streams need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Controller {
    /// None of the others.
    #[default]
    None,
    /// ingress-nginx, of the Kubernetes project.
    Nginx,
    /// HAProxy Kubernetes Ingress Controller, of HAProxy Technologies.
    #[serde(rename = "HAProxy")]
    HaProxy,
}

/// An HTTPRoute (`gateway.networking.k8s.io/v1`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpRoute {
    /// The Gateways that are asked to serve it. Each says whose routes it takes.
    #[schemars(length(min = 1, max = 16))]
    pub parent_refs: Vec<ParentRef>,
    /// The names by which clients ask, DNS names. The first label of each may be `*`.
    #[schemars(
        length(min = 1, max = 16),
        inner(
            length(min = 1, max = 253),
            regex(pattern = HOST)
        ),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub hostnames: Vec<String>,
}

/// A Gateway of the Gateway API, or one of its listeners.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ParentRef {
    /// Name of the Gateway.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = DNS_NAME)
    )]
    pub name: String,
    /// Its namespace. Default: that of the route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub namespace: Option<String>,
    /// Name of the listener. Default: all of the Gateway's that take the route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = DNS_NAME)
    )]
    pub section_name: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_told_of_a_name_and_not_of_a_pattern() {
        let url = |text: &str| serde_json::from_str::<Exposure>(text).expect("an exposure").url();
        let ingress = |host: &str, tls: &str| {
            url(&format!(r#"{{"ingress": {{"host": "{host}", "className": "nginx"{tls}}}}}"#))
        };
        let route = |hostnames: &str| {
            url(&format!(r#"{{"httpRoute": {{"parentRefs": [], "hostnames": {hostnames}}}}}"#))
        };
        assert_eq!(ingress("a.example.com", "").as_deref(), Some("http://a.example.com"));
        let tls = r#", "tlsSecretName": "cert""#;
        assert_eq!(ingress("a.example.com", tls).as_deref(), Some("https://a.example.com"));
        assert_eq!(ingress("*.example.com", tls), None);
        assert_eq!(route(r#"["*.example.com", "b.example.com"]"#).as_deref(), Some("//b.example.com"));
        assert_eq!(route(r#"["*.example.com"]"#), None);
    }
}
