//! The consumer handle of librdkafka, for what rdkafka does not wrap: fetched records with their
//! topic handle, ends of partitions with topic and position, readers without a group, topic ids,
//! and offsets of all partitions in one request.
//!
//! The handle, its topics and its events belong to the one thread that polls. Only a [`Waker`]
//! leaves it. All unsafe code of reading is here, in `event.rs` and in `answer.rs`.

use std::ffi::{CStr, CString};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::bindings as ffi;
use rdkafka::client::{Client, DefaultClientContext};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::types::RDKafkaType;

use super::answer::Request;
use super::event::{Event, RawEvent};

/// One consumer: its connections, its threads and the one queue everything comes out of.
pub struct Handle {
    queue: Queue,
    waker: Waker,
    client: Client,
    isolation: ffi::rd_kafka_IsolationLevel_t,
}

impl Handle {
    /// Creates the consumer of `config`; it connects by itself.
    pub fn new(config: &ClientConfig, isolation: ffi::rd_kafka_IsolationLevel_t) -> Result<Self, String> {
        let mut config = config.clone();
        // See `Event::Reborn`. These are lines about changes of topics; they are few.
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
        RawEvent::own(event).map(Event::read)
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
    /// What [`super::event::Fetched::topic`] gives for this topic's records.
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
