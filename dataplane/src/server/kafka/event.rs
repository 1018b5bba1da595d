//! What comes out of librdkafka's queue: records, ends of partitions, errors, log lines and answers,
//! each read out of its event.

use std::ffi::{CStr, c_void};
use std::ptr::NonNull;

use rdkafka::bindings as ffi;
use rdkafka::error::RDKafkaErrorCode;

use super::answer::{self, Answer};

/// The level of debug lines.
const DEBUG: i32 = 7;

/// What came out of the queue.
pub enum Event {
    /// A record.
    Record(Fetched),
    /// Something about one partition: its end was reached, or it cannot be read on.
    Partition(Partition),
    /// Something about a connection or the whole client.
    Client {
        /// The error.
        code: RDKafkaErrorCode,
        /// librdkafka's words.
        reason: String,
    },
    /// A topic of this name was found to be another than before.
    Reborn(String),
    /// A log line.
    Log {
        /// Syslog level.
        level: i32,
        /// librdkafka's name for the place.
        facility: String,
        /// The line.
        text: String,
    },
    /// The answer to a request.
    Answer {
        /// The number the request was made with.
        request: usize,
        /// The answer.
        answer: Answer,
    },
    /// Nothing that matters here.
    Other,
}

/// An event that is destroyed when dropped.
pub struct RawEvent(NonNull<ffi::rd_kafka_event_t>);

impl RawEvent {
    /// Owns `event` from now on, unless it is null.
    pub fn own(event: *mut ffi::rd_kafka_event_t) -> Option<Self> {
        NonNull::new(event).map(Self)
    }

    /// The event, live as long as `self`.
    pub fn as_ptr(&self) -> *mut ffi::rd_kafka_event_t {
        self.0.as_ptr()
    }
}

impl Drop for RawEvent {
    fn drop(&mut self) {
        // SAFETY: owned, destroyed once.
        unsafe { ffi::rd_kafka_event_destroy(self.0.as_ptr()) };
    }
}

impl Event {
    /// Reads what `event` is.
    pub fn read(event: RawEvent) -> Self {
        // SAFETY: the event is live in all of these calls.
        let kind = unsafe { ffi::rd_kafka_event_type(event.as_ptr()) };
        match kind {
            ffi::RD_KAFKA_EVENT_FETCH => {
                // SAFETY: as above; the message lives as long as the event.
                let message = unsafe { ffi::rd_kafka_event_message_next(event.as_ptr()) };
                match NonNull::new(message.cast_mut()) {
                    Some(message) => Self::Record(Fetched { message, _event: event }),
                    None => Self::Other,
                }
            }
            ffi::RD_KAFKA_EVENT_ERROR => Self::error(&event),
            ffi::RD_KAFKA_EVENT_LOG => Self::log(&event),
            _ => match answer::read(kind, &event) {
                Some((request, answer)) => Self::Answer { request, answer },
                None => Self::Other,
            },
        }
    }

    fn error(event: &RawEvent) -> Self {
        // SAFETY: the event is live; what `topic_partition` gives is owned by `Partition`.
        let (code, at) = unsafe {
            let code = RDKafkaErrorCode::from(ffi::rd_kafka_event_error(event.as_ptr()));
            (code, NonNull::new(ffi::rd_kafka_event_topic_partition(event.as_ptr())))
        };
        match at {
            Some(at) => Self::Partition(Partition { at, code }),
            None => {
                // SAFETY: the event is live, and the text with it.
                let reason = unsafe { text(ffi::rd_kafka_event_error_string(event.as_ptr())) };
                Self::Client { code, reason }
            }
        }
    }

    fn log(event: &RawEvent) -> Self {
        let (mut facility, mut line, mut level) = (std::ptr::null(), std::ptr::null(), 0);
        // SAFETY: the event is live; the three are set by the call if it returns 0, and live with it.
        let (facility, line) = unsafe {
            if ffi::rd_kafka_event_log(event.as_ptr(), &mut facility, &mut line, &mut level) != 0 {
                return Self::Other;
            }
            (CStr::from_ptr(facility).to_string_lossy(), CStr::from_ptr(line).to_string_lossy())
        };
        if level < DEBUG {
            return Self::Log { level, facility: facility.trim().into(), text: line.trim().into() };
        }
        reborn(&line).map_or(Self::Other, |topic| Self::Reborn(topic.to_owned()))
    }
}

/// The topic that a debug line tells has another id than before. librdkafka says it nowhere else,
/// and would go on reading at the old positions; the line comes before anything it reads there.
fn reborn(line: &str) -> Option<&str> {
    let (before, ids) = line.split_once(" changed id from ")?;
    let (_, topic) = before.rsplit_once("Topic ")?;
    // A topic seen for the first time had the id zero.
    (!ids.starts_with("AAAAAAAAAAAAAAAAAAAAAA")).then_some(topic)
}

