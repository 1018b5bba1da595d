//! Checks of what stands in front of a data plane.

use std::net::IpAddr;

use crate::check::Problem;
use crate::placement::{Deployment, Exposure, ParentRef, Protocol};

/// Checks what the schema cannot say of the exposure of what stands at `at`.
pub fn check(at: &str, deployment: &Deployment, problems: &mut Vec<Problem>) {
    let Some(exposure) = deployment.exposure.as_deref() else { return };
    match exposure {
        Exposure::Ingress(ingress) => {
            check_host(format!("{at}.exposure.ingress.host"), &ingress.host, problems);
        }
        Exposure::HttpRoute(route) => {
            let at = format!("{at}.exposure.httpRoute");
            for (index, host) in route.hostnames.iter().enumerate() {
                check_host(format!("{at}.hostnames[{index}]"), host, problems);
            }
            check_parents(&at, &route.parent_refs, problems);
            if deployment.listener(Protocol::Http).is_none() {
                let message = "needs an HTTP listener: to speak HTTPS to pods a Gateway needs a BackendTLSPolicy, which is not \
                               written for you; add `{name: http, protocol: HTTP}` to `listeners`, or use `ingress`";
                problems.push(Problem::new(at, message));
            }
        }
    }
}

fn check_host(at: String, host: &str, problems: &mut Vec<Problem>) {
    if host.parse::<IpAddr>().is_ok() {
        problems.push(Problem::new(at, "is an address; write a DNS name, like streams.example.com"));
    }
}

/// A Gateway may stand there twice if each time another of its listeners is meant.
fn check_parents(at: &str, parents: &[ParentRef], problems: &mut Vec<Problem>) {
    for (index, parent) in parents.iter().enumerate() {
        let meets = |other: &ParentRef| {
            (&other.namespace, &other.name) == (&parent.namespace, &parent.name)
                && (other.section_name.is_none()
                    || parent.section_name.is_none()
                    || other.section_name == parent.section_name)
        };
        if parents[..index].iter().any(meets) {
            let at = format!("{at}.parentRefs[{index}]");
            problems.push(Problem::new(at, "is named before; remove it, or give each another `sectionName`"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a deployment with that exposure and with these listeners.
    fn problems(exposure: &str, listeners: &str) -> Vec<String> {
        let text = format!(r#"{{"exposure": {exposure}, "listeners": {listeners}}}"#);
        let deployment: Deployment = serde_json::from_str(&text).expect("a deployment");
        let mut problems = Vec::new();
        check("spec", &deployment, &mut problems);
        problems.iter().map(ToString::to_string).collect()
    }

    const HTTP: &str = r#"[{"name": "http", "protocol": "HTTP"}]"#;
    const HTTPS: &str = r#"[{"name": "tls", "protocol": "HTTPS", "tls": {"secretRef": {"name": "cert"}}}]"#;

    fn ingress(host: &str) -> String {
        format!(r#"{{"ingress": {{"host": "{host}", "className": "nginx"}}}}"#)
    }

    fn route(parents: &str, host: &str) -> String {
        format!(r#"{{"httpRoute": {{"parentRefs": {parents}, "hostnames": ["{host}"]}}}}"#)
    }

    #[test]
    fn what_a_proxy_can_do_has_no_problem() {
        let edge = r#"[{"name": "edge"}]"#;
        let listeners = r#"[{"name": "edge", "sectionName": "a"}, {"name": "edge", "sectionName": "b"}]"#;
        let namespaces = r#"[{"name": "edge"}, {"name": "edge", "namespace": "infra"}]"#;
        for parents in [edge, listeners, namespaces] {
            assert!(problems(&route(parents, "*.example.com"), HTTP).is_empty(), "{parents}");
        }
        for listeners in [HTTP, HTTPS] {
            assert!(problems(&ingress("a.example.com"), listeners).is_empty(), "{listeners}");
        }
    }

    #[test]
    fn what_it_cannot_do_is_told_with_what_to_write() {
        let edge = r#"[{"name": "edge"}]"#;
        for (exposure, listeners, expected) in [
            (ingress("192.0.2.1"), HTTP, "spec.exposure.ingress.host: is an address; write a DNS name"),
            (
                route(edge, "192.0.2.1"),
                HTTP,
                "spec.exposure.httpRoute.hostnames[0]: is an address; write a DNS name",
            ),
            (
                route(edge, "a.example.com"),
                HTTPS,
                "spec.exposure.httpRoute: needs an HTTP listener: to speak HTTPS to pods a Gateway needs a BackendTLSPolicy",
            ),
            (
                route(r#"[{"name": "edge"}, {"name": "edge"}]"#, "a.example.com"),
                HTTP,
                "spec.exposure.httpRoute.parentRefs[1]: is named before",
            ),
            (
                route(r#"[{"name": "edge", "sectionName": "a"}, {"name": "edge"}]"#, "a.example.com"),
                HTTP,
                "spec.exposure.httpRoute.parentRefs[1]: is named before",
            ),
        ] {
            let found = problems(&exposure, listeners);
            assert!(found.len() == 1 && found[0].starts_with(expected), "{exposure}: {found:#?}");
        }
    }
}
