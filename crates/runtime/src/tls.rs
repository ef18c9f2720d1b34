//! TLS of a process: one certificate for what it serves and for what it is to its peers, reloaded when its files change. A connection
//! keeps what it began with, so no stream is dropped.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde::Deserialize;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::config::ConfigError;
use crate::lifecycle::Lifecycle;

/// The `[tls]` section.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The certificate chain, as PEM, the process's own first.
    pub cert_file: PathBuf,
    /// Its private key, as PEM.
    pub key_file: PathBuf,
    /// The certificate authorities of peers, as PEM. Default: the system's, for servers only; clients need none then.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// The certificate authorities of clients, as PEM, where they are others than those of servers. Default: `ca_file`.
    #[serde(default)]
    pub client_ca_file: Option<PathBuf>,
    /// Whether clients must show a certificate of those authorities.
    #[serde(default)]
    pub require_client_certificate: bool,
}

/// The TLS of a process; its clones are one.
#[derive(Clone)]
pub struct Tls {
    files: Arc<TlsConfig>,
    current: Arc<ArcSwap<Current>>,
}

struct Current {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    /// What the files held.
    contents: Vec<Vec<u8>>,
}

/// How often the files are looked at.
const RELOAD_EVERY: Duration = Duration::from_secs(2);

impl Tls {
    /// Loads the files.
    ///
    /// # Errors
    /// [`ConfigError`] names the key of the file that cannot be used.
    pub fn load(config: &TlsConfig) -> Result<Self, ConfigError> {
        let current = Current::load(config)?;
        Ok(Self { files: Arc::new(config.clone()), current: Arc::new(ArcSwap::from_pointee(current)) })
    }

    /// Loads the files anew when they change, until the process stops. Files that cannot be used change nothing.
    pub fn follow(&self, lifecycle: &Lifecycle) {
        let (tls, stopping) = (self.clone(), lifecycle.stopping().clone());
        lifecycle.spawn(async move {
            let mut failing = false;
            while stopping.run_until_cancelled(tokio::time::sleep(RELOAD_EVERY)).await.is_some() {
                match tls.reload() {
                    Ok(true) => tracing::info!("certificate reloaded"),
                    Ok(false) => failing = false,
                    Err(error) if !failing => {
                        failing = true;
                        tracing::error!(error = %error, "the certificate cannot be reloaded; the one before stays in use");
                    }
                    Err(_) => {}
                }
            }
        });
    }

    /// Loads the files anew if they have changed; whether they had.
    ///
    /// # Errors
    /// As [`Tls::load`].
    pub fn reload(&self) -> Result<bool, ConfigError> {
        if contents(&self.files) == self.current.load().contents {
            return Ok(false);
        }
        self.current.store(Arc::new(Current::load(&self.files)?));
        Ok(true)
    }

    /// For the next connection that is accepted.
    #[must_use]
    pub fn server(&self) -> Arc<ServerConfig> {
        self.current.load().server.clone()
    }

    /// For the next connection that is dialled.
    #[must_use]
    pub fn client(&self) -> Arc<ClientConfig> {
        self.current.load().client.clone()
    }
}

fn paths(config: &TlsConfig) -> impl Iterator<Item = &Path> {
    let authorities = config.ca_file.as_deref().into_iter().chain(config.client_ca_file.as_deref());
    [config.cert_file.as_path(), config.key_file.as_path()].into_iter().chain(authorities)
}

fn contents(config: &TlsConfig) -> Vec<Vec<u8>> {
    paths(config).map(|path| std::fs::read(path).unwrap_or_default()).collect()
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let unusable =
        |error: &dyn std::fmt::Display| ConfigError::invalid(key, format_args!("{}: {error}", path.display()));
    let read = CertificateDer::pem_file_iter(path).map_err(|error| unusable(&error))?;
    let certificates = read.collect::<Result<Vec<_>, _>>().map_err(|error| unusable(&error))?;
    if certificates.is_empty() { Err(unusable(&"holds no certificate")) } else { Ok(certificates) }
}

/// The authorities in a file.
///
/// # Errors
/// [`ConfigError`] names the key.
pub fn authorities(key: &str, path: &Path) -> Result<RootCertStore, ConfigError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(key, path)? {
        roots.add(certificate).map_err(|error| ConfigError::invalid(key, error))?;
    }
    Ok(roots)
}

/// The system's authorities, or those of `SSL_CERT_FILE`.
fn system_authorities() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

