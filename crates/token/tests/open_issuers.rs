//! Issuers whose headers are read: other instances, and anybody whose keys come from a file, a URL or discovery.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384,
    RSA_PKCS1_SHA512, RsaEncoding, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use postern_token::{
    Algorithm, Form, InvalidKey, IssuerProfile, OpenForm, PublicKey, TokenError, TrustTable, Unverified, Verified,
    read_jwks, signed_payload,
};
use proptest::prelude::*;
use serde_json::{Value, json};

const NOW: u64 = 1_800_000_000;
const AUDIENCE: &str = "postern-gateway:main";

enum Pair {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

/// Somebody who signs.
struct Party {
    pair: Pair,
    jwk: Value,
}

impl Party {
    fn rsa(kid: &str) -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let n = B64.encode(pair.public_key().modulus().big_endian_without_leading_zero());
        Self { pair: Pair::Rsa(pair), jwk: json!({"kty": "RSA", "kid": kid, "n": n, "e": "AQAB"}) }
    }

    fn ec(kid: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let point = pair.public_key().as_ref();
        let (x, y) = (B64.encode(&point[1..33]), B64.encode(&point[33..]));
        Self { jwk: json!({"kty": "EC", "crv": "P-256", "kid": kid, "x": x, "y": y}), pair: Pair::Ec(pair) }
    }

    fn ed(kid: &str) -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let x = B64.encode(pair.public_key().as_ref());
        Self { pair: Pair::Ed(pair), jwk: json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x}) }
    }

    fn key(&self) -> PublicKey {
        PublicKey::foreign(self.jwk.to_string().as_bytes()).unwrap()
    }

    fn kid(&self) -> &str {
        self.jwk["kid"].as_str().unwrap()
    }

    fn rsa_signature(&self, encoding: &'static dyn RsaEncoding, signed: &str) -> Vec<u8> {
        let Pair::Rsa(pair) = &self.pair else { panic!("an RSA key signs this") };
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(encoding, &SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
        signature
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        self.sign_text(&header.to_string(), header["alg"].as_str().unwrap_or_default(), claims)
    }

    /// Signs under a header that is written so.
    fn sign_text(&self, header: &str, algorithm: &str, claims: &Value) -> String {
        let signed = format!("{}.{}", B64.encode(header), B64.encode(claims.to_string()));
        let signature = match (&self.pair, algorithm) {
            (Pair::Rsa(_), "RS512") => self.rsa_signature(&RSA_PKCS1_SHA512, &signed),
            (Pair::Rsa(_), "RS384") => self.rsa_signature(&RSA_PKCS1_SHA384, &signed),
            (Pair::Rsa(_), _) => self.rsa_signature(&RSA_PKCS1_SHA256, &signed),
            (Pair::Ec(pair), _) => pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap().as_ref().to_vec(),
            (Pair::Ed(pair), _) => pair.sign(signed.as_bytes()).as_ref().to_vec(),
        };
        format!("{signed}.{}", B64.encode(signature))
    }

    fn header(&self, algorithm: &str) -> Value {
        json!({"alg": algorithm, "kid": self.kid(), "typ": "at+jwt"})
    }
}

static ALICE: LazyLock<Party> = LazyLock::new(|| Party::rsa("alice-1"));
static BOB: LazyLock<Party> = LazyLock::new(|| Party::rsa("bob-1"));
static CURVE: LazyLock<Party> = LazyLock::new(|| Party::ec("alice-ec"));
static EDWARDS: LazyLock<Party> = LazyLock::new(|| Party::ed("alice-ed"));

fn claims(issuer: &str) -> Value {
    json!({
        "iss": issuer, "sub": "u1", "aud": AUDIENCE, "exp": NOW + 300, "iat": NOW, "jti": "1", "scope": "feature:chat",
    })
}

fn profile(issuer: &str, form: OpenForm) -> IssuerProfile {
    IssuerProfile {
        instances: Vec::new(),
        realm: None,
        form: Form::Open(form),
        ..IssuerProfile::own(issuer.to_owned(), String::new(), AUDIENCE.to_owned(), 900)
    }
}

fn table() -> TrustTable {
    TrustTable::new([
        (profile("https://alice.test", OpenForm::default()), vec![ALICE.key(), CURVE.key(), EDWARDS.key()]),
        (profile("https://bob.test", OpenForm::default()), vec![BOB.key()]),
    ])
}

