use std::sync::Arc;

use serde_json::{Value, json};
use sluice_config::config::Config;

use super::*;
use crate::observe::{Place, RefusedApi, Served, ServerView};
use crate::{Objects, render};

/// The entry of an API with one channel, and what its pods would say of it.
fn entry() -> Entry {
    let api = json!({
        "apiVersion": "sluice.dev/v1alpha1", "kind": "StreamAPI",
        "metadata": {"name": "shop", "namespace": "a", "generation": 3},
        "spec": {
            "servers": [{"name": "events", "kafka": {"brokers": ["kafka:9092"]}}],
            "channels": [{
                "name": "orders", "server": "events", "address": "orders.v1",
                "subscribe": {"transports": {"sse": {}}},
            }],
        },
    });
    let mut objects = Objects::default();
    objects.apis.push(serde_json::from_value(api).expect("an API"));
    let entry = render(&objects, &Config::default()).config.apis.remove("a/shop");
    Arc::unwrap_or_clone(entry.expect("an entry"))
}

fn serving(entry: &Entry) -> Report {
    let served =
        json!({"namespace": "a", "name": "shop", "revision": entry.revision, "material": entry.material});
    let served: Served = serde_json::from_value(served).expect("a report");
    Report { apis: [("a/shop".to_owned(), served)].into(), refused: Vec::new(), servers: vec![server(true)] }
}

fn server(up: bool) -> ServerView {
    let reason = (!up).then(|| "no broker answers".to_owned());
    ServerView { namespace: "a".into(), api: "shop".into(), server: "events".into(), up, reason }
}

fn pod(name: &str, ready: bool, report: Result<Report, String>) -> PodView {
    PodView {
        name: name.into(),
        ready,
        placement: Place::Deployment,
        was_asked: true,
        report: report.map(Arc::new),
    }
}

const OWNER: Owner<'static> = Owner::api("a", "shop", None);

/// What was found out about an API without any trouble.
fn findings<'a>(entry: Option<&'a Entry>, pods: &'a [PodView]) -> ApiFindings<'a> {
    ApiFindings {
        key: "a/shop",
        problems: &[],
        entry,
        owner: OWNER,
        failed: None,
        gateway_fault: None,
        pods,
        paused: false,
        sidecars: None,
        unexposed: None,
    }
}

/// Status and reason of each condition.
fn verdicts(
    problems: &[Problem],
    entry: Option<&Entry>,
    failed: Option<&ApplyError>,
    pods: &[PodView],
) -> BTreeMap<&'static str, (ConditionStatus, &'static str)> {
    let findings = ApiFindings { problems, failed, ..findings(entry, pods) };
    let verdicts = api_verdicts(&findings);
    assert!(verdicts.iter().all(|verdict| !verdict.message.is_empty()));
    verdicts.into_iter().map(|verdict| (verdict.kind, (verdict.status, verdict.reason))).collect()
}

use ConditionStatus::{False, True, Unknown};

#[test]
fn an_api_that_every_ready_pod_serves_is_programmed() {
    let entry = entry();
    let pods = [pod("p-1", true, Ok(serving(&entry))), pod("p-2", false, Err("starting".into()))];
    let found = verdicts(&[], Some(&entry), None, &pods);
    assert_eq!(found["Accepted"], (True, "Accepted"));
    assert_eq!(found["ResolvedRefs"], (True, "ResolvedRefs"));
    assert_eq!(found["Programmed"], (True, "Programmed"));
    assert_eq!(found["Available"], (True, "Available"));
    assert_eq!(found["Secured"], (False, "Open"));
}

#[test]
fn one_pod_behind_or_silent_or_refusing_is_enough() {
    let entry = entry();
    let good = || pod("p-1", true, Ok(serving(&entry)));
    let programmed = |other: Result<Report, String>| {
        verdicts(&[], Some(&entry), None, &[good(), pod("p-2", true, other)])["Programmed"]
    };
    let mut other = entry.clone();
    other.revision = "old".into();
    assert_eq!(programmed(Ok(serving(&other))), (False, "Pending"));
    let mut other = entry.clone();
    other.material.insert("login/password".into(), "old".into());
    assert_eq!(programmed(Ok(serving(&other))), (False, "Pending"));
    assert_eq!(programmed(Err("refused".into())), (Unknown, "Unreachable"));
    let problems = vec![Problem::new("material", "has not arrived")];
    let refused = RefusedApi { api: "a/shop".into(), revision: entry.revision.clone(), problems };
    assert_eq!(programmed(Ok(Report { refused: vec![refused], ..Report::default() })), (False, "Refused"));
}

