//! The access token of Postern: what it claims, which keys may sign it, and how it is verified.
//!
//! Nothing here reads a clock, opens a socket or signs: time comes as an argument, keys as a [`TrustTable`].
//!
//! A token goes `&str` → [`Unverified`] → [`Verified`]. Only [`TrustTable::verify`] makes a [`Verified`], so a function
//! that takes one is reached by verified callers only.

mod claims;
mod credential;
mod header;
mod jwk;
mod strict_json;
mod verify;

pub use claims::{Actor, Claims, Realm, TokenError, has_control};
pub use credential::{CredentialKind, MalformedCredential, Secret};
pub use header::{Algorithm, header_segment};
pub use jwk::{InvalidKey, PublicKey, jwks_json, thumbprint};
pub use verify::{IssuerProfile, MAX_TOKEN_BYTES, TrustTable, Unverified, Verified};

/// Clock difference, in seconds, that a verifier forgives in either direction.
pub const LEEWAY_SECONDS: u64 = 30;