fn verified(token: &str) -> Result<Verified, TokenError> {
    table().verify(Unverified::new(token)?, NOW)
}

fn verify(token: &str) -> Result<(), TokenError> {
    verified(token).map(drop)
}

#[test]
fn every_algorithm_is_verified_under_a_key_of_its_own_type() {
    let claims = claims("https://alice.test");
    for (party, algorithm) in
        [(&*ALICE, "RS256"), (&ALICE, "RS384"), (&ALICE, "RS512"), (&CURVE, "ES256"), (&EDWARDS, "EdDSA")]
    {
        assert_eq!(verify(&party.sign(&party.header(algorithm), &claims)), Ok(()), "{algorithm}");
    }
    for (party, algorithm) in
        [(&*ALICE, "ES256"), (&ALICE, "PS256"), (&CURVE, "RS256"), (&EDWARDS, "ES256"), (&CURVE, "ES384")]
    {
        let refused = verify(&party.sign(&party.header(algorithm), &claims));
        assert_eq!(refused, Err(TokenError::AlgorithmWrong), "{algorithm}");
    }
    // The hash is part of the signature.
    let mut header = ALICE.header("RS256");
    header["alg"] = "RS512".into();
    let confused = ALICE.sign(&ALICE.header("RS256"), &claims);
    let tail = confused.split_once('.').unwrap().1;
    assert_eq!(verify(&format!("{}.{tail}", B64.encode(header.to_string()))), Err(TokenError::SignatureInvalid));
}

#[test]
fn row_1_an_issuer_is_bound_to_its_own_keys() {
    let stolen = BOB.sign(&BOB.header("RS256"), &claims("https://alice.test"));
    assert_eq!(verify(&stolen), Err(TokenError::IssuerUntrusted));
    let claimed = BOB.sign(&ALICE.header("RS256"), &claims("https://alice.test"));
    assert_eq!(verify(&claimed), Err(TokenError::SignatureInvalid));
}

#[test]
fn two_issuers_may_use_the_same_kid() {
    let twin = Party::rsa("alice-1");
    let table = TrustTable::new([
        (profile("https://alice.test", OpenForm::default()), vec![ALICE.key()]),
        (profile("https://bob.test", OpenForm::default()), vec![twin.key()]),
    ]);
    let judge = |party: &Party, issuer| {
        let token = party.sign(&party.header("RS256"), &claims(issuer));
        table.verify(Unverified::new(&token)?, NOW).map(drop)
    };
    assert_eq!(judge(&ALICE, "https://alice.test"), Ok(()));
    assert_eq!(judge(&twin, "https://bob.test"), Ok(()));
    assert_eq!(judge(&twin, "https://alice.test"), Err(TokenError::IssuerUntrusted));
}

#[test]
fn issuers_that_share_their_keys_are_told_apart_by_their_names() {
    let profiles = ["https://alice.test", "https://bob.test"]
        .map(|issuer| (profile(issuer, OpenForm::default()), vec![ALICE.key()]));
    let table = TrustTable::new(profiles);
    let judge = |issuer| {
        let token = ALICE.sign(&ALICE.header("RS256"), &claims(issuer));
        table.verify(Unverified::new(&token)?, NOW).map(|verified| verified.profile().issuer.clone())
    };
    for issuer in ["https://alice.test", "https://bob.test"] {
        assert_eq!(judge(issuer), Ok(issuer.to_owned()));
    }
    assert_eq!(judge("https://carol.test"), Err(TokenError::IssuerUntrusted));
}

