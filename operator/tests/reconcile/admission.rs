//! What an API server that asks the operator about every apply says: with the configuration that the
//! chart makes, but for the address, as there is no network of pods here.

use std::sync::OnceLock;

use kube::api::{Patch, PatchParams, ValidationDirective};
use serde_json::{Value, json};
use sluice_operator::children::ChildKind;
use sluice_operator::world::api_resource;
use sluice_tests::documents::Channel;
use sluice_tests::{ControlPlane, documents, eventually, process};

use crate::bed::{ACCOUNT, Bed, kind_of, policy, secret, shop};
use crate::operator::{Operator, Setup};
use crate::wrong::{self, Fate, set};

/// Name of the Secret with the certificate.
const SECRET: &str = "sluice-operator-webhook";

/// A namespace whose applies an operator is asked about.
pub struct Desk {
    /// The namespace.
    pub bed: Bed,
    port: u16,
    configuration: String,
}

impl Desk {
    /// On a control plane of these tests' own, for the configuration belongs to no namespace.
    pub async fn new(prefix: &str) -> Self {
        static PLANE: OnceLock<ControlPlane> = OnceLock::new();
        let plane = PLANE.get_or_init(ControlPlane::start);
        let desk = Self::of(
            Bed::on(plane, prefix, &["--set", "scope=Namespace,dataplane.networkPolicies=true"]).await,
        );
        // Roles of cluster scope would be shared with the other tests.
        let namespace = &desk.bed.namespace;
        let group = "rbac.authorization.k8s.io";
        let more = json!({"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": format!("{group}/v1"), "kind": "ClusterRole", "metadata": {"name": namespace}, "rules": [{
                "apiGroups": ["admissionregistration.k8s.io"],
                "resources": ["validatingwebhookconfigurations", "mutatingwebhookconfigurations"],
                "resourceNames": [desk.configuration], "verbs": ["get", "patch"],
            }]},
            {"apiVersion": format!("{group}/v1"), "kind": "Role",
             "metadata": {"name": "sidecars", "namespace": namespace}, "rules": [
                {"apiGroups": [""], "resources": ["pods"], "verbs": ["patch"]},
                {"apiGroups": [""], "resources": ["pods/eviction"], "verbs": ["create"]},
                {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [SECRET], "verbs": ["get"]},
            ]},
            {"apiVersion": format!("{group}/v1"), "kind": "RoleBinding",
             "metadata": {"name": "sidecars", "namespace": namespace},
             "roleRef": {"apiGroup": group, "kind": "Role", "name": "sidecars"},
             "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": namespace}]},
            {"apiVersion": format!("{group}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": namespace},
             "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": namespace},
             "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": namespace}]},
        ]});
        plane.run("kubectl", &["create", "-f", "-"], &more.to_string());
        desk
    }

    /// In a namespace that is there.
    pub fn of(bed: Bed) -> Self {
        let (plane, port) = (bed.plane, process::port());
        let made = bed.chart(&["webhook"], &[]);
        let made = plane.run("kubectl", &["create", "--dry-run=client", "-o", "json", "-f", "-"], &made);
        let mut configuration = None;
        for document in serde_json::Deserializer::from_str(&made).into_iter::<Value>() {
            let mut document = document.expect("JSON");
            if document["kind"] == "Service" {
                continue;
            }
            if document["kind"].as_str().is_some_and(|kind| kind.ends_with("WebhookConfiguration")) {
                configuration = document["metadata"]["name"].as_str().map(str::to_owned);
                let webhook = &mut document["webhooks"][0];
                assert_eq!(webhook["failurePolicy"], "Ignore");
                let path = webhook["clientConfig"]["service"]["path"].as_str().expect("a path").to_owned();
                webhook["clientConfig"] = json!({"url": format!("https://127.0.0.1:{port}{path}")});
                // The operator's own namespace, which these tests use, is left out in a cluster.
                let selector = &mut webhook["namespaceSelector"];
                selector["matchExpressions"] = json!([]);
                selector["matchLabels"]["kubernetes.io/metadata.name"] = json!(bed.namespace);
            }
            plane.run("kubectl", &["create", "-f", "-"], &document.to_string());
        }
        Self { bed, port, configuration: configuration.expect("the chart makes one") }
    }

    /// How the operator `pod` is started, to answer at `port`.
    fn setup(&self, pod: &str, port: u16) -> Setup {
        let mut setup = Setup { pod: pod.into(), ..Operator::namespaced(&self.bed) };
        setup.arguments.extend(self.arguments(port));
        setup
    }

    /// What tells an operator to answer at `port`.
    fn arguments(&self, port: u16) -> Vec<String> {
        let address = format!("127.0.0.1:{port}");
        let mut arguments = vec!["--webhook", &address, "--webhook-configuration", &self.configuration];
        arguments.extend(["--webhook-secret", SECRET, "--webhook-names", "127.0.0.1", "--webhook-sidecars"]);
        arguments.into_iter().map(str::to_owned).collect()
    }

    /// What tells an operator to answer here.
    pub fn own_arguments(&self) -> Vec<String> {
        self.arguments(self.port)
    }

    /// Starts the operator and waits until the API server asks it.
    pub async fn operator(&self) -> Operator {
        let operator = Operator::launch(&self.bed, self.setup("operator-0", self.port)).await;
        self.is_asked().await;
        operator
    }

    /// Waits until a mistake that only the operator sees is refused.
    async fn is_asked(&self) {
        eventually("the API server asks the operator", || async {
            self.tried(&mistaken("probe"))
                .await
                .err()
                .filter(|message| message.contains("validate.sluice.dev"))
        })
        .await;
    }

    /// What becomes of an apply that changes nothing.
    async fn tried(&self, document: &Value) -> Result<(), String> {
        let name = document["metadata"]["name"].as_str().unwrap_or_default();
        let parameters = PatchParams {
            field_validation: Some(ValidationDirective::Strict),
            dry_run: true,
            ..PatchParams::apply("kubectl").force()
        };
        let objects = self.bed.objects(&kind_of(document));
        match objects.patch(name, &parameters, &Patch::Apply(document)).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) => Err(status.message.clone()),
            Err(error) => panic!("{error}: {document}"),
        }
    }

    /// Starts another replica, which does not lead, and has the API server ask that one.
    pub async fn standby(&self) -> Operator {
        let standby = Operator::launch(&self.bed, self.setup("operator-1", process::port())).await;
        assert!(!standby.is_leading().await);
        let address = standby.argument("--webhook");
        let patch = json!([{"op": "replace", "path": "/webhooks/0/clientConfig/url", "value": format!("https://{address}/validate")}]);
        let arguments = ["patch", "validatingwebhookconfiguration", &self.configuration, "--type=json", "-p"];
        self.bed.plane.run("kubectl", &[&arguments[..], &[&patch.to_string()]].concat(), "");
        eventually("the other one is asked", || async {
            let _ = self.tried(&mistaken("probe")).await;
            standby.metric("admissions_total", &[("outcome", "denied")]).await.filter(|count| *count > 0.0)
        })
        .await;
        assert!(!standby.is_leading().await);
        standby
    }

    /// What `kubectl apply` says to a person, on both channels.
    pub fn said(&self, document: &Value) -> String {
        let arguments = ["apply", "--server-side", "--dry-run=server", "-n", &self.bed.namespace, "-f", "-"];
        let done = self.bed.plane.tool("kubectl", &arguments, &document.to_string());
        format!("{}{}", String::from_utf8_lossy(&done.stderr), String::from_utf8_lossy(&done.stdout))
    }
}

