//! Counts every message by id and checksum: what was offered and accepted on one side, what came
//! on the other, and the difference.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};

type Checksum = [u8; 32];

/// A message to publish.
#[derive(Clone, Debug)]
pub struct Payload {
    /// Names the message everywhere.
    pub ident: String,
    /// Its key; order is kept per key.
    pub key: String,
    /// JSON that carries both and random padding.
    pub bytes: Vec<u8>,
}

/// What was offered and accepted.
#[derive(Clone, Debug)]
pub struct Ledger(Arc<Mutex<Book>>);

#[derive(Debug)]
struct Book {
    rng: fastrand::Rng,
    run: String,
    keys: usize,
    next: BTreeMap<String, u64>,
    offered: BTreeMap<String, Checksum>,
    accepted: BTreeSet<String>,
    resent: BTreeSet<String>,
    refused: BTreeSet<String>,
}

impl Ledger {
    /// A ledger of messages with `keys` different keys, seeded for `purpose`.
    pub fn new(purpose: &str, keys: usize) -> Self {
        let mut rng = crate::seed::rng(purpose);
        let run: String = std::iter::repeat_with(|| rng.lowercase()).take(6).collect();
        let (next, offered, accepted, resent, refused) = Default::default();
        Self(Arc::new(Mutex::new(Book { rng, run, keys, next, offered, accepted, resent, refused })))
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new message with a random key.
    pub fn offer(&self) -> Payload {
        let key = {
            let mut book = self.book();
            let keys = book.keys;
            format!("k{}", book.rng.usize(0..keys))
        };
        self.offer_with_key(&key)
    }

    /// A new message with `key`: most are some 200 bytes, few some 20 KiB.
    pub fn offer_with_key(&self, key: &str) -> Payload {
        let mut book = self.book();
        let large = book.rng.usize(0..100) == 0;
        let size = if large { book.rng.usize(4_000..20_000) } else { book.rng.usize(40..400) };
        let padding: String = std::iter::repeat_with(|| book.rng.alphanumeric()).take(size).collect();
        let sequence = book.next.entry(key.into()).or_default();
        *sequence += 1;
        let sequence = *sequence;
        let ident = format!("{}/{key}/{sequence}", book.run);
        let text =
            format!(r#"{{"ident": "{ident}",  "key":"{key}","sequence":{sequence},"padding":"{padding}"}}"#);
        book.offered.insert(ident.clone(), Sha256::digest(&text).into());
        Payload { ident, key: key.into(), bytes: text.into_bytes() }
    }

    /// The other side acknowledged it: from now on it must arrive.
    pub fn accept(&self, ident: &str) {
        self.book().accepted.insert(ident.into());
    }

    /// The outcome is unknown and it will be sent again: it may stand in the log more than once,
    /// each time with an id of its own.
    pub fn resend(&self, ident: &str) {
        self.book().resent.insert(ident.into());
    }

    /// It was surely not written, and will be sent again.
    pub fn refuse(&self, ident: &str) {
        self.book().refused.insert(ident.into());
    }

    fn was_resent(&self, ident: &str) -> bool {
        let book = self.book();
        book.resent.contains(ident) || book.refused.contains(ident)
    }

    /// How many were accepted.
    pub fn accepted(&self) -> usize {
        self.book().accepted.len()
    }

    /// How many were offered.
    pub fn offered(&self) -> usize {
        self.book().offered.len()
    }

    fn checksum(&self, ident: &str) -> Option<Checksum> {
        self.book().offered.get(ident).copied()
    }
}

/// What one client received.
#[derive(Clone, Debug)]
pub struct Reader {
    ledger: Ledger,
    times: BTreeMap<String, u32>,
    ids: BTreeMap<String, String>,
    latest: BTreeMap<String, u64>,
    corrupted: Vec<String>,
    invented: Vec<String>,
    reordered: Vec<String>,
    renamed: Vec<String>,
}

impl Reader {
    /// A client of `ledger`'s messages that has received nothing yet.
    pub fn new(ledger: &Ledger) -> Self {
        Self {
            ledger: ledger.clone(),
            times: BTreeMap::new(),
            ids: BTreeMap::new(),
            latest: BTreeMap::new(),
            corrupted: Vec::new(),
            invented: Vec::new(),
            reordered: Vec::new(),
            renamed: Vec::new(),
        }
    }

    /// A message came, with the id that Sluice gave it where the format carries one.
    pub fn take(&mut self, payload: &[u8], id: Option<&str>) {
        let parsed: Option<serde_json::Value> = serde_json::from_slice(payload).ok();
        let ident = parsed.as_ref().and_then(|it| it["ident"].as_str()).unwrap_or_default().to_owned();
        match self.ledger.checksum(&ident) {
            None => {
                return self.invented.push(String::from_utf8_lossy(&payload[..payload.len().min(80)]).into());
            }
            Some(checksum) if checksum[..] != Sha256::digest(payload)[..] => {
                return self.corrupted.push(ident);
            }
            Some(_) => {}
        }
        if let Some(id) = id
            && self.ids.entry(ident.clone()).or_insert_with(|| id.into()) != id
            && !self.ledger.was_resent(&ident)
        {
            self.renamed.push(ident.clone());
        }
        let times = self.times.entry(ident.clone()).or_default();
        *times += 1;
        if *times > 1 {
            return;
        }
        let (head, sequence) = ident.rsplit_once('/').expect("made with slashes");
        let sequence: u64 = sequence.parse().expect("made with a number");
        let latest = self.latest.entry(head.into()).or_default();
        if sequence < *latest {
            self.reordered.push(ident.clone());
        }
        *latest = sequence.max(*latest);
    }

    /// How many different messages came.
    pub fn received(&self) -> usize {
        self.times.len()
    }

    /// How many messages came more than once, though they were sent once.
    pub fn duplicated(&self) -> usize {
        self.times.iter().filter(|(ident, times)| **times > 1 && !self.ledger.was_resent(ident)).count()
    }

    /// How many messages came more than once though each earlier attempt was surely not written.
    pub fn written_though_refused(&self) -> usize {
        let book = self.ledger.book();
        let once = |ident: &String| book.refused.contains(ident) && !book.resent.contains(ident);
        self.times.iter().filter(|(ident, times)| **times > 1 && once(ident)).count()
    }

    /// What was accepted and has not come.
    pub fn lost(&self) -> Vec<String> {
        let book = self.ledger.book();
        book.accepted.iter().filter(|ident| !self.times.contains_key(*ident)).cloned().collect()
    }

    /// Checks that nothing is lost, corrupted, invented, reordered or changed its id.
    ///
    /// # Panics
    /// If something is.
    pub fn check(&self, who: &str) {
        let lost = self.lost();
        let wrong = [&lost, &self.corrupted, &self.invented, &self.reordered, &self.renamed];
        assert!(wrong.iter().all(|list| list.is_empty()), "{who}: {self}");
    }
}

impl fmt::Display for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lost = self.lost();
        write!(
            f,
            "{} accepted, {} received, {} duplicated, {} lost {:?}, {} corrupted {:?}, {} invented {:?}, \
             {} reordered {:?}, {} changed their id {:?}",
            self.ledger.accepted(),
            self.received(),
            self.duplicated(),
            lost.len(),
            first(&lost),
            self.corrupted.len(),
            first(&self.corrupted),
            self.invented.len(),
            first(&self.invented),
            self.reordered.len(),
            first(&self.reordered),
            self.renamed.len(),
            first(&self.renamed),
        )
    }
}

