//! Tells open streams that configuration or trust has changed. The database is asked every 200 ms, so that a change made
//! through another replica, or by `instance-svc bootstrap`, is noticed like one of our own.

use std::sync::Arc;
use std::time::Duration;

use postern_runtime::Lifecycle;
use tokio::sync::watch;

use crate::store::{Store, Versions};

/// How often the database is asked.
const POLL: Duration = Duration::from_millis(200);

/// Follows the counters until the process stops.
pub fn follow(store: Arc<dyn Store>, begin: Versions, lifecycle: &Lifecycle) -> watch::Receiver<Versions> {
    let (sender, receiver) = watch::channel(begin);
    let stopping = lifecycle.stopping().clone();
    lifecycle.spawn_vital("changes", async move {
        let mut failing = false;
        while stopping.run_until_cancelled(tokio::time::sleep(POLL)).await.is_some() {
            match store.versions().await {
                Ok(now) => {
                    failing = false;
                    sender.send_if_modified(|was| std::mem::replace(was, now) != now);
                }
                Err(error) if !failing => {
                    failing = true;
                    tracing::error!(error = %error, "the database cannot be read");
                }
                Err(_) => {}
            }
        }
    });
    receiver
}
