//! What is refused although it is signed: tokens, and everything of a credential, subject, instance or key up to a time.
//!
//! The set is bounded. When it is full, the tokens of the subject that has most of them become one entry, "nothing of this
//! subject up to then"; when no subject has two, everything up to the newest of them is refused. Nothing is ever dropped:
//! a full set refuses more, never less.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::claims::Claims;

/// One revocation. Times are seconds since 1970; an entry may be forgotten after `until`, when nothing that it refuses is still
/// alive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "of")]
pub enum Revocation {
    /// One token.
    Token {
        /// Its `jti`.
        jti: String,
        /// Its `sub`.
        subject: String,
        /// Its `iat`.
        issued: u64,
        /// When it has ended anyway.
        until: u64,
    },
    /// Every token of a credential.
    Credential {
        /// Its id.
        id: String,
        /// When they have all ended anyway.
        until: u64,
    },
    /// Every token of a subject that was minted at or before this time.
    Subject {
        /// The `sub`.
        id: String,
        /// The last `iat` that is refused.
        issued_by: u64,
        /// When they have all ended anyway.
        until: u64,
    },
    /// Every token of an instance that was minted at or before this time.
    Instance {
        /// The `postern_instance`.
        id: String,
        /// The last `iat` that is refused.
        issued_by: u64,
        /// When they have all ended anyway.
        until: u64,
    },
    /// Every token that a key signed.
    Key {
        /// Its `kid`.
        kid: String,
        /// When they have all ended anyway.
        until: u64,
    },
}

impl Revocation {
    /// The length of its longest id, in bytes.
    #[must_use]
    pub fn longest_id(&self) -> usize {
        match self {
            Self::Token { jti, subject, .. } => jti.len().max(subject.len()),
            Self::Credential { id, .. } | Self::Subject { id, .. } | Self::Instance { id, .. } => id.len(),
            Self::Key { kid, .. } => kid.len(),
        }
    }

    /// When it may be forgotten.
    #[must_use]
    pub const fn until(&self) -> u64 {
        match self {
            Self::Token { until, .. }
            | Self::Credential { until, .. }
            | Self::Subject { until, .. }
            | Self::Instance { until, .. }
            | Self::Key { until, .. } => *until,
        }
    }

