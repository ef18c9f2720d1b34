//! The access token of Postern: what it claims, which keys may sign it, and how it is verified.
//!
//! Nothing here reads a clock, opens a socket or signs: time comes as an argument, keys as a [`TrustTable`].
//!
//! A token goes `&str` → [`Unverified`] → [`Verified`]. Only [`TrustTable::verify`] makes a [`Verified`], so a function
//! that takes one is reached by verified callers only.

mod algorithm;
mod assertion;
mod claims;
mod credential;
mod header;
mod key;
mod profile;
mod revocation;
mod strict_json;
mod verify;
mod weak;

pub use algorithm::{Algorithm, header_segment};
pub use assertion::{Assertion, AssertionDemands};
pub use claims::{Actor, Claims, Confirmation, Realm, TokenError, has_control};
pub use credential::{CredentialKind, MalformedCredential, Secret};
pub use key::{InvalidKey, PublicKey, jwks_json, read_jwks, thumbprint};
pub use profile::{Form, IssuerProfile, OpenForm};
pub use revocation::{Revocation, Revocations};
pub use verify::{Hearsay, MAX_TOKEN_BYTES, TrustTable, Unverified, Verified, signed_payload};

/// Clock difference, in seconds, that a verifier forgives in either direction.
pub const LEEWAY_SECONDS: u64 = 30;
