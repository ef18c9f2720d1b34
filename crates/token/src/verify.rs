//! Verification. The order is the point: size and shape, then the header, then strict base64url, then the signature, and only
//! then one strict reading of the claims. Nothing that an attacker wrote is interpreted before the signature has been checked,
//! except to choose the key, or the name of the refusal.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::LEEWAY_SECONDS;
use crate::algorithm::Algorithm;
use crate::claims::{Claims, TokenError};
use crate::header::Header;
use crate::key::PublicKey;
use crate::profile::{Form, IssuerProfile, OpenForm};

/// Longest token, in bytes.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// A token of which only size and shape are known.
#[derive(Clone, Copy)]
pub struct Unverified<'a> {
    header: &'a str,
    signed: &'a str,
    payload: &'a str,
    signature: &'a str,
}

impl<'a> Unverified<'a> {
    /// Checks size and shape: at most [`MAX_TOKEN_BYTES`], three segments.
    ///
    /// # Errors
    /// [`TokenError::TooLarge`] or [`TokenError::Malformed`].
    pub fn new(token: &'a str) -> Result<Self, TokenError> {
        let token = Self::of_any_payload(token)?;
        if token.payload.is_empty() { Err(TokenError::Malformed) } else { Ok(token) }
    }

    /// As [`Unverified::new`], but the payload may be empty, as that of a JWS may (RFC 7515).
    fn of_any_payload(token: &'a str) -> Result<Self, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLarge);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        if payload.contains('.') || header.is_empty() || signature.is_empty() {
            return Err(TokenError::Malformed);
        }
        Ok(Self { header, signed, payload, signature })
    }

    pub(crate) fn header(&self) -> Result<Header, TokenError> {
        Header::read(self.header)
    }

    /// What the token says of itself, unverified: good only to decide whose keys to look for, and against what to verify.
    #[must_use]
    pub fn says(&self) -> Option<Hearsay> {
        let kid = Header::read(self.header).ok()?.kid().ok()?.unwrap_or_default().to_owned();
        let payload = URL_SAFE_NO_PAD.decode(self.payload).ok()?;
        let claims = crate::strict_json::object(&payload)?;
        let text = |name: &str| claims.get(name)?.as_str().map(str::to_owned);
        Some(Hearsay { kid, issuer: text("iss")?, audience: text("aud").unwrap_or_default() })
    }

    /// The payload, if the signature is this key's. The middle of [`TrustTable::verify`].
    fn payload_signed_by(self, key: &PublicKey, algorithm: Algorithm) -> Result<Vec<u8>, TokenError> {
        let payload = URL_SAFE_NO_PAD.decode(self.payload).map_err(|_| TokenError::Malformed)?;
        let signature = URL_SAFE_NO_PAD.decode(self.signature).map_err(|_| TokenError::Malformed)?;
        match key.has_signed(algorithm, self.signed.as_bytes(), &signature) {
            true => Ok(payload),
            false => Err(TokenError::SignatureInvalid),
        }
    }
}

/// What a token says before anything of it has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hearsay {
    /// The `kid`; empty when there is none.
    pub kid: String,
    /// The `iss`.
    pub issuer: String,
    /// The `aud`; empty when it is no text.
    pub audience: String,
}

/// A token whose signature and claims have been checked against a [`TrustTable`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    claims: Claims,
    profile: Arc<IssuerProfile>,
    kid: String,
}

impl Verified {
    /// What the token says.
    #[must_use]
    pub const fn claims(&self) -> &Claims {
        &self.claims
    }

    /// What was demanded of it.
    #[must_use]
    pub fn profile(&self) -> &IssuerProfile {
        &self.profile
    }

    /// The key that signed it.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Whether it has ended at this time (seconds since 1970), the leeway included.
    #[must_use]
    pub const fn has_expired(&self, now: u64) -> bool {
        now > self.claims.exp.saturating_add(LEEWAY_SECONDS)
    }

    /// The groups that its caller is in.
    #[must_use]
    pub fn groups(&self) -> &[String] {
        match self.profile.form {
            Form::Announced => &self.claims.postern_groups,
            Form::Open(_) => &self.profile.groups,
        }
    }

