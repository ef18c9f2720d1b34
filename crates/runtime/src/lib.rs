//! What every Postern process does alike: configuration, telemetry, start and stop, readiness and health, gRPC and HTTP
//! serving, the link to the instance, and the check of access tokens.

pub mod accept;
pub mod auth;
pub mod clock;
pub mod config;
pub mod ending;
pub mod grpc;
pub mod guard;
pub mod health;
pub mod http;
pub mod instance;
pub mod key_source;
pub mod lifecycle;
pub mod notes;
pub mod ops;
pub mod peer;
pub mod policy;
pub mod process;
pub mod proxy_protocol;
pub mod readiness;
pub mod request_id;
pub mod telemetry;
pub mod tls;
pub mod trust;
pub mod verifier;

pub use clock::{Clock, SystemClock};
pub use lifecycle::Lifecycle;
pub use readiness::{Condition, Readiness};
pub use verifier::{Standing, Verifier};
