//! One kept-alive HTTP connection that asks and waits: for readiness and polling; and what
//! publishers say and hear.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::system::Publication;
use crate::wire::find;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest answer that is read.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// The longest request with its body that the bench's own servers take.
pub const MAX_POST: usize = 64 * 1024;
/// What they answer to a message.
pub const NO_CONTENT_ANSWER: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";
/// What they answer to a WebSocket client.
pub const SWITCHING: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// The status of an answer that has no body and no length.
const NO_CONTENT: u16 = 204;

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

/// A whole request that publishes `payload`.
pub fn request(publication: &Publication, payload: &[u8]) -> Vec<u8> {
    let body = (publication.body)(payload);
    let head = format!("{}\r\nContent-Length: {}\r\n\r\n", publication.head.trim_end(), body.len());
    [head.as_bytes(), body.as_slice()].concat()
}

/// What the bench's own clients and publishers ask its own servers for.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked<'a> {
    /// The stream at this path.
    Stream(&'a str),
    /// To take this message.
    Post(&'a [u8]),
}

/// The first request in `bytes` and its length, if it is whole.
pub fn asked(bytes: &[u8]) -> Result<Option<(Asked<'_>, usize)>> {
    let Some(end) = find(bytes, b"\r\n\r\n") else { return Ok(None) };
    let (head, body) = (std::str::from_utf8(&bytes[..end])?, end + 4);
    if let Some(line) = head.strip_prefix("GET ") {
        return Ok(Some((Asked::Stream(line.split(' ').next().unwrap_or_default()), body)));
    }
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    let whole = body + length.context("no length")?.parse::<usize>()?;
    ensure!(whole < MAX_POST, "too long a message");
    Ok(bytes.get(body..whole).map(|payload| (Asked::Post(payload), whole)))
}

/// The status and the body of `answer`, if it is whole. A chunked body is given as it came.
pub fn parse(answer: &[u8]) -> Result<Option<(u16, String)>> {
    let Some(end) = find(answer, b"\r\n\r\n") else { return Ok(None) };
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let status = head.get(9..12).context("not HTTP")?.parse()?;
    let rest = &answer[end + 4..];
    let body = if head.contains("\r\ntransfer-encoding: chunked") {
        rest.ends_with(b"0\r\n\r\n").then_some(rest)
    } else if status == NO_CONTENT {
        Some(rest)
    } else {
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.context("an answer without a length")?.trim().parse()?;
        rest.get(..length)
    };
    Ok(body.map(|body| (status, String::from_utf8_lossy(body).into_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_or_waited_for() {
        for (answer, wanted) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", Some((200, "hi"))),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nh", None),
            ("HTTP/1.1 204 No Content\r\n\r\n", Some((204, ""))),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", None),
            ("HTTP/1.1 201 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Some((201, "0\r\n\r\n"))),
            ("HTTP/1.1 200", None),
        ] {
            let found = parse(answer.as_bytes()).expect("it is HTTP");
            assert_eq!(found.as_ref().map(|(status, body)| (*status, body.as_str())), wanted, "{answer}");
        }
    }

    #[test]
    fn what_is_asked_for_is_whole_or_waited_for() {
        let post = b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi and more";
        for length in 0..=post.len() {
            let whole = length >= 40;
            let wanted = whole.then_some((Asked::Post(b"hi"), 40));
            assert_eq!(asked(&post[..length]).expect("a request"), wanted, "{length}");
        }
        let get = b"GET /17 HTTP/1.1\r\n\r\n";
        assert_eq!(asked(get).expect("a request"), Some((Asked::Stream("/17"), get.len())));
    }

    #[test]
    fn a_request_says_how_long_it_is() {
        let publication =
            Publication { port: 1, head: "POST / HTTP/1.1\r\nHost: x\r\n".into(), body: <[u8]>::to_vec };
        assert_eq!(
            request(&publication, b"abc"),
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
        );
    }
}