#[test]
fn a_header_is_read_strictly() {
    let token = |changes: Value| {
        let mut header = ALICE.header("RS256");
        for (name, value) in changes.as_object().unwrap() {
            match value.is_null() {
                true => drop(header.as_object_mut().unwrap().remove(name)),
                false => header[name] = value.clone(),
            }
        }
        ALICE.sign(&header, &claims("https://alice.test"))
    };
    let cases = [
        (json!({"alg": "none"}), TokenError::AlgorithmWrong),
        (json!({"alg": "rs256"}), TokenError::AlgorithmWrong),
        (json!({"alg": "HS256"}), TokenError::AlgorithmWrong),
        (json!({"alg": null}), TokenError::AlgorithmWrong),
        (json!({"alg": ["RS256"]}), TokenError::AlgorithmWrong),
        (json!({"kid": "alice-2"}), TokenError::KeyUnknown),
        (json!({"kid": "bob-1"}), TokenError::SignatureInvalid),
        (json!({"kid": null}), TokenError::KeyUnknown),
        (json!({"kid": 7}), TokenError::KeyUnknown),
        (json!({"typ": "JWT"}), TokenError::TypeWrong),
        (json!({"typ": null}), TokenError::TypeWrong),
        (json!({"typ": "application/at+jwt"}), TokenError::TypeWrong),
        (json!({"typ": "logout+jwt"}), TokenError::TypeWrong),
        (json!({"crit": ["exp"], "exp": 1}), TokenError::HeaderUnsupported),
        (json!({"crit": []}), TokenError::HeaderUnsupported),
        (json!({"b64": false, "crit": ["b64"]}), TokenError::HeaderUnsupported),
        (json!({"jku": "https://evil.test/keys"}), TokenError::HeaderUnsupported),
        (json!({"jwk": ALICE.jwk}), TokenError::HeaderUnsupported),
        (json!({"x5c": ["AA=="]}), TokenError::HeaderUnsupported),
        (json!({"zip": "DEF"}), TokenError::HeaderUnsupported),
        (json!({"cty": "JWT"}), TokenError::HeaderUnsupported),
    ];
    for (changes, reason) in cases {
        assert_eq!(verify(&token(changes.clone())), Err(reason), "{changes}");
    }
    let reordered = r#"{ "typ":"at+jwt", "kid":"alice-1", "alg":"RS256" }"#;
    let token = ALICE.sign_text(reordered, "RS256", &claims("https://alice.test"));
    assert_eq!(verify(&token), Ok(()), "an open form reads any order");
}

#[test]
fn a_profile_narrows_what_its_tokens_may_be() {
    let open = OpenForm {
        types: vec![Some("JWT".to_owned()), None],
        header_members: vec!["x5t".to_owned()],
        algorithms: vec![Algorithm::Rs512],
        kid_optional: true,
    };
    let restricted = IssuerProfile {
        instances: vec!["ins_a".to_owned()],
        scopes: Some(vec!["feature:chat".to_owned()]),
        ..profile("https://alice.test", open)
    };
    let table = TrustTable::new([(restricted, vec![ALICE.key()])]);
    let judge = |header: Value, changes: Value| {
        let mut claims = claims("https://alice.test");
        claims["postern_instance"] = "ins_a".into();
        claims["scope"] = "feature:chat feature:embed".into();
        claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        table.verify(Unverified::new(&ALICE.sign(&header, &claims))?, NOW)
    };
    let good = judge(json!({"alg": "RS512", "x5t": "abc"}), json!({})).unwrap();
    assert!(good.allows("feature:chat") && !good.allows("feature:embed"), "not entitled to that scope");
    assert!(judge(json!({"alg": "RS512", "typ": "JWT"}), json!({})).is_ok());
    let refused = |header, changes| judge(header, changes).unwrap_err();
    assert_eq!(refused(json!({"alg": "RS256"}), json!({})), TokenError::AlgorithmWrong);
    assert_eq!(refused(json!({"alg": "RS512", "typ": "at+jwt"}), json!({})), TokenError::TypeWrong);
    assert_eq!(refused(json!({"alg": "RS512", "x5u": "x"}), json!({})), TokenError::HeaderUnsupported);
    let instance = json!({"postern_instance": "ins_b"});
    assert_eq!(refused(json!({"alg": "RS512"}), instance), TokenError::IssuerUntrusted);
    let beyond = json!({"exp": NOW + 901});
    assert_eq!(refused(json!({"alg": "RS512"}), beyond), TokenError::LifetimeTooLong);
}