    /// Whether this refuses everything that `other` refuses, for as long.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let same = match (self, other) {
            (Self::Token { jti: ours, .. }, Self::Token { jti, .. }) => ours == jti,
            (Self::Credential { id: ours, .. }, Self::Credential { id, .. }) => ours == id,
            (Self::Key { kid: ours, .. }, Self::Key { kid, .. }) => ours == kid,
            (Self::Subject { id: ours, issued_by, .. }, Self::Token { subject, issued, .. }) => {
                ours == subject && issued_by >= issued
            }
            (Self::Subject { id: ours, issued_by: by, .. }, Self::Subject { id, issued_by, .. })
            | (Self::Instance { id: ours, issued_by: by, .. }, Self::Instance { id, issued_by, .. }) => {
                ours == id && by >= issued_by
            }
            _ => false,
        };
        same && self.until() >= other.until()
    }

    /// The revocation that refuses what both refuse, where they are of one credential, key, subject or instance.
    #[must_use]
    pub fn widened_by(self, other: &Self) -> Self {
        let until = self.until().max(other.until());
        match (self, other) {
            (Self::Subject { id, issued_by, .. }, Self::Subject { issued_by: by, .. }) => {
                Self::Subject { id, issued_by: issued_by.max(*by), until }
            }
            (Self::Subject { id, issued_by, .. }, Self::Token { issued, .. }) => {
                Self::Subject { id, issued_by: issued_by.max(*issued), until }
            }
            (Self::Instance { id, issued_by, .. }, Self::Instance { issued_by: by, .. }) => {
                Self::Instance { id, issued_by: issued_by.max(*by), until }
            }
            (Self::Credential { id, .. }, Self::Credential { .. }) => Self::Credential { id, until },
            (Self::Key { kid, .. }, Self::Key { .. }) => Self::Key { kid, until },
            (first, _) => first,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct UpTo {
    issued: u64,
    until: u64,
}

#[derive(Debug, Clone)]
struct TokenEntry {
    subject: String,
    up_to: UpTo,
}

/// All revocations of one issuer.
#[derive(Debug, Clone)]
pub struct Revocations {
    capacity: usize,
    tokens: HashMap<String, TokenEntry>,
    credentials: HashMap<String, u64>,
    subjects: HashMap<String, UpTo>,
    instances: HashMap<String, UpTo>,
    keys: HashMap<String, u64>,
    everything: Option<UpTo>,
}

impl Default for Revocations {
    fn default() -> Self {
        Self::with_capacity(100_000)
    }
}

impl Revocations {
    /// A set of at most so many entries; at least 1.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            tokens: HashMap::new(),
            credentials: HashMap::new(),
            subjects: HashMap::new(),
            instances: HashMap::new(),
            keys: HashMap::new(),
            everything: None,
        }
    }

    /// Entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.len()
            + self.credentials.len()
            + self.subjects.len()
            + self.instances.len()
            + self.keys.len()
            + usize::from(self.everything.is_some())
    }

    /// Whether nothing is revoked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes a revocation in, at this time.
    pub fn insert(&mut self, revocation: Revocation, now: u64) {
        match revocation {
            Revocation::Token { jti, subject, issued, until } => {
                self.tokens.insert(jti, TokenEntry { subject, up_to: UpTo { issued, until } });
            }
            Revocation::Credential { id, until } => later(self.credentials.entry(id).or_default(), until),
            Revocation::Key { kid, until } => later(self.keys.entry(kid).or_default(), until),
            Revocation::Subject { id, issued_by, until } => {
                widen(
                    self.subjects.entry(id).or_insert(UpTo { issued: 0, until: 0 }),
                    UpTo { issued: issued_by, until },
                );
            }
            Revocation::Instance { id, issued_by, until } => {
                widen(
                    self.instances.entry(id).or_insert(UpTo { issued: 0, until: 0 }),
                    UpTo { issued: issued_by, until },
                );
            }
        }
        if self.len() > self.capacity {
            self.forget(now);
        }
        while self.len() > self.capacity {
            self.collapse(now);
        }
    }

    /// Forgets what has ended by itself.
    pub fn forget(&mut self, now: u64) {
        self.tokens.retain(|_, entry| entry.up_to.until >= now);
        self.credentials.retain(|_, until| *until >= now);
        self.subjects.retain(|_, up_to| up_to.until >= now);
        self.instances.retain(|_, up_to| up_to.until >= now);
        self.keys.retain(|_, until| *until >= now);
        self.everything = self.everything.filter(|up_to| up_to.until >= now);
    }

    fn collapse(&mut self, now: u64) {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for entry in self.tokens.values() {
            *counts.entry(entry.subject.as_str()).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count);
        if let Some((subject, 2..)) = most {
            let subject = subject.to_owned();
            let mut all = UpTo { issued: 0, until: 0 };
            self.tokens.retain(|_, entry| {
                let stays = entry.subject != subject;
                if !stays {
                    widen(&mut all, entry.up_to);
                }
                stays
            });
            widen(self.subjects.entry(subject).or_insert(all), all);
            return;
        }
        // Every token that any entry could mean was minted by now.
        let mut all = UpTo { issued: now, until: 0 };
        for until in self.tokens.values().map(|entry| entry.up_to.until).chain(self.credentials.values().copied()) {
            all.until = all.until.max(until);
        }
        for up_to in self.subjects.values().chain(self.instances.values()).copied().chain(self.everything) {
            widen(&mut all, up_to);
        }
        self.tokens.clear();
        self.credentials.clear();
        self.subjects.clear();
        self.instances.clear();
        // Keys are few, and what they sign later must stay refused.
        self.everything = Some(all);
        if self.len() > self.capacity {
            self.capacity = self.len();
        }
    }

    /// Whether a token with these claims, signed by this key, is refused.
    #[must_use]
    pub fn refuse(&self, claims: &Claims, kid: &str) -> bool {
        if self.is_empty() {
            return false;
        }
        let up_to = |entry: Option<&UpTo>| entry.is_some_and(|entry| claims.iat <= entry.issued);
        self.tokens.contains_key(&claims.jti)
            || self.keys.contains_key(kid)
            || up_to(self.everything.as_ref())
            || up_to(self.subjects.get(&claims.sub))
            || claims.postern_credential.as_ref().is_some_and(|id| self.credentials.contains_key(id))
            || claims.postern_instance.as_ref().is_some_and(|id| up_to(self.instances.get(id)))
    }
}

