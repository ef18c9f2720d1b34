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

/// Failures in a row that are forgiven, attempts under way among them, and how fast the score goes down.
const BURST: f64 = 40.0;
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

impl Attempts {
    fn score(&self, source: Source) -> Arc<Mutex<Score>> {
        self.scores.get_with(source, || Arc::new(Mutex::new(Score { failures: 0.0, at: Instant::now() })))
    }

    /// Adds to a source's score, unless it is full; `Err`: how long until it is not.
    fn count(&self, source: Source, burst: f64) -> Result<(), Failure> {
        let score = self.score(source);
        let mut score = score.lock().unwrap_or_else(PoisonError::into_inner);
        let failures = score.now();
        if failures >= burst {
            // What goes on trying stays away for longer, up to a bound.
            *score = Score { failures: (failures + 1.0).min(burst * 2.0), at: Instant::now() };
            let wait = Duration::from_secs_f64((failures - burst + 1.0) / FORGIVEN_A_SECOND);
            let message = "too many attempts have failed from this address, or in this name; try again later";
            return Err(Failure::new(Reason::AttemptsLimited, message).with_retry_after(wait));
        }
        *score = Score { failures: failures + 1.0, at: Instant::now() };
        Ok(())
    }

    /// Begins an attempt. It counts as failed until it has held, so that however many begin at once, no more than the limit do.
    ///
    /// # Errors
    /// ATTEMPTS_LIMITED, with when to try again.
    pub fn enter(&self, attempt: &Attempt<'_>) -> Result<(), Failure> {
        if self.known.contains_key(&attempt.handle) {
            return Ok(());
        }
        attempt.address.map_or(Ok(()), |address| self.count(Source::Address(bucket(address)), BURST))
    }

    /// It held.
    pub fn held(&self, attempt: &Attempt<'_>) {
        if !self.known.contains_key(&attempt.handle) {
            self.known.insert(attempt.handle.clone(), ());
            if let Some(address) = attempt.address {
                let score = self.score(Source::Address(bucket(address)));
                let mut score = score.lock().unwrap_or_else(PoisonError::into_inner);
                *score = Score { failures: (score.now() - 1.0).max(0.0), at: Instant::now() };
            }
        }
    }

    /// It did not hold. A name is limited here and not at the begin, or whoever knows it could keep its owner out.
    ///
    /// # Errors
    /// ATTEMPTS_LIMITED, with when to try again.
    pub fn failed(&self, attempt: &Attempt<'_>) -> Result<(), Failure> {
        self.known.invalidate(&attempt.handle);
        let Some(name) = attempt.claimed else { return Ok(()) };
        // Bounded, for it is the caller's own text.
        self.count(Source::Name(name.chars().take(255).collect()), BURST_OF_A_NAME)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt<'a>(handle: &str, address: Option<&str>, claimed: Option<&'a str>) -> Attempt<'a> {
        let address = address.map(|address| address.parse().unwrap());
        Attempt { handle: handle.to_owned(), address, claimed }
    }

    /// Whether an attempt begins; if so, it fails.
    fn fails(attempts: &Attempts, handle: &str, address: &str) -> bool {
        let attempt = attempt(handle, Some(address), None);
        attempts.enter(&attempt).is_ok() && attempts.failed(&attempt).is_ok()
    }

    fn holds(attempts: &Attempts, handle: &str, address: &str) -> bool {
        let attempt = attempt(handle, Some(address), None);
        let begun = attempts.enter(&attempt).is_ok();
        if begun {
            attempts.held(&attempt);
        }
        begun
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_turned_away_and_who_is_known_is_not() {
        let (attempts, here) = (Attempts::default(), "10.0.0.1");
        assert!(holds(&attempts, "good", here));
        let through = (0..100).filter(|_| fails(&attempts, "bad", here)).count();
        assert!((20..=40).contains(&through), "{through}");
        assert!(!fails(&attempts, "new", here));
        assert!(holds(&attempts, "good", here), "known a moment ago");
        assert!(holds(&attempts, "new", "10.0.0.2"), "another address");
        assert!(attempts.enter(&attempt("newer", None, None)).is_ok(), "a call inside the process");
        // The score has a top, so a long flood is forgiven as fast as a short one.
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(holds(&attempts, "newest", here));
        assert!(attempts.failed(&attempt("good", None, None)).is_ok());
        while fails(&attempts, "bad", here) {}
        assert!(!holds(&attempts, "good", here), "one that has ended is not known any more");
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_begin_at_once_no_more_than_the_limit_do_and_who_holds_costs_nothing() {
        let attempts = Attempts::default();
        let begun = (0..1000).filter(|_| attempts.enter(&attempt("bad", Some("10.0.0.1"), None)).is_ok()).count();
        assert!(begun <= 40, "{begun}");
        assert!((0..1000).all(|nth| holds(&attempts, &format!("good-{nth}"), "10.0.0.2")));
    }

    #[tokio::test(start_paused = true)]
    async fn an_ipv6_network_is_one_address() {
        let attempts = Attempts::default();
        for host in 0..100 {
            fails(&attempts, "bad", &format!("2001:db8:1:2::{host}"));
        }
        assert!(!holds(&attempts, "new", "2001:db8:1:2:ffff::1"));
        assert!(holds(&attempts, "new", "2001:db8:1:3::1"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_tried_so_often_from_wherever_and_its_owner_gets_in() {
        let attempts = Attempts::default();
        let mut refused = 0;
        for host in 0..1000 {
            let address = format!("10.0.{}.{}", host / 250, host % 250);
            let attempt = attempt("bad", Some(&address), Some("eve"));
            attempts.enter(&attempt).unwrap();
            refused += usize::from(attempts.failed(&attempt).is_err());
        }
        assert!(refused > 700, "{refused}");
        assert!(holds(&attempts, "good", "10.1.0.1"), "the owner's secret is tried all the same");
    }
}
