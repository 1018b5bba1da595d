//! What a client sends: bytes into whole messages and control frames (RFC 6455 §5.4–5.6). Holds
//! bytes only while a frame or message is incomplete.

use crate::respond::Refusal;
use crate::transport::websocket::frame::{self, Opcode};

/// What arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A whole message.
    Message {
        /// It came as text and is UTF-8.
        text: bool,
        /// Its payload.
        payload: Vec<u8>,
    },
    /// A ping to answer.
    Ping(Vec<u8>),
    /// A pong.
    Pong,
    /// The client closes, with this code if it said one.
    Close(Option<u16>),
}

/// A client's unread bytes and unfinished message.
#[derive(Default)]
pub struct Inbound {
    buffer: Vec<u8>,
    read: usize,
    message: Option<(Opcode, Vec<u8>)>,
}

impl Inbound {
    /// Takes bytes from the socket.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.read > 0 {
            self.buffer.drain(..self.read);
            self.read = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next event, if it is whole; messages may have `limit` bytes.
    pub fn next(&mut self, limit: usize) -> Result<Option<Event>, Refusal> {
        loop {
            let unread = &self.buffer[self.read..];
            let Some(header) = frame::header(unread).map_err(Refusal::Protocol)? else {
                self.release();
                return Ok(None);
            };
            let held = self.message.as_ref().map_or(0, |(_, payload)| payload.len());
            // Refused by what is announced: nothing is allocated for it.
            let length = usize::try_from(header.length).unwrap_or(usize::MAX);
            if !header.opcode.is_control() && length.saturating_add(held) > limit {
                return Err(Refusal::TooLarge { bytes: limit });
            }
            let Some(payload) = unread.get(header.size..header.size.saturating_add(length)) else {
                self.release();
                return Ok(None);
            };
            let mut payload = payload.to_vec();
            frame::unmask(&mut payload, header.mask, 0);
            self.read += header.size + length;
            if let Some(event) = self.take(header, payload)? {
                return Ok(Some(event));
            }
        }
    }

    /// Whether bytes of an unfinished frame or message are held.
    pub fn is_partial(&self) -> bool {
        self.read < self.buffer.len() || self.message.is_some()
    }

    fn take(&mut self, header: frame::Header, payload: Vec<u8>) -> Result<Option<Event>, Refusal> {
        match header.opcode {
            Opcode::Ping => Ok(Some(Event::Ping(payload))),
            Opcode::Pong => Ok(Some(Event::Pong)),
            Opcode::Close => read_close(&payload).map(|code| Some(Event::Close(code))),
            Opcode::Continuation => {
                let Some((opcode, mut whole)) = self.message.take() else {
                    return Err(Refusal::Protocol("a continuation without a beginning"));
                };
                whole.extend_from_slice(&payload);
                self.finish(header.fin, opcode, whole)
            }
            opcode @ (Opcode::Text | Opcode::Binary) => {
                if self.message.is_some() {
                    return Err(Refusal::Protocol("a new message inside an unfinished one"));
                }
                self.finish(header.fin, opcode, payload)
            }
        }
    }

    fn finish(&mut self, fin: bool, opcode: Opcode, payload: Vec<u8>) -> Result<Option<Event>, Refusal> {
        if !fin {
            self.message = Some((opcode, payload));
            return Ok(None);
        }
        let text = opcode == Opcode::Text;
        if text && std::str::from_utf8(&payload).is_err() {
            return Err(Refusal::NotUtf8);
        }
        Ok(Some(Event::Message { text, payload }))
    }

    /// Gives memory back between messages.
    fn release(&mut self) {
        if self.read == self.buffer.len() {
            self.buffer = Vec::new();
            self.read = 0;
        }
    }
}

/// §5.5.1 and §7.4: which codes may be sent, and that the reason is UTF-8.
fn read_close(payload: &[u8]) -> Result<Option<u16>, Refusal> {
    match payload {
        [] => Ok(None),
        [_] => Err(Refusal::Protocol("a close frame with half a code")),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            let may_be_sent = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
            if !may_be_sent {
                return Err(Refusal::Protocol("a close code that must not be sent"));
            }
            if std::str::from_utf8(reason).is_err() {
                return Err(Refusal::NotUtf8);
            }
            Ok(Some(code))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client_frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let mut out = vec![first];
        match payload.len() {
            length @ 0..=125 => out.push(0x80 | length as u8),
            length => {
                out.push(0x80 | 126);
                out.extend_from_slice(&(length as u16).to_be_bytes());
            }
        }
        out.extend_from_slice(&mask);
        out.extend(payload.iter().enumerate().map(|(index, byte)| byte ^ mask[index % 4]));
        out
    }

    fn events(chunks: &[&[u8]]) -> Result<Vec<Event>, Refusal> {
        let mut inbound = Inbound::default();
        let mut events = Vec::new();
        for chunk in chunks {
            inbound.push(chunk);
            while let Some(event) = inbound.next(1000)? {
                events.push(event);
            }
        }
        assert!(inbound.is_partial() || inbound.buffer.capacity() == 0, "idle means no buffer");
        Ok(events)
    }

    #[test]
    fn messages_arrive_however_they_are_cut() {
        let mut bytes = client_frame(0x01, b"he");
        bytes.extend(client_frame(0x89, b"ping"));
        bytes.extend(client_frame(0x80, "llö".as_bytes()));
        bytes.extend(client_frame(0x82, &[0; 300]));
        bytes.extend(client_frame(0x88, &1000u16.to_be_bytes()));
        let expected = vec![
            Event::Ping(b"ping".to_vec()),
            Event::Message { text: true, payload: "hellö".into() },
            Event::Message { text: false, payload: vec![0; 300] },
            Event::Close(Some(1000)),
        ];
        for size in [1, 2, 3, 7, 100, bytes.len()] {
            let chunks: Vec<&[u8]> = bytes.chunks(size).collect();
            assert_eq!(events(&chunks).expect("well-formed"), expected, "chunks of {size}");
        }
    }

    #[test]
    fn what_breaks_the_protocol_is_refused() {
        let half_surrogate = client_frame(0x81, b"\xff");
        assert_eq!(events(&[&half_surrogate]), Err(Refusal::NotUtf8));
        for bytes in [
            client_frame(0x80, b"x"),
            [client_frame(0x01, b"a"), client_frame(0x01, b"b")].concat(),
            client_frame(0x88, b"\x03"),
            client_frame(0x88, &1005u16.to_be_bytes()),
            client_frame(0x88, &999u16.to_be_bytes()),
        ] {
            assert!(matches!(events(&[&bytes]), Err(Refusal::Protocol(_))), "{bytes:x?}");
        }
    }

    #[test]
    fn too_much_is_refused_before_it_is_held() {
        let huge = [0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
        assert_eq!(events(&[&huge]), Err(Refusal::TooLarge { bytes: 1000 }));
        let parts = [client_frame(0x02, &[0; 600]), client_frame(0x80, &[0; 600])].concat();
        assert_eq!(events(&[&parts]), Err(Refusal::TooLarge { bytes: 1000 }));
    }
}