#[test]
fn an_announced_issuer_is_never_verified_by_a_header_that_was_read() {
    let mut jwk = ALICE.jwk.clone();
    jwk["alg"] = "RS256".into();
    jwk["use"] = "sig".into();
    jwk["kid"] = postern_token::thumbprint(&serde_json::from_value(jwk.clone()).unwrap()).unwrap().into();
    let own = PublicKey::own(&jwk.to_string()).unwrap();
    let text = str::to_owned;
    let profile = IssuerProfile::own(text("https://own.test"), text("ins_1"), text(AUDIENCE), 900);
    let table = TrustTable::new([
        (profile, vec![own.clone()]),
        (self::profile("https://bob.test", OpenForm::default()), vec![BOB.key()]),
    ]);
    let reordered = format!(r#"{{"typ":"at+jwt","alg":"RS256","kid":"{}"}}"#, own.kid());
    let token = ALICE.sign_text(&reordered, "RS256", &claims("https://own.test"));
    assert_eq!(table.verify(Unverified::new(&token).unwrap(), NOW), Err(TokenError::HeaderUnsupported));
}

#[test]
fn a_set_is_taken_whole_or_not_at_all() {
    let set = |keys: Vec<Value>| read_jwks(json!({ "keys": keys }).to_string().as_bytes()).map(|keys| keys.len());
    let with = |party: &Party, name: &str, value: Value| {
        let mut jwk = party.jwk.clone();
        jwk[name] = value;
        jwk
    };
    assert_eq!(set(vec![ALICE.jwk.clone(), CURVE.jwk.clone(), EDWARDS.jwk.clone()]), Ok(3));
    // Keys of other kinds and for other uses are nobody's business here.
    let others = vec![
        ALICE.jwk.clone(),
        with(&BOB, "use", "enc".into()),
        json!({"kty": "EC", "crv": "P-384", "x": "", "y": ""}),
    ];
    assert_eq!(set(others), Ok(1));
    let cases = [
        (vec![], InvalidKey::Unsupported),
        (vec![with(&BOB, "use", "enc".into())], InvalidKey::Unsupported),
        (vec![ALICE.jwk.clone(), with(&BOB, "kid", "alice-1".into())], InvalidKey::Ambiguous),
        (vec![ALICE.jwk.clone(), json!({"kty": "oct", "k": "c2VjcmV0", "kid": "x"})], InvalidKey::Private),
        (vec![ALICE.jwk.clone(), with(&BOB, "d", "AQAB".into())], InvalidKey::Private),
        (vec![with(&ALICE, "e", "Aw".into())], InvalidKey::Weak),
        (vec![with(&CURVE, "y", CURVE.jwk["x"].clone())], InvalidKey::Weak),
        (vec![with(&CURVE, "x", B64.encode([1; 31]).into())], InvalidKey::Malformed),
        (vec![with(&EDWARDS, "x", B64.encode([0; 32]).into())], InvalidKey::Weak),
        (vec![with(&ALICE, "kid", "a\nb".into())], InvalidKey::WrongId),
        (vec![json!(7)], InvalidKey::Malformed),
    ];
    for (keys, reason) in cases {
        assert_eq!(set(keys.clone()), Err(reason), "{keys:?}");
    }
    assert_eq!(read_jwks(br#"{"keys":[],"keys":[]}"#).map(drop), Err(InvalidKey::Malformed));
    assert_eq!(read_jwks(&vec![b' '; 70_000]).map(drop), Err(InvalidKey::Ambiguous));
    let many = (0..65).map(|nth| with(&ALICE, "kid", format!("k{nth}").into())).collect();
    assert_eq!(set(many), Err(InvalidKey::Ambiguous));
}

#[test]
fn what_a_token_asks_for_is_told_without_believing_it() {
    let token = ALICE.sign(&ALICE.header("RS256"), &claims("https://somebody.test"));
    let said = Unverified::new(&token).unwrap().says().unwrap();
    assert_eq!((said.issuer.as_str(), said.kid.as_str()), ("https://somebody.test", "alice-1"));
    assert_eq!(said.audience, AUDIENCE);
    assert_eq!(Unverified::new("e30.e30.x").unwrap().says(), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_changed_byte_of_an_open_token_passes(at in 0_usize..700, with in 0x20_u8..0x7F) {
        let good = EDWARDS.sign(&EDWARDS.header("EdDSA"), &claims("https://alice.test"));
        let mut bytes = good.clone().into_bytes();
        let at = at % bytes.len();
        bytes[at] = with;
        let changed = String::from_utf8(bytes)?;
        prop_assume!(changed != good);
        prop_assert!(verify(&changed).is_err());
    }

    #[test]
    fn no_bytes_make_the_readers_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = read_jwks(&bytes);
        let _ = PublicKey::foreign(&bytes);
        if let Ok(text) = std::str::from_utf8(&bytes) {
            let _ = verify(text);
            let _ = signed_payload(text, &OpenForm::default(), &[ALICE.key()]);
        }
    }
}
