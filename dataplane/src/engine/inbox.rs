//! What clients send: control frames are answered here, messages are published.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::channel::Channel;
use crate::encode::Lane;
use crate::engine::client::Flow;
use crate::engine::mailbox::{Command, Mailbox};
use crate::engine::shard::Shard;
use crate::message::Outgoing;
use crate::publish::{Via, begin};
use crate::respond::Refusal;
use crate::transport::websocket::frame::{self, Opcode};
use crate::transport::websocket::inbound::{Event, Inbound};
use crate::transport::websocket::protocol::{self, Frame};

/// Publishes of one client under way; beyond it nothing more is read from its socket.
const MAX_PENDING: usize = 64;
/// Reads of one client before others get their turn.
const TURN_READS: usize = 4;

/// Publishes what one client sends, in its order, and lets go when the client does.
struct Publisher {
    channel: Arc<Channel>,
    name: Arc<str>,
    mailbox: Arc<Mailbox>,
    client: usize,
    serial: u64,
}

impl Publisher {
    async fn run(self, mut messages: mpsc::Receiver<(Option<String>, Outgoing)>) {
        while let Some((id, message)) = messages.recv().await {
            let (channel, name) = (self.channel.clone(), self.name.clone());
            let state = channel.state();
            let begun = begin(channel, state, name, Via::WebSocket, message).await;
            let (mailbox, client, serial) = (self.mailbox.clone(), self.client, self.serial);
            tokio::spawn(async move {
                let result = match begun {
                    Ok(begun) => begun.finish().await,
                    Err(refusal) => Err(refusal),
                };
                mailbox.send(Command::Published { client, serial, id, result });
            });
        }
    }
}

impl Shard {
    /// Reads what a client sent, within its turn.
    pub(super) fn receive(&mut self, key: usize) {
        for _ in 0..TURN_READS {
            if !self.take_events(key) {
                return;
            }
            let Some(client) = self.clients.get_mut(key) else { return };
            match client.read(&mut self.scratch) {
                Ok(count) if client.lane.is_websocket() && !client.deaf => {
                    client.unanswered = 0;
                    client.inbound.push(&self.scratch[..count]);
                }
                // An SSE client has nothing more to say, and one that broke the protocol is not heard.
                Ok(_) => {}
                Err(Flow::Gone) => {
                    // Its publishes are counted when they are answered.
                    return self.doomed.push(key);
                }
                Err(_) => return,
            }
        }
        self.mailbox.again(key);
    }

    /// Acts on everything whole that was received; `false` if nothing more may be read now.
    fn take_events(&mut self, key: usize) -> bool {
        loop {
            let Some(client) = self.clients.get_mut(key) else { return false };
            client.held = client.pending >= MAX_PENDING || client.is_overloaded();
            if client.held {
                return false;
            }
            let limit = client.channel.state().policy.limits.max_message_bytes();
            // A JSON frame around a message of that size: base64, key and headers.
            let limit = if client.lane == Lane::WsRaw { limit } else { limit / 3 * 4 + (64 << 10) };
            match client.inbound.next(limit) {
                Ok(None) => return true,
                Ok(Some(event)) => self.on_event(key, event),
                Err(refusal) => {
                    // Unread bytes would turn the close into a reset that hides its reason.
                    client.deaf = true;
                    client.inbound = Inbound::default();
                    self.close(key, &refusal);
                    self.settle(key);
                    return true;
                }
            }
        }
    }

    fn on_event(&mut self, key: usize, event: Event) {
        let client = &mut self.clients[key];
        match event {
            Event::Ping(payload) => {
                client.say(frame::whole(Opcode::Pong, payload.len(), |out| out.extend_from_slice(&payload)));
            }
            Event::Pong => client.unanswered = 0,
            Event::Close(code) => self.close_answer(key, code),
            // After a goodbye only control frames count.
            Event::Message { .. } if client.closing.is_some() => {}
            Event::Message { payload, .. } if client.goodbye_is_due() => self.on_late_message(key, &payload),
            Event::Message { text: false, .. } if client.lane != Lane::WsRaw => {
                self.close(key, &Refusal::NotText);
            }
            Event::Message { payload, .. } => match client.lane {
                Lane::WsRaw => {
                    let message = Outgoing { payload: Some(payload.into()), ..Outgoing::default() };
                    self.start_publish(key, None, message);
                }
                Lane::WsCloudEvents => match protocol::read_cloud_event(&payload) {
                    Ok((id, message)) => self.start_publish(key, Some(id), message),
                    Err(reason) => self.complain(key, &Refusal::BadRequest(reason)),
                },
                _ => self.on_frame(key, &payload),
            },
        }
    }

