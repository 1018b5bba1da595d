//! Frames (RFC 6455 §5): our own, because one encoded frame serves every client of a lane and a
//! connection that is idle holds no buffer.

use bytes::Bytes;

/// Longest header of a server's frame.
const HEAD: usize = 10;

/// Opcodes (§5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// Goes on with a fragmented message.
    Continuation,
    /// UTF-8 text.
    Text,
    /// Bytes.
    Binary,
    /// Close.
    Close,
    /// Ping.
    Ping,
    /// Pong.
    Pong,
}

impl Opcode {
    const fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0,
            Self::Text => 1,
            Self::Binary => 2,
            Self::Close => 8,
            Self::Ping => 9,
            Self::Pong => 10,
        }
    }

    const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }

    /// Whether the frame may stand between the fragments of a message.
    pub const fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// A whole, unmasked frame whose payload `fill` writes.
pub fn whole(opcode: Opcode, capacity: usize, fill: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut out = Vec::with_capacity(HEAD + capacity);
    out.resize(HEAD, 0);
    fill(&mut out);
    let length = out.len() - HEAD;
    let first = 0x80 | opcode.bits();
    let start = match length {
        0..=125 => {
            out[8] = first;
            out[9] = length as u8;
            8
        }
        126..=0xffff => {
            out[6] = first;
            out[7] = 126;
            out[8..10].copy_from_slice(&(length as u16).to_be_bytes());
            6
        }
        _ => {
            out[0] = first;
            out[1] = 127;
            out[2..10].copy_from_slice(&(length as u64).to_be_bytes());
            0
        }
    };
    Bytes::from(out).slice(start..)
}

/// A close frame; the reason is cut to the 123 bytes that fit (§5.5).
pub fn close(code: u16, reason: &str) -> Bytes {
    let mut end = reason.len().min(123);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    whole(Opcode::Close, 2 + end, |out| {
        out.extend_from_slice(&code.to_be_bytes());
        out.extend_from_slice(&reason.as_bytes()[..end]);
    })
}

/// The header of a client's frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Last fragment of its message.
    pub fin: bool,
    /// Opcode.
    pub opcode: Opcode,
    /// Payload bytes.
    pub length: u64,
    /// Masking key.
    pub mask: [u8; 4],
    /// Bytes of the header itself.
    pub size: usize,
}

/// Reads a client's header; `Ok(None)` if there is more to come, `Err` on what §5 forbids.
pub fn header(bytes: &[u8]) -> Result<Option<Header>, &'static str> {
    let [first, second, ..] = bytes else { return Ok(None) };
    if first & 0x70 != 0 {
        return Err("reserved bits are set, but no extension was agreed");
    }
    let opcode = Opcode::from_bits(first & 0x0f).ok_or("unknown opcode")?;
    let fin = first & 0x80 != 0;
    if second & 0x80 == 0 {
        return Err("a client's frames must be masked");
    }
    let (length, size) = match second & 0x7f {
        126 => match bytes.get(2..4) {
            None => return Ok(None),
            Some(bytes) => (u64::from(u16::from_be_bytes([bytes[0], bytes[1]])), 4),
        },
        127 => match bytes.get(2..10) {
            None => return Ok(None),
            Some(bytes) => (u64::from_be_bytes(bytes.try_into().expect("eight bytes")), 10),
        },
        length => (u64::from(length), 2),
    };
    if opcode.is_control() && (!fin || length > 125) {
        return Err("a control frame must be whole and at most 125 bytes");
    }
    let Some(mask) = bytes.get(size..size + 4) else { return Ok(None) };
    Ok(Some(Header { fin, opcode, length, mask: mask.try_into().expect("four bytes"), size: size + 4 }))
}

/// Applies the mask (§5.3) from its `offset` on.
pub fn unmask(payload: &mut [u8], mask: [u8; 4], offset: usize) {
    let mut key = mask;
    key.rotate_left(offset % 4);
    let wide = u64::from_ne_bytes([key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3]]);
    let mut chunks = payload.chunks_exact_mut(8);
    for chunk in &mut chunks {
        let word = u64::from_ne_bytes((&*chunk).try_into().expect("eight bytes")) ^ wide;
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    for (index, byte) in chunks.into_remainder().iter_mut().enumerate() {
        *byte ^= key[index % 4];
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Opcode and payload of a server's frame.
    pub(crate) fn split(frame: &[u8]) -> (Opcode, Vec<u8>) {
        let opcode = Opcode::from_bits(frame[0] & 0x0f).expect("known");
        let start = match frame[1] {
            126 => 4,
            127 => 10,
            _ => 2,
        };
        (opcode, frame[start..].to_vec())
    }

    #[test]
    fn lengths_are_written_as_the_rfc_says() {
        for (length, header) in [
            (0, vec![0x81, 0]),
            (125, vec![0x81, 125]),
            (126, vec![0x81, 126, 0, 126]),
            (65_535, vec![0x81, 126, 0xff, 0xff]),
            (65_536, vec![0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let frame = whole(Opcode::Text, length, |out| out.resize(out.len() + length, b'x'));
            assert_eq!(frame[..header.len()], header[..]);
            assert_eq!(frame.len(), header.len() + length);
        }
    }

    #[test]
    fn headers_are_read_from_any_prefix() {
        let bytes = [0x82, 0xfe, 0x01, 0x00, 1, 2, 3, 4, 9];
        for end in 0..8 {
            assert_eq!(header(&bytes[..end]), Ok(None), "{end}");
        }
        let read = header(&bytes).expect("well-formed").expect("whole");
        let expected = Header { fin: true, opcode: Opcode::Binary, length: 256, mask: [1, 2, 3, 4], size: 8 };
        assert_eq!(read, expected);
    }

    #[test]
    fn what_the_rfc_forbids_is_refused() {
        for bytes in [
            [0xf1u8, 0x80, 0, 0, 0, 0].as_slice(),
            &[0x83, 0x80, 0, 0, 0, 0],
            &[0x81, 0x05, 0, 0, 0, 0],
            &[0x09, 0x80, 0, 0, 0, 0],
            &[0x89, 0xfe, 0, 200, 0, 0, 0, 0],
        ] {
            assert!(header(bytes).is_err(), "{bytes:x?}");
        }
    }

    #[test]
    fn unmasking_works_from_any_offset() {
        let mask = [7, 11, 13, 17];
        let plain: Vec<u8> = (0..100).collect();
        let masked: Vec<u8> = plain.iter().enumerate().map(|(index, byte)| byte ^ mask[index % 4]).collect();
        for offset in 0..100 {
            let mut rest = masked[offset..].to_vec();
            unmask(&mut rest, mask, offset);
            assert_eq!(rest, plain[offset..]);
        }
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let frame = close(1008, &"é".repeat(100));
        assert_eq!(frame.len(), 2 + 2 + 122);
        assert!(std::str::from_utf8(&frame[4..]).is_ok());
    }
}
