//! What became of a message, in the terms of a client: one place maps librdkafka's error and its
//! word on persistence.

use std::time::Duration;

use rdkafka::bindings::rd_kafka_msg_status_t as Status;
use rdkafka::error::RDKafkaErrorCode as Code;

use super::health::{topic_problem, words};
use crate::server::PublishError;

/// When to try again after an overload or a restart of ours.
pub const SOON: Duration = Duration::from_secs(1);
/// When to try again after the broker did not take a message.
const LATER: Duration = Duration::from_secs(2);
/// When to try again if somebody has to change something first.
const AFTER_A_CHANGE: Duration = Duration::from_secs(10);

/// Surely not written.
pub fn not_written(reason: impl Into<String>, retry_after: Duration) -> PublishError {
    PublishError::NotWritten { reason: reason.into(), retry_after }
}

/// The topic cannot be used, says the broker.
pub fn unusable(reason: String) -> PublishError {
    not_written(reason, AFTER_A_CHANGE)
}

/// The broker cannot be asked.
pub fn unreachable(reason: String) -> PublishError {
    not_written(reason, LATER)
}

/// Whether a permission is missing.
pub const fn is_denied(code: Code) -> bool {
    matches!(code, Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed)
}

/// What it means that a message for `topic` failed with `code` after at most `timeout`, while
/// librdkafka says `status` of its persistence. Only its `NOT_PERSISTED` is a promise.
pub fn failure(topic: &str, code: Code, status: Status, timeout: Duration) -> PublishError {
    if code == Code::MessageSizeTooLarge {
        return PublishError::TooLarge;
    }
    let within = format!("{} s", timeout.as_secs_f32());
    if status != Status::RD_KAFKA_MSG_STATUS_NOT_PERSISTED {
        let reason = match code {
            Code::MessageTimedOut | Code::RequestTimedOut | Code::OperationTimedOut => {
                format!("the broker did not acknowledge the message within {within}; it may have it")
            }
            Code::PurgeInflight => {
                "the connection to the broker was closed before the message was acknowledged; it may have it"
                    .to_owned()
            }
            code => format!("the broker may have the message, but did not acknowledge it: {}", words(code)),
        };
        return PublishError::Unknown { reason };
    }
    match code {
        Code::QueueFull => not_written("too many messages wait for the broker", SOON),
        Code::PurgeQueue | Code::BrokerDestroy => {
            not_written("the connection to the broker was closed", SOON)
        }
        Code::MessageTimedOut => {
            not_written(format!("the broker did not take the message within {within}"), LATER)
        }
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition => {
            unusable(topic_problem(topic, Code::UnknownTopic))
        }
        Code::TopicAuthorizationFailed => {
            unusable(format!("the broker does not let this user write to topic `{topic}`; grant Write on it"))
        }
        Code::ClusterAuthorizationFailed => unusable(
            "the broker does not let this user write; grant Write on the topic (before Kafka 3.0 also \
             IdempotentWrite on the cluster)"
                .into(),
        ),
        Code::NotEnoughReplicas => not_written("too few replicas of the topic are in sync", LATER),
        Code::InvalidRecord | Code::PolicyViolation => {
            unusable(format!("the broker refuses the message: {}", words(code)))
        }
        code => not_written(format!("the broker did not take the message: {}", words(code)), LATER),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(code: Code, status: Status) -> PublishError {
        failure("orders", code, status, Duration::from_secs(10))
    }

    #[test]
    fn only_not_persisted_is_surely_not_written() {
        let codes = [Code::MessageTimedOut, Code::BrokerTransportFailure, Code::PurgeInflight, Code::Fatal];
        for code in codes {
            for status in
                [Status::RD_KAFKA_MSG_STATUS_POSSIBLY_PERSISTED, Status::RD_KAFKA_MSG_STATUS_PERSISTED]
            {
                let outcome = outcome(code, status);
                assert!(matches!(outcome, PublishError::Unknown { .. }), "{code:?} {outcome:?}");
            }
            let outcome = outcome(code, Status::RD_KAFKA_MSG_STATUS_NOT_PERSISTED);
            assert!(matches!(outcome, PublishError::NotWritten { .. }), "{code:?} {outcome:?}");
        }
    }

    #[test]
    fn size_is_told_apart() {
        for status in
            [Status::RD_KAFKA_MSG_STATUS_NOT_PERSISTED, Status::RD_KAFKA_MSG_STATUS_POSSIBLY_PERSISTED]
        {
            assert_eq!(outcome(Code::MessageSizeTooLarge, status), PublishError::TooLarge);
        }
    }

    #[test]
    fn a_missing_topic_is_named() {
        let outcome = outcome(Code::UnknownTopic, Status::RD_KAFKA_MSG_STATUS_NOT_PERSISTED);
        assert_eq!(outcome.to_string(), "topic `orders` does not exist at the broker; create it");
    }
}