fn later(place: &mut u64, until: u64) {
    *place = (*place).max(until);
}

fn widen(place: &mut UpTo, by: UpTo) {
    place.issued = place.issued.max(by.issued);
    place.until = place.until.max(by.until);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn claims(jti: &str, sub: &str, iat: u64) -> Claims {
        Claims {
            iss: String::new(),
            sub: sub.to_owned(),
            aud: String::new(),
            exp: iat + 300,
            nbf: None,
            iat,
            jti: jti.to_owned(),
            client_id: String::new(),
            scope: String::new(),
            postern_instance: Some("ins_1".to_owned()),
            postern_realm: None,
            postern_credential: Some(format!("crd_{sub}")),
            act: None,
            cnf: None,
            postern_groups: Vec::new(),
        }
    }

    fn token(jti: &str, subject: &str, issued: u64) -> Revocation {
        Revocation::Token { jti: jti.to_owned(), subject: subject.to_owned(), issued, until: issued + 330 }
    }

    #[test]
    fn each_kind_refuses_its_own_and_nothing_else() {
        let id = |text: &str| text.to_owned();
        let cases = [
            (token("a", "eve", 100), [true, false, false, false]),
            (Revocation::Credential { id: id("crd_eve"), until: 900 }, [true, true, true, false]),
            (Revocation::Subject { id: id("eve"), issued_by: 100, until: 900 }, [true, true, false, false]),
            (Revocation::Instance { id: id("ins_1"), issued_by: 100, until: 900 }, [true, true, false, true]),
            (Revocation::Instance { id: id("ins_2"), issued_by: 100, until: 900 }, [false; 4]),
            (Revocation::Key { kid: id("k1"), until: 900 }, [true; 4]),
        ];
        let tokens =
            [claims("a", "eve", 100), claims("b", "eve", 99), claims("c", "eve", 101), claims("d", "bob", 100)];
        for (revocation, expected) in cases {
            let mut set = Revocations::default();
            set.insert(revocation.clone(), 100);
            assert_eq!(tokens.each_ref().map(|claims| set.refuse(claims, "k1")), expected, "{revocation:?}");
            set.forget(10_000);
            assert!(set.is_empty());
        }
    }

    proptest! {
        #[test]
        fn a_full_set_drops_nothing_and_stays_bounded(
            revoked in proptest::collection::vec((0_u64..40, 0_u8..5, 0_u64..100), 1..120),
            capacity in 1_usize..12,
        ) {
            let mut set = Revocations::with_capacity(capacity);
            for (jti, sub, iat) in &revoked {
                set.insert(token(&jti.to_string(), &sub.to_string(), *iat), 100);
                prop_assert!(set.len() <= capacity);
            }
            for (jti, sub, iat) in &revoked {
                // The last entry of a jti counts: a jti has one subject and one time in truth.
                let last = revoked.iter().rev().find(|(other, _, _)| other == jti).unwrap();
                if last == &(*jti, *sub, *iat) {
                    prop_assert!(set.refuse(&claims(&jti.to_string(), &sub.to_string(), *iat), "k"));
                }
            }
            prop_assert!(!set.refuse(&claims("new", "9", 101), "k"));
        }
    }
}
