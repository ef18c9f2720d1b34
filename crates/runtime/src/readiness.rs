//! Readiness: a latch of named conditions that start closed. A process is ready while all of them are open and it is not
//! draining. What waits is named, so that whoever looks at `/readyz` knows where to look next.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// All conditions of a process.
#[derive(Debug, Clone)]
pub struct Readiness {
    state: Arc<Mutex<BTreeMap<Arc<str>, bool>>>,
    ready: Arc<watch::Sender<bool>>,
}

/// One condition. It starts closed.
#[derive(Debug, Clone)]
pub struct Condition {
    name: Arc<str>,
    readiness: Readiness,
}

impl Default for Readiness {
    fn default() -> Self {
        Self { state: Arc::default(), ready: Arc::new(watch::channel(false).0) }
    }
}

impl Readiness {
    /// Adds a condition.
    #[must_use]
    pub fn condition(&self, name: impl Into<Arc<str>>) -> Condition {
        let condition = Condition { name: name.into(), readiness: self.clone() };
        condition.set(false);
        condition
    }

    /// The names of the conditions that are closed.
    #[must_use]
    pub fn waiting_for(&self) -> Vec<String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.iter().filter(|(_, open)| !**open).map(|(name, _)| name.to_string()).collect()
    }

    /// Whether all conditions are open, now and at each change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }
}

impl Condition {
    /// Opens the condition.
    pub fn open(&self) {
        self.set(true);
    }

    /// Closes the condition.
    pub fn close(&self) {
        self.set(false);
    }

    fn set(&self, open: bool) {
        let mut state = self.readiness.state.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = state.insert(self.name.clone(), open) != Some(open);
        let ready = state.values().all(|open| *open);
        // Sent under the lock, so that two changes cannot overtake each other.
        self.readiness.ready.send_if_modified(|was| std::mem::replace(was, ready) != ready);
        drop(state);
        if changed {
            tracing::debug!(condition.name = &*self.name, condition.open = open, "readiness condition changed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_means_every_condition_is_open() {
        let readiness = Readiness::default();
        let ready = readiness.watch();
        assert!(!*ready.borrow());
        let (keys, routes) = (readiness.condition("keys"), readiness.condition("routes"));
        keys.open();
        assert_eq!(readiness.waiting_for(), ["routes"]);
        assert!(!*ready.borrow());
        routes.open();
        assert!(*ready.borrow());
        keys.close();
        assert!(!*ready.borrow());
        assert_eq!(readiness.waiting_for(), ["keys"]);
    }
}
