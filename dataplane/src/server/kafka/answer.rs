//! Requests about topics through librdkafka's admin interface, which rdkafka does not wrap: topic
//! ids with partition counts, and offsets of many partitions at once. Answers come out of the
//! queue of [`super::native::Handle`], known by the number they were asked with.

use std::ffi::{CString, c_void};
use std::time::Duration;

use rdkafka::bindings as ffi;
use rdkafka::error::RDKafkaErrorCode;

use super::event::{RawEvent, text};

/// Asks for the first offset that the broker still has.
pub const EARLIEST: i64 = -2;
/// Asks for the end: the offset that the next record gets, or under `read_committed` the first
/// offset of an open transaction.
pub const LATEST: i64 = -1;

/// An answer.
pub enum Answer {
    /// One description per topic, in no order.
    Topics(Result<Vec<Description>, Fault>),
    /// Partitions and their offsets; -1 if nothing is as late as was asked for.
    Offsets(Result<Vec<(u32, i64)>, Fault>),
}

/// What the broker says of a topic.
#[derive(Clone, Debug)]
pub struct Description {
    /// Name.
    pub name: String,
    /// Id and partition count, or why there are none.
    pub state: Result<TopicState, RDKafkaErrorCode>,
}

/// One life of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicState {
    /// The topic id (KIP-516); zero from brokers that have none.
    pub id: [u8; 16],
    /// Partition count.
    pub partitions: u32,
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Fault {
    /// The error.
    pub code: RDKafkaErrorCode,
    /// librdkafka's words.
    pub reason: String,
}

impl Fault {
    /// A fault in librdkafka's words for `code`.
    pub fn of(code: RDKafkaErrorCode) -> Self {
        Self { code, reason: code.to_string() }
    }
}

/// Options of a request, destroyed when dropped.
struct Options(*mut ffi::rd_kafka_AdminOptions_t);

impl Drop for Options {
    fn drop(&mut self) {
        // SAFETY: owned, destroyed once; requests copy what they need.
        unsafe { ffi::rd_kafka_AdminOptions_destroy(self.0) };
    }
}

/// A request about to be made, with the number its answer is known by.
pub struct Request {
    /// A live client.
    pub client: *mut ffi::rd_kafka_t,
    /// The live queue that the answer comes out of.
    pub queue: *mut ffi::rd_kafka_queue_t,
    /// The number.
    pub number: usize,
    /// How long the answer may take.
    pub timeout: Duration,
}

