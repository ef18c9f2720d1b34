//! Configuration: one TOML file, then `POSTERN__SECTION__KEY` from the environment over it. Every section refuses keys that
//! it does not know, and an error names the key.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Env, Format as _, Toml};
use secrecy::SecretString;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::tls::TlsConfig;

/// Why a configuration is not used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there or cannot be read.
    #[error("the configuration file {} cannot be read: {source}", .path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A key is missing, unknown or of the wrong type.
    #[error("{0}")]
    Value(Box<figment::Error>),
    /// A value that cannot work.
    #[error("`{key}`: {problem}")]
    Invalid {
        /// The key, dotted.
        key: String,
        /// What is wrong and what to do.
        problem: String,
    },
}

impl ConfigError {
    /// A value that cannot work.
    #[must_use]
    pub fn invalid(key: impl Into<String>, problem: impl ToString) -> Self {
        Self::Invalid { key: key.into(), problem: problem.to_string() }
    }
}

/// Reads a configuration.
///
/// # Errors
/// [`ConfigError`], which names the file or the key.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::File { path: path.to_owned(), source })?;
    Figment::new()
        .merge(Toml::string(&text))
        .merge(Env::prefixed("POSTERN__").split("__"))
        .extract()
        .map_err(|error| ConfigError::Value(Box::new(error)))
}

/// Reads a secret from a file: its first line, without the line end.
///
/// # Errors
/// [`ConfigError`] names the key when the file cannot be read or is empty.
pub fn secret_file(key: &str, path: &Path) -> Result<SecretString, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError::invalid(key, format_args!("{} cannot be read: {error}", path.display())))?;
    match text.lines().next().map(str::trim) {
        Some(secret) if !secret.is_empty() => Ok(secret.to_owned().into()),
        _ => Err(ConfigError::invalid(key, format_args!("{} holds no secret", path.display()))),
    }
}

/// The second line of a file, where there is one: a fleet member's credential file names the trust root there.
#[must_use]
pub fn second_line(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().nth(1).map(|line| line.trim().to_owned()).filter(|line| !line.is_empty())
}

/// What carries secrets in plain text stays on this machine.
///
/// # Errors
/// [`ConfigError`] names the key of an address that is not on the loopback interface, unless there is TLS.
pub fn loopback_without_tls(key: &str, address: SocketAddr, tls: Option<&TlsConfig>) -> Result<(), ConfigError> {
    if tls.is_some() || address.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    Err(ConfigError::invalid(
        key,
        format_args!("{address} is not a loopback address: give the process a [tls] section, or serve on loopback"),
    ))
}

/// The address of another Postern process.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct PeerAddress(String);

impl TryFrom<String> for PeerAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let form = "must be https://host:port, or http://host:port on loopback, such as http://127.0.0.1:7401";
        let uri: axum::http::Uri = text.parse().map_err(|_| form.to_owned())?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let local = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let safe = match uri.scheme_str() {
            Some("https") => !host.is_empty(),
            Some("http") => local,
            _ => false,
        };
        if !safe || uri.port().is_none() || !matches!(uri.path(), "" | "/") {
            return Err(format!("`{text}` {form}"));
        }
        Ok(Self(text.trim_end_matches('/').to_owned()))
    }
}

impl PeerAddress {
    /// The URL, without a trailing slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// How to stop.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DrainConfig {
    /// Seconds between "not ready" and closing the listeners, for orchestrators to notice.
    pub notice_seconds: u64,
    /// Seconds that open streams then have to end by themselves.
    pub grace_seconds: u64,
}

impl Default for DrainConfig {
    fn default() -> Self {
        Self { notice_seconds: 0, grace_seconds: 30 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        listen: Listen,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Listen {
        grpc: SocketAddr,
    }

    fn read(text: &str) -> Result<Sample, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.toml");
        std::fs::write(&path, text).unwrap();
        load(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn errors_name_the_key() {
        assert_eq!(read("[listen]\ngrpc = '127.0.0.1:1'").unwrap().listen.grpc.port(), 1);
        for (text, key) in [
            ("", "listen"),
            ("[listen]", "grpc"),
            ("[listen]\ngrpc = 7", "listen.grpc"),
            ("[listen]\ngrpc = 'nowhere'", "listen.grpc"),
            ("[listen]\ngrpc = '127.0.0.1:1'\ngprc = ''", "gprc"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(key), "{text}: {error}");
        }
    }

    #[test]
    fn peers_in_plain_text_are_on_this_machine() {
        for good in
            ["http://127.0.0.1:7401", "http://localhost:1/", "http://[::1]:7401", "https://instance.example:7401"]
        {
            assert!(PeerAddress::try_from(good.to_owned()).is_ok(), "{good}");
        }
        for bad in [
            "127.0.0.1:7401",
            "http://10.0.0.1:7401",
            "https://:1",
            "https://x",
            "http://127.0.0.1",
            "http://[::1]:1/x",
        ] {
            assert!(PeerAddress::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