/// Its schema is kept; that a Kafka topic has no spaces is beyond it.
fn mistaken(name: &str) -> Value {
    let topic = Channel::new("orders", "no topic").set("/server", json!("log")).subscribe();
    documents::Api::new(name).server("log", json!({"kafka": {"brokers": ["kafka:9092"]}})).channel(topic).0
}

#[tokio::test]
async fn what_conditions_would_tell_is_refused_at_apply_and_what_is_right_passes() {
    let desk = Desk::new("admission").await;
    let operator = desk.operator().await;
    desk.bed.apply(&shop()).await;
    desk.bed.apply(&secret("bad", &[("alice", "hunter2")])).await;
    let mut all: Vec<(String, Value, Fate)> = Vec::new();
    for (n, (name, changes, fate)) in wrong::all().concat().into_iter().enumerate() {
        let mut document = wrong::base();
        document["metadata"]["name"] = json!(format!("case{n}"));
        for (pointer, value) in changes {
            set(&mut document, pointer, value);
        }
        all.push((name.to_owned(), document, fate));
    }
    all.extend(wrong::policies().into_iter().map(|(name, document, fate)| (name.to_owned(), document, fate)));
    let (mut refused, mut taken, mut failed) = (0, 0, Vec::new());
    for (name, document, fate) in &all {
        let (parts, ours): (&[&str], bool) = match fate {
            Fate::Refused(parts) => (parts, false),
            Fate::Told("Accepted", parts) => (parts, true),
            Fate::Told(_, parts) if parts.iter().any(|part| part.ends_with(".sectionName")) => (parts, true),
            // What is missing may come later, and is told again in conditions.
            Fate::Told(..) | Fate::Verbatim => (&[], false),
        };
        match (desk.tried(document).await, parts.is_empty()) {
            (Err(message), false) => {
                refused += 1;
                // Nothing is closed by what is refused.
                let lacks = parts.iter().filter(|part| **part != "closed" && !message.contains(**part));
                let lacks: Vec<_> = lacks.collect();
                let asked = message.contains("validate.sluice.dev");
                if !lacks.is_empty() || (ours && !asked) || message.contains("hunter2") {
                    failed.push(format!("{name}: lacks {lacks:?}: {message}"));
                }
            }
            (Ok(()), true) => taken += 1,
            (result, _) => failed.push(format!("{name}: {result:?}")),
        }
    }
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), all.len(), failed.join("\n"));
    assert!(refused >= 100 && taken >= 30, "{refused} wrong ones, {taken} right ones");
    let denied = operator.metric("admissions_total", &[("outcome", "denied")]).await.expect("it answers");
    assert!(denied >= 25.0, "{denied} of {refused} were the operator's");
}

