//! A TCP proxy that cuts connections which carry nothing for a while and sends new ones elsewhere
//! when told to, as load balancers do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A running proxy. Dropping it cuts everything.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    pub port: u16,
    to: Arc<AtomicU16>,
    cuts: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// Forwards to `127.0.0.1:<to>` and cuts what carried nothing in either direction for `idle`.
    pub async fn start(to: u16, idle: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let cuts = Arc::new(AtomicUsize::new(0));
        let to = Arc::new(AtomicU16::new(to));
        let (counter, target) = (cuts.clone(), to.clone());
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (counter, to) = (counter.clone(), target.load(Ordering::SeqCst));
                connections.spawn(async move {
                    if let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await
                        && forward(client, server, idle).await
                    {
                        counter.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        Self { port, to, cuts, task }
    }

    /// Sends new connections to `port`; what is connected stays where it is.
    pub fn lead_to(&self, port: u16) {
        self.to.store(port, Ordering::SeqCst);
    }

    /// Connections cut for being idle.
    pub fn cuts(&self) -> usize {
        self.cuts.load(Ordering::SeqCst)
    }
}

/// Whether it ended for idleness.
async fn forward(mut client: TcpStream, mut server: TcpStream, idle: Duration) -> bool {
    let (mut up, mut down) = ([0; 4096], [0; 4096]);
    loop {
        let moved = timeout(idle, async {
            tokio::select! {
                read = client.read(&mut up) => {
                    let count = read.unwrap_or(0);
                    count > 0 && server.write_all(&up[..count]).await.is_ok()
                }
                read = server.read(&mut down) => {
                    let count = read.unwrap_or(0);
                    count > 0 && client.write_all(&down[..count]).await.is_ok()
                }
            }
        });
        match moved.await {
            Err(_) => return true,
            Ok(false) => return false,
            Ok(true) => {}
        }
    }
}
