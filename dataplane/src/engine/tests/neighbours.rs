//! Several APIs on one shard: nobody waits for the other's thousand clients.

use std::io::Result;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::encode::Lane;
use crate::engine::Stream;
use crate::engine::bed::Bed;

/// Who was written a message, in order, and what happens meanwhile.
#[derive(Default)]
struct Order {
    written: Vec<&'static str>,
    /// What happens when so many were written, the first last.
    then: Vec<(usize, Box<dyn FnOnce() + Send>)>,
}

/// A client that takes everything and says when.
struct Noted(&'static str, Arc<Mutex<Order>>);

impl AsyncWrite for Noted {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        let then = {
            let mut order = self.1.lock();
            order.written.push(self.0);
            let written = order.written.len();
            order.then.pop_if(|(when, _)| *when == written)
        };
        if let Some((_, then)) = then {
            then();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Noted {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        Poll::Pending
    }
}

async fn join(bed: &Bed, who: &'static str, order: &Arc<Mutex<Order>>) {
    let stream = Stream::Other(Box::new(Noted(who, order.clone())));
    bed.attach(Lane::WsRaw, None, None, stream, "").await;
}

/// 1,000 clients of a hot API and one of a quiet one; where in the order the quiet one is when its
/// message comes after `after` writes of a hot message, and the hot one is charged more 200 writes later.
async fn place_of_quiet(after: usize, charged: Duration, later: Duration) -> (usize, usize) {
    let mut hot = Bed::new(64, "disconnect");
    let mut quiet = hot.neighbour("quiet", 64);
    let (order, tenant) = (Arc::new(Mutex::new(Order::default())), hot.channel.tenant.clone());
    for _ in 0..1000 {
        join(&hot, "hot", &order).await;
    }
    join(&quiet, "quiet", &order).await;
    hot.settle().await;
    hot.channel.tenant.charge(Duration::from_millis(10), Instant::now());
    quiet.channel.tenant.charge(charged, Instant::now());
    {
        let mut order = order.lock();
        order.written.clear();
        order.then.push((after + 200, Box::new(move || tenant.charge(later, Instant::now()))));
        order.then.push((after, Box::new(move || _ = quiet.publish(1))));
    }
    hot.publish(1);
    hot.settle().await;
    let order = order.lock();
    let place = order.written.iter().position(|who| *who == "quiet").expect("it was written");
    (place, order.written.len())
}

#[tokio::test(start_paused = true)]
async fn a_quiet_api_does_not_wait_for_the_clients_of_a_hot_one() {
    let (place, all) = place_of_quiet(100, Duration::ZERO, Duration::ZERO).await;
    assert_eq!(all, 1001, "everybody was written once");
    assert!((100..=116).contains(&place), "{place}: at the next look at most 16 clients later");
}

#[tokio::test(start_paused = true)]
async fn who_took_more_waits() {
    let (place, all) = place_of_quiet(100, Duration::from_millis(20), Duration::ZERO).await;
    assert_eq!((place, all), (1000, 1001));
}

#[tokio::test(start_paused = true)]
async fn who_waits_goes_first_as_soon_as_the_other_took_more() {
    let (place, all) = place_of_quiet(100, Duration::from_millis(20), Duration::from_millis(15)).await;
    assert_eq!(all, 1001);
    assert!((300..=316).contains(&place), "{place}: at the next look after that");
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_walk_goes_on_where_it_was_and_what_came_meanwhile_follows() {
    let hot = Bed::new(64, "disconnect");
    let quiet = hot.neighbour("quiet", 64);
    let order = Arc::new(Mutex::new(Order::default()));
    let mut peers = Vec::new();
    for n in 0..40 {
        peers.push((hot.join(Lane::WsRaw, None, 1 << 20).await, 200));
        if n == 20 {
            join(&hot, "hot", &order).await;
        }
    }
    for _ in 0..40 {
        peers.push((quiet.join(Lane::WsRaw, None, 1 << 20).await, 100));
    }
    hot.settle().await;
    let beds = [hot, quiet].map(|bed| Arc::new(Mutex::new(bed)));
    for round in 0..100 {
        beds[0].lock().channel.tenant.charge(Duration::from_millis(10), Instant::now());
        // In the middle of the hot one's walk both have more, and the lighter of them is by turns the other.
        let both = beds.clone();
        let then = move || {
            both[1].lock().publish(1);
            both[0].lock().publish(1);
            let heavier = &both[usize::from(round % 2 == 0)].lock().channel.tenant.clone();
            heavier.charge(Duration::from_millis(30), Instant::now());
        };
        *order.lock() = Order { written: Vec::new(), then: vec![(1, Box::new(then))] };
        beds[0].lock().publish(1);
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        tokio::time::advance(Duration::from_millis(300)).await;
    }
    for (peer, due) in &mut peers {
        while peer.read(1 << 16).await > 0 {}
        peer.check_order(0);
        assert_eq!(peer.numbers().len(), *due);
    }
}
