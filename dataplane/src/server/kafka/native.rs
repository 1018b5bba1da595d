//! The consumer handle of librdkafka, for what rdkafka does not wrap: fetched records with their
//! topic handle, ends of partitions with topic and position, readers without a group, topic ids,
//! and offsets of all partitions in one request.
//!
//! The handle, its topics and its events belong to the one thread that polls. Only a [`Waker`]
//! leaves it. All unsafe code of reading is here and in `answer.rs`.

use std::ffi::{CStr, CString, c_void};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::bindings as ffi;
use rdkafka::client::{Client, DefaultClientContext};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::types::RDKafkaType;

use super::answer::{self, Answer, Request};

/// The level of debug lines.
const DEBUG: i32 = 7;

/// One consumer: its connections, its threads and the one queue everything comes out of.
pub struct Handle {
    queue: Queue,
    waker: Waker,
    client: Client,
    isolation: ffi::rd_kafka_IsolationLevel_t,
}

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

impl Handle {
    /// Creates the consumer of `config`; it connects by itself.
    pub fn new(config: &ClientConfig, isolation: ffi::rd_kafka_IsolationLevel_t) -> Result<Self, String> {
        let mut config = config.clone();
        // See `reborn`. These are lines about changes of topics; they are few.
        config.set("debug", "topic").set_log_level(RDKafkaLogLevel::Debug);
        let native = config.create_native_config().map_err(|error| error.to_string())?;
        // SAFETY: `native` is a live configuration; `Client::new` takes it over below.
        unsafe { ffi::rd_kafka_conf_set_events(native.ptr(), ffi::RD_KAFKA_EVENT_ERROR) };
        let client = Client::new(&config, native, RDKafkaType::RD_KAFKA_CONSUMER, DefaultClientContext)
            .map_err(|error| error.to_string())?;
        // SAFETY: the client is live; its main queue exists as long as it does. rdkafka sends log
        // lines there, `Topic::start` the records, `answer.rs` the answers: one queue, one order.
        let queue = unsafe { ffi::rd_kafka_queue_get_main(client.native_ptr()) };
        let queue = Queue(NonNull::new(queue).ok_or("librdkafka has no main queue")?);
        Ok(Self { queue, waker: Waker(Arc::new(Mutex::new(Some(queue)))), client, isolation })
    }

    /// Interrupts [`Handle::poll`] from any thread.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// The next event; waits for `timeout` at most.
    pub fn poll(&self, timeout: Duration) -> Option<Event> {
        let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the queue is live; the event is owned and destroyed once, by `RawEvent`.
        let event = unsafe { ffi::rd_kafka_queue_poll(self.queue.0.as_ptr(), millis) };
        Some(Event::read(RawEvent(NonNull::new(event)?)))
    }

    /// Events that wait in the queue.
    pub fn waiting(&self) -> usize {
        // SAFETY: the queue is live.
        unsafe { ffi::rd_kafka_queue_length(self.queue.0.as_ptr()) }
    }

    /// End of `partition`, as the last fetch told it.
    pub fn end(&self, topic: &CStr, partition: u32) -> Option<i64> {
        let (mut low, mut high) = (-1, -1);
        // SAFETY: the client is live, the name is a C string, both numbers outlive the call.
        let error = unsafe {
            ffi::rd_kafka_get_watermark_offsets(
                self.client.native_ptr(),
                topic.as_ptr(),
                i32::try_from(partition).ok()?,
                &mut low,
                &mut high,
            )
        };
        (error == ffi::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR && high >= 0).then_some(high)
    }

    /// A handle on the topic `name`. It must not outlive `self`.
    pub fn topic(&self, name: &str) -> Option<Topic> {
        let name = CString::new(name).ok()?;
        // SAFETY: the client is live, the name is a C string, no configuration is handed over.
        let topic =
            unsafe { ffi::rd_kafka_topic_new(self.client.native_ptr(), name.as_ptr(), std::ptr::null_mut()) };
        NonNull::new(topic).map(Topic)
    }

    /// Asks for ids and partition counts of `topics`; without topics, whether the broker answers.
    pub fn describe(&self, topics: &[String], number: usize, timeout: Duration) {
        self.request(number, timeout).describe(topics);
    }

    /// Asks for offsets of `topic`, each of a partition and by time in milliseconds or one of the
    /// specs in `answer.rs`.
    pub fn offsets(&self, topic: &str, wanted: &[(u32, i64)], number: usize, timeout: Duration) {
        self.request(number, timeout).offsets(topic, wanted, self.isolation);
    }

    fn request(&self, number: usize, timeout: Duration) -> Request {
        let (client, queue) = (self.client.native_ptr(), self.queue.0.as_ptr());
        Request { client, queue, number, timeout }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Nobody can be inside `Waker::wake` once the lock was taken.
        *self.waker.0.lock() = None;
        // SAFETY: got by `rd_kafka_queue_get_main` and not used after this; the client is destroyed
        // after it, as a field.
        unsafe { ffi::rd_kafka_queue_destroy(self.queue.0.as_ptr()) };
    }
}

#[derive(Clone, Copy)]
struct Queue(NonNull<ffi::rd_kafka_queue_t>);

// SAFETY: librdkafka's queues may be used from any thread, and by several at once.
unsafe impl Send for Queue {}

/// Interrupts a poll; does nothing once the handle is gone.
#[derive(Clone)]
pub struct Waker(Arc<Mutex<Option<Queue>>>);

impl Waker {
    /// Lets the poll that runs, or else the next one, return at once.
    pub fn wake(&self) {
        if let Some(queue) = &*self.0.lock() {
            // SAFETY: the handle clears the pointer under the same lock before it destroys the queue.
            unsafe { ffi::rd_kafka_queue_yield(queue.0.as_ptr()) };
        }
    }
}

/// A topic that partitions are read of. Dropped before its [`Handle`].
pub struct Topic(NonNull<ffi::rd_kafka_topic_t>);

// SAFETY: librdkafka's topics may be used from any thread.
unsafe impl Send for Topic {}

impl Topic {
    /// What [`Fetched::topic`] gives for this topic's records.
    pub fn key(&self) -> usize {
        self.0.as_ptr() as usize
    }

    /// Starts to read `partition` at `offset`, without a group: nothing is joined or committed.
    pub fn start(&self, partition: u32, offset: i64, handle: &Handle) -> bool {
        // SAFETY: topic and queue are live; what is read is polled from the queue.
        unsafe {
            ffi::rd_kafka_consume_start_queue(
                self.0.as_ptr(),
                partition as i32,
                offset,
                handle.queue.0.as_ptr(),
            ) == 0
        }
    }

    /// Stops reading `partition`. Once this returned, nothing fetched before comes out any more.
    pub fn stop(&self, partition: u32) {
        // SAFETY: the topic is live; stopping what was not started is an error without effect.
        unsafe { ffi::rd_kafka_consume_stop(self.0.as_ptr(), partition as i32) };
    }
}

impl Drop for Topic {
    fn drop(&mut self) {
        // SAFETY: got by `rd_kafka_topic_new`, destroyed once.
        unsafe { ffi::rd_kafka_topic_destroy(self.0.as_ptr()) };
    }
}

/// An event that is destroyed when dropped.
pub struct RawEvent(NonNull<ffi::rd_kafka_event_t>);

impl RawEvent {
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
    fn read(event: RawEvent) -> Self {
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

    /// The [`Topic::key`] of its topic.
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