    /// Whether the token holds this scope and its issuer is entitled to it.
    #[must_use]
    pub fn allows(&self, scope: &str) -> bool {
        let entitled = self.profile.scopes.as_ref().is_none_or(|scopes| scopes.iter().any(|one| one == scope));
        entitled && self.claims.has_scope(scope)
    }
}

/// An issuer with its keys.
#[derive(Debug, Clone)]
struct Issuer {
    profile: Arc<IssuerProfile>,
    keys: Vec<PublicKey>,
}

/// The issuers whose tokens are believed.
#[derive(Debug, Clone, Default)]
pub struct TrustTable {
    issuers: Vec<Issuer>,
    /// By announced header: the issuer and the key.
    announced: HashMap<String, (usize, usize)>,
}

impl TrustTable {
    /// A table of these issuers.
    #[must_use]
    pub fn new(issuers: impl IntoIterator<Item = (IssuerProfile, Vec<PublicKey>)>) -> Self {
        let mut table = Self::default();
        for (profile, keys) in issuers {
            let at = table.issuers.len();
            if profile.form == Form::Announced {
                let headers = keys.iter().enumerate().map(|(nth, key)| (key.header(), (at, nth)));
                table.announced.extend(headers);
            }
            table.issuers.push(Issuer { profile: Arc::new(profile), keys });
        }
        table
    }

    /// Whether any key is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.issuers.iter().all(|issuer| issuer.keys.is_empty())
    }

    /// Whether this issuer is believed.
    #[must_use]
    pub fn knows(&self, issuer: &str) -> bool {
        self.issuers.iter().any(|one| one.profile.issuer == issuer)
    }

    /// Whether a verified token's key and profile still stand here, unchanged.
    #[must_use]
    pub fn still_holds(&self, verified: &Verified) -> bool {
        let holds = |issuer: &Issuer| {
            issuer.profile == verified.profile && issuer.keys.iter().any(|key| key.kid() == verified.kid)
        };
        self.issuers.iter().any(holds)
    }

    /// Verifies at this time (seconds since 1970).
    ///
    /// # Errors
    /// [`TokenError`] names the first fault in the order of the checks.
    pub fn verify(&self, token: Unverified<'_>, now: u64) -> Result<Verified, TokenError> {
        let (issuer, key, payload) = match self.announced.get(token.header) {
            // One of the few headers that the feed announced, to the byte: there is nothing to read in it.
            Some((at, nth)) => {
                let issuer = &self.issuers[*at];
                let key = &issuer.keys[*nth];
                (issuer, key, token.payload_signed_by(key, key.algorithm())?)
            }
            None => self.open(token)?,
        };
        let claims = Claims::read(&payload)?;
        judge(&issuer.profile, &claims, now)?;
        Ok(Verified { claims, profile: issuer.profile.clone(), kid: key.kid().to_owned() })
    }

    /// The cold path: reads the header and finds the one key under which the token may stand. Issuers whose keys are announced
    /// never verify here.
    fn open(&self, token: Unverified<'_>) -> Result<(&Issuer, &PublicKey, Vec<u8>), TokenError> {
        let header = Header::read(token.header)?;
        let open = || {
            self.issuers.iter().filter_map(|issuer| match &issuer.profile.form {
                Form::Open(form) => Some((issuer, form)),
                Form::Announced => None,
            })
        };
        if !open().any(|(_, form)| header.has_only_members_of(form)) && header.has_further_members() {
            return Err(TokenError::HeaderUnsupported);
        }
        if !header.is_access_token() && !open().any(|(_, form)| header.is_of_type(form)) {
            return Err(TokenError::TypeWrong);
        }
        let kid = header.kid()?;
        let mut refusal = TokenError::KeyUnknown;
        for (issuer, form) in open() {
            let Some(key) = key_of(issuer, form, kid) else { continue };
            match under(token, &header, form, key) {
                // Two issuers may publish the same keys, as tenants of one service do: the token then says whose it is.
                Ok(payload) if Claims::read(&payload).is_ok_and(|claims| claims.iss != issuer.profile.issuer) => {
                    refusal = TokenError::IssuerUntrusted;
                }
                Ok(payload) => return Ok((issuer, key, payload)),
                Err(error) => refusal = error,
            }
        }
        let announced = |key: &PublicKey| kid == Some(key.kid());
        if refusal == TokenError::KeyUnknown
            && self.announced.values().any(|(at, nth)| announced(&self.issuers[*at].keys[*nth]))
        {
            // The right members in another order or spacing: nobody who signs with our keys writes them so.
            header.algorithm()?;
            return Err(match self.announced_algorithm(kid) == header.algorithm().ok() {
                true => TokenError::HeaderUnsupported,
                false => TokenError::AlgorithmWrong,
            });
        }
        Err(refusal)
    }

    fn announced_algorithm(&self, kid: Option<&str>) -> Option<Algorithm> {
        let mut keys = self.announced.values().map(|(at, nth)| &self.issuers[*at].keys[*nth]);
        keys.find(|key| kid == Some(key.kid())).map(PublicKey::algorithm)
    }
}

