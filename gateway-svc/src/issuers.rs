//! Other issuers whose tokens are believed, beside the gateway's own instance: what is demanded of each, and where its keys come from.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use postern_egress::Egress;
use postern_proto::{Failure, Reason};
use postern_runtime::config::ConfigError;
use postern_runtime::key_source::{KeyPlace, KeySource};
use postern_runtime::{Clock, Lifecycle, Verifier};
use postern_token::{Algorithm, Form, IssuerProfile, OpenForm, Realm, Unverified};
use serde::Deserialize;

/// One `[[issuers]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// The exact `iss`.
    pub issuer: String,
    /// The exact `aud` of its tokens for this gateway.
    pub audience: String,
    /// Its key set as a file, looked at every few seconds.
    #[serde(default)]
    pub jwks_file: Option<PathBuf>,
    /// Where its key set is served.
    #[serde(default)]
    pub jwks_url: Option<String>,
    /// Whether its key set is found by OpenID Connect Discovery at the issuer's own URL.
    #[serde(default)]
    pub discovery: bool,
    /// Networks where its key set may be served; needed for loopback and private addresses.
    #[serde(default)]
    pub key_networks: Vec<IpNet>,
    /// The `typ` values of its tokens; an empty text lets it be absent.
    #[serde(default = "access_tokens")]
    pub types: Vec<String>,
    /// Header members beside `alg`, `kid` and `typ` that may be there.
    #[serde(default)]
    pub header_members: Vec<String>,
    /// The algorithms of its tokens.
    #[serde(default = "every_algorithm")]
    pub algorithms: Vec<String>,
    /// Whether a token may come without `kid` when the issuer has one key.
    #[serde(default)]
    pub kid_optional: bool,
    /// The longest life of its tokens, in seconds.
    #[serde(default = "longest_life")]
    pub max_lifetime_seconds: u64,
    /// The `postern_instance` values that are taken. Empty: the claim is not asked for.
    #[serde(default)]
    pub instances: Vec<String>,
    /// The `postern_realm` that is demanded. Absent: the claim is not asked for.
    #[serde(default)]
    pub realm: Option<Realm>,
    /// The scopes that it is entitled to. Absent: all.
    #[serde(default)]
    pub scopes: Option<Vec<String>>,
    /// The groups of this gateway's instance that callers with its tokens are in.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Networks where callers with its tokens may be. Empty: anywhere.
    #[serde(default)]
    pub client_networks: Vec<IpNet>,
    /// How long its keys serve when none can be had, in seconds.
    #[serde(default = "key_age")]
    pub key_max_age_seconds: u64,
}

fn access_tokens() -> Vec<String> {
    vec!["at+jwt".to_owned()]
}

fn every_algorithm() -> Vec<String> {
    Algorithm::ALL.iter().map(|algorithm| algorithm.name().to_owned()).collect()
}

const fn longest_life() -> u64 {
    900
}

const fn key_age() -> u64 {
    24 * 3600
}

impl IssuerConfig {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// [`ConfigError`] names the key.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.place()?;
        self.profile().map(drop)
    }

    fn fault(&self, key: &str, problem: impl ToString) -> ConfigError {
        ConfigError::invalid(format!("issuers[{}].{key}", self.issuer), problem)
    }

    fn place(&self) -> Result<KeyPlace, ConfigError> {
        match (&self.jwks_file, &self.jwks_url, self.discovery) {
            (Some(file), None, false) => Ok(KeyPlace::file(file.clone())),
            (None, Some(url), false) => KeyPlace::url(url).map_err(|problem| self.fault("jwks_url", problem)),
            (None, None, true) => KeyPlace::discovery(&self.issuer).map_err(|problem| self.fault("discovery", problem)),
            _ => Err(self.fault("jwks_file", "name one of jwks_file, jwks_url and discovery")),
        }
    }

    fn profile(&self) -> Result<IssuerProfile, ConfigError> {
        if self.issuer.is_empty() || self.audience.is_empty() {
            return Err(self.fault("audience", "issuer and audience must not be empty"));
        }
        let algorithm = |name: &String| {
            Algorithm::from_name(name).ok_or_else(|| self.fault("algorithms", format_args!("`{name}` is not offered")))
        };
        let form = OpenForm {
            types: self.types.iter().map(|typ| Some(typ.clone()).filter(|typ| !typ.is_empty())).collect(),
            header_members: self.header_members.clone(),
            algorithms: self.algorithms.iter().map(algorithm).collect::<Result<_, _>>()?,
            kid_optional: self.kid_optional,
        };
        Ok(IssuerProfile {
            issuer: self.issuer.clone(),
            audience: self.audience.clone(),
            max_lifetime: self.max_lifetime_seconds,
            instances: self.instances.clone(),
            realm: self.realm,
            scopes: self.scopes.clone(),
            groups: self.groups.clone(),
            client_networks: self.client_networks.clone(),
            form: Form::Open(form),
        })
    }
}

/// The sources of the other issuers' keys.
#[derive(Clone, Default)]
pub struct Issuers {
    by_issuer: Arc<HashMap<String, Arc<KeySource>>>,
}

impl Issuers {
    /// Follows every issuer's keys until the process stops. Nothing waits for them.
    ///
    /// # Errors
    /// [`ConfigError`] names the key.
    pub fn follow(
        configs: &[IssuerConfig],
        egress: &Egress,
        verifier: &Verifier,
        clock: &Arc<dyn Clock>,
        lifecycle: &Lifecycle,
    ) -> Result<Self, ConfigError> {
        let mut by_issuer = HashMap::new();
        for config in configs {
            let max_age = Duration::from_secs(config.key_max_age_seconds);
            let profile = config.profile()?;
            let source = KeySource::new(config.issuer.clone(), config.place()?, &config.key_networks, max_age, egress);
            let (source, verifier) = (Arc::new(source), verifier.clone());
            let put = move |keys| verifier.replace_other(profile.clone(), keys);
            let (followed, clock, stopping) = (source.clone(), clock.clone(), lifecycle.stopping().clone());
            lifecycle.spawn_vital("issuer", async move {
                stopping.run_until_cancelled(followed.follow(put, clock)).await;
            });
            if by_issuer.insert(config.issuer.clone(), source).is_some() {
                return Err(config.fault("issuer", "is given twice"));
            }
        }
        Ok(Self { by_issuer: Arc::new(by_issuer) })
    }

    /// What becomes of a refusal: a token under a key that its issuer may have published since asks for a fetch, and its caller to
    /// try again.
    #[must_use]
    pub fn reconsidered(&self, token: &str, refusal: Failure) -> Failure {
        if refusal.reason != Reason::KeyUnknown || self.by_issuer.is_empty() {
            return refusal;
        }
        let said = Unverified::new(token).ok().and_then(|token| token.says());
        let asked = said.and_then(|said| self.by_issuer.get(&said.issuer)?.ask_for(&said.kid));
        refusal.with_retry_after(asked)
    }
}
