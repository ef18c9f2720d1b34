//! Something that is good for a while and is got anew before it ends: one asks, and the others wait for what it gets, or for why it got
//! nothing. What there is serves to its end when nothing newer can be had.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use postern_proto::Failure;
use tokio::sync::Mutex;

/// How long getting it takes at most.
const PATIENCE: Duration = Duration::from_secs(10);
/// What has less life than this, in seconds, is got anew.
const LEAST_LIFE: u64 = 120;
/// How long a failure serves all who ask, in seconds.
const FAILURE_SECONDS: u64 = 5;

/// The thing of the moment.
pub struct Renewing<T> {
    current: Mutex<Current<T>>,
    shown: ArcSwapOption<T>,
}

struct Current<T> {
    /// With the second in which it ends.
    value: Option<(Arc<T>, u64)>,
    /// Why there is no newer one, and when that was.
    failure: Option<(Failure, u64)>,
}

impl<T> Default for Renewing<T> {
    fn default() -> Self {
        Self { current: Mutex::new(Current { value: None, failure: None }), shown: ArcSwapOption::empty() }
    }
}

impl<T> Renewing<T> {
    /// The one of the moment, if there is one.
    #[must_use]
    pub fn shown(&self) -> Option<Arc<T>> {
        self.shown.load_full()
    }

    /// One that is good for a while, at `now` in seconds of Unix time; `fetch` gives a new one with the second in which it ends.
    ///
    /// # Errors
    /// What `fetch` ended in, or `late` when it took too long.
    pub async fn get<F>(&self, now: u64, fetch: F, late: impl FnOnce() -> Failure) -> Result<Arc<T>, Failure>
    where
        F: Future<Output = Result<(T, u64), Failure>>,
    {
        let mut current = self.current.lock().await;
        let good = |current: &Current<T>, least: u64| {
            current.value.as_ref().filter(|(_, end)| *end > now.saturating_add(least)).map(|(value, _)| value.clone())
        };
        if let Some(value) = good(&current, LEAST_LIFE) {
            return Ok(value);
        }
        let recent = current.failure.as_ref().filter(|(_, at)| now < at + FAILURE_SECONDS).map(|(why, _)| why.clone());
        let fetched = match recent {
            Some(failure) => Err(failure),
            None => {
                let fetched = tokio::time::timeout(PATIENCE, fetch).await.unwrap_or_else(|_| Err(late()));
                if let Err(failure) = &fetched {
                    current.failure = Some((failure.clone(), now));
                }
                fetched
            }
        };
        match fetched {
            Ok((value, end)) => {
                let value = Arc::new(value);
                self.shown.store(Some(value.clone()));
                *current = Current { value: Some((value.clone(), end)), failure: None };
                Ok(value)
            }
            Err(failure) => good(&current, 0).ok_or(failure),
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
        assert_eq!(get(1906, Ok((4, 3000))).await, Ok(4));
        assert_eq!(get(3000, Err(no())).await, Err(Reason::ModelCredentialRejected));
        assert_eq!(get(3004, Ok((5, 4000))).await, Err(Reason::ModelCredentialRejected));
        assert_eq!(get(3005, Ok((6, 4000))).await, Ok(6));
        assert_eq!(renewing.shown().as_deref(), Some(&6));
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_too_long_is_given_up() {
        let renewing = Renewing::<usize>::default();
        let failed = renewing.get(0, std::future::pending(), no).await.unwrap_err();
        assert_eq!(failed.reason, Reason::ModelCredentialRejected);
    }
}
