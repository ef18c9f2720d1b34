//! Limits failed attempts by the address that they come from, and by the name that they are made in. Credentials hold 256 random bits, so nobody guesses one; what is
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
/// As much for one name, from wherever: more, for whoever knows the name could else keep its owner out.
const BURST_OF_A_NAME: f64 = 200.0;
const FORGIVEN_A_SECOND: f64 = 2.0;
/// Addresses and known credentials that are remembered.
const REMEMBERED: u64 = 10_000;
/// How long a credential that held is known.
const KNOWN_FOR: Duration = Duration::from_secs(600);

/// Whom failures are counted against.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Source {
    Address(IpAddr),
    Name(String),
}

/// The failures of one source.
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
    scores: moka::sync::Cache<Source, Arc<Mutex<Score>>>,
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

/// What somebody tries.
#[derive(Debug)]
pub struct Attempt<'a> {
    /// What is shown, as it is remembered among those that held.
    pub handle: String,
    /// Where it comes from; `None` for a call inside the process.
    pub address: Option<IpAddr>,
    /// Who it says it is, where it says so.
    pub claimed: Option<&'a str>,
}

impl Attempt<'_> {
    /// Whom a failure is counted against.
    fn sources(&self) -> impl Iterator<Item = (Source, f64)> + '_ {
        let address = self.address.map(|address| (Source::Address(bucket(address)), BURST));
        // Bounded, for it is the caller's own text.
        let claimed = self.claimed.map(|name| (Source::Name(name.chars().take(255).collect()), BURST_OF_A_NAME));
        address.into_iter().chain(claimed)
    }
}

impl Attempts {
    fn score(&self, source: Source) -> Arc<Mutex<Score>> {
        self.scores.get_with(source, || Arc::new(Mutex::new(Score { failures: 0.0, at: Instant::now() })))
    }

    /// Whether this may be tried.
    ///
    /// # Errors
    /// ATTEMPTS_LIMITED, with when to try again.
    pub fn may_try(&self, attempt: &Attempt<'_>) -> Result<(), Failure> {
        if self.known.contains_key(&attempt.handle) {
            return Ok(());
        }
        for (source, burst) in attempt.sources() {
            let failures = self.score(source).lock().unwrap_or_else(PoisonError::into_inner).now();
            if failures >= burst {
                let wait = Duration::from_secs_f64((failures - burst + 1.0) / FORGIVEN_A_SECOND);
                let message = "too many attempts have failed from this address, or in this name; try again later";
                return Err(Failure::new(Reason::AttemptsLimited, message).with_retry_after(wait));
            }
        }
        Ok(())
    }

    /// It held.
    pub fn held(&self, attempt: &Attempt<'_>) {
        self.known.insert(attempt.handle.clone(), ());
    }

    /// It did not hold.
    pub fn failed(&self, attempt: &Attempt<'_>) {
        self.known.invalidate(&attempt.handle);
        for (source, burst) in attempt.sources() {
            let score = self.score(source);
            let mut score = score.lock().unwrap_or_else(PoisonError::into_inner);
            *score = Score { failures: (score.now() + 1.0).min(burst * 2.0), at: Instant::now() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt<'a>(handle: &str, address: Option<&str>, claimed: Option<&'a str>) -> Attempt<'a> {
        let address = address.map(|address| address.parse().unwrap());
        Attempt { handle: handle.to_owned(), address, claimed }
    }

    fn tries(attempts: &Attempts, handle: &str, address: &str) -> bool {
        attempts.may_try(&attempt(handle, Some(address), None)).is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_turned_away_and_who_is_known_is_not() {
        let (attempts, here) = (Attempts::default(), "10.0.0.1");
        attempts.held(&attempt("good", None, None));
        for _ in 0..100 {
            attempts.failed(&attempt("bad", Some(here), None));
        }
        assert!(!tries(&attempts, "bad", here) && !tries(&attempts, "new", here));
        assert!(tries(&attempts, "good", here), "known a moment ago");
        assert!(tries(&attempts, "new", "10.0.0.2"), "another address");
        assert!(attempts.may_try(&attempt("new", None, None)).is_ok(), "a call inside the process");
        // The score has a top, so a long flood is forgiven as fast as a short one.
        tokio::time::advance(Duration::from_secs(11)).await;
        assert!(tries(&attempts, "new", here));
        attempts.failed(&attempt("good", None, None));
        for _ in 0..100 {
            attempts.failed(&attempt("bad", Some(here), None));
        }
        assert!(!tries(&attempts, "good", here), "one that has ended is not known any more");
    }

    #[tokio::test(start_paused = true)]
    async fn an_ipv6_network_is_one_address() {
        let attempts = Attempts::default();
        for host in 0..100 {
            attempts.failed(&attempt("bad", Some(&format!("2001:db8:1:2::{host}")), None));
        }
        assert!(!tries(&attempts, "new", "2001:db8:1:2:ffff::1"));
        assert!(tries(&attempts, "new", "2001:db8:1:3::1"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_tried_so_often_from_wherever_and_its_owner_gets_in() {
        let attempts = Attempts::default();
        attempts.held(&attempt("good", None, Some("eve")));
        for host in 0..1000 {
            attempts.failed(&attempt("bad", Some(&format!("10.0.{}.{}", host / 250, host % 250)), Some("eve")));
        }
        let tries = |handle, name| attempts.may_try(&attempt(handle, Some("10.1.0.1"), Some(name))).is_ok();
        assert!(!tries("bad", "eve"));
        assert!(tries("good", "eve") && tries("bad", "bob"));
    }
}
