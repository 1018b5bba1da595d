//! The engine on a paused clock: against a naive reference (`model`), and one thing at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sluice_config::Span;
use sluice_config::channel::Flush;
use tokio::io::AsyncWriteExt;

use crate::channel::State;
use crate::encode::Lane;
use crate::engine::bed::{Bed, Seen};
use crate::engine::tests::model::{Happened, Model, selector};
use crate::engine::tests::reference::Selection;
use crate::feed::Selector;
use crate::respond::Refusal;

mod model;
mod neighbours;
mod reference;

const LANES: [Lane; 4] = [Lane::WsRaw, Lane::WsJson, Lane::SseRaw, Lane::SseCloudEvents];

#[tokio::test(start_paused = true)]
async fn every_client_gets_every_message_in_order_or_is_told() {
    for seed in 0..10 {
        for slow_consumer in ["disconnect", "dropOldest"] {
            let happened = Model::new(seed, slow_consumer).run(0).await;
            let Happened { ahead, expired, fell_behind, slow, untold, selecting, reloads, .. } = happened;
            let fell = if slow_consumer == "dropOldest" { fell_behind.min(untold) } else { slow };
            assert!(
                ahead.min(expired).min(fell).min(selecting).min(reloads) > 0,
                "seed {seed}: {happened:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn so_it_is_among_hundreds_of_clients() {
    for slow_consumer in ["disconnect", "dropOldest"] {
        let happened = Model::new(10, slow_consumer).run(300).await;
        assert!(happened.most >= 200, "{happened:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_selection_is_worked_out_once_whoever_shares_it_and_the_rest_is_counted() {
    let mut bed = Bed::new(64, "disconnect");
    let asked = Arc::new(AtomicUsize::new(0));
    let halves = |rest| {
        let (asked, half) = (asked.clone(), selector(Selection { by: 2, rest }));
        Selector::new(&format!("half {rest}"), move |record| {
            asked.fetch_add(1, Ordering::Relaxed);
            half.selects(record)
        })
    };
    let mut peers = Vec::new();
    for (index, lane) in LANES.into_iter().cycle().take(12).enumerate() {
        let selector = (index < 8).then(|| halves(index as u64 % 2));
        peers.push(bed.join_selecting(lane, None, 1 << 20, selector).await);
    }
    // It selects nothing that comes, while the window passes by.
    let nothing = Some(selector(Selection { by: 1000, rest: 999 }));
    let mut patient = bed.join_selecting(Lane::WsJson, None, 1 << 20, nothing).await;
    bed.settle().await;
    for _ in 0..200 {
        bed.publish(10);
        bed.settle().await;
    }
    assert_eq!(asked.load(Ordering::Relaxed), 2 * 200, "twice a message, for eight clients");
    for (index, peer) in peers.iter_mut().enumerate() {
        peer.read_all(&bed).await;
        let all = (0..200).filter(|number| index >= 8 || number % 2 == index as u64 % 2);
        assert_eq!(peer.numbers(), all.collect::<Vec<_>>(), "client {index}");
    }
    patient.read_all(&bed).await;
    assert_eq!((patient.numbers(), patient.ended), (Vec::new(), false));
    assert_eq!(bed.books(), (13 * 200, 8 * 100 + 4 * 200, 8 * 100 + 200));
    let cursor = patient.last_cursor().expect("its greeting");
    assert_eq!(bed.positions(&cursor), [0; 3]);
    // One that comes back has passed what its selection leaves out of what it missed.
    let cursor = peers[9].events.iter().find_map(|seen| match seen {
        Seen::Message(149, cursor) => cursor.clone(),
        _ => None,
    });
    let mut back = bed.join_selecting(Lane::WsJson, cursor, 1 << 20, Some(halves(0))).await;
    back.read_all(&bed).await;
    assert_eq!(back.numbers(), (150..200).step_by(2).collect::<Vec<_>>());
    bed.publish(10);
    bed.settle().await;
    assert_eq!(bed.books(), (13 * 200 + 50 + 14, 8 * 100 + 4 * 200 + 25 + 9, 8 * 100 + 200 + 25 + 5));
    for _ in 0..300 {
        tokio::time::advance(Duration::from_millis(100)).await;
        bed.settle().await;
    }
    peers[2].read_all(&bed).await;
    let heads: i64 = bed.positions(&peers[2].last_cursor().expect("a heartbeat")).iter().sum();
    assert_eq!(heads, 201, "a cursor is past what its client does not get");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_reads_is_closed_as_slow_and_others_go_on() {
    let mut bed = Bed::new(64, "disconnect");
    let mut slow = bed.join(Lane::WsJson, None, 64).await;
    let mut quick = bed.join(Lane::WsJson, None, 1 << 20).await;
    for _ in 0..40 {
        for _ in 0..8 {
            bed.publish(100);
        }
        bed.settle().await;
    }
    quick.read_all(&bed).await;
    assert_eq!(quick.numbers(), (0..320).collect::<Vec<_>>());
    slow.read_all(&bed).await;
    slow.check_order(0);
    assert!(slow.events.contains(&Seen::Close(Refusal::Slow.close_code())), "{:?}", slow.events.last());
}

#[tokio::test(start_paused = true)]
async fn under_drop_oldest_a_gap_is_told_and_raw_clients_are_closed() {
    let mut bed = Bed::new(64, "dropOldest");
    let mut told = bed.join(Lane::WsJson, None, 64).await;
    let mut raw = bed.join(Lane::WsRaw, None, 64).await;
    for _ in 0..40 {
        for _ in 0..8 {
            bed.publish(100);
        }
        bed.settle().await;
    }
    told.read_all(&bed).await;
    told.check_order(0);
    assert!(told.events.iter().any(|seen| matches!(seen, Seen::Gap(reason, _) if reason == "slow")));
    assert_eq!(told.numbers().last(), Some(&319));
    raw.read_all(&bed).await;
    assert!(raw.events.contains(&Seen::Close(4409)), "{:?}", raw.events.last());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_reads_is_let_go_without_its_help() {
    for slow_consumer in ["disconnect", "dropOldest"] {
        let mut bed = Bed::new(64, slow_consumer);
        let stuck = bed.join(Lane::WsJson, None, 64).await;
        for _ in 0..40 {
            for _ in 0..8 {
                bed.publish(100);
            }
            bed.settle().await;
        }
        for _ in 0..900 {
            tokio::time::advance(Duration::from_millis(100)).await;
            bed.settle().await;
        }
        assert_eq!(*bed.open.borrow(), 0, "{slow_consumer}");
        let (due, written, dropped) = bed.books();
        assert_eq!(due, written + dropped, "{slow_consumer}");
        drop(stuck);
    }
}

#[tokio::test(start_paused = true)]
async fn messages_wait_for_each_other_no_longer_than_they_may() {
    let mut bed = Bed::new(64, "disconnect");
    bed.reload(|state| {
        let subscribe = state.spec.subscribe.as_mut().expect("it has clients");
        subscribe.flush.max_delay = Span(Duration::from_millis(50));
    });
    let mut peers = [bed.join(LANES[0], None, 1 << 20).await, bed.join(LANES[2], None, 1 << 20).await];
    let mut numbers = async |bed: &Bed| {
        bed.settle().await;
        let mut all = Vec::new();
        for peer in &mut peers {
            peer.read(1 << 20).await;
            all.push(peer.numbers().len());
        }
        assert_eq!(all[0], all[1]);
        all[0]
    };
    assert_eq!(numbers(&bed).await, 0);
    bed.publish(10);
    assert_eq!(numbers(&bed).await, 1, "what follows a pause goes at once");
    tokio::time::advance(Duration::from_millis(10)).await;
    bed.publish(10);
    bed.settle().await;
    tokio::time::advance(Duration::from_millis(30)).await;
    bed.publish(10);
    assert_eq!(numbers(&bed).await, 1, "40 ms after the last write");
    tokio::time::advance(Duration::from_millis(12)).await;
    assert_eq!(numbers(&bed).await, 3, "50 ms after it");
    for waiting in 1..=16 {
        bed.publish(10);
        let written = if waiting < 16 { 3 } else { 19 };
        assert_eq!(numbers(&bed).await, written, "{waiting} wait; a quarter of the window may not");
    }
    bed.publish(10);
    bed.settle().await;
    bed.reload(|state| {
        state.spec.subscribe.as_mut().expect("it has clients").flush = Flush::default();
    });
    bed.publish(10);
    assert_eq!(numbers(&bed).await, 21, "without a delay nothing waits");
}

/// W20: ten idle minutes.
#[tokio::test(start_paused = true)]
async fn idle_streams_show_signs_of_life_and_stay_open() {
    let bed = Bed::new(64, "disconnect");
    let mut events = bed.join(Lane::SseRaw, None, 1 << 20).await;
    let mut socket = bed.join(Lane::WsJson, None, 1 << 20).await;
    for _ in 0..10 * 60 * 10 {
        tokio::time::advance(Duration::from_millis(100)).await;
        bed.settle().await;
        let before = socket.events.len();
        socket.read(1 << 16).await;
        if socket.events[before..].contains(&Seen::Ping) {
            // A pong, masked with zeros.
            socket.stream.write_all(&[0x8a, 0x80, 0, 0, 0, 0]).await.expect("open");
        }
        events.read(1 << 16).await;
    }
    assert!(!events.ended && !socket.ended);
    let positions = events.events.iter().filter(|seen| matches!(seen, Seen::Position(_))).count();
    let pings = socket.events.iter().filter(|seen| **seen == Seen::Ping).count();
    assert!((25..=32).contains(&positions), "{positions} heartbeats in ten minutes");
    assert!((25..=31).contains(&pings), "{pings} pings in ten minutes");
}

#[tokio::test(start_paused = true)]
async fn two_unanswered_pings_close_a_socket() {
    let bed = Bed::new(64, "disconnect");
    let mut socket = bed.join(Lane::WsJson, None, 1 << 20).await;
    for _ in 0..70 * 10 {
        tokio::time::advance(Duration::from_millis(100)).await;
        bed.settle().await;
        socket.read(1 << 16).await;
    }
    assert_eq!(socket.events.iter().filter(|seen| **seen == Seen::Ping).count(), 2);
    assert!(socket.events.contains(&Seen::Close(1011)), "{:?}", socket.events);
}

#[tokio::test(start_paused = true)]
async fn a_blocked_api_closes_idle_streams() {
    let bed = Bed::new(64, "disconnect");
    let mut peers = Vec::new();
    for lane in LANES {
        peers.push(bed.join(lane, None, 1 << 20).await);
    }
    bed.settle().await;
    let state = bed.channel.state();
    let mut lifecycle = state.lifecycle.clone();
    lifecycle.state = sluice_config::LifecycleState::Blocked;
    bed.channel.change(State { lifecycle, ..(*state).clone() });
    for _ in 0..50 {
        tokio::time::advance(Duration::from_millis(100)).await;
        bed.settle().await;
    }
    for mut peer in peers {
        peer.read_all(&bed).await;
        assert!(peer.ended || peer.events.contains(&Seen::Close(4410)), "{:?}: {:?}", peer.lane, peer.events);
    }
}
