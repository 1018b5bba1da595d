//! `sluice asyncapi`: what the clients of an API may rely on, as an AsyncAPI document with every channel.

use sluice_config::asyncapi::{BaseUrl, Described, Description, document};
use sluice_config::policy::Authentication;
use sluice_config::{Config, shown};
use sluice_crds::StreamAPI;
use sluice_operator::Objects;
use sluice_operator::dereference::dereference;
use sluice_operator::merge::merge;

use crate::check::Input;
use crate::run::ObjectName;
use crate::{Failure, print};

/// Flags of `sluice asyncapi`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  sluice asyncapi -f examples/orders.yaml --url https://streams.example
  sluice asyncapi -f apis/ --api default/shop > shop.asyncapi.json

It has every channel, and asks for an API key where a StreamPolicy of the files does. A data plane
serves what may be used there without or with a key at /-/asyncapi.")]
pub struct Args {
    #[command(flatten)]
    input: Input,
    /// Which StreamAPI; needed if the files have several
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = ObjectName::parse)]
    api: Option<ObjectName>,
    /// Where clients reach it, like https://streams.example; may be given again
    #[arg(long = "url", value_name = "URL")]
    urls: Vec<BaseUrl>,
}

/// Prints the document; fails if the files have problems or do not tell which API is meant.
pub fn asyncapi(args: &Args) -> Result<(), Failure> {
    let objects = args.input.objects()?;
    match chosen(&objects, args.api.as_ref()) {
        Ok(api) => print(&described(&objects, api, &args.urls)?),
        Err(problem) => {
            eprintln!("{problem}");
            Err(Failure::Input)
        }
    }
}

/// The API that is meant, or what to write instead.
fn chosen<'a>(objects: &'a Objects, name: Option<&ObjectName>) -> Result<&'a StreamAPI, String> {
    let meant = |api: &&StreamAPI| {
        name.is_none_or(|name| identity(api) == (name.namespace.as_str(), name.name.as_str()))
    };
    let found: Vec<_> = objects.apis.iter().filter(meant).collect();
    let all = objects.apis.iter().map(|api| {
        let (namespace, name) = identity(api);
        format!("{namespace}/{name}")
    });
    let all = all.collect::<Vec<_>>().join(", ");
    match (found.as_slice(), name) {
        ([api], _) => Ok(api),
        _ if all.is_empty() => Err("the files have no StreamAPI; name one that has with -f".into()),
        ([], Some(name)) => {
            let name = shown::clip(&format!("{}/{}", name.namespace, name.name));
            Err(format!("the files have no StreamAPI `{name}`; name one of {all} with --api"))
        }
        _ => Err(format!("the files have several StreamAPIs; name one of {all} with --api")),
    }
}

fn identity(api: &StreamAPI) -> (&str, &str) {
    let metadata = &api.metadata;
    (metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
}

fn described(objects: &Objects, api: &StreamAPI, urls: &[BaseUrl]) -> Result<String, Failure> {
    let nothing = Config::default();
    let references = dereference(objects, &nothing);
    let (namespace, name) = identity(api);
    let spec = &*api.spec.0;
    let needs_key = |channel: &str| {
        let policy = merge(&references.policies, namespace, name, channel).policy;
        matches!(policy.authentication, Some(Authentication::ApiKeys(_)))
    };
    let channels = spec.channels.iter();
    let channels = channels.map(|channel| Described { channel, needs_key: needs_key(&channel.name) });
    let channels: Vec<_> = channels.collect();
    let lifecycle = &spec.lifecycle;
    let document = document(&Description { name, spec, lifecycle, base_urls: urls, channels: &channels });
    Ok(format!("{}\n", serde_json::to_string_pretty(&document)?))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::documents;

    const FILE: &str = "\
apiVersion: sluice.dev/v1alpha1
kind: StreamAPI
metadata: {name: shop}
spec:
  servers: [{name: log, kafka: {brokers: [\"kafka:9092\"], tls: {secretRef: {name: in-the-cluster}}}}]
  channels:
    - {name: orders, server: log, address: orders, subscribe: {transports: {sse: {}}}}
    - {name: notes, server: log, address: notes, publish: {transports: {http: {}}}}
---
apiVersion: sluice.dev/v1alpha1
kind: StreamPolicy
metadata: {name: keys}
spec:
  targetRefs: [{kind: StreamAPI, name: shop, sectionName: notes}]
  authentication: {apiKeys: {secretRef: {name: in-the-cluster-too}}}
";

    fn read(text: &str) -> Objects {
        documents::assemble(documents::parse("a.yaml", text, "default").expect("YAML").iter()).objects
    }

    #[test]
    fn every_channel_is_described_and_a_key_asked_for_where_the_files_ask_for_it() {
        let objects = read(FILE);
        let api = chosen(&objects, None).expect("the only one");
        let url = "https://streams.example".parse().expect("a base URL");
        let Ok(text) = described(&objects, api, &[url]) else { panic!("it is a document") };
        let document: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(document["id"], "urn:sluice:shop");
        assert_eq!(document["servers"]["https"]["host"], "streams.example");
        let operations = &document["operations"];
        assert!(operations["orders.subscribe.sse"]["security"].is_null(), "{operations}");
        assert!(operations["notes.publish.http"]["security"].is_array(), "{operations}");
        // The same in another namespace, but for the policy, which stayed behind.
        let moved = read(&FILE.replace("{name: shop}\n", "{name: shop, namespace: prod}\n"));
        let Ok(text) = described(&moved, &moved.apis[0], &[]) else { panic!("it is a document") };
        let document: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(document["id"], "urn:sluice:shop");
        assert!(!text.contains("security") && !text.contains("prod"), "{text}");
    }

    #[test]
    fn one_of_several_is_named() {
        let twin = FILE.split("---").next().unwrap_or_default().replace("{name: shop}", "{name: twin}");
        let both = read(&format!("{FILE}---\n{twin}"));
        let told = |objects: &Objects, name: Option<&str>| {
            let name = name.map(|name| ObjectName::parse(name).expect("a name"));
            chosen(objects, name.as_ref()).map(|api| identity(api).1.to_owned())
        };
        assert_eq!(told(&both, Some("default/twin")).as_deref(), Ok("twin"));
        let all = "name one of default/shop, default/twin with --api";
        assert_eq!(told(&both, None), Err(format!("the files have several StreamAPIs; {all}")));
        let wrong = told(&both, Some("prod/shop"));
        assert_eq!(wrong, Err(format!("the files have no StreamAPI `prod/shop`; {all}")));
        let none = told(&Objects::default(), None);
        assert!(none.is_err_and(|told| told.starts_with("the files have no StreamAPI;")));
    }
}
