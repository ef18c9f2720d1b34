//! The instance's metrics, by name.

/// Access tokens minted.
const MINTED: &str = "postern_instance_tokens_minted_total";
/// Credentials refused, by door.
const REFUSED: &str = "postern_instance_credentials_refused_total";
/// Changes of the signing key.
const ROTATED: &str = "postern_instance_key_rotations_total";
/// Times that the schedule of the keys began to fail. An alert.
const ROTATION_FAILED: &str = "postern_instance_key_rotation_failures_total";
/// Subscribers that did not acknowledge a key in time. An alert.
const LEFT_BEHIND: &str = "postern_instance_subscribers_left_behind_total";

/// Refusals that were too many to be written to the audit log.
const NOT_AUDITED: &str = "postern_instance_refusals_not_audited_total";

pub(crate) fn refusal_not_audited() {
    metrics::counter!(NOT_AUDITED).increment(1);
}

pub(crate) fn minted() {
    metrics::counter!(MINTED).increment(1);
}

pub(crate) fn credential_refused() {
    metrics::counter!(REFUSED).increment(1);
}

pub(crate) fn key_rotated() {
    metrics::counter!(ROTATED).increment(1);
}

pub(crate) fn rotation_failed() {
    metrics::counter!(ROTATION_FAILED).increment(1);
}

pub(crate) fn subscriber_left_behind() {
    metrics::counter!(LEFT_BEHIND).increment(1);
}
