//! Time as an argument.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

/// Tells the time of day.
pub trait Clock: Debug + Send + Sync {
    /// Seconds since 1970.
    fn now(&self) -> u64;

    /// Seconds by which a test has moved this clock away from the machine's. A database's clock is moved along.
    fn moved_by(&self) -> u64 {
        0
    }

    /// Time since some moment before the process began, suspended time among it: what freshness is measured with. A process that
    /// was stopped, or a machine that slept, must not take old news for new.
    fn boottime(&self) -> Duration;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    fn now(&self) -> u64 {
        std::time::SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }

    fn boottime(&self) -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
    }
}

/// A clock that a test moves. It starts at the machine's time, so that other people's clocks agree with it.
#[derive(Debug, Clone)]
pub struct ManualClock {
    begun: u64,
    moved: Arc<AtomicU64>,
}

impl ManualClock {
    /// A clock that stands at the machine's time now.
    #[must_use]
    pub fn starting_now() -> Self {
        Self { begun: SystemClock.now(), moved: Arc::default() }
    }

    /// Moves forward.
    pub fn advance(&self, seconds: u64) {
        self.moved.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> u64 {
        self.begun + self.moved_by()
    }

    fn moved_by(&self) -> u64 {
        self.moved.load(Ordering::SeqCst)
    }

    fn boottime(&self) -> Duration {
        Duration::from_secs(self.now())
    }
}
