//! Start and stop. A process stops in three steps: it says that it is not ready; it closes its listeners and lets open
//! streams end; it ends what is left, which is told so first. A second signal goes straight to the last step, without a word.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::DrainConfig;
use crate::readiness::{Condition, Readiness};

/// How long what is left has to tell its callers so.
const LAST_WORD: Duration = Duration::from_secs(1);

/// The tasks of a process and the words that stop them.
#[derive(Debug, Clone)]
pub struct Lifecycle {
    stopping: CancellationToken,
    ending: CancellationToken,
    aborting: CancellationToken,
    failed: CancellationToken,
    tasks: TaskTracker,
    accepting: Condition,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// Everything ended by itself: exit code 0.
    Drained,
    /// Something had to be cut off: exit code 0 too, for it was asked for.
    Aborted,
    /// A part that must not end did: exit code 1.
    Failed,
}

impl Lifecycle {
    /// A process whose readiness now waits for `accepting` too.
    #[must_use]
    pub fn new(readiness: &Readiness) -> Self {
        Self {
            stopping: CancellationToken::new(),
            ending: CancellationToken::new(),
            aborting: CancellationToken::new(),
            failed: CancellationToken::new(),
            tasks: TaskTracker::new(),
            accepting: readiness.condition("accepting"),
        }
    }

    /// Ends when the process begins to stop. Listeners and endless streams heed it.
    #[must_use]
    pub const fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    /// Ends when the grace is over: what is still open tells its caller, and ends.
    #[must_use]
    pub const fn ending(&self) -> &CancellationToken {
        &self.ending
    }

    /// Runs a task until it ends or the process aborts.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let aborting = self.aborting.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = task => {}
                () = aborting.cancelled() => {}
            }
        });
    }

    /// Runs a task that must last as long as the process. Its early end, or a panic in it, stops the process with a failure.
    pub fn spawn_vital(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let (stopping, failed) = (self.stopping.clone(), self.failed.clone());
        self.spawn(async move {
            // The guard speaks on panic too.
            let guard = failed.drop_guard();
            task.await;
            if stopping.is_cancelled() {
                guard.disarm();
            } else {
                tracing::error!(task.name = name, "a vital task ended");
            }
        });
    }

    /// Everything is built and bound.
    pub fn started(&self) {
        self.accepting.open();
    }

    /// Waits for a signal or a failure, then stops.
    pub async fn run(self, drain: DrainConfig) -> Stopped {
        let failed = tokio::select! {
            name = signal() => {
                tracing::info!(signal.name = name, "stopping");
                false
            }
            () = self.failed.cancelled() => true,
        };
        let second = async {
            let name = signal().await;
            tracing::warn!(signal.name = name, "stopping at once");
        };
        let stopped = self.stop(drain, second).await;
        if failed { Stopped::Failed } else { stopped }
    }

    /// Stops: drains for as long as `drain` and `hurry` let it, then aborts.
    pub async fn stop(self, drain: DrainConfig, hurry: impl Future<Output = ()>) -> Stopped {
        let graceful = async {
            self.accepting.close();
            tokio::time::sleep(Duration::from_secs(drain.notice_seconds)).await;
            self.stopping.cancel();
            self.tasks.close();
            let drained =
                tokio::time::timeout(Duration::from_secs(drain.grace_seconds), self.tasks.wait()).await.is_ok();
            if !drained {
                self.ending.cancel();
                let _ = tokio::time::timeout(LAST_WORD, self.tasks.wait()).await;
            }
            drained
        };
        let drained = tokio::select! {
            drained = graceful => drained,
            () = hurry => false,
        };
        self.stopping.cancel();
        self.tasks.close();
        self.aborting.cancel();
        self.tasks.wait().await;
        tracing::info!(drained, "stopped");
        if drained { Stopped::Drained } else { Stopped::Aborted }
    }
}

/// The next SIGTERM or SIGINT.
async fn signal() -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("signals cannot be heard; the process can only be killed");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAIN: DrainConfig = DrainConfig { notice_seconds: 3, grace_seconds: 10 };

    #[tokio::test(start_paused = true)]
    async fn a_task_that_heeds_the_word_drains() {
        let readiness = Readiness::default();
        let life = Lifecycle::new(&readiness);
        life.started();
        assert!(*readiness.watch().borrow());
        let stopping = life.stopping().clone();
        life.spawn(async move { stopping.cancelled().await });
        let begun = tokio::time::Instant::now();
        assert_eq!(life.stop(DRAIN, std::future::pending()).await, Stopped::Drained);
        assert_eq!(begun.elapsed(), Duration::from_secs(3));
        assert!(!*readiness.watch().borrow());
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_is_aborted_after_the_grace() {
        let life = Lifecycle::new(&Readiness::default());
        life.spawn(std::future::pending());
        let begun = tokio::time::Instant::now();
        assert_eq!(life.stop(DRAIN, std::future::pending()).await, Stopped::Aborted);
        assert_eq!(begun.elapsed(), Duration::from_secs(14));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_after_the_grace_has_a_last_word() {
        let life = Lifecycle::new(&Readiness::default());
        let ending = life.ending().clone();
        life.spawn(async move { ending.cancelled().await });
        let begun = tokio::time::Instant::now();
        assert_eq!(life.stop(DRAIN, std::future::pending()).await, Stopped::Aborted);
        assert_eq!(begun.elapsed(), Duration::from_secs(13));
    }

    #[tokio::test(start_paused = true)]
    async fn hurry_aborts_at_once() {
        let life = Lifecycle::new(&Readiness::default());
        life.spawn(std::future::pending());
        let begun = tokio::time::Instant::now();
        assert_eq!(life.stop(DRAIN, std::future::ready(())).await, Stopped::Aborted);
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_vital_task_is_a_failure() {
        let life = Lifecycle::new(&Readiness::default());
        life.spawn_vital("listener", async {});
        assert_eq!(life.run(DRAIN).await, Stopped::Failed);
    }
}
