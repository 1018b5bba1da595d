//! Server-sent events (WHATWG HTML §9.2): the bytes of blocks.

use bytes::Bytes;

/// One block: event name, id, and `data:` lines. CR, LF and CRLF in `data` each end a line, as an
/// event stream's parser sees them; none can end the event.
pub fn block(event: Option<&str>, id: Option<&str>, data: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(data.len() + 64 + id.map_or(0, str::len));
    if let Some(event) = event {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(event.as_bytes());
        out.push(b'\n');
    }
    if let Some(id) = id {
        out.extend_from_slice(b"id: ");
        out.extend_from_slice(id.as_bytes());
        out.push(b'\n');
    }
    push_data(&mut out, data);
    out.push(b'\n');
    out.into()
}

/// A block that carries nothing but an id: a position, and a sign of life.
pub fn id_only(id: &str) -> Bytes {
    format!("id: {id}\n\n").into()
}

/// How long a client waits before it connects again.
pub fn retry(milliseconds: u64) -> String {
    format!("retry: {milliseconds}\n")
}

fn push_data(out: &mut Vec<u8>, data: &[u8]) {
    let mut rest = data;
    loop {
        out.extend_from_slice(b"data: ");
        let end = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
        let Some(end) = end else {
            out.extend_from_slice(rest);
            out.push(b'\n');
            return;
        };
        out.extend_from_slice(&rest[..end]);
        out.push(b'\n');
        let crlf = rest[end] == b'\r' && rest.get(end + 1) == Some(&b'\n');
        rest = &rest[end + 1 + usize::from(crlf)..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_payload_can_end_an_event() {
        for (data, expected) in [
            ("a", "data: a\n\n"),
            ("", "data: \n\n"),
            ("a\nb", "data: a\ndata: b\n\n"),
            ("a\r\nb\rc\n", "data: a\ndata: b\ndata: c\ndata: \n\n"),
            ("\n\nevent: x\n\n", "data: \ndata: \ndata: event: x\ndata: \ndata: \n\n"),
            ("a\u{2028}\u{feff}\0b", "data: a\u{2028}\u{feff}\0b\n\n"),
        ] {
            assert_eq!(block(None, None, data.as_bytes()), expected);
        }
        assert_eq!(block(Some("gap"), Some("X"), b"{}"), "event: gap\nid: X\ndata: {}\n\n");
    }
}
