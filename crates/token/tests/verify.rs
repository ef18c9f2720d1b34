//! A case table of the ways in which a token can be wrong, each with the one name that it must be refused by.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use postern_token::{InvalidKey, IssuerProfile, PublicKey, TokenError, TrustTable, Unverified, thumbprint};
use proptest::prelude::*;
use serde_json::{Value, json};

const NOW: u64 = 1_800_000_000;

struct Signer {
    pair: RsaKeyPair,
    public: PublicKey,
    jwk: Value,
}

impl Signer {
    fn generate(size: KeySize) -> (RsaKeyPair, Value) {
        let pair = RsaKeyPair::generate(size).unwrap();
        let public = pair.public_key();
        let n = B64.encode(public.modulus().big_endian_without_leading_zero());
        let mut jwk = json!({"kty": "RSA", "n": n, "e": "AQAB", "alg": "RS256", "use": "sig"});
        jwk["kid"] = thumbprint(&serde_json::from_value(jwk.clone()).unwrap()).unwrap().into();
        (pair, jwk)
    }

    fn new() -> Self {
        let (pair, jwk) = Self::generate(KeySize::Rsa2048);
        Self { pair, public: PublicKey::own(&jwk.to_string()).unwrap(), jwk }
    }

    fn sign(&self, header: &str, payload: &[u8]) -> String {
        let signed = format!("{header}.{}", B64.encode(payload));
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
        format!("{signed}.{}", B64.encode(signature))
    }

    fn with_header(&self, header: Value) -> String {
        self.sign(&B64.encode(header.to_string()), claims().to_string().as_bytes())
    }

    fn with_payload(&self, payload: &[u8]) -> String {
        self.sign(&self.public.header(), payload)
    }

    /// A token whose claims differ from the good ones; null takes a claim away.
    fn with(&self, changes: Value) -> String {
        let mut claims = claims();
        for (name, value) in changes.as_object().unwrap() {
            if value.is_null() {
                claims.as_object_mut().unwrap().remove(name);
            } else {
                claims[name] = value.clone();
            }
        }
        self.with_payload(claims.to_string().as_bytes())
    }
}

static OURS: LazyLock<Signer> = LazyLock::new(Signer::new);
static THEIRS: LazyLock<Signer> = LazyLock::new(Signer::new);

fn claims() -> Value {
    json!({
        "iss": "https://instance.test", "sub": "usr_1", "aud": "postern-gateway:main",
        "exp": NOW + 300, "nbf": NOW - 5, "iat": NOW, "jti": "1", "client_id": "usr_1",
        "scope": "feature:chat feature:code_completion", "postern_instance": "ins_1",
        "postern_realm": "self-managed", "postern_credential": "crd_1",
    })
}

fn own_profile() -> IssuerProfile {
    let text = str::to_owned;
    IssuerProfile::own(text("https://instance.test"), text("ins_1"), text("postern-gateway:main"), 900)
}

fn table() -> TrustTable {
    TrustTable::new([(own_profile(), vec![OURS.public.clone()])])
}

fn verify_at(token: &str, now: u64) -> Result<(), TokenError> {
    table().verify(Unverified::new(token)?, now).map(drop)
}

fn verify(token: &str) -> Result<(), TokenError> {
    verify_at(token, NOW)
}

#[test]
fn a_good_token_is_read() {
    let token = OURS.with(json!({"act": {"sub": "ins_1"}}));
    let verified = table().verify(Unverified::new(&token).unwrap(), NOW).unwrap();
    assert_eq!(verified.claims().sub, "usr_1");
    assert!(verified.claims().has_scope("feature:chat"));
    assert!(!verified.claims().has_scope("feature"));
    assert!(!verified.claims().has_scope("feature:chat feature:code_completion"));
    assert_eq!(verified.claims().act.as_ref().map(|actor| actor.sub.as_str()), Some("ins_1"));
}

