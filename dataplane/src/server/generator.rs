//! The generator: synthetic orders, one feed per channel, for the sandbox.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sluice_config::server::Generator;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::feed::wall_clock;
use crate::message::{CONTENT_TYPE, Incarnation, Record};
use crate::server::{Inlet, Opening};

/// At most this many messages come of one tick.
const TICKS_PER_SECOND: u32 = 200;

const ITEMS: [&str; 6] =
    ["espresso beans", "green tea", "cocoa", "oat milk", "paper filters", "demerara sugar"];
const PLACES: [&str; 5] = ["Lisbon", "Nairobi", "Osaka", "Quito", "Tromsø"];

/// A running generator; dropping it stops it.
pub struct Reading(JoinHandle<()>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Starts to generate into `inlet`, in a new incarnation: the past of a generator that stopped is
/// gone.
pub fn read(settings: &Generator, address: &str, inlet: Inlet) -> Reading {
    let settings = settings.clone();
    let incarnation = Incarnation::new(address, &fastrand::u128(..).to_be_bytes());
    Reading(tokio::spawn(generate(settings, incarnation, inlet)))
}

async fn generate(settings: Generator, incarnation: Incarnation, inlet: Inlet) {
    let mut random = fastrand::Rng::with_seed(settings.seed);
    let headers = vec![(Arc::from(CONTENT_TYPE), Bytes::from_static(b"application/json"))];
    // After a change of its settings it goes on with the numbers it had.
    let resume = inlet.resume();
    let mut offset = resume.as_ref().and_then(|resume| resume.positions.first().copied()).unwrap_or(0);
    if resume.is_none() {
        inlet.open(Opening { incarnation, starts: vec![0], ends: vec![0] });
    }
    let rate = settings.messages_per_second;
    let per_tick = rate.div_ceil(TICKS_PER_SECOND);
    let mut ticks = tokio::time::interval(Duration::from_secs(1) * per_tick / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut records = Vec::with_capacity(per_tick as usize);
    loop {
        ticks.tick().await;
        for _ in 0..per_tick {
            records.push(order(offset, &mut random, &headers));
            offset += 1;
        }
        inlet.push_now(&mut records);
        inlet.relieved().await;
    }
}

#[derive(serde::Serialize)]
struct Order {
    order: i64,
    customer: String,
    item: &'static str,
    quantity: u32,
    price: f64,
    city: &'static str,
    at: String,
}

fn order(offset: i64, random: &mut fastrand::Rng, headers: &crate::message::Headers) -> Record {
    let timestamp = wall_clock();
    let customer = random.u32(1..100);
    let order = Order {
        order: offset + 1,
        customer: format!("c-{customer:03}"),
        item: ITEMS[random.usize(..ITEMS.len())],
        quantity: random.u32(1..10),
        price: f64::from(random.u32(150..2500)) / 100.0,
        city: PLACES[random.usize(..PLACES.len())],
        at: crate::encode::rfc3339(timestamp),
    };
    let payload = serde_json::to_vec(&order).expect("strings and numbers are JSON");
    Record {
        partition: 0,
        offset,
        timestamp: Some(timestamp),
        key: Some(format!("c-{customer:03}").into()),
        headers: headers.clone(),
        payload: Some(payload.into()),
    }
}
