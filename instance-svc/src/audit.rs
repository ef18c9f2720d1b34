//! The audit log: who did what, from where, and what came of it.
//!
//! Each start of a replica begins a chain: every event holds the hash over the one before it and itself, and the first names the
//! heads of the chains that were written to last. So no event can be changed or taken out unseen, nor the end of any chain but the
//! newest; who keeps a hash outside notices that as well, and a log that was written anew. Events that come at once are written
//! together; whoever wrote one waits until it is durable, so that nothing is answered that is not in the log.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use postern_proto::{Failure, Reason};
use postern_runtime::Lifecycle;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::metrics;
use crate::store::{AuditRow, Millis, Store, StoreError};

/// Events that may wait to be written; more wait for a place.
const WAITING: usize = 1024;
/// Chains whose heads the first event of a new one names: those that were last written to. Older ones were named by these.
const NAMED_CHAINS: usize = 64;
/// Rows that are read at once when a chain is verified.
const PAGE: u32 = 1000;

/// What is told of an act. It holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Event {
    /// The RPC's name, or the HTTP path.
    pub action: String,
    /// Who: id and name; empty when nobody was known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub actor: String,
    /// To what.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub target: String,
    /// From where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// `OK`, or the reason of the refusal.
    pub outcome: String,
    /// The request's id.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub request_id: String,
    /// In the first event of a chain: the heads of the others, by chain.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub heads: BTreeMap<String, String>,
}

/// What a handler did something to, told to the log in the extensions of its response.
#[derive(Debug, Clone)]
pub struct Target(pub String);

/// In the extensions of a response: nothing was done that the log would be told of.
#[derive(Debug, Clone, Copy)]
pub struct NothingDone;

struct Entry {
    event: Event,
    written: oneshot::Sender<Result<(), Failure>>,
}

/// The log; its clones are one.
#[derive(Clone)]
pub struct Audit {
    entries: mpsc::Sender<Entry>,
    refusals: Arc<Mutex<Refusals>>,
}

/// Refusals of this second.
struct Refusals {
    second: Instant,
    written: u32,
}

/// Refusals that are written down in a second; more are counted, so that a flood does not fill the disk.
const REFUSALS_A_SECOND: u32 = 20;

/// Writes one event down in a chain of its own, for a command that runs beside the instance.
///
/// # Errors
/// When the store cannot be used.
pub async fn note(store: Arc<dyn Store>, event: Event) -> Result<(), StoreError> {
    Writer { chain: String::new(), number: 0, hash: String::new(), store }.write(&[event]).await
}

impl Audit {
    /// Begins this start's chain, and writes until the process stops.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn begin(store: Arc<dyn Store>, lifecycle: &Lifecycle) -> Result<Self, StoreError> {
        let mut writer = Writer { chain: String::new(), number: 0, hash: String::new(), store };
        writer.write(&[]).await?;
        let (entries, waiting) = mpsc::channel(WAITING);
        // It ends when the last who could tell it of an act has.
        lifecycle.spawn_vital("audit", writer.run(waiting));
        let refusals = Refusals { second: Instant::now(), written: 0 };
        Ok(Self { entries, refusals: Arc::new(Mutex::new(refusals)) })
    }

    /// Writes an event down, and waits until it is durable.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE, DRAINING: then nothing that was done may be answered as if it were in the log.
    pub async fn record(&self, event: Event) -> Result<(), Failure> {
        let (written, done) = oneshot::channel();
        let stopping = || Failure::new(Reason::Draining, "the instance is stopping; try again");
        self.entries.send(Entry { event, written }).await.map_err(|_| stopping())?;
        done.await.map_err(|_| stopping())?
    }
}

impl Audit {
    /// Writes the refusal of an act down, unless too many have been in this second.
    ///
    /// # Errors
    /// As [`Audit::record`].
    pub async fn record_refusal(&self, event: Event) -> Result<(), Failure> {
        let takes = {
            let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
            if refusals.second.elapsed() >= Duration::from_secs(1) {
                *refusals = Refusals { second: Instant::now(), written: 0 };
            }
            refusals.written += 1;
            refusals.written <= REFUSALS_A_SECOND
        };
        if takes {
            return self.record(event).await;
        }
        metrics::refusal_not_audited();
        Ok(())
    }
}

struct Writer {
    store: Arc<dyn Store>,
    chain: String,
    number: u64,
    hash: String,
}

impl Writer {
    /// Writes what comes until all who could write are gone.
    async fn run(mut self, mut waiting: mpsc::Receiver<Entry>) {
        let mut entries = Vec::new();
        while waiting.recv_many(&mut entries, WAITING).await > 0 {
            let events: Vec<_> = entries.iter().map(|entry| entry.event.clone()).collect();
            let written = self.write(&events).await.map_err(|error| {
                tracing::error!(error = %error, "the audit log cannot be written");
                Failure::new(Reason::StoreUnavailable, "the audit log cannot be written; try again")
            });
            for entry in entries.drain(..) {
                let _ = entry.written.send(written.clone());
            }
        }
    }