/// For a client without a certificate of its own, such as the command line.
///
/// # Errors
/// [`ConfigError`] names the file.
pub fn client_config(ca_file: Option<&Path>) -> Result<ClientConfig, ConfigError> {
    let roots = ca_file.map_or_else(|| Ok(system_authorities()), |path| authorities("ca_file", path))?;
    let mut client = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| ConfigError::invalid("tls", error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"h2".to_vec()];
    Ok(client)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

impl Current {
    fn load(config: &TlsConfig) -> Result<Self, ConfigError> {
        let contents = contents(config);
        let chain = certificates("tls.cert_file", &config.cert_file)?;
        let key = PrivateKeyDer::from_pem_file(&config.key_file).map_err(|error| {
            ConfigError::invalid("tls.key_file", format_args!("{}: {error}", config.key_file.display()))
        })?;
        let fault = |error: &dyn std::fmt::Display| ConfigError::invalid("tls.key_file", error);
        let server = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| fault(&error))?;
        let server = match config.client_ca_file.as_ref().or(config.ca_file.as_ref()) {
            None if config.require_client_certificate => {
                return Err(ConfigError::invalid("tls.ca_file", "is needed to require a client's certificate"));
            }
            None => server.with_no_client_auth(),
            Some(path) => {
                let roots = Arc::new(authorities("tls.ca_file", path)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
                // A client that shows none is let in where none is required, and known by its token alone.
                let verifier =
                    if config.require_client_certificate { verifier } else { verifier.allow_unauthenticated() };
                server.with_client_cert_verifier(
                    verifier.build().map_err(|error| ConfigError::invalid("tls.ca_file", error))?,
                )
            }
        };
        let mut server = server.with_single_cert(chain.clone(), key.clone_key()).map_err(|error| fault(&error))?;
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let roots = config
            .ca_file
            .as_deref()
            .map_or_else(|| Ok(system_authorities()), |path| authorities("tls.ca_file", path))?;
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| fault(&error))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(|error| fault(&error))?;
        client.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { server: Arc::new(server), client: Arc::new(client), contents })
    }
}

/// Who a verified certificate says that its holder is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    /// Its subject alternative names that are URIs, such as SPIFFE IDs, or DNS names, without wildcards. A URI has `://` in it, so none
    /// can be taken for a DNS name.
    pub names: Vec<Arc<str>>,
    /// Its end, in seconds since 1970. A connection may outlive it.
    pub not_after: u64,
}

/// Names of one certificate that are looked at.
const MOST_NAMES: usize = 16;

/// Reads names and end of a certificate (RFC 5280 §4.1.2.5, §4.2.1.6); nobody and ended for one that cannot be read.
#[must_use]
pub fn shown(certificate: &CertificateDer<'_>) -> Shown {
    let Ok(read) = Certificate::from_der(certificate) else { return Shown::default() };
    let read = read.tbs_certificate;
    let not_after = read.validity.not_after.to_unix_duration().as_secs();
    let name = |name: &GeneralName| match name {
        GeneralName::UniformResourceIdentifier(uri) if uri.as_str().contains("://") => Some(Arc::from(uri.as_str())),
        GeneralName::DnsName(name) if !name.as_str().contains(['*', '/', ':']) => Some(Arc::from(name.as_str())),
        _ => None,
    };
    let names = match read.get::<SubjectAltName>() {
        Ok(Some((_, names))) => names.0.iter().filter_map(name).take(MOST_NAMES).collect(),
        _ => Vec::new(),
    };
    Shown { names, not_after }
}

/// What a token is bound to (RFC 8705 §3.1): the SHA-256 of a certificate, base64url.
#[must_use]
pub fn thumbprint(certificate: &CertificateDer<'_>) -> String {
    URL_SAFE_NO_PAD.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SanType};

    #[test]
    fn a_certificate_is_its_uris_and_dns_names_and_ends() {
        let mut params = CertificateParams::new(vec!["a.example.org".to_owned(), "*.example.org".to_owned()]).unwrap();
        for uri in ["spiffe://example.org/a", "b.example.org", "urn:x:y"] {
            params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        }
        params.not_after = rcgen::date_time_ymd(2031, 2, 3);
        let key = KeyPair::generate().unwrap();
        let read = shown(params.self_signed(&key).unwrap().der());
        let names: Vec<&str> = read.names.iter().map(AsRef::as_ref).collect();
        assert_eq!(
            names,
            ["a.example.org", "spiffe://example.org/a"],
            "no wildcard, and no URI that looks like a DNS name"
        );
        assert_eq!(read.not_after, 1_927_843_200);
        assert_eq!(shown(&CertificateDer::from(vec![1, 2, 3])), Shown::default(), "nobody, and ended");
    }
}
