//! The harness: the three services in one process on loopback, a model server that does as it is told, and tokens that an
//! attacker might make. Everything is bound to port 0 and ends with the test.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a harness fails by panicking")]

mod authority;
mod fake_model;
mod forge;
pub mod fuzz;
mod http_client;
pub mod replay;
mod stack;

pub use authority::Authority;
pub use fake_model::{Act, FakeModel, Gate, Recorded, answer, chunk, done, event, finish, head, sse_head, usage};
pub use forge::Forge;
pub use http_client::{HttpAnswer, get, post, post_form, post_from, post_stream};
pub use stack::{Stack, StackBuilder, reason};

use std::time::Duration;

/// Nothing in a test waits longer than this; it is a bound, never a pause.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The value of a future that must come in time.
///
/// # Panics
/// When it does not.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen within {PATIENCE:?}"),
    }
}