    /// A message that came after its client should have gone: surely not written.
    fn on_late_message(&mut self, key: usize, payload: &[u8]) {
        let refusal = Refusal::Drain { retry_after: Duration::from_millis(200) };
        let client = &self.clients[key];
        let id = match client.lane {
            Lane::WsJson => match protocol::read(payload) {
                Ok(Frame::Publish { id, .. }) => id,
                _ => return,
            },
            Lane::WsCloudEvents => protocol::read_cloud_event(payload).ok().map(|(id, _)| id),
            _ => None,
        };
        client.channel.metrics.published(client.metrics(), refusal.name());
        self.answer(key, id, Err(refusal));
    }

    fn on_frame(&mut self, key: usize, payload: &[u8]) {
        match protocol::read(payload) {
            Ok(Frame::Pause) => self.clients[key].paused = true,
            Ok(Frame::Resume) => {
                self.clients[key].paused = false;
                self.mailbox.again(key);
            }
            Ok(Frame::Publish { id, message: Ok(message) }) => self.start_publish(key, id, message),
            Ok(Frame::Publish { id, message: Err(reason) }) => {
                self.answer(key, id, Err(Refusal::BadRequest(reason)));
            }
            Ok(Frame::Unsupported { id: None, what }) => {
                self.complain(key, &Refusal::NotImplemented(what));
            }
            Ok(Frame::Unsupported { id, what }) => {
                self.answer(key, id, Err(Refusal::NotImplemented(what)));
            }
            Err(reason) => {
                let refusal = Refusal::BadRequest(reason);
                self.complain(key, &refusal);
                self.close(key, &refusal);
            }
        }
    }

    /// Tells a client that something it sent cannot be done.
    fn complain(&mut self, key: usize, refusal: &Refusal) {
        let client = &mut self.clients[key];
        let encoder = client.channel.state().encoder.clone();
        if let Some(bytes) = encoder.control(client.lane, "error", None, refusal.fields()) {
            client.say(bytes);
        }
    }

    fn start_publish(&mut self, key: usize, id: Option<String>, message: Outgoing) {
        let client = &mut self.clients[key];
        let state = client.channel.state();
        let allowed =
            state.spec.publish.as_ref().is_some_and(|publish| publish.transports.websocket.is_some());
        if !allowed {
            let refusal = Refusal::Forbidden("this channel takes no messages over WebSocket");
            client.channel.metrics.published(client.metrics(), refusal.name());
            return self.answer(key, id, Err(refusal));
        }
        client.pending += 1;
        let queue = client.publisher.get_or_insert_with(|| {
            let (queue, messages) = mpsc::channel(MAX_PENDING);
            let publisher = Publisher {
                channel: client.channel.clone(),
                name: Arc::clone(&client.name),
                mailbox: self.mailbox.clone(),
                client: key,
                serial: client.serial,
            };
            self.main.spawn(publisher.run(messages));
            queue
        });
        // It has room for every publish that may be under way.
        if queue.try_send((id, message)).is_err() {
            let refusal = Refusal::OutcomeUnknown { reason: "this server failed".into() };
            client.pending -= 1;
            self.close(key, &refusal);
        }
    }

    /// A publish was answered.
    pub(super) fn on_published(
        &mut self,
        key: usize,
        serial: u64,
        id: Option<String>,
        result: Result<String, Refusal>,
    ) {
        let Some(client) = self.clients.get_mut(key).filter(|client| client.serial == serial) else { return };
        client.pending -= 1;
        self.answer(key, id, result);
        self.after_answers(key);
        self.on_ready(key);
    }

    /// Tells a client what became of its message.
    fn answer(&mut self, key: usize, id: Option<String>, result: Result<String, Refusal>) {
        let client = &mut self.clients[key];
        let encoder = client.channel.state().encoder.clone();
        let bytes: Option<Bytes> = match &result {
            Ok(message) => {
                let fields = serde_json::json!({"id": id, "message": message});
                encoder.control(client.lane, "ack", None, fields)
            }
            Err(refusal) => {
                let retryable = refusal.is_transient() || matches!(refusal, Refusal::OutcomeUnknown { .. });
                let mut fields = refusal.fields();
                fields["id"] = id.into();
                fields["retryable"] = retryable.into();
                encoder.control(client.lane, "nack", None, fields)
            }
        };
        match (bytes, result) {
            (Some(bytes), _) => {
                client.say(bytes);
                if client.is_overloaded() {
                    self.close(key, &Refusal::Overload);
                }
            }
            // Raw clients are told by a close code, and of success not at all.
            (None, Err(refusal)) => {
                self.close(key, &refusal);
                self.settle(key);
            }
            (None, Ok(_)) => {}
        }
    }
}
