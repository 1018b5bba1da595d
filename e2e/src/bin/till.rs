//! A program of somebody else, as tests put it into pods: it knows HTTP and an address on its own
//! loopback, and nothing of brokers. `till sell COUNT` sells so many orders and ends; `till run` goes on
//! until it is told to stop, and shows at port 8000 what it sold and what it saw.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Between two orders.
const PACE: Duration = Duration::from_millis(100);
/// Before the same order is sent again.
const PAUSE: Duration = Duration::from_millis(100);
/// Where it shows what it did.
const SHOW: &str = "0.0.0.0:8000";

/// What happened so far.
#[derive(Default)]
struct Tally {
    sold: AtomicU64,
    /// Orders that had to be sent again.
    troubled: AtomicU64,
    seen: AtomicU64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let url = std::env::var("SLUICE_URL").map(|base| format!("{base}/shop/orders"));
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let tally = Arc::new(Tally::default());
    match (arguments.first().map(String::as_str), url) {
        (Some("sell"), Ok(url)) => {
            let count = arguments.get(1).and_then(|count| count.parse().ok()).expect("till sell COUNT");
            for _ in 0..count {
                sell(&client(), &url, &tally).await;
            }
        }
        (Some("run"), url) => run(url.ok(), tally).await,
        (_, url) => panic!("write `till sell COUNT` or `till run`, with SLUICE_URL ({url:?})"),
    }
}

/// Without a URL nothing can be sold: then it only shows that.
async fn run(url: Option<String>, tally: Arc<Tally>) {
    tokio::spawn(show(tally.clone()));
    let mut told = signal(SignalKind::terminate()).expect("signals can be listened to");
    let Some(url) = url else {
        told.recv().await;
        return;
    };
    tokio::spawn(watch(url.clone(), tally.clone()));
    let client = client();
    loop {
        // An order that was begun is sold before the end.
        sell(&client, &url, &tally).await;
        tokio::select! {
            () = tokio::time::sleep(PACE) => {}
            _ = told.recv() => return,
        }
    }
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().tls_certs_only([]).build().expect("a client can be made")
}

/// Sends one order until it is taken.
async fn sell(client: &reqwest::Client, url: &str, tally: &Tally) {
    let till = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let till = till.trim();
    let number = tally.sold.load(Ordering::SeqCst);
    loop {
        let troubled = tally.troubled.load(Ordering::SeqCst);
        let order = json!({"till": till, "number": number, "troubled": troubled}).to_string();
        let request = client.post(url).header("content-type", "application/json").body(order);
        match request.timeout(Duration::from_secs(10)).send().await {
            Ok(answer) if answer.status() == 200 => break,
            other => println!("order {number} is sent again: {other:?}"),
        }
        tally.troubled.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(PAUSE).await;
    }
    tally.sold.fetch_add(1, Ordering::SeqCst);
}

/// Counts what everybody sells.
async fn watch(url: String, tally: Arc<Tally>) {
    loop {
        let request = client().get(&url).header("accept", "text/event-stream");
        if let Ok(mut answer) = request.send().await {
            while let Ok(Some(chunk)) = answer.chunk().await {
                let seen = String::from_utf8_lossy(&chunk).matches("\"number\"").count() as u64;
                tally.seen.fetch_add(seen, Ordering::SeqCst);
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn show(tally: Arc<Tally>) {
    let listener = TcpListener::bind(SHOW).await.expect("port 8000 is free");
    loop {
        let Ok((mut socket, _)) = listener.accept().await else { continue };
        let [sold, troubled, seen] =
            [&tally.sold, &tally.troubled, &tally.seen].map(|count| count.load(Ordering::SeqCst));
        let body = json!({"sold": sold, "troubled": troubled, "seen": seen}).to_string();
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        let mut request = [0; 1024];
        let _ = socket.read(&mut request).await;
        let _ = socket.write_all(answer.as_bytes()).await;
    }
}