#[test]
fn without_ready_pods_nothing_is_programmed_or_available() {
    let entry = entry();
    for pods in [vec![], vec![pod("p-1", false, Ok(serving(&entry)))]] {
        let found = verdicts(&[], Some(&entry), None, &pods);
        assert_eq!(found["Programmed"], (False, "NoPods"));
        assert_eq!(found["Available"], (False, "NoPods"));
    }
}

#[test]
fn a_mistake_is_no_missing_reference_and_the_other_way_round() {
    let entry = entry();
    let pods = [pod("p-1", true, Ok(serving(&entry)))];
    let mistake = [Problem::new("spec.channels[0].server", "is wrong")];
    let found = verdicts(&mistake, Some(&entry), None, &pods);
    assert_eq!(found["Accepted"], (False, "Invalid"));
    assert_eq!(found["ResolvedRefs"], (True, "ResolvedRefs"));
    assert_eq!(found["Programmed"], (False, "NotAccepted"));
    let missing = [Problem::new("spec.servers[0].kafka.sasl.secretRef.name", "is missing")];
    let found = verdicts(&missing, None, None, &[]);
    assert_eq!(found["Accepted"], (True, "Accepted"));
    assert_eq!(found["ResolvedRefs"], (False, "RefNotFound"));
    assert_eq!(found["Programmed"], (False, "NotAccepted"));
}

#[test]
fn a_closed_channel_is_told_with_the_policy_to_look_at() {
    let mut entry = entry();
    let policy = entry.policies.get_mut("orders").expect("a channel");
    policy.closed = Some("StreamPolicy `keys` is not in force".into());
    let entry = Some(&entry);
    let findings = findings(entry, &[]);
    let resolved = api_verdicts(&findings).remove(1);
    assert_eq!((resolved.status, resolved.reason), (False, "PolicyNotInForce"));
    assert!(resolved.message.contains("orders: StreamPolicy `keys`"), "{}", resolved.message);
}

#[test]
fn a_taken_name_is_not_accepted_and_a_refused_child_is_not_programmed() {
    let entry = entry();
    let taken = ApplyError::NameTaken { kind: "Service", name: "shop-sluice".into() };
    let found = verdicts(&[], Some(&entry), Some(&taken), &[]);
    assert_eq!(found["Accepted"], (False, "NameTaken"));
    assert_eq!(found["Programmed"], (False, "NotAccepted"));
    let refused =
        ApplyError::Refused { kind: "Deployment", name: "shop-sluice".into(), reason: "quota".into() };
    let found = verdicts(&[], Some(&entry), Some(&refused), &[]);
    assert_eq!(found["Accepted"], (True, "Accepted"));
    assert_eq!(found["Programmed"], (False, "ApplyFailed"));
}

#[test]
fn a_server_is_connected_if_one_pod_is() {
    let entry = entry();
    let with = |up: bool| Ok(Report { servers: vec![server(up)], ..serving(&entry) });
    let available = |pods: &[PodView]| verdicts(&[], Some(&entry), None, pods)["Available"];
    assert_eq!(
        available(&[pod("p-1", true, with(false)), pod("p-2", true, with(true))]),
        (True, "Available")
    );
    assert_eq!(available(&[pod("p-1", true, with(false))]), (False, "ServerDown"));
    assert_eq!(available(&[pod("p-1", true, Err("away".into()))]), (Unknown, "Unreachable"));
}

#[test]
fn a_time_moves_only_with_its_status() {
    let verdict = |status, message: &str| Verdict::new("Programmed", status, "Reason", message);
    let mut before = conditions(&[verdict(True, "a")], &[], 1);
    before[0].last_transition_time = "2020-01-01T00:00:00Z".into();
    let same = conditions(&[verdict(True, "b")], &before, 2);
    assert_eq!(same[0].last_transition_time, "2020-01-01T00:00:00Z");
    assert_eq!((same[0].observed_generation, same[0].message.as_str()), (2, "b"));
    let turned = conditions(&[verdict(False, "b")], &before, 2);
    assert_ne!(turned[0].last_transition_time, "2020-01-01T00:00:00Z");
}

#[test]
fn a_status_is_written_only_if_it_says_something_else() {
    let status = json!({"conditions": [1], "urls": [], "revision": null});
    assert!(!differs(&status, &json!({"conditions": [1]})));
    assert!(differs(&status, &json!({"conditions": [1], "revision": "r"})));
    assert!(differs(&status, &json!({"conditions": [2]})));
    assert!(differs(&status, &Value::Null));
}