    /// Begins a chain where there is none: at the start, and after a failure, when nobody knows what of it was written.
    async fn write(&mut self, events: &[Event]) -> Result<(), StoreError> {
        let time = self.store.now().await?;
        let mut first = None;
        if self.chain.is_empty() {
            let heads = self.store.audit_heads().await?;
            let heads = heads
                .into_iter()
                .rev()
                .take(NAMED_CHAINS)
                .map(|row| (row.chain, format!("{} {}", row.number, row.hash)))
                .collect();
            first = Some(Event { action: "begin".to_owned(), outcome: "OK".to_owned(), heads, ..Event::default() });
            self.chain = uuid::Uuid::now_v7().simple().to_string();
            (self.number, self.hash) = (0, genesis(&self.chain));
        }
        let written = self.append(time, first.iter().chain(events)).await;
        if written.is_err() {
            self.chain.clear();
        }
        written
    }

    async fn append(&mut self, time: Millis, events: impl Iterator<Item = &Event>) -> Result<(), StoreError> {
        let (mut number, mut hash) = (self.number, self.hash.clone());
        let mut rows = Vec::new();
        for event in events {
            number += 1;
            let event = serde_json::to_string(event).map_err(|error| StoreError::Damaged(error.to_string()))?;
            hash = chained(&hash, number, time, &event);
            rows.push(AuditRow { chain: self.chain.clone(), number, time, event, hash: hash.clone() });
        }
        self.store.append_audit(&rows).await?;
        (self.number, self.hash) = (number, hash);
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn genesis(chain: &str) -> String {
    hex(digest(&SHA256, chain.as_bytes()).as_ref())
}

/// SHA-256 over the hash before, number, time and event, each ended by a line end, which none of them holds.
fn chained(before: &str, number: u64, time: Millis, event: &str) -> String {
    hex(digest(&SHA256, format!("{before}\n{number}\n{time}\n{event}\n").as_bytes()).as_ref())
}

/// A chain as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Which.
    pub chain: String,
    /// How many events it has.
    pub events: u64,
    /// What is wrong with it.
    pub fault: Option<String>,
}

/// Recomputes every chain, and holds the heads that later chains name against them.
///
/// # Errors
/// STORE_UNAVAILABLE.
pub async fn verify(store: &dyn Store) -> Result<Vec<Verdict>, Failure> {
    let mut verdicts: BTreeMap<String, Verdict> = BTreeMap::new();
    let mut hashes: BTreeMap<(String, u64), String> = BTreeMap::new();
    let mut named: Vec<(String, String, String)> = Vec::new();
    for head in store.audit_heads().await? {
        let mut verdict = Verdict { chain: head.chain.clone(), events: 0, fault: None };
        let mut hash = genesis(&head.chain);
        loop {
            let rows = store.audit_chain(&head.chain, verdict.events, PAGE).await?;
            if rows.is_empty() || verdict.fault.is_some() {
                break;
            }
            for row in rows {
                let expected = chained(&hash, row.number, row.time, &row.event);
                if row.number != verdict.events + 1 || row.hash != expected {
                    verdict.fault = Some(format!("event {} is not what was written", verdict.events + 1));
                    break;
                }
                if let Ok(event) = serde_json::from_str::<Event>(&row.event) {
                    named.extend(event.heads.into_iter().map(|(chain, place)| (head.chain.clone(), chain, place)));
                }
                verdict.events = row.number;
                hash = row.hash;
                if row.number == head.number || row.number % u64::from(PAGE) == 0 {
                    hashes.insert((head.chain.clone(), row.number), hash.clone());
                }
            }
        }
        verdicts.insert(head.chain, verdict);
    }
    for (by, chain, place) in named {
        let (number, hash) = place.split_once(' ').unwrap_or_default();
        let number = number.parse().unwrap_or(0);
        let found = match hashes.get(&(chain.clone(), number)) {
            Some(found) => Some(found.clone()),
            None => {
                let rows = store.audit_chain(&chain, u64::saturating_sub(number, 1), 1).await?;
                rows.into_iter().next().filter(|row| row.number == number).map(|row| row.hash)
            }
        };
        if found.as_deref() != Some(hash) {
            let fault = Some(format!("the chain {by} names event {number} as it is not found here"));
            let verdict = verdicts.entry(chain.clone()).or_insert(Verdict { chain, events: 0, fault: None });
            verdict.fault = verdict.fault.take().or(fault);
        }
    }
    Ok(verdicts.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::AuditPlace;
    use crate::store::{AuditStore as _, SqlStore};
    use postern_runtime::{Readiness, SystemClock};

    fn event(number: u32) -> Event {
        Event { action: format!("act {number}"), outcome: "OK".to_owned(), ..Event::default() }
    }

    /// A log of two starts, three events each.
    async fn log(dir: &std::path::Path) -> SqlStore {
        let store = SqlStore::open_sqlite(&dir.join("x.db"), Arc::new(SystemClock)).await.unwrap();
        for _ in 0..2 {
            let lifecycle = Lifecycle::new(&Readiness::default());
            let audit = Audit::begin(Arc::new(store.clone()), &lifecycle).await.unwrap();
            // At once, so that they are written together.
            let (one, two) = tokio::join!(audit.record(event(1)), audit.record(event(2)));
            one.and(two).unwrap();
        }
        store
    }

    async fn faults(store: &SqlStore) -> Vec<Option<String>> {
        verify(store).await.unwrap().into_iter().map(|verdict| verdict.fault).collect()
    }

    #[tokio::test]
    async fn a_log_that_nobody_touched_is_sound() {
        let dir = tempfile::tempdir().unwrap();
        let store = log(dir.path()).await;
        assert_eq!(faults(&store).await, [None, None]);
        let newest = store.audit_before(&AuditPlace::before(i64::MAX), 100).await.unwrap();
        assert_eq!(newest.len(), 6);
        let first: Event = serde_json::from_str(&newest[2].event).unwrap();
        assert_eq!((first.action.as_str(), first.heads.len()), ("begin", 1), "the second start names the first");
    }

    #[tokio::test]
    async fn every_change_of_the_log_is_noticed() {
        let tampering = [
            "UPDATE audit SET event = replace(event, 'act 1', 'act 3') WHERE number = 2",
            "UPDATE audit SET time = time + 1 WHERE number = 3",
            "DELETE FROM audit WHERE number = 2",
            "DELETE FROM audit WHERE number = 1",
            "DELETE FROM audit WHERE number = 3 AND chain = (SELECT MIN(chain) FROM audit)",
            "DELETE FROM audit WHERE chain = (SELECT MIN(chain) FROM audit)",
        ];
        for sql in tampering {
            let dir = tempfile::tempdir().unwrap();
            let store = log(dir.path()).await;
            store.run(sql).await.unwrap();
            assert!(faults(&store).await.iter().any(Option::is_some), "{sql}");
        }
    }

    #[tokio::test]
    async fn what_is_done_while_the_process_drains_is_written_too() {
        let dir = tempfile::tempdir().unwrap();
        let store = log(dir.path()).await;
        let lifecycle = Lifecycle::new(&Readiness::default());
        let audit = Audit::begin(Arc::new(store.clone()), &lifecycle).await.unwrap();
        lifecycle.stopping().cancel();
        // The writer has had its chance to heed the word.
        tokio::task::yield_now().await;
        audit.record(event(1)).await.unwrap();
        assert_eq!(store.audit_before(&AuditPlace::before(i64::MAX), 100).await.unwrap().len(), 8);
    }

    #[tokio::test]
    async fn after_a_write_whose_answer_was_lost_the_log_goes_on_in_a_new_chain() {
        let dir = tempfile::tempdir().unwrap();
        let store = log(dir.path()).await;
        let lifecycle = Lifecycle::new(&Readiness::default());
        let audit = Audit::begin(Arc::new(store.clone()), &lifecycle).await.unwrap();
        audit.record(event(1)).await.unwrap();
        // The next number is there already, as when the commit came through and its answer did not.
        let lost = "INSERT INTO audit (chain, number, time, event, hash) \
                    SELECT chain, number + 1, time, event, hash FROM audit WHERE chain = (SELECT MAX(chain) FROM audit) AND number = 2";
        store.run(lost).await.unwrap();
        let refused = audit.record(event(2)).await.map_err(|failure| failure.reason);
        assert_eq!(refused, Err(Reason::StoreUnavailable));
        audit.record(event(3)).await.unwrap();
        assert_eq!(
            store.audit_heads().await.unwrap().len(),
            4,
            "two starts, this one, and what came after the failure"
        );
    }

    #[tokio::test]
    async fn a_flood_of_refusals_does_not_fill_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let store = SqlStore::open_sqlite(&dir.path().join("x.db"), Arc::new(SystemClock)).await.unwrap();
        let lifecycle = Lifecycle::new(&Readiness::default());
        let audit = Audit::begin(Arc::new(store.clone()), &lifecycle).await.unwrap();
        let begun = Instant::now();
        for number in 0..500 {
            audit.record_refusal(event(number)).await.unwrap();
        }
        // One second's worth for each that has begun meanwhile.
        let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap() + 2;
        let written = store.audit_before(&AuditPlace::before(i64::MAX), 1000).await.unwrap().len();
        assert!(written <= 1 + seconds * REFUSALS_A_SECOND as usize, "{written} in {seconds} s");
    }
}