impl Request {
    fn options(&self, api: ffi::rd_kafka_admin_op_t) -> Options {
        let millis = i32::try_from(self.timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the client is live. The opaque is a number that is never dereferenced. The
        // timeout is within the range of the option, so the error text is not needed.
        unsafe {
            let options = ffi::rd_kafka_AdminOptions_new(self.client, api);
            ffi::rd_kafka_AdminOptions_set_opaque(options, self.number as *mut c_void);
            ffi::rd_kafka_AdminOptions_set_request_timeout(options, millis, std::ptr::null_mut(), 0);
            Options(options)
        }
    }

    /// See [`super::native::Handle::describe`].
    pub fn describe(&self, topics: &[String]) {
        use ffi::rd_kafka_admin_op_t::{RD_KAFKA_ADMIN_OP_DESCRIBECLUSTER, RD_KAFKA_ADMIN_OP_DESCRIBETOPICS};
        if topics.is_empty() {
            let options = self.options(RD_KAFKA_ADMIN_OP_DESCRIBECLUSTER);
            // SAFETY: all three are live; the request copies the options.
            unsafe { ffi::rd_kafka_DescribeCluster(self.client, options.0, self.queue) };
            return;
        }
        let options = self.options(RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
        let names: Vec<CString> = topics.iter().filter_map(|name| CString::new(name.as_str()).ok()).collect();
        let mut pointers: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
        // SAFETY: the names outlive the calls, and both collection and options are copied by them.
        unsafe {
            let collection =
                ffi::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
            ffi::rd_kafka_DescribeTopics(self.client, collection, options.0, self.queue);
            ffi::rd_kafka_TopicCollection_destroy(collection);
        }
    }

    /// See [`super::native::Handle::offsets`].
    pub fn offsets(&self, topic: &str, wanted: &[(u32, i64)], level: ffi::rd_kafka_IsolationLevel_t) {
        let options = self.options(ffi::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS);
        let topic = CString::new(topic).unwrap_or_default();
        // SAFETY: everything handed over is live during the calls and copied by them. Setting the
        // isolation level fails only for other requests; its error object is then destroyed.
        unsafe {
            let error = ffi::rd_kafka_AdminOptions_set_isolation_level(options.0, level);
            if !error.is_null() {
                ffi::rd_kafka_error_destroy(error);
            }
            let list = ffi::rd_kafka_topic_partition_list_new(wanted.len() as i32);
            for (partition, spec) in wanted {
                let entry = ffi::rd_kafka_topic_partition_list_add(list, topic.as_ptr(), *partition as i32);
                (*entry).offset = *spec;
            }
            ffi::rd_kafka_ListOffsets(self.client, list, options.0, self.queue);
            ffi::rd_kafka_topic_partition_list_destroy(list);
        }
    }
}

/// Reads the answer out of `event`, if it is one of ours, with the number it was asked with.
pub fn read(kind: i32, event: &RawEvent) -> Option<(usize, Answer)> {
    let known = matches!(
        kind,
        ffi::RD_KAFKA_EVENT_DESCRIBETOPICS_RESULT
            | ffi::RD_KAFKA_EVENT_DESCRIBECLUSTER_RESULT
            | ffi::RD_KAFKA_EVENT_LISTOFFSETS_RESULT
    );
    if !known {
        return None;
    }
    // SAFETY: the event is live and the result of a request, which all have opaque and error.
    let (request, fault) = unsafe {
        let code = RDKafkaErrorCode::from(ffi::rd_kafka_event_error(event.as_ptr()));
        let fault = (code != RDKafkaErrorCode::NoError)
            .then(|| Fault { code, reason: text(ffi::rd_kafka_event_error_string(event.as_ptr())) });
        (ffi::rd_kafka_event_opaque(event.as_ptr()) as usize, fault)
    };
    let answer = match (kind, fault) {
        (ffi::RD_KAFKA_EVENT_LISTOFFSETS_RESULT, Some(fault)) => Answer::Offsets(Err(fault)),
        (ffi::RD_KAFKA_EVENT_LISTOFFSETS_RESULT, None) => Answer::Offsets(read_offsets(event)),
        (_, Some(fault)) => Answer::Topics(Err(fault)),
        (ffi::RD_KAFKA_EVENT_DESCRIBETOPICS_RESULT, None) => Answer::Topics(Ok(read_topics(event))),
        (_, None) => Answer::Topics(Ok(Vec::new())),
    };
    Some((request, answer))
}

fn read_topics(event: &RawEvent) -> Vec<Description> {
    // SAFETY: the event is a successful DescribeTopics result; everything read lives with it, and
    // the arrays have the lengths that are written beside them.
    unsafe {
        let result = ffi::rd_kafka_event_DescribeTopics_result(event.as_ptr());
        let mut count = 0;
        let topics = ffi::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        (0..count)
            .map(|index| {
                let topic = *topics.add(index);
                let code = ffi::rd_kafka_error_code(ffi::rd_kafka_TopicDescription_error(topic));
                let state = match RDKafkaErrorCode::from(code) {
                    RDKafkaErrorCode::NoError => Ok(read_state(topic)),
                    code => Err(code),
                };
                Description { name: text(ffi::rd_kafka_TopicDescription_name(topic)), state }
            })
            .collect()
    }
}

/// # Safety
/// `topic` is live and has no error.
unsafe fn read_state(topic: *const ffi::rd_kafka_TopicDescription_t) -> TopicState {
    // SAFETY: by the contract above.
    unsafe {
        let uuid = ffi::rd_kafka_TopicDescription_topic_id(topic);
        let most = ffi::rd_kafka_Uuid_most_significant_bits(uuid);
        let least = ffi::rd_kafka_Uuid_least_significant_bits(uuid);
        let mut id = [0; 16];
        id[..8].copy_from_slice(&most.to_be_bytes());
        id[8..].copy_from_slice(&least.to_be_bytes());
        let mut partitions = 0;
        ffi::rd_kafka_TopicDescription_partitions(topic, &mut partitions);
        TopicState { id, partitions: partitions as u32 }
    }
}

fn read_offsets(event: &RawEvent) -> Result<Vec<(u32, i64)>, Fault> {
    // SAFETY: as in `read_topics`, for ListOffsets.
    unsafe {
        let result = ffi::rd_kafka_event_ListOffsets_result(event.as_ptr());
        let mut count = 0;
        let infos = ffi::rd_kafka_ListOffsets_result_infos(result, &mut count);
        (0..count)
            .map(|index| {
                let at = &*ffi::rd_kafka_ListOffsetsResultInfo_topic_partition(*infos.add(index));
                match RDKafkaErrorCode::from(at.err) {
                    RDKafkaErrorCode::NoError => Ok((at.partition as u32, at.offset)),
                    code => Err(Fault::of(code)),
                }
            })
            .collect()
    }
}
