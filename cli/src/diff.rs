//! `sluice diff`: what applying files would do to those who use what they describe.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Context as _;
use kube::api::{DynamicObject, ListParams};
use kube::config::KubeConfigOptions;
use kube::{Api, Client, Config};
use sluice_operator::children::Settings;
use sluice_operator::read::{self, Object};
use sluice_operator::world::{api_resource, gateway_resource, policy_resource};
use sluice_operator::{Objects, differences};

use crate::check::Input;
use crate::{Failure, print};

/// Flags of `sluice diff`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  sluice diff -f apis/                    what would change in the cluster of the current context
  sluice diff -f apis/ --from deployed/   what would change from other files, with no cluster
  kubectl kustomize overlays/production | sluice diff -f -

What is only in the cluster is left alone, as kubectl apply does.")]
pub struct Args {
    #[command(flatten)]
    input: Input,
    /// Files or directories of what is there now, instead of a cluster
    #[arg(long, value_name = "FILE|DIR", num_args = 1..)]
    from: Vec<PathBuf>,
    /// The kubeconfig's context instead of the current one
    #[arg(long, value_name = "NAME", conflicts_with = "from")]
    context: Option<String>,
    /// Exit with 1 if anybody would notice
    #[arg(long)]
    exit_code: bool,
}

/// Prints what anybody would notice, API by API; fails if the files have problems.
pub fn diff(args: Args) -> Result<(), Failure> {
    let files = args.input.objects()?;
    let (before, after) = if args.from.is_empty() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let before = runtime.block_on(cluster(&files, args.context))?;
        let after = overlaid(&before, &files);
        (before, after)
    } else {
        (Input { files: args.from, namespace: args.input.namespace }.objects()?, files)
    };
    let text = told(&before, &after);
    print(if text.is_empty() { "nobody would notice\n" } else { &text })?;
    if args.exit_code && !text.is_empty() { Err(Failure::Input) } else { Ok(()) }
}

fn told(before: &Objects, after: &Objects) -> String {
    // The settings are the same on both sides, so what they are makes no difference.
    let differences = differences(before, after, &Settings::default());
    let line = |what: &String| format!("  {what}\n");
    let apis =
        differences.iter().map(|(api, told)| format!("{api}\n{}", told.iter().map(line).collect::<String>()));
    apis.collect()
}

/// The StreamAPIs, StreamGateways and StreamPolicies of the namespaces that `objects` are in.
async fn cluster(objects: &Objects, context: Option<String>) -> anyhow::Result<Objects> {
    let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
    let config = Config::from_kubeconfig(&options)
        .await
        .context("cannot tell where the cluster is; --from compares files")?;
    let client = Client::try_from(config)?;
    let apis = objects.apis.iter().map(|api| &api.metadata);
    let gateways = objects.gateways.iter().map(|gateway| &gateway.metadata);
    let metadata = apis.chain(gateways).chain(objects.policies.iter().map(|policy| &policy.metadata));
    let namespaces: BTreeSet<&str> = metadata.filter_map(|metadata| metadata.namespace.as_deref()).collect();
    let mut found = Objects::default();
    for namespace in namespaces {
        for resource in [api_resource(), gateway_resource(), policy_resource()] {
            let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
            let list = api.list(&ListParams::default()).await;
            let list =
                list.with_context(|| format!("cannot list {} of namespace {namespace}", resource.plural))?;
            for mut object in list.items {
                object.types = Some(kube::api::TypeMeta {
                    api_version: resource.api_version.clone(),
                    kind: resource.kind.clone(),
                });
                match read::read(serde_json::to_value(object)?, namespace) {
                    Ok(Object::Api(api)) => found.apis.push(*api),
                    Ok(Object::Gateway(gateway)) => found.gateways.push(*gateway),
                    Ok(Object::Policy(policy)) => found.policies.push(*policy),
                    // What cannot be read serves as it last was good; what that is, only the operator knows.
                    Ok(Object::Secret(_) | Object::Unused(_)) | Err(_) => {}
                }
            }
        }
    }
    Ok(found)
}