#[tokio::test]
async fn consequences_are_told_before_a_change_is_made() {
    let desk = Desk::new("impact").await;
    let _operator = desk.operator().await;
    let two = documents::Api::new("shop")
        .memory()
        .channel(Channel::both_ways("orders", "orders"))
        .channel(Channel::both_ways("notes", "notes"))
        .0;
    desk.bed.apply(&two).await;
    desk.bed.apply(&policy("limits", &["shop/notes"], json!({"limits": {"connections": 5}}))).await;
    eventually("the operator knows both", || async {
        let said = desk.said(&shop());
        let told = [
            "Warning: StreamPolicy limits: spec.targetRefs[0].sectionName",
            "Warning: channel notes: is removed",
            "streamapi.sluice.dev/shop serverside-applied (server dry run)",
        ];
        told.iter().all(|part| said.contains(part)).then_some(())
    })
    .await;
    let said = desk.said(&two);
    assert!(!said.contains("Warning"), "{said}");
    let mut rolled = two.clone();
    rolled["spec"]["placement"] = json!({"deployment": {"podTemplate": {"labels": {"team": "a"}}}});
    // Two tries of one generation are two.
    let said = desk.said(&shop());
    assert!(said.contains("Warning: channel notes: is removed"), "{said}");
    let said = desk.said(&rolled);
    assert!(said.contains("Warning: pods are replaced one by one"), "{said}");
    let said = desk.said(&policy("limits", &["shop/ordres"], json!({"limits": {"connections": 5}})));
    assert!(said.contains("has no channel `ordres`; its channels are: notes, orders"), "{said}");
    let said = desk.said(&policy("later", &["shp"], json!({"limits": {"connections": 5}})));
    assert!(said.contains("Warning: spec.targetRefs[0].name: there is no StreamAPI `shp`"), "{said}");
    assert!(said.contains("serverside-applied"), "{said}");
}

#[tokio::test]
async fn what_is_applied_together_is_not_called_missing() {
    let desk = Desk::new("together").await;
    let _operator = desk.operator().await;
    for n in 0..10 {
        let name = format!("shop{n}");
        let mut api = shop();
        api["metadata"]["name"] = json!(name);
        let keys = json!({"authentication": {"apiKeys": {"secretRef": {"name": format!("keys{n}")}}}});
        let policy = policy(&format!("keys{n}"), &[&name], keys);
        let together = json!({"apiVersion": "v1", "kind": "List", "items": [secret(&format!("keys{n}"), &[]), api, policy]});
        let arguments = ["apply", "-n", &desk.bed.namespace, "-f", "-"];
        let done = desk.bed.plane.tool("kubectl", &arguments, &together.to_string());
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success() && said.is_empty(), "{said}");
    }
}

