//! Verifies access tokens against the newest keys and revocations, and tells open streams when a token that was good is not any
//! more.
//!
//! Nothing here waits on the network. Verified tokens are remembered by their hash, and judged anew against revocations and
//! time at each use; refused ones are not remembered, since an attacker could fill the memory with them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use postern_proto::{Failure, Reason};
use postern_token::{
    Form, IssuerProfile, PublicKey, Revocation, Revocations, TokenError, TrustTable, Unverified, Verified,
};
use tokio::sync::watch;

use crate::auth::refused;
use crate::clock::Clock;

/// Verified tokens to remember.
const REMEMBERED_TOKENS: usize = 50_000;
/// When to try again while there are no keys, or no fresh ones.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A change of an instance's own trust state.
#[derive(Debug, Clone)]
pub enum TrustChange {
    /// A key verifies from now on.
    KeyAdded(Box<PublicKey>),
    /// The key of this `kid` verifies nothing from now on.
    KeyRemoved(String),
    /// Something is refused although it is signed.
    Revoked(Revocation),
}

/// An issuer and its keys.
type Issuer = (IssuerProfile, Vec<PublicKey>);

/// A verifier; its clones are one.
#[derive(Debug, Clone)]
pub struct Verifier {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    table: ArcSwap<TrustTable>,
    revocations: RwLock<Revocations>,
    /// What other instances say of their own tokens, by issuer.
    their_revocations: RwLock<BTreeMap<String, Revocations>>,
    issuers: Mutex<Issuers>,
    passed: quick_cache::sync::Cache<[u8; 32], Arc<Verified>>,
    clock: Arc<dyn Clock>,
    revoked: watch::Sender<u64>,
    /// Milliseconds of boottime at the instance's last word; 0 before the first.
    heard: AtomicU64,
    /// How old its last word may be; `None`: any age.
    stale_bound: Option<Duration>,
}

/// What the table is made of.
#[derive(Debug, Default)]
struct Issuers {
    own: Option<Issuer>,
    /// By issuer, as this process is configured.
    others: BTreeMap<String, Issuer>,
    /// By issuer, as the instance says.
    trusted: BTreeMap<String, Issuer>,
}

/// Another instance whose tokens are taken.
#[derive(Debug, Clone)]
pub struct TrustedIssuer {
    /// What is demanded of its tokens; their audience is the verifier's own.
    pub profile: IssuerProfile,
    /// Its keys.
    pub keys: Vec<PublicKey>,
    /// What is refused of its tokens.
    pub revocations: Vec<Revocation>,
}

