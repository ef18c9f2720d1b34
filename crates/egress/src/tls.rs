//! TLS towards one destination: whose certificates are believed, and what is shown.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// PEM texts of a destination's own. Debug shows no key.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// The authorities that are believed; empty for the system's.
    pub ca_pem: String,
    /// The certificate chain that is shown, and its key (PKCS#8).
    pub certificate: Option<(String, String)>,
}

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientTls").field("ca_pem", &self.ca_pem).finish_non_exhaustive()
    }
}

/// What is wrong with them.
#[derive(Debug, thiserror::Error)]
pub enum TlsProblem {
    /// The authorities cannot be read.
    #[error("the PEM of the authorities holds no certificate that can be read")]
    Authorities,
    /// The certificate or its key cannot be read.
    #[error("the PEM of the client certificate or its key cannot be read")]
    Certificate,
    /// They do not belong together, or TLS itself cannot be had.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

impl ClientTls {
    /// Whether nothing is of its own.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.ca_pem.is_empty() && self.certificate.is_none()
    }

    /// Whether everything can be read and belongs together.
    ///
    /// # Errors
    /// [`TlsProblem`]; it quotes nothing.
    pub fn check(&self) -> Result<(), TlsProblem> {
        self.config().map(drop)
    }

    pub(crate) fn config(&self) -> Result<ClientConfig, TlsProblem> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(self.authorities()?);
        let Some((certificate, key)) = &self.certificate else { return Ok(config.with_no_client_auth()) };
        let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<Vec<_>, _>>();
        let chain = chain.ok().filter(|chain| !chain.is_empty()).ok_or(TlsProblem::Certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| TlsProblem::Certificate)?;
        Ok(config.with_client_auth_cert(chain, key)?)
    }

    fn authorities(&self) -> Result<RootCertStore, TlsProblem> {
        let mut roots = RootCertStore::empty();
        if self.ca_pem.is_empty() {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            return Ok(roots);
        }
        for certificate in CertificateDer::pem_slice_iter(self.ca_pem.as_bytes()) {
            let certificate = certificate.map_err(|_| TlsProblem::Authorities)?;
            roots.add(certificate).map_err(|_| TlsProblem::Authorities)?;
        }
        if roots.is_empty() { Err(TlsProblem::Authorities) } else { Ok(roots) }
    }
}
