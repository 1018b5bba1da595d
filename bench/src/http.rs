//! One kept-alive HTTP connection that asks and waits: for readiness, `/config` and polling.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::wire::find;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest answer that is read.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// A connection.
#[derive(Debug)]
pub struct Http(TcpStream);

impl Http {
    /// Connects to a port of this machine.
    pub fn connect(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(stream))
    }

    /// `GET path`: the status and the body.
    pub fn get(&mut self, path: &str) -> Result<(u16, String)> {
        write!(self.0, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\n\r\n")?;
        let (mut answer, mut buffer) = (Vec::new(), [0; 8192]);
        loop {
            if let Some((status, body)) = parse(&answer)? {
                return Ok((status, body));
            }
            ensure!(answer.len() < MAX_ANSWER_BYTES, "the answer is too long");
            let length = self.0.read(&mut buffer)?;
            ensure!(length > 0, "the server closed the connection");
            answer.extend_from_slice(&buffer[..length]);
        }
    }
}

/// The status and the body of `answer`, if it is whole.
pub fn parse(answer: &[u8]) -> Result<Option<(u16, String)>> {
    let Some(end) = find(answer, b"\r\n\r\n") else { return Ok(None) };
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let status = head.get(9..12).context("not HTTP")?.parse()?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.context("an answer without a length")?.trim().parse()?;
    let Some(body) = answer.get(end + 4..end + 4 + length) else { return Ok(None) };
    Ok(Some((status, String::from_utf8_lossy(body).into_owned())))
}
