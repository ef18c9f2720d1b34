//! The instance: token authority and control plane.
//!
//! `main → app → doors → domain → store`. Domain modules name no tonic, axum or sqlx type; wire types stop at the doors.

pub mod app;
mod attempts;
mod audit;
mod changes;
pub mod config;
mod credentials;
mod directory;
mod doors;
mod exchange;
mod federation;
mod fleet;
mod identity;
mod introspection;
mod issuer;
mod keys;
mod lint;
// Compiled in release tests alone, which is what `make bench` runs.
pub mod capabilities;
#[cfg(all(test, not(debug_assertions)))]
mod marks;
mod metrics;
mod model;
mod model_credential;
mod partners;
mod policy;
mod prompts;
mod publisher;
mod registry;
mod relay;
mod rewrap;
mod root;
mod rotation;
mod seal;
mod store;
mod trust;
