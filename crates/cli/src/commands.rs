//! The commands, one family a file.

pub mod audit;
pub mod complete;
pub mod feature;
pub mod fleet;
pub mod keys;
pub mod login;
pub mod model;
pub mod status;
pub mod token;
pub mod user;

/// A time as RFC 3339 in UTC; empty when there is none.
fn time(time: Option<prost_types::Timestamp>) -> String {
    time.map(|time| time.to_string()).unwrap_or_default()
}
