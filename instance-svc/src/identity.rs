//! Who is it? Finds the live credential behind what somebody shows: a secret, a certificate, an assertion of their own key
//! (RFC 7523), or a token of a federated issuer. Whatever is wrong, the answer is the same; the log knows more.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use postern_proto::{Failure, Reason};
use postern_runtime::Clock;
use postern_runtime::tls::Shown as Certificate;
use postern_token::{Assertion, AssertionDemands, LEEWAY_SECONDS, PublicKey, Secret, Unverified};

use tokio::sync::Semaphore;

use crate::attempts::{Attempt, Attempts};
use crate::credentials::{self, Credentials};
use crate::federation::{Federation, Known};
use crate::metrics;
use crate::store::{Found, Proof, Purpose, Store, StoreError, handle_of_certificate};

/// The most that `exp - iat` of an assertion of a client's own key may be, in seconds: it is made to be used at once.
const LONGEST_ASSERTION: u64 = 300;
/// Where the OAuth token endpoint is, from the issuer URL on.
pub const TOKEN_ENDPOINT: &str = "/oauth/token";

/// What somebody shows.
#[derive(Clone, Copy)]
pub enum Shown<'a> {
    /// A personal access token, client secret or fleet credential.
    Secret(&'a str),
    /// An assertion, or a token of a federated issuer.
    Jwt(&'a str),
    /// The certificate of the connection.
    Certificate(&'a Certificate),
}

/// Recognises.
pub struct Identities {
    store: Arc<dyn Store>,
    credentials: Credentials,
    federation: Federation,
    attempts: Attempts,
    clock: Arc<dyn Clock>,
    /// Assertions that are judged at once although their address has failed too often.
    few: Semaphore,
    /// What an assertion's `aud` may be.
    audiences: [String; 2],
}

impl Identities {
    /// Over these parts. `issuer` is the instance's issuer URL.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        credentials: Credentials,
        federation: Federation,
        clock: Arc<dyn Clock>,
        issuer: &str,
    ) -> Self {
        let audiences = [issuer.to_owned(), format!("{issuer}{TOKEN_ENDPOINT}")];
        Self { store, credentials, federation, attempts: Attempts::default(), clock, few: Semaphore::new(2), audiences }
    }

    /// The live credential behind what is shown, with its owner. A secret is for one purpose by itself; other proofs are looked up
    /// for the purpose that is asked for. `claimed`: the name that a secret is shown in, by which failures are counted too.
    ///
    /// # Errors
    /// CREDENTIAL_INVALID with no word on why; ATTEMPTS_LIMITED, TRUST_UNAVAILABLE before a federated issuer's keys have come,
    /// STORE_UNAVAILABLE.
    pub async fn recognise(
        &self,
        shown: Shown<'_>,
        purpose: Purpose,
        claimed: Option<&str>,
        address: Option<IpAddr>,
    ) -> Result<Found, Failure> {
        let attempt = Attempt { handle: self.handle(shown), address, claimed };
        let _turn = match self.attempts.enter(&attempt) {
            Ok(()) => None,
            // An assertion is new each time, so nobody who shows one is known: a few are judged all the same, that a flood from behind the
            // same address does not keep everybody out.
            Err(limited) if matches!(shown, Shown::Jwt(_)) => Some(self.few.try_acquire().map_err(|_| limited)?),
            Err(limited) => return Err(limited),
        };
        let found = match shown {
            Shown::Secret(secret) => credentials::recognise(&*self.store, &self.credentials, secret).await?,
            Shown::Certificate(certificate) => self.certified(certificate, purpose).await?,
            Shown::Jwt(token) => self.asserted(token, purpose).await?,
        };
        match found.filter(|found| found.may_be_used_from(address)) {
            Some(found) => {
                self.attempts.held(&attempt);
                Ok(found)
            }
            None => {
                metrics::credential_refused();
                // So many in one name are told no more than that they are too many; who has the secret was let in above.
                self.attempts.failed(&attempt)?;
                let message = "the credential is unknown, revoked, ended or used from elsewhere";
                Err(Failure::new(Reason::CredentialInvalid, message))
            }
        }
    }

    /// What is shown, as it is remembered among those that held.
    fn handle(&self, shown: Shown<'_>) -> String {
        match shown {
            Shown::Secret(text) => Secret::parse(text).map(|secret| self.credentials.mac(&secret)).unwrap_or_default(),
            Shown::Jwt(token) => format!("jwt {}", hash(token.as_bytes())),
            Shown::Certificate(certificate) => format!("certificate {}", certificate.names.join(" ")),
        }
    }

    async fn certified(&self, certificate: &Certificate, purpose: Purpose) -> Result<Option<Found>, StoreError> {
        let (now, mut all) = (self.store.now().await?, Vec::new());
        // A connection may outlive the certificate that it began with.
        if certificate.not_after < self.clock.now() {
            return Ok(None);
        }
        for name in &certificate.names {
            let found = self.store.credential_by_handle(&handle_of_certificate(purpose, name)).await?;
            all.extend(found.filter(|found| found.is_live(now)));
        }
        Ok(the_only_principals(all))
    }

    async fn asserted(&self, token: &str, purpose: Purpose) -> Result<Option<Found>, Failure> {
        let said = Unverified::new(token).ok().and_then(|token| token.says());
        let Some(said) = said else { return Ok(None) };
        match self.federation.known(&said.issuer) {
            Some(known) => self.federated(token, &said.issuer, &said.kid, &known, purpose).await,
            None => self.signed_by_its_own_key(token, &said.issuer, purpose).await,
        }
    }

    async fn federated(
        &self,
        token: &str,
        issuer: &str,
        kid: &str,
        known: &Known,
        purpose: Purpose,
    ) -> Result<Option<Found>, Failure> {
        let demands = AssertionDemands {
            issuer,
            audiences: &[&known.spec.audience],
            shared_audience: true,
            max_lifetime: known.spec.max_lifetime,
            by_kid: true,
        };
        let keys = known.keys();
        let unknown = !kid.is_empty() && !keys.iter().any(|key| key.kid() == kid);
        let asked = if unknown || keys.is_empty() { known.ask_for(kid) } else { None };
        if asked.is_some() || keys.is_empty() {
            let message = "the issuer's keys are being asked for; try again";
            let wait = asked.unwrap_or(Duration::from_secs(1));
            return Err(Failure::new(Reason::TrustUnavailable, message).with_retry_after(wait));
        }
        let Some(assertion) = self.verified(token, &keys, &demands) else { return Ok(None) };
        let now = self.store.now().await?;
        let candidates = self.store.federated_credentials(issuer, assertion.subject()).await?;
        let matches = |found: &Found| match &found.credential.proof {
            Proof::Federated { claims, .. } => claims.iter().all(|(claim, text)| assertion.says(claim, text)),
            Proof::Secret { .. } | Proof::PublicKey { .. } | Proof::Certificate { .. } => false,
        };
        let fits = |found: &Found| found.credential.purpose == purpose && found.is_live(now) && matches(found);
        Ok(the_only_principals(candidates.into_iter().filter(fits).collect()))
    }

    /// RFC 7523 §3: `iss` and `sub` are the client, and the assertion is taken once.
    async fn signed_by_its_own_key(
        &self,
        token: &str,
        client: &str,
        purpose: Purpose,
    ) -> Result<Option<Found>, Failure> {
        let Some(principal) = self.store.principal(client).await? else { return Ok(None) };
        let audiences: Vec<&str> = self.audiences.iter().map(String::as_str).collect();
        let demands = AssertionDemands {
            issuer: client,
            audiences: &audiences,
            shared_audience: false,
            max_lifetime: LONGEST_ASSERTION,
            by_kid: false,
        };
        let now = self.store.now().await?;
        for credential in self.store.credentials(&principal.id).await? {
            let found = Found { credential, principal: principal.clone() };
            let Proof::PublicKey { jwk, .. } = &found.credential.proof else { continue };
            if found.credential.purpose != purpose || !found.is_live(now) {
                continue;
            }
            let key = PublicKey::foreign(jwk.as_bytes()).map_err(Failure::internal)?;
            let Some(assertion) = self.verified(token, &[key], &demands) else { continue };
            let Some(id) = assertion.id().filter(|_| assertion.subject() == client) else { return Ok(None) };
            let id = hash(format!("{} {id}", principal.id).as_bytes());
            // Kept for longer than it lives, for the database forgets by a clock of its own.
            let until = assertion.expires() + LEEWAY_SECONDS + LONGEST_ASSERTION;
            return match self.store.use_assertion(&id, until).await {
                Ok(()) => Ok(Some(found)),
                Err(StoreError::Exists) => {
                    tracing::info!(principal.id = principal.id, "an assertion was shown a second time");
                    Ok(None)
                }
                Err(error) => Err(error.into()),
            };
        }
        Ok(None)
    }

    fn verified(&self, token: &str, keys: &[PublicKey], demands: &AssertionDemands<'_>) -> Option<Assertion> {
        match Assertion::verify(token, keys, demands, self.clock.now()) {
            Ok(assertion) => Some(assertion),
            Err(fault) => {
                tracing::info!(issuer = demands.issuer, fault = %fault, "an assertion was refused");
                None
            }
        }
    }
}

/// The credential, if all that were found are of one principal. Two that both claim a proof may both be wrong.
fn the_only_principals(mut all: Vec<Found>) -> Option<Found> {
    if all.windows(2).any(|two| two[0].principal.id != two[1].principal.id) {
        let ids: Vec<_> = all.iter().map(|found| found.credential.id.as_str()).collect();
        tracing::warn!(
            credentials = ids.join(" "),
            "one proof fits the credentials of several principals; none counts"
        );
        return None;
    }
    // The newest, so that a rotation takes effect.
    all.sort_by(|one, other| one.credential.id.cmp(&other.credential.id));
    all.pop()
}

fn hash(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, bytes))
}
