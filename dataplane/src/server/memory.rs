//! The memory server: a log in this process. Its ring is the log; it never stops.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::feed::wall_clock;
use crate::message::{Incarnation, Outgoing, Position, Record};
use crate::server::{Inlet, Opening};

/// One address of a memory server, shared by every channel bound to it.
pub struct Log {
    incarnation: Incarnation,
    state: Mutex<State>,
}

struct State {
    next: i64,
    inlets: Vec<(u64, Inlet)>,
    readers: u64,
}

/// A channel reads the log; dropping this ends it.
pub struct Reading {
    log: Arc<Log>,
    id: u64,
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.log.state.lock().inlets.retain(|(id, _)| *id != self.id);
    }
}

impl Log {
    /// An empty log.
    pub fn new(address: &str) -> Arc<Self> {
        Arc::new(Self {
            incarnation: Incarnation::new(address, &fastrand::u128(..).to_be_bytes()),
            state: Mutex::new(State { next: 0, inlets: Vec::new(), readers: 0 }),
        })
    }

    /// Reads what is published from now on.
    pub fn read(self: &Arc<Self>, inlet: Inlet) -> Reading {
        let mut state = self.state.lock();
        let next = state.next;
        inlet.open(Opening { incarnation: self.incarnation.clone(), starts: vec![next], ends: vec![next] });
        let id = state.readers;
        state.readers += 1;
        state.inlets.push((id, inlet));
        Reading { log: self.clone(), id }
    }

    /// Resolves when the channels' clients had their turn.
    pub async fn relieved(&self) {
        let inlets: Vec<Inlet> = self.state.lock().inlets.iter().map(|(_, inlet)| inlet.clone()).collect();
        for inlet in inlets {
            inlet.relieved().await;
        }
    }

    /// Appends a message.
    pub fn publish(&self, message: Outgoing) -> (Incarnation, Position) {
        let mut state = self.state.lock();
        let position = Position { partition: 0, offset: state.next };
        state.next += 1;
        let record = Record {
            partition: 0,
            offset: position.offset,
            timestamp: Some(wall_clock()),
            key: message.key,
            headers: message.headers,
            payload: message.payload,
        };
        // Under the lock, so that every channel sees the same order.
        for (_, inlet) in &state.inlets {
            inlet.push_now(&mut vec![record.clone()]);
        }
        (self.incarnation.clone(), position)
    }
}
