//! Something that is good for a while and is got anew before it ends: one asks, and the others wait for what it gets, or for why it got
//! nothing. What there is serves to its end when nothing newer can be had.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use postern_proto::Failure;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How long getting it takes at most.
const PATIENCE: Duration = Duration::from_secs(10);
/// What has less life than this, in seconds, is got anew.
const LEAST_LIFE: u64 = 120;
/// How long a failure serves all who ask.
const FAILURE_SERVES: Duration = Duration::from_secs(5);

/// The thing of the moment.
pub struct Renewing<T> {
    /// With the second in which it ends.
    current: ArcSwapOption<(Arc<T>, u64)>,
    /// Held by the one who gets a newer one: why there is none, and when that was.
    getting: Mutex<Option<(Failure, Instant)>>,
}

impl<T> Default for Renewing<T> {
    fn default() -> Self {
        Self { current: ArcSwapOption::empty(), getting: Mutex::default() }
    }
}

impl<T> Renewing<T> {
    /// The one of the moment, if there is one.
    #[must_use]
    pub fn shown(&self) -> Option<Arc<T>> {
        self.current.load().as_ref().map(|current| current.0.clone())
    }

    fn good_for(&self, least: u64, now: u64) -> Option<Arc<T>> {
        let current = self.current.load();
        current.as_ref().filter(|current| current.1 > now.saturating_add(least)).map(|current| current.0.clone())
    }

    /// One that is good for a while, at `now` in seconds of Unix time; `fetch` gives a new one with the second in which it ends.
    ///
    /// # Errors
    /// What `fetch` ended in, or `late` when it took too long.
    pub async fn get<F>(&self, now: u64, fetch: F, late: impl FnOnce() -> Failure) -> Result<Arc<T>, Failure>
    where
        F: Future<Output = Result<(T, u64), Failure>>,
    {
        if let Some(value) = self.good_for(LEAST_LIFE, now) {
            return Ok(value);
        }
        let still_good = self.good_for(0, now);
        // Who has something that is good waits for nobody.
        let mut failed = match (self.getting.try_lock(), &still_good) {
            (Ok(failed), _) => failed,
            (Err(_), Some(value)) => return Ok(value.clone()),
            (Err(_), None) => self.getting.lock().await,
        };
        if let Some(value) = self.good_for(LEAST_LIFE, now) {
            return Ok(value);
        }
        let recent = failed.as_ref().filter(|(_, at)| at.elapsed() < FAILURE_SERVES).map(|(why, _)| why.clone());
        let fetched = match recent {
            Some(failure) => Err(failure),
            None => {
                let fetched = tokio::time::timeout(PATIENCE, fetch).await.unwrap_or_else(|_| Err(late()));
                *failed = fetched.as_ref().err().map(|failure| (failure.clone(), Instant::now()));
                fetched
            }
        };
        match fetched {
            Ok((value, end)) => {
                let value = Arc::new(value);
                self.current.store(Some(Arc::new((value.clone(), end))));
                Ok(value)
            }
            Err(failure) => still_good.ok_or(failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use postern_proto::Reason;

    fn no() -> Failure {
        Failure::new(Reason::ModelCredentialRejected, "no")
    }

    #[tokio::test(start_paused = true)]
    async fn it_serves_until_it_is_nearly_over_and_to_its_end_when_there_is_no_newer_one() {
        let (renewing, asked) = (Renewing::default(), AtomicUsize::new(0));
        let get = async |now: u64, next: Result<(usize, u64), Failure>| {
            let fetch = async {
                asked.fetch_add(1, Ordering::Relaxed);
                next
            };
            renewing.get(now, fetch, no).await.map(|value| *value).map_err(|failure| failure.reason)
        };
        assert_eq!(get(1000, Ok((1, 2000))).await, Ok(1));
        assert_eq!(get(1800, Ok((2, 3000))).await, Ok(1));
        assert_eq!(get(1900, Err(no())).await, Ok(1), "it is good still");
        assert_eq!(get(1901, Ok((3, 3000))).await, Ok(1), "nobody asks again at once");
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        tokio::time::advance(FAILURE_SERVES).await;
        assert_eq!(get(1906, Ok((4, 3000))).await, Ok(4));
        assert_eq!(get(3000, Err(no())).await, Err(Reason::ModelCredentialRejected));
        // Whatever the wall clock says meanwhile.
        assert_eq!(get(1, Ok((5, 4000))).await, Ok(4));
        assert_eq!(get(3004, Ok((5, 4000))).await, Err(Reason::ModelCredentialRejected));
        tokio::time::advance(FAILURE_SERVES).await;
        assert_eq!(get(3005, Ok((6, 4000))).await, Ok(6));
        assert_eq!(renewing.shown().as_deref(), Some(&6));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_something_good_waits_for_nobody_who_gets_a_newer_one() {
        let renewing = Renewing::default();
        renewing.get(0, async { Ok((1, 1000)) }, no).await.unwrap();
        let slow = renewing.get(950, std::future::pending(), no);
        let quick = async {
            tokio::task::yield_now().await;
            renewing.get(951, std::future::pending(), no).await.map(|value| *value).ok()
        };
        let begun = Instant::now();
        let both = async { tokio::join!(slow, async { (quick.await, begun.elapsed()) }) };
        let (slow, (quick, took)) = both.await;
        assert_eq!((slow.map(|value| *value).ok(), quick), (Some(1), Some(1)));
        assert!(took < Duration::from_secs(1), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_too_long_is_given_up() {
        let renewing = Renewing::<usize>::default();
        let failed = renewing.get(0, std::future::pending(), no).await.unwrap_err();
        assert_eq!(failed.reason, Reason::ModelCredentialRejected);
    }
}
