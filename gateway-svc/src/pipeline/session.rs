//! Editing sessions: a newer keystroke's request replaces the older one, which ends with CANCELLED and stops its model.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use super::authorise::Permit;

/// The caller and its session.
type Key = ((String, String), String);

/// The newest request of each session. A session is here only while a request of it is under way.
#[derive(Clone, Default)]
pub struct Sessions {
    newest: Arc<Mutex<HashMap<Key, (u64, CancellationToken)>>>,
}

/// A request's turn in its session.
pub struct Turn {
    replaced: CancellationToken,
    leave: Option<(Sessions, Key, u64)>,
}

impl Sessions {
    /// Takes the turn, and ends whoever had it. A subject's sessions are its own.
    pub(super) fn enter(&self, permit: &Permit, session: Option<&str>) -> Turn {
        let replaced = CancellationToken::new();
        let Some(session) = session else { return Turn { replaced, leave: None } };
        let key = (permit.caller().clone(), session.to_owned());
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let number = newest.get(&key).map_or(0, |(number, _)| number + 1);
        if let Some((_, older)) = newest.insert(key.clone(), (number, replaced.clone())) {
            older.cancel();
        }
        drop(newest);
        Turn { replaced, leave: Some((self.clone(), key, number)) }
    }
}

impl Turn {
    /// Ends when a newer request has taken the turn.
    pub(super) const fn replaced(&self) -> &CancellationToken {
        &self.replaced
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some((sessions, key, number)) = self.leave.take() else { return };
        let mut newest = sessions.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if newest.get(&key).is_some_and(|(newest, _)| *newest == number) {
            newest.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_a_session_ends_the_older_and_nobody_elses() {
        let sessions = Sessions::default();
        let of = |caller| Permit::of(caller, Vec::new());
        let (eve, bob, namesake) = (of(("ours", "eve")), of(("ours", "bob")), of(("theirs", "eve")));
        let first = sessions.enter(&eve, Some("s"));
        let (other, foreign, none) =
            (sessions.enter(&eve, Some("t")), sessions.enter(&bob, Some("s")), sessions.enter(&eve, None));
        let abroad = sessions.enter(&namesake, Some("s"));
        assert!(!first.replaced().is_cancelled());
        let second = sessions.enter(&eve, Some("s"));
        assert!(first.replaced().is_cancelled());
        drop(first);
        let third = sessions.enter(&eve, Some("s"));
        assert!(second.replaced().is_cancelled(), "the older one's leaving did not take the newer one's turn");
        for untouched in [&other, &foreign, &abroad, &none, &third] {
            assert!(!untouched.replaced().is_cancelled());
        }
        drop((second, third, other, foreign, abroad, none));
        assert!(sessions.newest.lock().unwrap().is_empty());
    }
}