/// The issuer's key of this id; its only key when none is asked for and none need be.
fn key_of<'a>(issuer: &'a Issuer, form: &OpenForm, kid: Option<&str>) -> Option<&'a PublicKey> {
    match (kid, issuer.keys.as_slice()) {
        (Some(kid), keys) => keys.iter().find(|key| key.kid() == kid),
        (None, [only]) if form.kid_optional => Some(only),
        (None, _) => None,
    }
}

/// The payload, if the token stands under this key of an issuer of this form.
pub(crate) fn under(
    token: Unverified<'_>,
    header: &Header,
    form: &OpenForm,
    key: &PublicKey,
) -> Result<Vec<u8>, TokenError> {
    if !header.has_only_members_of(form) {
        return Err(TokenError::HeaderUnsupported);
    }
    if !header.is_of_type(form) {
        return Err(TokenError::TypeWrong);
    }
    let algorithm = header.algorithm()?;
    if !form.algorithms.contains(&algorithm) || !key.verifies(algorithm) {
        return Err(TokenError::AlgorithmWrong);
    }
    token.payload_signed_by(key, algorithm)
}

fn judge(profile: &IssuerProfile, claims: &Claims, now: u64) -> Result<(), TokenError> {
    if profile.form == Form::Announced && !claims.is_complete() {
        return Err(TokenError::ClaimsInvalid);
    }
    let from_a_known_instance = profile.instances.is_empty()
        || claims.postern_instance.as_ref().is_some_and(|id| profile.instances.contains(id));
    if claims.iss != profile.issuer || !from_a_known_instance {
        return Err(TokenError::IssuerUntrusted);
    }
    if profile.realm.is_some() && claims.postern_realm != profile.realm {
        return Err(TokenError::IssuerUntrusted);
    }
    if claims.aud != profile.audience {
        return Err(TokenError::AudienceWrong);
    }
    if claims.exp - claims.iat > profile.max_lifetime {
        return Err(TokenError::LifetimeTooLong);
    }
    if now > claims.exp + LEEWAY_SECONDS {
        return Err(TokenError::Expired);
    }
    if claims.nbf.is_some_and(|begin| begin > now + LEEWAY_SECONDS) || claims.iat > now + LEEWAY_SECONDS {
        return Err(TokenError::NotYetValid);
    }
    Ok(())
}

/// The signature layer alone: the payload of a compact JWS that one of these keys signed, under a form, without a look at the
/// claims. For assertions of other kinds than access tokens, and for published test vectors.
///
/// # Errors
/// As [`TrustTable::verify`], up to the signature.
pub fn signed_payload(token: &str, form: &OpenForm, keys: &[PublicKey]) -> Result<Vec<u8>, TokenError> {
    let token = Unverified::of_any_payload(token)?;
    let header = Header::read(token.header)?;
    let profile = IssuerProfile {
        form: Form::Open(form.clone()),
        ..IssuerProfile::own(String::new(), String::new(), String::new(), 0)
    };
    let issuer = Issuer { profile: Arc::new(profile), keys: keys.to_vec() };
    let key = key_of(&issuer, form, header.kid()?);
    // What is wrong with the header itself is said before that its key is unknown.
    if !header.has_only_members_of(form) {
        return Err(TokenError::HeaderUnsupported);
    }
    if !header.is_of_type(form) {
        return Err(TokenError::TypeWrong);
    }
    under(token, &header, form, key.ok_or(TokenError::KeyUnknown)?)
}