impl Verifier {
    /// A verifier that knows no keys yet and serves on old news for as long as tokens live.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::with_stale_bound(clock, None)
    }

    /// A verifier that judges no token of its instance while the instance's last word is older than this.
    #[must_use]
    pub fn with_stale_bound(clock: Arc<dyn Clock>, stale_bound: Option<Duration>) -> Self {
        let shared = Shared {
            table: ArcSwap::default(),
            revocations: RwLock::default(),
            their_revocations: RwLock::default(),
            issuers: Mutex::default(),
            passed: quick_cache::sync::Cache::new(REMEMBERED_TOKENS),
            clock,
            revoked: watch::channel(0).0,
            heard: AtomicU64::new(0),
            stale_bound,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Puts the instance's whole trust state to use.
    pub fn replace_own(
        &self,
        profile: IssuerProfile,
        keys: Vec<PublicKey>,
        revocations: impl IntoIterator<Item = Revocation>,
    ) {
        let now = self.shared.clock.now();
        let mut fresh = Revocations::default();
        revocations.into_iter().for_each(|revocation| fresh.insert(revocation, now));
        *self.shared.revocations.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        self.rebuild(|issuers| issuers.own = Some((profile, keys)));
        self.shared.revoked.send_modify(|count| *count += 1);
    }

    /// Puts a change of the instance's trust state to use.
    pub fn apply(&self, change: TrustChange) {
        match change {
            TrustChange::KeyAdded(key) => self.rebuild(|issuers| {
                if let Some((_, keys)) = &mut issuers.own {
                    keys.retain(|known| known.kid() != key.kid());
                    keys.push(*key);
                }
            }),
            TrustChange::KeyRemoved(kid) => self.rebuild(|issuers| {
                if let Some((_, keys)) = &mut issuers.own {
                    keys.retain(|known| known.kid() != kid);
                }
            }),
            TrustChange::Revoked(revocation) => {
                let now = self.shared.clock.now();
                let mut set = self.shared.revocations.write().unwrap_or_else(PoisonError::into_inner);
                set.insert(revocation, now);
                drop(set);
                self.shared.revoked.send_modify(|count| *count += 1);
            }
        }
    }

    /// Puts another issuer's keys to use, in place of those it had.
    pub fn replace_other(&self, profile: IssuerProfile, keys: Vec<PublicKey>) {
        self.rebuild(|issuers| drop(issuers.others.insert(profile.issuer.clone(), (profile, keys))));
    }

    /// Puts the other instances to use that the instance says, in place of those that it said before.
    pub fn replace_trusted(&self, all: Vec<TrustedIssuer>) {
        let now = self.shared.clock.now();
        let (mut trusted, mut revocations) = (BTreeMap::new(), BTreeMap::new());
        for TrustedIssuer { profile, keys, revocations: of } in all {
            let mut set = Revocations::default();
            of.into_iter().for_each(|revocation| set.insert(revocation, now));
            revocations.insert(profile.issuer.clone(), set);
            trusted.insert(profile.issuer.clone(), (profile, keys));
        }
        *self.shared.their_revocations.write().unwrap_or_else(PoisonError::into_inner) = revocations;
        // A new table forgets which tokens have been verified, so it is made only of something new.
        if self.issuers().trusted != trusted {
            self.rebuild(|issuers| issuers.trusted = trusted);
        }
        self.shared.revoked.send_modify(|count| *count += 1);
    }

    fn rebuild(&self, change: impl FnOnce(&mut Issuers)) {
        let mut issuers = self.issuers();
        change(&mut issuers);
        // What this process was configured with counts before what its instance says; of itself, nobody else speaks.
        let own = issuers.own.as_ref().map(|(profile, _)| profile);
        let audience = own.map(|profile| profile.audience.clone()).unwrap_or_default();
        let free =
            |issuer: &String| !issuers.others.contains_key(issuer) && own.is_some_and(|own| own.issuer != *issuer);
        let trusted = issuers.trusted.iter().filter(|(issuer, _)| free(issuer)).map(|(_, (profile, keys))| {
            (IssuerProfile { audience: audience.clone(), ..profile.clone() }, keys.clone())
        });
        let all = issuers.own.iter().chain(issuers.others.values()).cloned().chain(trusted);
        self.shared.table.store(Arc::new(TrustTable::new(all)));
        // Under the lock, so that no older table can be stored after this one. What was verified under a key that is no longer
        // there is forgotten with everything else.
        self.shared.passed.clear();
    }

    fn issuers(&self) -> MutexGuard<'_, Issuers> {
        self.shared.issuers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The instance has said something: as of now its news is fresh.
    pub fn heard(&self) {
        self.shared.heard.store(self.boottime_ms().max(1), Ordering::Release);
    }

    fn boottime_ms(&self) -> u64 {
        u64::try_from(self.shared.clock.boottime().as_millis()).unwrap_or(u64::MAX)
    }

    /// How old the instance's last word is; `None` before the first.
    #[must_use]
    pub fn staleness(&self) -> Option<Duration> {
        match self.shared.heard.load(Ordering::Acquire) {
            0 => None,
            heard => Some(Duration::from_millis(self.boottime_ms().saturating_sub(heard))),
        }
    }

    /// The audience that tokens of the instance must have, once it is known.
    #[must_use]
    pub fn audience(&self) -> Option<String> {
        self.issuers().own.as_ref().map(|(profile, _)| profile.audience.clone())
    }

    /// Verifies a token. `certificate` is the SHA-256 of the caller's certificate, base64url, where it showed one.
    ///
    /// # Errors
    /// TRUST_UNAVAILABLE before any keys have come, TRUST_STALE when they are too old to go by, else the token's own fault.
    pub fn verify(&self, token: &str, certificate: Option<&str>) -> Result<Arc<Verified>, Failure> {
        let shape = Unverified::new(token).map_err(refused)?;
        let table = self.shared.table.load();
        if table.is_empty() {
            return Err(Failure::new(Reason::TrustUnavailable, "the instance's keys have not arrived yet; try again")
                .with_retry_after(RETRY_AFTER));
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        let remembered = self.shared.passed.get(&hash).filter(|verified| table.still_holds(verified));
        let verified = match remembered {
            Some(verified) => verified,
            None => {
                let verified = Arc::new(table.verify(shape, self.shared.clock.now()).map_err(refused)?);
                self.shared.passed.insert(hash, verified.clone());
                verified
            }
        };
        if verified.has_expired(self.shared.clock.now()) {
            drop(self.shared.passed.remove(&hash));
            return Err(refused(TokenError::Expired));
        }
        self.judge(&verified)?;
        let bound = verified.claims().cnf.as_ref().and_then(|cnf| cnf.x5t_s256.as_deref());
        if bound.is_some() && bound != certificate {
            let message = "the token is bound to a client certificate that this connection did not show";
            return Err(Failure::new(Reason::CertificateMismatch, message));
        }
        Ok(verified)
    }

    /// Whether a token that was verified is not revoked since.
    #[must_use]
    pub fn stands(&self, verified: &Verified) -> bool {
        if verified.profile().form != Form::Announced {
            let issuer = &verified.profile().issuer;
            let theirs = self.shared.their_revocations.read().unwrap_or_else(PoisonError::into_inner);
            let revoked = theirs.get(issuer).is_some_and(|set| set.refuse(verified.claims(), verified.kid()));
            // Whose issuer is not believed any more has nothing to stand on.
            return !revoked && self.shared.table.load().knows(issuer);
        }
        let revocations = self.shared.revocations.read().unwrap_or_else(PoisonError::into_inner);
        !revocations.refuse(verified.claims(), verified.kid())
    }

    /// Whether the instance told of this issuer.
    fn is_told_of(&self, issuer: &str) -> bool {
        self.shared.their_revocations.read().unwrap_or_else(PoisonError::into_inner).contains_key(issuer)
    }

    /// Whether a token that was verified is still neither revoked nor judged on news that is too old.
    fn judge(&self, verified: &Verified) -> Result<(), Failure> {
        if !self.stands(verified) {
            return Err(refused(TokenError::Revoked));
        }
        // What the instance says of others grows as old as what it says of itself; what this process was configured with does not.
        if verified.profile().form != Form::Announced && !self.is_told_of(&verified.profile().issuer) {
            return Ok(());
        }
        match (self.shared.stale_bound, self.staleness()) {
            // News from before this process began has no age that could be judged.
            (Some(bound), age) if age.is_none_or(|age| age > bound) => {
                let message = "the instance has not been heard of for too long to judge its tokens; try again";
                Err(Failure::new(Reason::TrustStale, message).with_retry_after(RETRY_AFTER))
            }
            _ => Ok(()),
        }
    }

    /// A token's standing from now on, for as long as what it was shown for goes on.
    #[must_use]
    pub fn standing(&self, verified: Arc<Verified>) -> Standing {
        Standing { changes: self.shared.revoked.subscribe(), verifier: self.clone(), verified }
    }
}

/// The standing of a token that something open was admitted with. Its end of life does not end what was admitted; revocation
/// does.
#[derive(Debug)]
pub struct Standing {
    verifier: Verifier,
    verified: Arc<Verified>,
    changes: watch::Receiver<u64>,
}

impl Standing {
    /// Judges the token again, as one does after having waited for something.
    ///
    /// # Errors
    /// TOKEN_REVOKED, TRUST_STALE.
    pub fn check(&self) -> Result<(), Failure> {
        self.verifier.judge(&self.verified)
    }

    /// Waits until the token is revoked.
    pub async fn revoked(&mut self) -> Failure {
        loop {
            self.changes.mark_unchanged();
            match self.check() {
                Err(failure) if failure.reason == Reason::TokenRevoked => return failure,
                _ => {}
            }
            // The sender lives as long as the verifier, which is ours.
            if self.changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    #[test]
    fn without_keys_nothing_is_judged() {
        let verifier = Verifier::new(Arc::new(crate::SystemClock));
        assert_eq!(verifier.verify("a.b.c", None).map_err(|f| f.reason), Err(Reason::TrustUnavailable));
        assert_eq!(verifier.verify("abc", None).map_err(|f| f.reason), Err(Reason::TokenMalformed));
    }

    fn verified() -> Verified {
        let pair = aws_lc_rs::signature::Ed25519KeyPair::generate().unwrap();
        let b64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let x = b64(aws_lc_rs::signature::KeyPair::public_key(&pair).as_ref());
        let mut jwk = serde_json::json!({"kty": "OKP", "crv": "Ed25519", "x": x, "use": "sig", "alg": "EdDSA"});
        jwk["kid"] = postern_token::thumbprint(&serde_json::from_value(jwk.clone()).unwrap()).unwrap().into();
        let key = PublicKey::own(&jwk.to_string()).unwrap();
        let claims = serde_json::json!({
            "iss": "i", "sub": "s", "aud": "a", "exp": 100, "nbf": 0, "iat": 0, "jti": "j", "client_id": "s", "scope": "x",
            "postern_instance": "ins", "postern_realm": "self-managed", "postern_credential": "c",
        });
        let signed = format!("{}.{}", key.header(), b64(claims.to_string().as_bytes()));
        let token = format!("{signed}.{}", b64(pair.sign(signed.as_bytes()).as_ref()));
        let table = TrustTable::new([(IssuerProfile::own("i".into(), "ins".into(), "a".into(), 900), vec![key])]);
        table.verify(Unverified::new(&token).unwrap(), 1).unwrap()
    }

    #[test]
    fn news_from_before_the_process_began_is_too_old_where_age_matters() {
        let verified = verified();
        let judged = |verifier: &Verifier| verifier.judge(&verified).map_err(|failure| failure.reason);
        let strict = Verifier::with_stale_bound(Arc::new(crate::SystemClock), Some(Duration::from_secs(60)));
        assert_eq!(judged(&strict), Err(Reason::TrustStale));
        strict.heard();
        assert_eq!(judged(&strict), Ok(()));
        assert_eq!(judged(&Verifier::new(Arc::new(crate::SystemClock))), Ok(()));
    }
}
