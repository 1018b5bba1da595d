//! The engine on a paused clock: against a naive reference (`model`), and one thing at a time.

use std::time::Duration;

use tokio::io::AsyncWriteExt;

use crate::channel::State;
use crate::encode::Lane;
use crate::engine::bed::{Bed, Seen};
use crate::engine::tests::model::{Happened, Model};
use crate::respond::Refusal;

mod model;
mod reference;

const LANES: [Lane; 4] = [Lane::WsRaw, Lane::WsJson, Lane::SseRaw, Lane::SseCloudEvents];

#[tokio::test(start_paused = true)]
async fn every_client_gets_every_message_in_order_or_is_told() {
    for seed in 0..10 {
        for slow_consumer in ["disconnect", "dropOldest"] {
            let happened = Model::new(seed, slow_consumer).run(0).await;
            let Happened { ahead, expired, fell_behind, slow, untold, reloads, .. } = happened;
            let fell = if slow_consumer == "dropOldest" { fell_behind.min(untold) } else { slow };
            assert!(ahead.min(expired).min(fell).min(reloads) > 0, "seed {seed}: {happened:?}");
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
