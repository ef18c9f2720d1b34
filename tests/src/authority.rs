//! A certificate authority of a test's own.

use std::path::Path;
use std::time::Duration;

use postern_runtime::tls::TlsConfig;
use postern_runtime::{Clock as _, SystemClock};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};

/// How long certificates live, in seconds.
const DAY: u64 = 24 * 3600;

/// An authority.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Default for Authority {
    fn default() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }
}

impl Authority {
    /// A name in every certificate that no resolver knows.
    pub const OUTSIDE: &str = "model.test";

    /// The SPIFFE ID in a certificate of this name.
    #[must_use]
    pub fn identity(name: &str) -> String {
        format!("spiffe://postern.test/{name}")
    }

    /// Writes a certificate for this machine, its key and the authority into a folder: a `[tls]` section that demands the like
    /// of others.
    ///
    /// # Panics
    /// When a file cannot be written.
    #[must_use]
    pub fn issue(&self, dir: &Path, name: &str) -> TlsConfig {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["localhost", "127.0.0.1", Self::OUTSIDE].map(str::to_owned)).unwrap();
        params.subject_alt_names.push(SanType::URI(Self::identity(name).try_into().unwrap()));
        // Long enough for every test, and not for ever.
        let days = u32::try_from(SystemClock.now() / DAY + 2).unwrap();
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(DAY) * days;
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let path = |kind: &str| dir.join(format!("{name}.{kind}.pem"));
        std::fs::write(path("cert"), certificate.pem()).unwrap();
        std::fs::write(path("key"), key.serialize_pem()).unwrap();
        std::fs::write(path("ca"), self.issuer.pem()).unwrap();
        TlsConfig {
            cert_file: path("cert"),
            key_file: path("key"),
            ca_file: Some(path("ca")),
            client_ca_file: None,
            require_client_certificate: true,
        }
    }
}
