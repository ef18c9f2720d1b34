//! The gateway's metrics, by name. docs/operating.md has the table.

use std::time::Duration;

/// Requests for completions that are over, by feature and outcome (`OK` or a reason).
const COMPLETIONS: &str = "postern_gateway_completions_total";
/// Seconds from admission to the end, by feature and outcome.
const DURATION: &str = "postern_gateway_completion_duration_seconds";
/// Seconds from admission to the first content, by feature.
const FIRST_CONTENT: &str = "postern_gateway_first_content_seconds";

/// A request for a completion is over.
pub(crate) fn completion(feature: &'static str, outcome: &'static str, elapsed: Duration, first: Option<Duration>) {
    metrics::counter!(COMPLETIONS, "feature" => feature, "outcome" => outcome).increment(1);
    metrics::histogram!(DURATION, "feature" => feature, "outcome" => outcome).record(elapsed);
    if let Some(first) = first {
        metrics::histogram!(FIRST_CONTENT, "feature" => feature).record(first);
    }
}
