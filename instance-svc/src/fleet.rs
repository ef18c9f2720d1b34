//! The fleet that is connected to this instance now: how many replicas of each member, and the adapters that can be asked to
//! probe.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use postern_proto::instance::v1 as pb;
use postern_proto::{Failure, Reason};
use tokio::sync::mpsc;

/// Steps of a probe that wait for the administrator to read them.
const WAITING_STEPS: usize = 64;

/// What is connected.
#[derive(Clone, Default)]
pub struct Fleet {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    replicas: HashMap<String, u32>,
    adapters: Vec<ConnectedAdapter>,
    probes: HashMap<String, mpsc::Sender<pb::ProbeStep>>,
    next: u64,
}

struct ConnectedAdapter {
    connection: u64,
    group: String,
    probes: mpsc::Sender<pb::ProbeRequest>,
}

/// A replica's presence; it ends when this is dropped.
pub struct Presence {
    fleet: Fleet,
    member_id: String,
}

/// An adapter's place among those that can probe; it ends when this is dropped.
pub struct AdapterPlace {
    fleet: Fleet,
    connection: u64,
}

impl Fleet {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts a replica in.
    #[must_use]
    pub fn enter(&self, member_id: &str) -> Presence {
        self.with(|state| *state.replicas.entry(member_id.to_owned()).or_default() += 1);
        Presence { fleet: self.clone(), member_id: member_id.to_owned() }
    }

    /// Replicas of a member that are connected.
    #[must_use]
    pub fn replicas(&self, member_id: &str) -> u32 {
        self.with(|state| state.replicas.get(member_id).copied().unwrap_or(0))
    }

    /// Counts an adapter in; what is to be probed comes out of the channel.
    #[must_use]
    pub fn enter_adapter(&self, group: &str) -> (AdapterPlace, mpsc::Receiver<pb::ProbeRequest>) {
        let (probes, requests) = mpsc::channel(4);
        let connection = self.with(|state| {
            state.next += 1;
            state.adapters.push(ConnectedAdapter { connection: state.next, group: group.to_owned(), probes });
            state.next
        });
        (AdapterPlace { fleet: self.clone(), connection }, requests)
    }

    /// Hands a step that an adapter sent to whoever asked for the probe.
    pub fn deliver(&self, result: pb::ProbeResult) {
        let pb::ProbeResult { probe_id, step, done } = result;
        self.with(|state| {
            if let (Some(step), Some(asker)) = (step, state.probes.get(&probe_id)) {
                // An asker that does not read loses steps, not the instance its memory.
                let _ = asker.try_send(step);
            }
            if done {
                state.probes.remove(&probe_id);
            }
        });
    }

    /// Asks an adapter of the group to probe. The steps come out of the channel, which closes when the probe is over.
    ///
    /// # Errors
    /// ADAPTER_UNAVAILABLE when none is connected.
    pub fn probe(&self, group: &str, endpoint_ids: Vec<String>) -> Result<mpsc::Receiver<pb::ProbeStep>, Failure> {
        let (asker, steps) = mpsc::channel(WAITING_STEPS);
        let probe_id = format!("prb_{}", uuid::Uuid::now_v7().simple());
        let request = pb::ProbeRequest { probe_id: probe_id.clone(), endpoint_ids };
        let taken = self.with(|state| {
            // Probes whose asker has gone are over.
            state.probes.retain(|_, asker| !asker.is_closed());
            let taken = state
                .adapters
                .iter()
                .filter(|adapter| adapter.group == group)
                .any(|adapter| adapter.probes.try_send(request.clone()).is_ok());
            if taken {
                state.probes.insert(probe_id, asker);
            }
            taken
        });
        if !taken {
            return Err(Failure::new(
                Reason::AdapterUnavailable,
                format!("no adapter of the group `{group}` is connected; `postern fleet list` shows the fleet"),
            ));
        }
        Ok(steps)
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.fleet.with(|state| {
            if let Some(count) = state.replicas.get_mut(&self.member_id) {
                *count -= 1;
                if *count == 0 {
                    state.replicas.remove(&self.member_id);
                }
            }
        });
    }
}

impl Drop for AdapterPlace {
    fn drop(&mut self) {
        self.fleet.with(|state| state.adapters.retain(|adapter| adapter.connection != self.connection));
    }
}
