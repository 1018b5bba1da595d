//! Bytes over TCP, for requests that no proper client sends.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long the other side may be silent.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection.
#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Raw {
    /// Connects to `127.0.0.1:<port>`.
    ///
    /// # Panics
    /// If nobody listens.
    pub async fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("somebody listens");
        stream.set_nodelay(true).expect("a socket option");
        Self { stream, buffer: Vec::new() }
    }

    /// Sends bytes; that the other side has closed is for reading to tell.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    /// Reads up to the blank line after the head and gives the head.
    ///
    /// # Panics
    /// If it does not come.
    pub async fn head(&mut self) -> String {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let rest = self.buffer.split_off(end + 4);
                let head = std::mem::replace(&mut self.buffer, rest);
                return String::from_utf8_lossy(&head).into_owned();
            }
            assert!(self.fill().await, "closed before a head: {:?}", String::from_utf8_lossy(&self.buffer));
        }
    }

    /// The status of the answer's head.
    pub async fn status(&mut self) -> u16 {
        let head = self.head().await;
        head.split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .unwrap_or_else(|| panic!("no status: {head}"))
    }

    /// Reads until what was read contains `text`.
    ///
    /// # Panics
    /// If it never does.
    pub async fn until(&mut self, text: &str) -> String {
        while find(&self.buffer, text.as_bytes()).is_none() {
            assert!(self.fill().await, "closed before `{text}`: {:?}", String::from_utf8_lossy(&self.buffer));
        }
        String::from_utf8_lossy(&self.buffer).into_owned()
    }

    /// Reads the first line of an answer; empty if the other side closes without one.
    pub async fn until_line_or_end(&mut self) -> String {
        while find(&self.buffer, b"\r\n").is_none() {
            if !self.fill().await {
                break;
            }
        }
        let text = String::from_utf8_lossy(&self.buffer);
        text.lines().next().unwrap_or_default().to_owned()
    }

    /// Reads until the other side closes, at most `patience`; `None` if it does not.
    pub async fn to_end(&mut self, patience: Duration) -> Option<Vec<u8>> {
        let whole = async { while self.read().await {} };
        timeout(patience, whole).await.ok()?;
        Some(std::mem::take(&mut self.buffer))
    }

    /// The socket, without what was read already.
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }

    async fn fill(&mut self) -> bool {
        timeout(PATIENCE, self.read()).await.expect("the other side is not silent")
    }

    async fn read(&mut self) -> bool {
        let mut chunk = [0; 4096];
        match self.stream.read(&mut chunk).await {
            Ok(0) | Err(_) => false,
            Ok(count) => {
                self.buffer.extend_from_slice(&chunk[..count]);
                true
            }
        }
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
