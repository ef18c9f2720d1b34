//! The adapter's configuration.

use std::net::SocketAddr;

use postern_egress::EgressConfig;
use postern_runtime::config::{ConfigError, DrainConfig, loopback_without_tls};
use postern_runtime::instance::InstanceConfig;
use postern_runtime::peer::ClientConfig;
use postern_runtime::telemetry::TelemetryConfig;
use postern_runtime::tls::TlsConfig;
use serde::Deserialize;

/// The whole file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterConfig {
    /// Where to listen.
    pub listen: Listen,
    /// Whose models to serve.
    pub instance: InstanceConfig,
    /// The process's certificate. Without one, plain text is served on loopback only.
    #[serde(default)]
    pub tls: Option<TlsConfig>,
    /// Who may connect, by listener.
    #[serde(default)]
    pub clients: Clients,
    /// How far the process may reach.
    #[serde(default)]
    pub egress: EgressConfig,
    /// Logs.
    #[serde(default)]
    pub telemetry: TelemetryConfig,
    /// How to stop.
    #[serde(default)]
    pub drain: DrainConfig,
}

/// `[clients]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Clients {
    /// Of the gRPC port.
    pub grpc: ClientConfig,
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
        self.instance.check()?;
        loopback_without_tls("listen.grpc", self.listen.grpc, self.tls.as_ref())
    }
}
