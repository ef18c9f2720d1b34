//! The instance's configuration.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use postern_egress::EgressConfig;
use postern_runtime::config::{ConfigError, DrainConfig, loopback_without_tls};
use postern_runtime::peer::ClientConfig;
use postern_runtime::telemetry::TelemetryConfig;
use postern_runtime::tls::TlsConfig;
use postern_token::Algorithm;
use serde::Deserialize;

use crate::keys::KeyKind;
use crate::rotation::Schedule;

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
    /// Other instances to publish keys and revocations to, whose gateways take this one's tokens.
    #[serde(default)]
    pub publish: Vec<postern_runtime::instance::InstanceConfig>,
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
    /// Of the HTTP port.
    pub http: ClientConfig,
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
    #[serde(default)]
    pub sqlite_file: Option<PathBuf>,
    /// A file that holds a PostgreSQL URL, such as postgres://user:password@host/database, in place of SQLite. For several replicas.
    #[serde(default)]
    pub postgres_url_file: Option<PathBuf>,
}

/// `[seal]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealConfig {
    /// The key-encryption key: 32 bytes as base64url text. It is made at first start; without it the database is lost.
    pub key_file: PathBuf,
    /// Key-encryption keys of before, which still open what was sealed under them, until `postern keys rewrap` has been run.
    #[serde(default)]
    pub former_key_files: Vec<PathBuf>,
}

/// `[keys]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeyConfig {
    /// What new keys sign with: RS256, RS384, RS512, ES256 or EdDSA.
    pub algorithm: String,
    /// Bits of a new RSA key: 2048 to 4096.
    pub rsa_bits: usize,
    /// How long a key signs, in seconds.
    pub rotation_seconds: u64,
    /// How long a key is published before it signs, in seconds, at least.
    pub lead_seconds: u64,
    /// At first start, a key to use in place of a new one, as PKCS#8 PEM. It must be of the algorithm.
    pub import_file: Option<PathBuf>,
}

impl Default for KeyConfig {
    fn default() -> Self {
        let algorithm = Algorithm::Rs256.name().to_owned();
        Self { algorithm, rsa_bits: 2048, rotation_seconds: 24 * 3600, lead_seconds: 900, import_file: None }
    }
}

/// Keys that may verify at once. A feed's snapshot holds 256.
const MOST_LIVE_KEYS: u64 = 200;

impl KeyConfig {
    /// The schedule, for tokens of at most this life.
    ///
    /// # Errors
    /// [`ConfigError`] names the key.
    pub(crate) fn schedule(&self, max_lifetime: u64) -> Result<Schedule, ConfigError> {
        let algorithm = Algorithm::from_name(&self.algorithm)
            .ok_or_else(|| ConfigError::invalid("keys.algorithm", "must be RS256, RS384, RS512, ES256 or EdDSA"))?;
        if !(2048..=4096).contains(&self.rsa_bits) {
            return Err(ConfigError::invalid("keys.rsa_bits", "must be 2048 to 4096"));
        }
        if self.lead_seconds == 0 || self.rotation_seconds < self.lead_seconds {
            return Err(ConfigError::invalid("keys.lead_seconds", "must be 1 to keys.rotation_seconds"));
        }
        // Every key verifies until its last token has ended, and verifiers hold so many keys and no more.
        if max_lifetime / self.rotation_seconds > MOST_LIVE_KEYS {
            let problem = format!("so often that more than {MOST_LIVE_KEYS} keys would verify at once");
            return Err(ConfigError::invalid("keys.rotation_seconds", problem));
        }
        Ok(Schedule {
            kind: KeyKind { algorithm, rsa_bits: self.rsa_bits },
            period: Duration::from_secs(self.rotation_seconds),
            lead: Duration::from_secs(self.lead_seconds),
            max_lifetime: Duration::from_secs(max_lifetime),
        })
    }
}

impl InstanceConfig {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// [`ConfigError`] names the key.
    pub fn check(&self) -> Result<(), ConfigError> {
        loopback_without_tls("listen.grpc", self.listen.grpc, self.tls.as_ref())?;
        loopback_without_tls("listen.http", self.listen.http, self.tls.as_ref())?;
        if self.store.sqlite_file.is_some() == self.store.postgres_url_file.is_some() {
            return Err(ConfigError::invalid("store", "name either sqlite_file or postgres_url_file"));
        }
        self.keys.schedule(self.issuer.max_access_token_seconds)?;
        self.publish.iter().try_for_each(postern_runtime::instance::InstanceConfig::check)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_that_no_verifier_could_follow_is_refused() {
        let refused = |rotation_seconds, lead_seconds, max_lifetime| {
            let keys = KeyConfig { rotation_seconds, lead_seconds, ..KeyConfig::default() };
            keys.schedule(max_lifetime).err().map(|error| error.to_string())
        };
        assert_eq!(refused(24 * 3600, 900, 900), None);
        assert!(refused(1, 1, 900).is_some_and(|error| error.contains("keys.rotation_seconds")));
        assert!(refused(10, 20, 900).is_some_and(|error| error.contains("keys.lead_seconds")));
        assert!(refused(10, 0, 900).is_some_and(|error| error.contains("keys.lead_seconds")));
    }
}
