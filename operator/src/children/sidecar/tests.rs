use super::*;

fn settings(image: &str) -> Settings {
    Settings {
        image: image.into(),
        pull_policy: "IfNotPresent".into(),
        injection: true,
        ..Settings::default()
    }
}

fn guest(api: &str) -> Guest {
    Guest { api: api.into(), sidecar: Sidecar::default() }
}

fn pod() -> Value {
    json!({
        "metadata": {"generateName": "till-", "labels": {"app": "till"}},
        "spec": {
            "initContainers": [{"name": "migrate", "image": "x"}],
            "containers": [
                {"name": "till", "image": "x", "env": [{"name": "A", "value": "1"}]},
                {"name": "other", "image": "y", "env": [{"name": URL_VARIABLE, "value": "mine"}]},
            ],
            "volumes": [{"name": "cache", "emptyDir": {}}],
        },
    })
}

#[test]
fn a_pod_gets_a_native_sidecar_and_keeps_what_it_has() {
    let injected = inject(&pod(), &[guest("shop")], &settings("sluice:1"));
    let names = |kind: &str| -> Vec<String> {
        let all = injected["spec"][kind].as_array().expect("a list");
        all.iter().map(|one| one["name"].as_str().expect("a name").to_owned()).collect()
    };
    assert_eq!(names("initContainers"), ["sluice", "migrate"]);
    assert_eq!(names("containers"), ["till", "other"]);
    assert_eq!(names("volumes"), ["cache", "sluice-no-token", "sluice-config-shop", "sluice-material-shop"]);
    let sidecar = &injected["spec"]["initContainers"][0];
    assert_eq!(sidecar["restartPolicy"], "Always");
    let arguments: Vec<_> =
        sidecar["args"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    assert!(arguments.contains(&"--listen=127.0.0.1:15080"), "{arguments:?}");
    assert!(arguments.contains(&"--config=/etc/sluice/config/shop"), "{arguments:?}");
    let env = |container: usize| injected["spec"]["containers"][container]["env"].clone();
    assert_eq!(env(0)[1], json!({"name": "SLUICE_URL", "value": "http://127.0.0.1:15080"}));
    assert_eq!(env(1), json!([{"name": "SLUICE_URL", "value": "mine"}]));
    assert_eq!(injected["metadata"]["labels"], json!({"app": "till", INJECTED: "true"}));
    assert_eq!(injected["metadata"]["annotations"][APIS], "shop");
}

#[test]
fn it_is_the_same_however_often_and_nobody_smuggles_one_in() {
    let guests = [guest("shop"), guest("stock")];
    let once = inject(&pod(), &guests, &settings("sluice:1"));
    assert_eq!(inject(&once, &guests, &settings("sluice:1")), once);
    let mut forged = pod();
    forged["spec"]["initContainers"][0] =
        json!({"name": "sluice", "image": "evil", "securityContext": {"privileged": true}});
    forged["metadata"]["annotations"] = json!({GIVEN: "0", APIS: "shop"});
    let mut clean = pod();
    clean["spec"]["initContainers"] = json!([]);
    clean["metadata"]["annotations"] = json!({});
    assert_eq!(
        inject(&forged, &guests, &settings("sluice:1")),
        inject(&clean, &guests, &settings("sluice:1"))
    );
    // Who is selected no longer is given nothing.
    let mut bare = inject(&once, &[], &settings("sluice:1"));
    for container in bare["spec"]["containers"].as_array_mut().expect("a list") {
        container["env"].as_array_mut().expect("a list").retain(|variable| variable["name"] != URL_VARIABLE);
    }
    assert_eq!(bare["spec"]["volumes"], pod()["spec"]["volumes"]);
}

#[test]
fn what_others_do_to_the_sidecar_between_two_passes_stays() {
    let guests = [guest("shop")];
    let mut between = inject(&pod(), &guests, &settings("sluice:1"));
    between["spec"]["initContainers"][0]["resources"]["limits"]["cpu"] = json!("1");
    between["spec"]["initContainers"][0]["image"] = json!("mirror.example.com/sluice:1");
    between["spec"]["containers"].as_array_mut().expect("a list").push(json!({"name": "mesh", "image": "z"}));
    let again = inject(&between, &guests, &settings("sluice:1"));
    assert_eq!(again["spec"]["initContainers"], between["spec"]["initContainers"]);
    assert_eq!(again["spec"]["containers"][2]["env"][0]["name"], URL_VARIABLE, "whoever came is told");
}

#[test]
fn a_digest_tells_what_a_pod_lacks() {
    let digest = |guests: &[Guest], image: &str| digest(guests, &settings(image)).expect("a digest");
    let one = digest(&[guest("shop")], "sluice:1");
    assert_eq!(
        inject(&pod(), &[guest("shop")], &settings("sluice:1"))["metadata"]["annotations"][GIVEN],
        one
    );
    assert_ne!(digest(&[guest("shop")], "sluice:2"), one);
    assert_ne!(digest(&[guest("shop"), guest("stock")], "sluice:1"), one);
    let mut wide = guest("shop");
    wide.sidecar.bind = Bind::Pod;
    assert_ne!(digest(&[wide], "sluice:1"), one);
    assert_eq!(super::digest(&[], &settings("sluice:1")), None);
}

#[test]
fn it_passes_the_restricted_level_and_reads_no_token() {
    let given = given(&[guest("shop")], &settings("sluice:1")).expect("there is a guest");
    let security = &given["container"]["securityContext"];
    assert_eq!(security["runAsNonRoot"], true);
    assert_eq!(security["allowPrivilegeEscalation"], false);
    assert_eq!(security["capabilities"]["drop"], json!(["ALL"]));
    assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
    let mounts = given["container"]["volumeMounts"].as_array().expect("a list");
    assert!(
        mounts.iter().any(|mount| mount["mountPath"] == TOKEN_PATH && mount["name"] == "sluice-no-token")
    );
}

#[test]
fn pods_that_cannot_have_one_are_told_why() {
    assert_eq!(obstacle(&pod()), None);
    let mut host = pod();
    host["spec"]["hostNetwork"] = json!(true);
    let mut namesake = pod();
    namesake["spec"]["containers"][0]["name"] = json!("sluice");
    assert!(obstacle(&namesake).is_some());
    assert!(obstacle(&host).expect("an obstacle").contains("hostNetwork"));
    let mut own = pod();
    own["metadata"]["labels"][MANAGED_BY.0] = json!(MANAGED_BY.1);
    assert!(obstacle(&own).is_some());
}
