//! Plain HTTP requests.

use std::sync::OnceLock;
use std::time::Duration;

use ::http::HeaderMap;
use bytes::Bytes;
use reqwest::{Certificate, Client, Method, redirect};
use serde_json::Value;

use crate::certs;

/// The longest a whole exchange may take.
const PATIENCE: Duration = Duration::from_secs(40);

/// A complete answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Answer {
    /// Reads the body of `response`.
    pub async fn read(response: reqwest::Response) -> reqwest::Result<Self> {
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        Ok(Self { status, headers, body: response.bytes().await? })
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// If it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// A header's value, empty if it is missing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Checks that the body is a problem document (RFC 9457) of this answer's status, and gives it.
    ///
    /// # Panics
    /// If it is not.
    pub fn problem(&self) -> Value {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status, "{problem}");
        for field in ["type", "title", "detail"] {
            assert!(problem[field].is_string(), "{field} is missing: {problem}");
        }
        problem
    }
}

/// A client that trusts the tests' authority, follows no redirect and talks to nobody's proxy.
pub fn client() -> &'static Client {
    static CLIENT: OnceLock<Client> = OnceLock::new();
    CLIENT.get_or_init(|| {
        builder().http1_only().pool_max_idle_per_host(0).build().expect("a client can be made")
    })
}

/// What [`client`] is built from.
pub fn builder() -> reqwest::ClientBuilder {
    let ca = Certificate::from_pem(certs::bundle().ca.as_bytes()).expect("our own authority");
    Client::builder().no_proxy().redirect(redirect::Policy::none()).tls_certs_only([ca])
}

/// `GET`.
pub async fn get(url: &str) -> reqwest::Result<Answer> {
    request(Method::GET, url, &[], "").await
}

/// Any request.
pub async fn request(
    method: Method,
    url: &str,
    headers: &[(&str, &str)],
    body: impl Into<reqwest::Body>,
) -> reqwest::Result<Answer> {
    let mut request = client().request(method, url).timeout(PATIENCE).body(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Answer::read(request.send().await?).await
}

/// `POST` of one message.
///
/// # Panics
/// If there is no answer.
pub async fn publish(url: &str, headers: &[(&str, &str)], body: impl Into<reqwest::Body>) -> Answer {
    request(Method::POST, url, headers, body).await.expect("a publish is answered")
}
