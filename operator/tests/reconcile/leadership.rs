//! Two replicas: one leads, and never do two write, whatever happens to the one that did.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sluice_operator::children::ChildKind;
use sluice_operator::world::api_resource;
use sluice_tests::cluster::Request;
use sluice_tests::{eventually, within};

use crate::bed::{ACCOUNT, Bed, CHILDREN, shop};
use crate::operator::Operator;

/// A second replica whose account has the same rights, so that the audit log tells the two apart.
async fn replicas(bed: &Bed) -> [Operator; 2] {
    let second = format!("{ACCOUNT}-2");
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": second}});
    bed.apply(&account).await;
    for binding in [ACCOUNT.to_owned(), format!("{ACCOUNT}-lease")] {
        let kind = ChildKind::RoleBinding.resource();
        let subject =
            |name: &str| json!({"kind": "ServiceAccount", "name": name, "namespace": bed.namespace});
        bed.patch(&kind, &binding, &json!({"subjects": [subject(ACCOUNT), subject(&second)]})).await;
    }
    let first = Operator::launch(bed, Operator::namespaced(bed)).await;
    first.leads().await;
    let mut setup = Operator::namespaced(bed);
    (setup.account, setup.pod) = (second, "operator-1".into());
    let other = Operator::launch(bed, setup).await;
    eventually("the other one stands by", || async { other.metric("leader", &[]).await }).await;
    assert!(!other.is_leading().await, "one leads");
    [first, other]
}

/// Waits until the edit is written by whoever leads.
async fn edit(bed: &Bed, round: usize) {
    bed.patch(&api_resource(), "shop", &json!({"spec": {"description": format!("round {round}")}})).await;
    eventually("the edit is written", || async {
        let map: Value = bed.child(ChildKind::ConfigMap, "shop").await?;
        map["data"]["config-v1.json"].as_str()?.contains(&format!("round {round}")).then_some(())
    })
    .await;
    let kinds = CHILDREN.into_iter().filter(|kind| *kind != ChildKind::PodDisruptionBudget);
    bed.whole("shop", &kinds.collect::<Vec<_>>()).await;
}

/// Who wrote since `mark`, in order, each once per turn.
fn turns(writes: &[Request]) -> Vec<&str> {
    let mut writes: Vec<_> = writes.iter().collect();
    writes.sort_by(|one, other| one.received.cmp(&other.received));
    let mut turns: Vec<&str> = writes.iter().map(|write| write.user.as_str()).collect();
    turns.dedup();
    turns
}

#[tokio::test]
async fn of_two_replicas_one_writes_through_kill_pause_and_stop() {
    let bed = Bed::new("leaders").await;
    let mark = bed.plane.mark();
    let [mut first, mut second] = replicas(&bed).await;
    first.expect_log(&["Lease", "leads", "the operator ends", "a watch was interrupted"]);
    second.expect_log(&["Lease", "leads", "the operator ends", "a watch was interrupted"]);
    bed.apply(&shop()).await;
    edit(&bed, 0).await;

    first.signal(libc::SIGKILL);
    let begun = Instant::now();
    within(Duration::from_secs(15), "the other one leads after a kill", || async {
        second.is_leading().await.then_some(())
    })
    .await;
    println!("taken over after SIGKILL in {:?}", begun.elapsed());
    edit(&bed, 1).await;
    first.ended(Duration::from_secs(2)).await;
    first.restart();
    eventually("it stands by", || async { first.metric("leader", &[]).await }).await;

    second.signal(libc::SIGSTOP);
    let begun = Instant::now();
    within(Duration::from_secs(15), "the first one leads", || async {
        first.is_leading().await.then_some(())
    })
    .await;
    println!("taken over from a paused one in {:?}", begun.elapsed());
    edit(&bed, 2).await;
    // What it would write when it wakes up, having seen nothing of the last edits.
    bed.patch(
        &ChildKind::Service.resource(),
        "shop-sluice",
        &json!({"metadata": {"labels": {"sluice.dev/api": "x"}}}),
    )
    .await;
    second.signal(libc::SIGCONT);
    second.ended(Duration::from_secs(10)).await;
    second.restart();
    eventually("it stands by", || async { second.metric("leader", &[]).await }).await;
    edit(&bed, 3).await;

    first.signal(libc::SIGTERM);
    let begun = Instant::now();
    within(Duration::from_secs(5), "the other one leads after a stop", || async {
        second.is_leading().await.then_some(())
    })
    .await;
    println!("taken over after SIGTERM in {:?}", begun.elapsed());
    assert!(first.ended(Duration::from_secs(2)).await.success());
    edit(&bed, 4).await;
    let account = |name: &str| format!("system:serviceaccount:{}:{name}", bed.namespace);
    let (one, two) = (account(ACCOUNT), account(&format!("{ACCOUNT}-2")));
    let writes = bed.writes(mark);
    assert_eq!(turns(&writes), [&one, &two, &one, &two], "{writes:#?}");
}
