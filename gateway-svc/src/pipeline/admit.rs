//! Admit: a place for each request, in the gateway and at its model, counted in this process. A place is given back when
//! what holds it is dropped, however the request ended.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use postern_proto::{Failure, Reason};

use super::authorise::Permit;
use crate::routes::Model;

/// When to try again after having been turned away.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Who is in.
#[derive(Clone)]
pub struct Admission {
    counts: Arc<Mutex<Counts>>,
    max_in_flight: usize,
}

#[derive(Default)]
struct Counts {
    in_flight: usize,
    /// Requests by model, and attempts by endpoint. What is at zero is not here.
    by_name: HashMap<String, usize>,
}

/// A place; dropping it gives it back.
pub struct Place {
    counts: Arc<Mutex<Counts>>,
    name: Option<String>,
}

impl Admission {
    /// Lets this many requests in at once.
    #[must_use]
    pub fn new(max_in_flight: usize) -> Self {
        Self { counts: Arc::default(), max_in_flight }
    }

    /// A place in the gateway.
    pub(super) fn admit(&self, _: &Permit) -> Result<Place, Failure> {
        self.with(|counts| {
            if counts.in_flight >= self.max_in_flight {
                return Err(full("the gateway is at its limit of requests"));
            }
            counts.in_flight += 1;
            Ok(Place { counts: self.counts.clone(), name: None })
        })
    }

    /// A place at a model.
    pub(super) fn at_model(&self, model: &Model) -> Result<Place, Failure> {
        self.named(format!("model {}", model.name), model.max_concurrency)
    }

    /// A place at an endpoint, which is never full; it is counted for routing.
    pub(super) fn at_endpoint(&self, endpoint: &str) -> Result<Place, Failure> {
        self.named(format!("endpoint {endpoint}"), None)
    }

    /// Attempts under way at an endpoint.
    pub(super) fn outstanding(&self, endpoint: &str) -> usize {
        self.with(|counts| counts.by_name.get(&format!("endpoint {endpoint}")).copied().unwrap_or(0))
    }

    fn named(&self, name: String, limit: Option<usize>) -> Result<Place, Failure> {
        self.with(|counts| {
            let count = counts.by_name.entry(name.clone()).or_default();
            if limit.is_some_and(|limit| *count >= limit) {
                return Err(full("the model is at its limit of requests at once"));
            }
            *count += 1;
            Ok(Place { counts: self.counts.clone(), name: Some(name) })
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut Counts) -> T) -> T {
        act(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn full(message: &str) -> Failure {
    Failure::new(Reason::ConcurrencyLimited, format!("{message}; try again")).with_retry_after(RETRY_AFTER)
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(name) = &self.name else {
            counts.in_flight -= 1;
            return;
        };
        if let Some(count) = counts.by_name.get_mut(name) {
            *count -= 1;
            if *count == 0 {
                counts.by_name.remove(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_given_back_when_it_is_dropped() {
        let admission = Admission::new(1);
        let permit = Permit::of(("ours", "usr"), Vec::new());
        let first = admission.admit(&permit);
        assert!(first.is_ok());
        assert_eq!(admission.admit(&permit).err().map(|failure| failure.reason), Some(Reason::ConcurrencyLimited));
        drop(first);
        assert!(admission.admit(&permit).is_ok());
    }

    #[test]
    fn endpoints_are_counted_and_forgotten() {
        let admission = Admission::new(1);
        let (one, two) = (admission.at_endpoint("e"), admission.at_endpoint("e"));
        assert_eq!(admission.outstanding("e"), 2);
        drop((one, two));
        assert_eq!(admission.outstanding("e"), 0);
        assert!(admission.with(|counts| counts.by_name.is_empty()));
    }
}
