//! The gateway's configuration.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use postern_egress::EgressConfig;
use postern_runtime::config::{ConfigError, DrainConfig, PeerAddress, loopback_without_tls};
use postern_runtime::instance::InstanceConfig;
use postern_runtime::notes::NotesConfig;
use postern_runtime::peer::ClientConfig;
use postern_runtime::telemetry::TelemetryConfig;
use postern_runtime::tls::TlsConfig;
use serde::Deserialize;

use crate::prompt::PromptsConfig;

use crate::issuers::IssuerConfig;

/// The whole file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    /// Where to listen.
    pub listen: Listen,
    /// Whose tokens to believe.
    pub instance: InstanceConfig,
    /// What happens when the instance is not heard of.
    #[serde(default)]
    pub trust: TrustConfig,
    /// What is kept for a start while the instance is away. Without it, such a start waits for the instance.
    #[serde(default)]
    pub notes: Option<NotesConfig>,
    /// Other issuers whose tokens are believed.
    #[serde(default)]
    pub issuers: Vec<IssuerConfig>,
    /// The way to the models, by adapter group.
    pub adapters: HashMap<String, AdapterConfig>,
    /// The registry of prompts.
    #[serde(default)]
    pub prompts: PromptsConfig,
    /// The HTTP door.
    #[serde(default)]
    pub http: HttpConfig,
    /// How much at once.
    #[serde(default)]
    pub limits: LimitsConfig,
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

/// `[trust]`
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrustConfig {
    /// Whether the instance's tokens are judged while its news of keys and revocations is old.
    pub when_stale: WhenStale,
    /// How old the news may be, in seconds, before `refuse` refuses.
    pub stale_seconds: u64,
}

impl Default for TrustConfig {
    fn default() -> Self {
        Self { when_stale: WhenStale::Serve, stale_seconds: 5 }
    }
}

/// What happens to the instance's tokens while its news is old.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenStale {
    /// They are taken to their end, as nothing newer can be minted without the instance.
    Serve,
    /// They are refused with TRUST_STALE.
    Refuse,
}

impl TrustConfig {
    /// The bound that the verifier keeps.
    #[must_use]
    pub fn bound(&self) -> Option<Duration> {
        (self.when_stale == WhenStale::Refuse).then(|| Duration::from_secs(self.stale_seconds))
    }
}

/// `[clients]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Clients {
    /// Of the gRPC port.
    pub grpc: ClientConfig,
    /// Of the HTTP port.
    pub http: ClientConfig,
}

/// `[listen]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// gRPC.
    pub grpc: SocketAddr,
    /// The OpenAI-compatible API.
    pub http: SocketAddr,
    /// Health and metrics.
    pub ops: SocketAddr,
}

/// One line of `[adapters]`: `default = { remote = "http://127.0.0.1:7421" }` or
/// `default = { embedded = "adapter.credential" }`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdapterConfig {
    /// An adapter of its own, at this address.
    Remote(PeerAddress),
    /// Inside this process, which connects as the adapter of this credential file.
    Embedded(PathBuf),
}

/// `[http]`
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Whether the HTTP door takes personal access tokens and client secrets as the bearer and exchanges them itself. For
    /// clients that hold a static key.
    pub accept_credentials: bool,
}

/// `[limits]`
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Requests at once in this process.
    pub max_in_flight: usize,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self { max_in_flight: 1024 }
    }
}

impl GatewayConfig {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// [`ConfigError`] names the key.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.instance.check()?;
        loopback_without_tls("listen.grpc", self.listen.grpc, self.tls.as_ref())?;
        loopback_without_tls("listen.http", self.listen.http, self.tls.as_ref())?;
        self.issuers.iter().try_for_each(IssuerConfig::check)?;
        if self.trust.when_stale == WhenStale::Refuse && self.trust.stale_seconds < 3 {
            // The instance speaks every two seconds.
            return Err(ConfigError::invalid("trust.stale_seconds", "must be at least 3"));
        }
        if self.adapters.is_empty() {
            return Err(ConfigError::invalid("adapters", "name at least one adapter group, such as `default`"));
        }
        if self.limits.max_in_flight == 0 {
            return Err(ConfigError::invalid("limits.max_in_flight", "must be at least 1"));
        }
        Ok(())
    }
}