#[tokio::test]
async fn the_command_line_tells_consequences_from_a_clusters_state() {
    let bed = Bed::new("diff").await;
    let two = documents::Api::new("shop")
        .memory()
        .channel(Channel::both_ways("orders", "orders"))
        .channel(Channel::both_ways("notes", "notes"))
        .0;
    bed.apply(&two).await;
    bed.apply(&policy("limits", &["shop/orders"], json!({"limits": {"connections": 5}}))).await;
    let file = process::directory("diff").join("shop.json");
    let diff = |document: &Value| {
        std::fs::write(&file, document.to_string()).expect("written");
        let mut command = std::process::Command::new(sluice_tests::parts::sluice());
        command.args(["diff", "--exit-code", "--namespace", &bed.namespace, "-f"]).arg(&file);
        let done = command.env("KUBECONFIG", bed.plane.kubeconfig()).output().expect("it runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (done.status.code(), format!("{}{}", text(&done.stdout), text(&done.stderr)))
    };
    assert_eq!(diff(&two), (Some(0), "nobody would notice\n".into()));
    let expected = format!(
        "{}/shop\n  channel notes: is removed; its clients are sent away and get 404\n",
        bed.namespace
    );
    assert_eq!(diff(&shop()), (Some(1), expected));
    let keys = json!({"authentication": {"apiKeys": {"secretRef": {"name": "keys"}}}});
    let (code, said) = diff(&policy("limits", &["shop/orders"], keys));
    assert!(code == Some(1) && said.contains("channel orders: `authentication` changes"), "{said}");
    assert!(said.contains("channel orders: `limits` change") && !said.contains("notes"), "{said}");
    let (code, said) = diff(&mistaken("shop"));
    assert!(code == Some(1) && said.contains("spec.channels[0].address"), "{said}");
}

#[tokio::test]
async fn without_an_operator_applies_pass_and_mistakes_are_told_when_it_is_back() {
    let desk = Desk::new("away").await;
    let mut operator = desk.operator().await;
    operator.stop().await;
    desk.bed.apply(&mistaken("shop")).await;
    operator.restart();
    let message = desk.bed.told("shop", "Accepted", "False", "Invalid").await;
    assert!(message.contains("spec.channels[0].address"), "{message}");
    desk.is_asked().await;
    // What is there already can still be deleted, and be corrected.
    desk.bed.delete(&api_resource(), "shop").await;
}

#[tokio::test]
async fn the_certificate_is_renewed_before_its_end_and_made_again_if_it_is_lost() {
    let desk = Desk::new("certificate").await;
    let _operator = desk.operator().await;
    let secrets = ChildKind::Secret.resource();
    let certificate = async || desk.bed.find(&secrets, SECRET).await.map(|it| it["data"]["tls.crt"].clone());
    let first = certificate().await.expect("it was made");
    let soon = json!({"metadata": {"annotations": {"sluice.dev/not-after": "2020-01-01T00:00:00Z"}}});
    desk.bed.patch(&secrets, SECRET, &soon).await;
    let changed = async |old: &Value| {
        eventually("there is another certificate", || async { certificate().await.filter(|now| now != old) })
            .await
    };
    let second = changed(&first).await;
    desk.is_asked().await;
    desk.bed.delete(&secrets, SECRET).await;
    changed(&second).await;
    desk.is_asked().await;
}

#[tokio::test]
async fn a_secret_that_somebody_else_made_is_not_taken_over() {
    let desk = Desk::new("taken").await;
    let mut theirs = secret(SECRET, &[("tls.crt", "theirs")]);
    theirs["metadata"]["labels"] = json!({});
    desk.bed.apply(&theirs).await;
    let mut operator = Operator::launch(&desk.bed, desk.setup("operator-0", desk.port)).await;
    operator.expect_log(&["was not made by the operator", "a part is missing"]);
    eventually("it says so", || async {
        operator.log().contains("was not made by the operator").then_some(())
    })
    .await;
    let secrets = ChildKind::Secret.resource();
    assert_eq!(desk.bed.get(&secrets, SECRET).await["data"], json!({"tls.crt": "dGhlaXJz"}));
    desk.bed.delete(&secrets, SECRET).await;
    desk.is_asked().await;
}

#[tokio::test]
async fn a_replica_that_does_not_lead_answers_too() {
    let desk = Desk::new("standby").await;
    let mut leader = desk.operator().await;
    let standby = desk.standby().await;
    leader.stop().await;
    standby.leads().await;
    desk.is_asked().await;
}
