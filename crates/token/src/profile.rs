//! What is demanded of an issuer's tokens.

use ipnet::IpNet;

use crate::algorithm::Algorithm;
use crate::claims::Realm;

/// The profile of one issuer. Everything in it narrows; nothing in it can be widened by a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerProfile {
    /// The exact `iss`.
    pub issuer: String,
    /// The exact `aud`.
    pub audience: String,
    /// The most that `exp - iat` may be, in seconds.
    pub max_lifetime: u64,
    /// `postern_instance` must be one of these. Empty: the claim is not asked for.
    pub instances: Vec<String>,
    /// `postern_realm` must be this. `None`: the claim is not asked for.
    pub realm: Option<Realm>,
    /// The scopes that its tokens may use; others that they hold are not seen. `None`: all.
    pub scopes: Option<Vec<String>>,
    /// The groups that callers with its tokens are in; what such a token says of groups itself is not believed. An instance's own
    /// tokens say it for each caller.
    pub groups: Vec<String>,
    /// Where callers with its tokens may be. Empty: anywhere.
    pub client_networks: Vec<IpNet>,
    /// How its tokens are read.
    pub form: Form,
}

/// How an issuer's tokens are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// An instance of Postern whose keys come by the trust feed: the header is one of the few that the feed announced, to the
    /// byte, and every claim is there.
    Announced,
    /// Anybody else: the header is read strictly.
    Open(OpenForm),
}

/// What is demanded of a header that is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenForm {
    /// The `typ` values that are taken, to the letter. `None` among them: it may be absent.
    pub types: Vec<Option<String>>,
    /// Header members beside `alg`, `kid` and `typ` that may stand there. They are not read.
    pub header_members: Vec<String>,
    /// The algorithms that are taken.
    pub algorithms: Vec<Algorithm>,
    /// Whether a token may come without `kid` when the issuer has one key.
    pub kid_optional: bool,
}

impl Default for OpenForm {
    /// Access tokens (RFC 9068) with a `kid`, under any of our algorithms.
    fn default() -> Self {
        Self {
            types: vec![Some("at+jwt".to_owned())],
            header_members: Vec::new(),
            algorithms: Algorithm::ALL.to_vec(),
            kid_optional: false,
        }
    }
}

impl IssuerProfile {
    /// The profile of an instance's own tokens.
    #[must_use]
    pub fn own(issuer: String, instance_id: String, audience: String, max_lifetime: u64) -> Self {
        Self {
            issuer,
            audience,
            max_lifetime,
            instances: vec![instance_id],
            realm: Some(Realm::SelfManaged),
            scopes: None,
            groups: Vec::new(),
            client_networks: Vec::new(),
            form: Form::Announced,
        }
    }
}
