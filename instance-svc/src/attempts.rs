//! Limits failed attempts by the address that they come from. Credentials hold 256 random bits, so nobody guesses one; what is
//! limited is the work and the noise that trying makes.
//!
//! A credential that has held a moment ago passes whatever its neighbours do: a flood from behind the same address does not lock
//! out who is known.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use postern_proto::{Failure, Reason};
use tokio::time::Instant;

/// Failures in a row that are forgiven, and how fast the score goes down.
const BURST: f64 = 20.0;
const FORGIVEN_A_SECOND: f64 = 2.0;
/// Addresses and known credentials that are remembered.
const REMEMBERED: u64 = 10_000;
/// How long a credential that held is known.
const KNOWN_FOR: Duration = Duration::from_secs(600);

/// The failures of one address.
#[derive(Debug, Clone, Copy)]
struct Score {
    failures: f64,
    at: Instant,
}

impl Score {
    fn now(self) -> f64 {
        (self.failures - self.at.elapsed().as_secs_f64() * FORGIVEN_A_SECOND).max(0.0)
    }
}

/// The limit; its clones are one.
#[derive(Clone)]
pub struct Attempts {
    scores: moka::sync::Cache<IpAddr, Arc<Mutex<Score>>>,
    /// By the MAC under which the store knows them.
    known: moka::sync::Cache<String, ()>,
}

impl Default for Attempts {
    fn default() -> Self {
        let known = moka::sync::Cache::builder().max_capacity(REMEMBERED).time_to_live(KNOWN_FOR).build();
        Self { scores: moka::sync::Cache::new(REMEMBERED), known }
    }
}

/// What counts as one address: an IPv6 network of 64 bits is one customer's.
fn bucket(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
        v4 => v4,
    }
}

impl Attempts {
    fn score(&self, address: IpAddr) -> Arc<Mutex<Score>> {
        let fresh = || Arc::new(Mutex::new(Score { failures: 0.0, at: Instant::now() }));
        self.scores.get_with(bucket(address), fresh)
    }

    /// Whether a credential of this MAC may be tried from this address.
    ///
    /// # Errors
    /// ATTEMPTS_LIMITED, with when to try again.
    pub fn may_try(&self, mac: &str, address: Option<IpAddr>) -> Result<(), Failure> {
        let Some(address) = address.filter(|_| !self.known.contains_key(mac)) else { return Ok(()) };
        let failures = self.score(address).lock().unwrap_or_else(PoisonError::into_inner).now();
        if failures < BURST {
            return Ok(());
        }
        let wait = Duration::from_secs_f64((failures - BURST + 1.0) / FORGIVEN_A_SECOND);
        let message = "too many attempts have failed from this address; try again later";
        Err(Failure::new(Reason::AttemptsLimited, message).with_retry_after(wait))
    }

    /// A credential held.
    pub fn held(&self, mac: &str) {
        self.known.insert(mac.to_owned(), ());
    }

    /// A credential did not hold.
    pub fn failed(&self, mac: &str, address: Option<IpAddr>) {
        self.known.invalidate(mac);
        let Some(address) = address else { return };
        let score = self.score(address);
        let mut score = score.lock().unwrap_or_else(PoisonError::into_inner);
        *score = Score { failures: (score.now() + 1.0).min(BURST * 2.0), at: Instant::now() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tries(attempts: &Attempts, mac: &str, address: &str) -> bool {
        attempts.may_try(mac, Some(address.parse().unwrap())).is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_turned_away_and_who_is_known_is_not() {
        let (attempts, here) = (Attempts::default(), "10.0.0.1");
        attempts.held("good");
        for _ in 0..100 {
            attempts.failed("bad", Some(here.parse().unwrap()));
        }
        assert!(!tries(&attempts, "bad", here) && !tries(&attempts, "new", here));
        assert!(tries(&attempts, "good", here), "known a moment ago");
        assert!(tries(&attempts, "new", "10.0.0.2"), "another address");
        assert!(attempts.may_try("new", None).is_ok(), "a call inside the process");
        // The score has a top, so a long flood is forgiven as fast as a short one.
        tokio::time::advance(Duration::from_secs(11)).await;
        assert!(tries(&attempts, "new", here));
        attempts.failed("good", None);
        for _ in 0..100 {
            attempts.failed("bad", Some(here.parse().unwrap()));
        }
        assert!(!tries(&attempts, "good", here), "one that has ended is not known any more");
    }

    #[tokio::test(start_paused = true)]
    async fn an_ipv6_network_is_one_address() {
        let attempts = Attempts::default();
        for host in 0..100 {
            attempts.failed("bad", Some(format!("2001:db8:1:2::{host}").parse().unwrap()));
        }
        assert!(!tries(&attempts, "new", "2001:db8:1:2:ffff::1"));
        assert!(tries(&attempts, "new", "2001:db8:1:3::1"));
    }
}