#[test]
fn a_header_that_differs_in_one_member_names_its_reason() {
    let kid = OURS.public.kid();
    let header = |changes: Value| {
        let mut header = json!({"alg": "RS256", "kid": kid, "typ": "at+jwt"});
        for (name, value) in changes.as_object().unwrap() {
            if value.is_null() {
                header.as_object_mut().unwrap().remove(name);
            } else {
                header[name] = value.clone();
            }
        }
        OURS.with_header(header)
    };
    let cases = [
        (json!({"alg": "none"}), TokenError::AlgorithmWrong),
        (json!({"alg": "NoNe"}), TokenError::AlgorithmWrong),
        (json!({"alg": "HS256"}), TokenError::AlgorithmWrong),
        (json!({"alg": "RS512"}), TokenError::AlgorithmWrong),
        (json!({"alg": 1}), TokenError::AlgorithmWrong),
        (json!({"kid": "nobody"}), TokenError::KeyUnknown),
        (json!({"kid": null}), TokenError::KeyUnknown),
        (json!({"kid": 7}), TokenError::KeyUnknown),
        (json!({"kid": "../../etc/passwd"}), TokenError::KeyUnknown),
        (json!({"kid": "x".repeat(2000)}), TokenError::Malformed),
        (json!({"typ": "JWT"}), TokenError::TypeWrong),
        (json!({"typ": null}), TokenError::TypeWrong),
        (json!({"typ": "dpop+jwt"}), TokenError::TypeWrong),
        (json!({"typ": "AT+JWT"}), TokenError::TypeWrong),
        (json!({"crit": ["exp"]}), TokenError::HeaderUnsupported),
        (json!({"crit": []}), TokenError::HeaderUnsupported),
        (json!({"b64": false}), TokenError::HeaderUnsupported),
        (json!({"jku": "http://127.0.0.1/"}), TokenError::HeaderUnsupported),
        (json!({"x5u": "http://127.0.0.1/"}), TokenError::HeaderUnsupported),
        (json!({"jwk": OURS.jwk}), TokenError::HeaderUnsupported),
        (json!({"x5c": ["AA=="]}), TokenError::HeaderUnsupported),
        (json!({"zip": "DEF"}), TokenError::HeaderUnsupported),
        (json!({"enc": "A256GCM"}), TokenError::HeaderUnsupported),
        (json!({"cty": "JWT"}), TokenError::HeaderUnsupported),
    ];
    for (changes, reason) in cases {
        assert_eq!(verify(&header(changes.clone())), Err(reason), "{changes}");
    }
    let reordered = format!(r#"{{"typ":"at+jwt","alg":"RS256","kid":"{kid}"}}"#);
    let token = OURS.sign(&B64.encode(reordered), claims().to_string().as_bytes());
    assert_eq!(verify(&token), Err(TokenError::HeaderUnsupported));
    let doubled = format!(r#"{{"alg":"none","alg":"RS256","kid":"{kid}","typ":"at+jwt"}}"#);
    let token = OURS.sign(&B64.encode(doubled), claims().to_string().as_bytes());
    assert_eq!(verify(&token), Err(TokenError::Malformed));
}

#[test]
fn a_claim_that_is_wrong_names_its_reason() {
    let cases = [
        (json!({"iss": "https://evil.test"}), TokenError::IssuerUntrusted),
        (json!({"iss": "https://instance.test/"}), TokenError::IssuerUntrusted),
        (json!({"iss": ["https://instance.test"]}), TokenError::ClaimsInvalid),
        (json!({"iss": null}), TokenError::ClaimsInvalid),
        (json!({"postern_instance": "ins_2"}), TokenError::IssuerUntrusted),
        (json!({"aud": "postern-gateway:other"}), TokenError::AudienceWrong),
        (json!({"aud": "postern-gateway:main2"}), TokenError::AudienceWrong),
        (json!({"aud": "POSTERN-GATEWAY:MAIN"}), TokenError::AudienceWrong),
        (json!({"aud": ["postern-gateway:main"]}), TokenError::ClaimsInvalid),
        (json!({"aud": null}), TokenError::ClaimsInvalid),
        (json!({"sub": ""}), TokenError::ClaimsInvalid),
        (json!({"sub": "a\u{0}b"}), TokenError::ClaimsInvalid),
        (json!({"scope": "feature:chat\nfeature:admin"}), TokenError::ClaimsInvalid),
        (json!({"scope": ["feature:chat"]}), TokenError::ClaimsInvalid),
        (json!({"exp": null}), TokenError::ClaimsInvalid),
        (json!({"exp": "1800000300"}), TokenError::ClaimsInvalid),
        (json!({"exp": 1_800_000_300.5}), TokenError::ClaimsInvalid),
        (json!({"exp": -1}), TokenError::ClaimsInvalid),
        (json!({"exp": u64::MAX}), TokenError::ClaimsInvalid),
        (json!({"exp": NOW - 1}), TokenError::ClaimsInvalid),
        (json!({"exp": NOW + 901}), TokenError::LifetimeTooLong),
        (json!({"iat": NOW + 31, "exp": NOW + 100}), TokenError::NotYetValid),
        (json!({"iat": null}), TokenError::ClaimsInvalid),
        (json!({"nbf": NOW + 31}), TokenError::NotYetValid),
        (json!({"nbf": null}), TokenError::ClaimsInvalid),
        (json!({"postern_realm": "saas"}), TokenError::ClaimsInvalid),
        (json!({"jti": ""}), TokenError::ClaimsInvalid),
        (json!({"client_id": null}), TokenError::ClaimsInvalid),
        (json!({"postern_instance": null}), TokenError::ClaimsInvalid),
        (json!({"postern_realm": null}), TokenError::ClaimsInvalid),
        (json!({"postern_credential": null}), TokenError::ClaimsInvalid),
        (json!({"postern_realm": "managed"}), TokenError::IssuerUntrusted),
        (json!({"cnf": {"jkt": "x"}}), TokenError::ClaimsInvalid),
    ];
    for (changes, reason) in cases {
        assert_eq!(verify(&OURS.with(changes.clone())), Err(reason), "{changes}");
    }
}

#[test]
fn times_are_judged_to_the_second_at_both_ends_of_the_leeway() {
    let token = OURS.with(json!({}));
    let cases = [
        (NOW - 31, Err(TokenError::NotYetValid)),
        (NOW - 30, Ok(())),
        (NOW + 300, Ok(())),
        (NOW + 301, Ok(())),
        (NOW + 330, Ok(())),
        (NOW + 331, Err(TokenError::Expired)),
    ];
    for (now, expected) in cases {
        assert_eq!(verify_at(&token, now), expected, "{now}");
    }
}

#[test]
fn payloads_that_readers_disagree_on_are_refused() {
    let good = claims().to_string();
    let doubled = good.replacen('{', r#"{"sub":"root","#, 1);
    let escaped = good.replacen('{', r#"{"\u0073ub":"root","#, 1);
    let deep = good.replacen('{', &format!(r#"{{"x":{}{},"#, "[".repeat(12), "]".repeat(12)), 1);
    let cases: [&[u8]; 7] =
        [doubled.as_bytes(), escaped.as_bytes(), deep.as_bytes(), b"", b"null", b"[]", b"\xEF\xBB\xBF{}"];
    for payload in cases {
        let token = OURS.with_payload(payload);
        assert_eq!(verify(&token), Err(TokenError::Malformed), "{}", String::from_utf8_lossy(payload));
    }
}

#[test]
fn framing_and_encoding_are_strict() {
    let good = OURS.with(json!({}));
    let (head, signature) = good.rsplit_once('.').unwrap();
    let (header, payload) = head.split_once('.').unwrap();
    let other_ending = |text: &str| {
        // The last character of a 256-byte signature carries four unused bits; setting one keeps the value.
        let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let last = text.chars().last().unwrap();
        let next = alphabet.chars().nth(alphabet.find(last).unwrap() + 1).unwrap();
        format!("{}{next}", &text[..text.len() - 1])
    };
    let cases = [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        header.to_owned(),
        head.to_owned(),
        format!("{head}."),
        format!("{good}.{signature}"),
        format!("{header}..{signature}"),
        format!("{good}="),
        format!("{good}\n"),
        format!(" {good}"),
        format!("{header}.{payload}=.{signature}"),
        format!("{header}.{payload}.{}", other_ending(signature)),
        format!("{header}.{}.{signature}", payload.replacen(|c: char| c.is_ascii_lowercase(), "+", 1)),
    ];
    for case in cases {
        assert_eq!(verify(&case), Err(TokenError::Malformed), "{case}");
    }
    assert_eq!(verify(&"a".repeat(8 * 1024 + 1)), Err(TokenError::TooLarge));
}

#[test]
fn only_the_right_key_over_these_very_bytes_will_do() {
    let good = OURS.with(json!({}));
    let (head, _) = good.rsplit_once('.').unwrap();
    let (_, foreign_signature) =
        THEIRS.with(json!({})).rsplit_once('.').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let payload_of_another = OURS.with(json!({"sub": "root"}));
    let mut swapped: Vec<_> = good.split('.').collect();
    swapped[1] = payload_of_another.split('.').nth(1).unwrap();
    let mut sha512 = vec![0; 256];
    OURS.pair.sign(&RSA_PKCS1_SHA512, &SystemRandom::new(), head.as_bytes(), &mut sha512).unwrap();
    let cases = [
        format!("{head}.{foreign_signature}"),
        swapped.join("."),
        format!("{head}.{}", B64.encode([0; 256])),
        format!("{head}.{}", B64.encode([0xFF; 256])),
        format!("{head}.{}", B64.encode([1; 32])),
        format!("{head}.{}", B64.encode(sha512)),
        THEIRS.sign(&OURS.public.header(), claims().to_string().as_bytes()),
    ];
    for case in cases {
        assert_eq!(verify(&case), Err(TokenError::SignatureInvalid), "{case}");
    }
    assert_eq!(verify(&THEIRS.with(json!({}))), Err(TokenError::KeyUnknown));
}

#[test]
fn keys_are_taken_only_when_sound() {
    let jwk = |changes: Value| {
        let mut jwk = OURS.jwk.clone();
        for (name, value) in changes.as_object().unwrap() {
            if value.is_null() {
                jwk.as_object_mut().unwrap().remove(name);
            } else {
                jwk[name] = value.clone();
            }
        }
        PublicKey::own(&jwk.to_string()).map(drop)
    };
    assert_eq!(jwk(json!({})), Ok(()));
    let cases = [
        (json!({"alg": "PS256"}), InvalidKey::Unsupported),
        (json!({"alg": "ES256"}), InvalidKey::Unsupported),
        (json!({"alg": "HS256"}), InvalidKey::Unsupported),
        (json!({"alg": null}), InvalidKey::Unsupported),
        (json!({"use": "enc"}), InvalidKey::Unsupported),
        (json!({"use": null}), InvalidKey::Unsupported),
        (json!({"key_ops": ["encrypt"]}), InvalidKey::Unsupported),
        (json!({"kid": "x"}), InvalidKey::WrongId),
        (json!({"kid": null}), InvalidKey::WrongId),
        (json!({"e": "Aw"}), InvalidKey::Weak),
        (json!({"e": "AQ"}), InvalidKey::Weak),
        (json!({"n": B64.encode([0xFF; 128])}), InvalidKey::Weak),
        (json!({"n": B64.encode([0xFF; 1025])}), InvalidKey::Weak),
        (json!({"d": "AQAB"}), InvalidKey::Private),
        (json!({"n": "+++"}), InvalidKey::Malformed),
    ];
    for (changes, reason) in cases {
        assert_eq!(jwk(changes.clone()), Err(reason), "{changes}");
    }
    let symmetric = json!({"kty": "oct", "k": "AQAB", "alg": "HS256"}).to_string();
    assert_eq!(PublicKey::own(&symmetric).map(drop), Err(InvalidKey::Private));
    let reread = PublicKey::own(&OURS.public.jwk_json()).unwrap();
    assert_eq!(reread.kid(), OURS.public.kid());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_text_panics_or_passes(text in "[a-zA-Z0-9_.=-]{0,200}") {
        prop_assert!(verify(&text).is_err());
    }

    #[test]
    fn no_changed_byte_passes(at in 0_usize..600, with in 0x20_u8..0x7F) {
        let good = OURS.with(json!({}));
        let mut bytes = good.clone().into_bytes();
        let at = at % bytes.len();
        bytes[at] = with;
        let changed = String::from_utf8(bytes)?;
        prop_assume!(changed != good);
        prop_assert!(verify(&changed).is_err());
    }
}
