//! The adapter's configuration.

use std::net::SocketAddr;

use postern_runtime::config::{ConfigError, DrainConfig, loopback_only};
use postern_runtime::instance::InstanceConfig;
use postern_runtime::telemetry::TelemetryConfig;
use serde::Deserialize;

/// The whole file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterConfig {
    /// Where to listen.
    pub listen: Listen,
    /// Whose models to serve.
    pub instance: InstanceConfig,
    /// Logs.
    #[serde(default)]
    pub telemetry: TelemetryConfig,
    /// How to stop.
    #[serde(default)]
    pub drain: DrainConfig,
}

/// `[listen]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// gRPC: gateways.
    pub grpc: SocketAddr,
    /// Health and metrics.
    pub ops: SocketAddr,
}

impl AdapterConfig {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// [`ConfigError`] names the key.
    pub fn check(&self) -> Result<(), ConfigError> {
        loopback_only("listen.grpc", self.listen.grpc)
    }
}
