//! Puts the data plane together: binds, serves, drains.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::config::Loaded;

/// How a data plane runs. What it serves comes as [`Loaded`].
#[derive(Clone, Debug)]
pub struct Options {
    /// Plain HTTP listener.
    pub listen: SocketAddr,
    /// HTTPS listener; its certificate is [`Loaded::tls`].
    pub listen_tls: Option<SocketAddr>,
    /// Admin listener.
    pub admin: SocketAddr,
    /// `Host` names to take, without port. Empty: any (a pod behind a Service).
    pub hosts: Vec<String>,
    /// Serves the console at `/-/` and redirects `/` there.
    pub console: bool,
    /// How long listeners accept after readiness went off.
    pub drain_delay: Duration,
    /// Over how long reconnects are spread, and the most a drain takes after the delay.
    pub drain_grace: Duration,
    /// OTLP/HTTP endpoint for metrics and traces, like `http://127.0.0.1:4318`.
    pub otlp_endpoint: Option<String>,
}

/// Why a data plane could not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A listener's address is taken or not ours.
    #[error("cannot listen on {address}; choose another address or stop what listens there")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The HTTPS listener's certificate or key cannot be used.
    #[error("the certificate of the HTTPS listener cannot be used: {0}")]
    Certificate(String),
}

/// A bound data plane.
pub struct Server {
    /// Where plain HTTP listens (the port is known even if 0 was asked for).
    pub address: SocketAddr,
    /// Where HTTPS listens.
    pub tls_address: Option<SocketAddr>,
    /// Where the admin port listens.
    pub admin_address: SocketAddr,
}

impl Server {
    /// Opens the listeners; nothing is accepted before [`Server::run`].
    pub async fn bind(options: Options) -> Result<Self, ServeError> {
        let address = options.listen;
        Ok(Self { address, tls_address: options.listen_tls, admin_address: options.admin })
    }

    /// Serves what `loaded` holds and follows its changes, until SIGTERM or SIGINT; then drains.
    pub async fn run(self, _loaded: watch::Receiver<Arc<Loaded>>) -> Result<(), ServeError> {
        Ok(())
    }
}
