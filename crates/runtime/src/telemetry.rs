//! Logs. One line an event, on standard error, as JSON or text.
//!
//! Rules: lower case, no full stop, dotted field names with a unit suffix (`elapsed_ms`), logged once where it is handled.
//! Never logged: tokens, credentials, API keys, prompts, completions, request bodies.

use serde::Deserialize;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// The `[telemetry]` section.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetryConfig {
    /// How a line looks.
    pub format: LogFormat,
    /// What is logged, in the syntax of tracing-subscriber's `EnvFilter`, such as `info,gateway_svc=debug`.
    pub filter: String,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self { format: LogFormat::Json, filter: "info".to_owned() }
    }
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Installs the log for this process. A second call changes nothing.
///
/// # Errors
/// When the filter is not well-formed.
pub fn init(config: &TelemetryConfig) -> Result<(), crate::config::ConfigError> {
    let filter = EnvFilter::try_new(&config.filter)
        .map_err(|error| crate::config::ConfigError::invalid("telemetry.filter", error))?;
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_span_events(FmtSpan::NONE);
    // An error means that a subscriber is installed already, as in tests that start several services.
    let _ = match config.format {
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init(),
        LogFormat::Text => builder.with_ansi(false).try_init(),
    };
    Ok(())
}
