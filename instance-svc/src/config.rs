//! The instance's configuration.

use std::net::SocketAddr;
use std::path::PathBuf;

use postern_runtime::config::{ConfigError, DrainConfig, loopback_only};
use postern_runtime::telemetry::TelemetryConfig;
use serde::Deserialize;

/// The whole file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceConfig {
    /// Where to listen.
    pub listen: Listen,
    /// Who signs tokens and for how long.
    pub issuer: IssuerConfig,
    /// Where to remember.
    pub store: StoreConfig,
    /// What to seal under.
    pub seal: SealConfig,
    /// Signing keys.
    #[serde(default)]
    pub keys: KeyConfig,
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
    /// gRPC: people, programs, the fleet.
    pub grpc: SocketAddr,
    /// HTTP: discovery and keys.
    pub http: SocketAddr,
    /// Health and metrics.
    pub ops: SocketAddr,
}

/// `[issuer]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// The `iss` of tokens: the URL under which the HTTP port is reached, without a trailing slash.
    pub url: String,
    /// Seconds that an access token lives when nothing is asked for.
    #[serde(default = "default_lifetime")]
    pub access_token_seconds: u64,
    /// Seconds that an access token may live at most.
    #[serde(default = "max_lifetime")]
    pub max_access_token_seconds: u64,
}

const fn default_lifetime() -> u64 {
    300
}

const fn max_lifetime() -> u64 {
    900
}

/// `[store]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreConfig {
    /// The SQLite file. It is made when it is not there.
    pub sqlite_file: PathBuf,
}

/// `[seal]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealConfig {
    /// The key-encryption key: 32 bytes as base64url text. It is made at first start; without it the database is lost.
    pub key_file: PathBuf,
}

/// `[keys]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyConfig {
    /// At first start, an RSA key of 2048 to 4096 bits to use in place of a new one, as PKCS#8 PEM.
    #[serde(default)]
    pub import_file: Option<PathBuf>,
}

impl InstanceConfig {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// [`ConfigError`] names the key.
    pub fn check(&self) -> Result<(), ConfigError> {
        loopback_only("listen.grpc", self.listen.grpc)?;
        loopback_only("listen.http", self.listen.http)?;
        let url = &self.issuer.url;
        let well_formed = url.parse::<axum::http::Uri>().is_ok_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some() && uri.query().is_none()
        });
        if !well_formed || url.ends_with('/') {
            return Err(ConfigError::invalid("issuer.url", "must be an http or https URL without a trailing slash"));
        }
        let IssuerConfig { access_token_seconds: default, max_access_token_seconds: max, .. } = self.issuer;
        if !(1..=900).contains(&max) || !(1..=max).contains(&default) {
            return Err(ConfigError::invalid(
                "issuer.access_token_seconds",
                "must be at least 1 and at most issuer.max_access_token_seconds, which is at most 900",
            ));
        }
        Ok(())
    }
}