#[test]
fn what_a_policy_loses_to_another_is_told() {
    let note = Note {
        namespace: "a".into(),
        policy: "young".into(),
        part: "cors",
        channel: "shop/orders".into(),
        winner: "old".into(),
    };
    let verdicts = policy_verdicts(&[], &[&note]);
    assert_eq!((verdicts[0].status, verdicts[0].reason), (True, "PartlyOverridden"));
    assert!(verdicts[0].message.contains("`cors` on shop/orders comes from StreamPolicy `old`"));
    let missing = [Problem::new("spec.targetRefs[0].name", "there is no StreamAPI")];
    let verdicts = policy_verdicts(&missing, &[]);
    assert_eq!((verdicts[0].status, verdicts[1].status), (True, False));
}

#[test]
fn a_long_message_is_cut_between_characters() {
    let verdict = Verdict::new("Accepted", False, "Invalid", "ä".repeat(MESSAGE_BYTES));
    assert!(verdict.message.len() <= MESSAGE_BYTES + 3 && verdict.message.ends_with('…'));
}

#[test]
fn urls_are_those_of_the_service() {
    let entry = entry();
    let url = service_url(&OWNER, entry.api.spec.placement.deployment().expect("its own"));
    let status = api_status(Vec::new(), Some(&entry), url.as_slice());
    assert_eq!(status["urls"], json!(["http://shop-sluice.a.svc/shop/orders"]));
    assert_eq!(status["revision"], json!(entry.revision));
    let bases = [url.expect("a URL"), "//a.example.com".into()];
    let status = api_status(Vec::new(), Some(&entry), &bases);
    assert_eq!(
        status["urls"],
        json!(["http://shop-sluice.a.svc/shop/orders", "//a.example.com/shop/orders"])
    );
    assert_eq!(api_status(Vec::new(), None, &bases)["urls"], json!([]));
}

#[test]
fn what_nobody_outside_reaches_is_not_programmed() {
    let entry = entry();
    let pods = [pod("p-1", true, Ok(serving(&entry)))];
    let unexposed = Some("no Ingress is made");
    let told = api_verdicts(&ApiFindings { unexposed, ..findings(Some(&entry), &pods) });
    let reasons: Vec<_> = told.iter().map(|verdict| (verdict.kind, verdict.reason)).collect();
    assert!(reasons.contains(&("Programmed", "NotExposed")), "{reasons:?}");
    assert!(reasons.contains(&("Available", "Available")), "inside the cluster all is well: {reasons:?}");
    let owner = Owner::gateway("infra", "edge", None);
    let config = Config::default();
    let findings = GatewayFindings {
        owner,
        problems: &[],
        config: &config,
        failed: None,
        pods: &pods,
        paused: false,
        unexposed,
    };
    let told = gateway_verdicts(&findings).remove(2);
    assert_eq!((told.status, told.reason), (False, "NotExposed"));
}

#[test]
fn pods_without_their_sidecar_are_named_with_what_helps() {
    let mut entry = entry();
    Arc::make_mut(&mut entry.api.spec).placement =
        serde_json::from_value(json!({"sidecar": {}})).expect("a placement");
    let pods = [pod("till-1", true, Ok(serving(&entry)))];
    let told = |sidecars: &Sidecars, pods: &[PodView]| {
        let (entry, sidecars) = (Some(&entry), Some(sidecars));
        let findings = ApiFindings { sidecars, ..findings(entry, pods) };
        let programmed = api_verdicts(&findings).remove(2);
        (programmed.status, programmed.reason, programmed.message)
    };
    let good = told(&Sidecars::default(), &pods);
    assert_eq!((good.0, good.1), (True, "Programmed"));
    let outdated = told(&Sidecars { outdated: vec!["till-1".into()], ..Sidecars::default() }, &pods);
    assert_eq!(outdated.0, True, "it serves this revision");
    assert!(outdated.2.contains("till-1"), "{}", outdated.2);
    let names = (1..=7).map(|n| format!("till-{n}")).collect();
    let missing = told(&Sidecars { missing: names, ..Sidecars::default() }, &pods);
    assert_eq!((missing.0, missing.1), (False, "NotInjected"));
    assert!(missing.2.contains("till-5 and 2 more"), "{}", missing.2);
    assert!(missing.2.contains("kubectl rollout restart"), "{}", missing.2);
    let off = told(&Sidecars { is_off: true, ..Sidecars::default() }, &pods);
    assert_eq!((off.0, off.1), (False, "InjectionOff"));
    let none = told(&Sidecars::default(), &[]);
    assert_eq!((none.0, none.1), (False, "NoPods"));
    assert!(
        none.2.contains("sluice.dev/sidecar: shop") && none.2.contains("sluice.dev/injection"),
        "{}",
        none.2
    );
}
