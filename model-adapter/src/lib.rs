//! The adapter: one streaming model API over many LLM servers.
//!
//! A request goes `service → provider (what to say) → upstream (one HTTP call) → provider's decoder (what was said)`. The
//! instance feeds `endpoints` through `feed`.

pub mod app;
mod aws;
pub mod config;
mod decode;
mod endpoints;
mod feed;
mod fit;
mod google;
mod guard;
mod probe;
pub mod provider;
mod renewing;
mod service;
mod sigv4;
mod upstream;

pub use service::{Events, Models};