/// `before`, where what `files` have is as they have it.
fn overlaid(before: &Objects, files: &Objects) -> Objects {
    let mut after = before.clone();
    let same = |one: &kube::api::ObjectMeta, other: &kube::api::ObjectMeta| {
        (&one.namespace, &one.name) == (&other.namespace, &other.name)
    };
    for new in &files.apis {
        match after.apis.iter_mut().find(|old| same(&old.metadata, &new.metadata)) {
            Some(old) => old.spec = new.spec.clone(),
            None => after.apis.push(new.clone()),
        }
    }
    for new in &files.gateways {
        match after.gateways.iter_mut().find(|old| same(&old.metadata, &new.metadata)) {
            Some(old) => old.spec = new.spec.clone(),
            None => after.gateways.push(new.clone()),
        }
    }
    for new in &files.policies {
        match after.policies.iter_mut().find(|old| same(&old.metadata, &new.metadata)) {
            Some(old) => old.spec = new.spec.clone(),
            None => after.policies.push(new.clone()),
        }
    }
    after
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents;

    const FILE: &str = "\
apiVersion: sluice.dev/v1alpha1
kind: StreamAPI
metadata: {name: shop}
spec:
  servers: [{name: log, memory: {}}]
  channels:
    - {name: orders, server: log, address: orders, subscribe: {transports: {sse: {}}}}
    - {name: notes, server: log, address: notes, subscribe: {transports: {sse: {}}}}
---
apiVersion: sluice.dev/v1alpha1
kind: StreamPolicy
metadata: {name: open}
spec:
  targetRefs: [{kind: StreamAPI, name: shop, sectionName: orders}]
  authentication: {none: {}}
";

    fn read(text: &str) -> Objects {
        documents::assemble(documents::parse("a.yaml", text, "default").expect("YAML").iter()).objects
    }

    #[test]
    fn what_nobody_notices_is_not_told() {
        assert_eq!(told(&read(FILE), &read(FILE)), "");
        let described = FILE.replace("  servers:", "  description: A shop.\n  servers:");
        assert_eq!(told(&read(FILE), &read(&described)), "");
    }

    #[test]
    fn every_api_has_its_lines() {
        let after = FILE
            .replace(
                "    - {name: notes, server: log, address: notes, subscribe: {transports: {sse: {}}}}\n",
                "",
            )
            .replace("authentication: {none: {}}", "limits: {connections: 5}");
        let more = FILE.split("---").next().unwrap_or_default().replace("{name: shop}", "{name: next}");
        let text = told(&read(FILE), &read(&format!("{after}---\n{more}")));
        assert_eq!(
            text,
            "default/next\n  is new\ndefault/shop\n  \
             channel notes: is removed; its clients are sent away and get 404\n  \
             channel orders: `authentication` changes; streams that it would not let in are closed within 5 s\n  \
             channel orders: `limits` change; they hold for what comes from then on\n"
        );
        assert_eq!(
            told(&read(FILE), &Objects::default()),
            "default/shop\n  is removed; its clients are sent away and get 404\n"
        );
    }

    #[test]
    fn files_that_say_nothing_are_no_beginning() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("apis.yaml");
        std::fs::write(&file, FILE).expect("written");
        let diff = |from: &str| {
            let input = Input { files: vec![file.clone()], namespace: "default".into() };
            super::diff(Args {
                input,
                from: vec![directory.path().join(from)],
                context: None,
                exit_code: true,
            })
        };
        assert!(diff("apis.yaml").is_ok());
        assert!(matches!(diff("apsi.yaml"), Err(Failure::Input)));
    }

    #[test]
    fn what_is_only_in_the_cluster_stays() {
        let before = read(FILE);
        let policy = FILE.split("---\n").nth(1).unwrap_or_default();
        let after =
            overlaid(&before, &read(&policy.replace("none: {}", "apiKeys: {secretRef: {name: keys}}")));
        assert_eq!((after.apis.len(), after.policies.len()), (1, 1));
        assert!(told(&before, &after).contains("channel orders: `authentication` changes"));
    }
}
