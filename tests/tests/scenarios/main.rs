//! Scenarios: the running system, one topic a file. Each test is named after what must hold.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod administration;
mod audit;
mod authentication;
mod authorisation;
mod cancelling;
mod code;
mod cold_start;
mod completions;
mod connections;
mod doors;
mod fault_matrix;
mod fuzzing;
mod health;
mod hostile_callers;
mod identity;
mod issuers;
mod oauth;
mod openai_door;
mod partners;
mod prompts;
mod providers;
mod relay;
mod remembering;
mod replaying;
mod requests;
mod tls;
mod trust;
mod upstream_failures;