fn first(list: &[String]) -> &[String] {
    &list[..list.len().min(5)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_sees_what_is_wrong() {
        let ledger = Ledger::new("ledger", 1);
        let payloads: Vec<Payload> = (0..4).map(|_| ledger.offer()).collect();
        payloads.iter().for_each(|payload| ledger.accept(&payload.ident));
        let mut reader = Reader::new(&ledger);
        reader.take(&payloads[1].bytes, Some("b"));
        reader.take(&payloads[0].bytes, Some("a"));
        reader.take(&payloads[0].bytes, Some("other"));
        let mut broken = payloads[2].bytes.clone();
        *broken.last_mut().expect("not empty") = b' ';
        broken.push(b'}');
        reader.take(&broken, None);
        reader.take(b"{}", None);
        assert_eq!(reader.lost(), [payloads[2].ident.clone(), payloads[3].ident.clone()]);
        assert_eq!(reader.duplicated(), 1);
        assert_eq!((reader.corrupted.len(), reader.invented.len()), (1, 1));
        assert_eq!((reader.reordered.len(), reader.renamed.len()), (1, 1));
    }

    #[test]
    fn a_ledger_is_content_when_all_came_in_order() {
        let ledger = Ledger::new("ledger", 3);
        let mut reader = Reader::new(&ledger);
        for _ in 0..50 {
            let payload = ledger.offer();
            ledger.accept(&payload.ident);
            reader.take(&payload.bytes, None);
        }
        reader.check("the reader");
    }
}
