//! A gate between an operator and the API server: it counts writes and goes silent after so many, so
//! that an operator can be killed between a write and its answer.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::Method;
use axum::response::Response;
use tokio::sync::watch;

/// Whoever writes nothing for so long has nothing more to write.
const REST: Duration = Duration::from_millis(500);
/// No request of an operator is larger.
const MAX_REQUEST_BYTES: usize = 4 << 20;

/// The gate; dropping it closes it.
pub struct Gate {
    /// Where it is.
    pub url: String,
    inner: Arc<Inner>,
    task: tokio::task::JoinHandle<()>,
}

struct Inner {
    server: String,
    client: reqwest::Client,
    /// Writes that may still be answered.
    left: AtomicUsize,
    /// Writes so far.
    passed: AtomicUsize,
    silent: watch::Sender<Option<String>>,
}

impl Gate {
    /// Before the API server at `server`, whose certificates `authority` signs.
    pub async fn new(server: &str, authority: &Path) -> Self {
        let authority = std::fs::read(authority).expect("the authority's certificate");
        let authority = reqwest::Certificate::from_pem(&authority).expect("PEM");
        let client = reqwest::Client::builder().tls_certs_only([authority]).no_proxy().build();
        let inner = Arc::new(Inner {
            server: server.trim_end_matches('/').to_owned(),
            client: client.expect("a client"),
            left: AtomicUsize::new(usize::MAX),
            passed: AtomicUsize::new(0),
            silent: watch::Sender::new(None),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let routes = axum::Router::new().fallback(pass).with_state(inner.clone());
        let task =
            tokio::spawn(async move { axum::serve(listener, routes).await.expect("it serves for ever") });
        Self { url, inner, task }
    }

    /// Waits until nothing was written for a while.
    pub async fn rest(&self) {
        loop {
            let before = self.inner.passed.load(Ordering::SeqCst);
            tokio::time::sleep(REST).await;
            if self.inner.passed.load(Ordering::SeqCst) == before {
                return;
            }
        }
    }

    /// From now on `count` writes pass; the last of them is done and never answered, and nothing is after it.
    pub fn close_after(&self, count: usize) {
        self.inner.silent.send_replace(None);
        self.inner.left.store(count, Ordering::SeqCst);
    }

    /// Everything passes again.
    pub fn open(&self) {
        self.close_after(usize::MAX);
    }

    /// Waits for the last write; which one it was.
    pub async fn closed(&self) -> String {
        let mut silent = self.inner.silent.subscribe();
        let last = silent.wait_for(Option::is_some).await.expect("the gate stands");
        last.clone().expect("it was waited for")
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(State(gate): State<Arc<Inner>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    // Who leads is not what is reconciled.
    let is_write = head.method != Method::GET && !path.contains("/leases");
    let left = if is_write {
        gate.passed.fetch_add(1, Ordering::SeqCst);
        let less = |left: usize| Some(left.saturating_sub(1));
        gate.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).expect("it always changes")
    } else {
        usize::MAX
    };
    if left == 0 {
        std::future::pending::<()>().await;
    }
    let body = to_bytes(body, MAX_REQUEST_BYTES).await.expect("a small request");
    let mut headers = head.headers;
    headers.remove("host");
    let url = format!("{}{path}", gate.server);
    let asked = gate.client.request(head.method.clone(), url).headers(headers).body(body).send().await;
    let answer = asked.expect("the API server answers");
    if left == 1 {
        gate.silent.send_replace(Some(format!("{} {path} ({})", head.method, answer.status())));
        std::future::pending::<()>().await;
    }
    let mut response = Response::builder().status(answer.status());
    *response.headers_mut().expect("nothing is wrong yet") = answer.headers().clone();
    response.body(Body::from_stream(answer.bytes_stream())).expect("an answer")
}
