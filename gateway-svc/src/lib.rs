//! The gateway: verifies, authorises, admits, builds the prompt, routes and relays.
//!
//! A request goes `doors → ask (checked) → pipeline`, which is one function with one layer a line. `routes` is what the
//! instance last said; `adapters` is the way to the models.

mod adapters;
pub mod app;
mod ask;
mod collect;
pub mod config;
mod doors;
pub mod issuers;
mod metrics;
mod pipeline;
mod policy;
mod prompt;
mod routes;