/// A fetched record, in librdkafka's memory.
pub struct Fetched {
    message: NonNull<ffi::rd_kafka_message_t>,
    _event: RawEvent,
}

impl Fetched {
    fn message(&self) -> &ffi::rd_kafka_message_t {
        // SAFETY: the message lives as long as the event, which is owned.
        unsafe { self.message.as_ref() }
    }

    /// The [`super::native::Topic::key`] of its topic.
    pub fn topic(&self) -> usize {
        self.message().rkt as usize
    }

    /// Partition.
    pub fn partition(&self) -> u32 {
        self.message().partition as u32
    }

    /// Offset.
    pub fn offset(&self) -> i64 {
        self.message().offset
    }

    /// Payload; `None` is a tombstone.
    pub fn payload(&self) -> Option<&[u8]> {
        let message = self.message();
        // SAFETY: librdkafka gives pointer and length of one allocation, or a null pointer.
        unsafe { bytes(message.payload, message.len) }
    }

    /// Key.
    pub fn key(&self) -> Option<&[u8]> {
        let message = self.message();
        // SAFETY: as for the payload.
        unsafe { bytes(message.key, message.key_len) }
    }

    /// Milliseconds since 1970, if the record has a time.
    pub fn timestamp(&self) -> Option<i64> {
        let mut kind = ffi::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is live, `kind` is written only.
        let time = unsafe { ffi::rd_kafka_message_timestamp(self.message(), &mut kind) };
        let known = kind != ffi::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        (known && time >= 0).then_some(time)
    }

    /// Names and values of the headers, in order; a null value reads as an empty one.
    pub fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut list = std::ptr::null_mut();
        // SAFETY: the message is live; the list, if there is one, lives as long as the message.
        let found = unsafe { ffi::rd_kafka_message_headers(self.message.as_ptr(), &mut list) };
        let list = (found == ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR).then_some(list);
        (0..).map_while(move |index| {
            let (mut name, mut value, mut size) = (std::ptr::null(), std::ptr::null(), 0);
            // SAFETY: the list is live; the three are set if the call succeeds.
            unsafe {
                let got = ffi::rd_kafka_header_get_all(list?, index, &mut name, &mut value, &mut size);
                if got != ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                    return None;
                }
                let name = CStr::from_ptr(name).to_bytes();
                Some((name, bytes(value, size).unwrap_or_default()))
            }
        })
    }
}

/// Something about one partition.
pub struct Partition {
    at: NonNull<ffi::rd_kafka_topic_partition_t>,
    /// What it is; `PartitionEOF` is the end.
    pub code: RDKafkaErrorCode,
}

impl Partition {
    fn at(&self) -> &ffi::rd_kafka_topic_partition_t {
        // SAFETY: owned until dropped.
        unsafe { self.at.as_ref() }
    }

    /// The topic's name.
    pub fn topic(&self) -> &str {
        // SAFETY: the name is a C string that lives with the structure; topic names are ASCII.
        unsafe { CStr::from_ptr(self.at().topic) }.to_str().unwrap_or_default()
    }

    /// The partition.
    pub fn partition(&self) -> u32 {
        self.at().partition as u32
    }

    /// Where it was being read.
    pub fn position(&self) -> i64 {
        self.at().offset
    }
}

impl Drop for Partition {
    fn drop(&mut self) {
        // SAFETY: owned, destroyed once.
        unsafe { ffi::rd_kafka_topic_partition_destroy(self.at.as_ptr()) };
    }
}

/// # Safety
/// `pointer` is null or points to `length` bytes that outlive `'a`.
unsafe fn bytes<'a>(pointer: *const c_void, length: usize) -> Option<&'a [u8]> {
    let pointer = NonNull::new(pointer.cast_mut().cast::<u8>())?;
    // SAFETY: by the contract above.
    Some(unsafe { std::slice::from_raw_parts(pointer.as_ptr(), length) })
}

/// # Safety
/// `pointer` is null or a C string.
pub unsafe fn text(pointer: *const std::ffi::c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: by the contract above.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_life_of_a_topic_is_read_from_the_log() {
        let line =
            "[thrd:main]: Topic orders.v1 changed id from RWO85PudQ1yPXx1J0nX0Ag to aEKAYLvcQ1yPXx1J0nX0Ag";
        assert_eq!(reborn(line), Some("orders.v1"));
        let first =
            "[thrd:main]: Topic orders changed id from AAAAAAAAAAAAAAAAAAAAAA to aEKAYLvcQ1yPXx1J0nX0Ag";
        assert_eq!(reborn(first), None);
        assert_eq!(reborn("[thrd:main]: Topic orders [3] Leader 1 Epoch 0"), None);
    }
}
