//! A case table of the ways in which an assertion can be wrong.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::LazyLock;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use postern_token::{Assertion, AssertionDemands, PublicKey, TokenError};
use proptest::prelude::*;
use serde_json::{Value, json};

const NOW: u64 = 1_800_000_000;

struct Signer {
    pair: Ed25519KeyPair,
    key: PublicKey,
}

impl Signer {
    fn new(kid: &str) -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let x = B64.encode(pair.public_key().as_ref());
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid, "alg": "EdDSA"});
        let key = PublicKey::foreign(jwk.to_string().as_bytes()).unwrap();
        Self { pair, key }
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let signed = format!("{}.{}", B64.encode(header.to_string()), B64.encode(claims.to_string()));
        let signature = B64.encode(self.pair.sign(signed.as_bytes()).as_ref());
        format!("{signed}.{signature}")
    }
}

static ONE: LazyLock<Signer> = LazyLock::new(|| Signer::new("one"));
static TWO: LazyLock<Signer> = LazyLock::new(|| Signer::new("two"));

fn demands() -> AssertionDemands<'static> {
    AssertionDemands {
        issuer: "https://idp.test",
        audiences: &["https://instance.test"],
        shared_audience: true,
        max_lifetime: 3600,
        by_kid: true,
    }
}

fn header() -> Value {
    json!({"alg": "EdDSA", "kid": "one"})
}

fn claims(changes: Value) -> Value {
    let mut claims = json!({
        "iss": "https://idp.test", "sub": "system:serviceaccount:build:runner", "aud": ["x", "https://instance.test"],
        "iat": NOW, "exp": NOW + 600, "groups": ["a", "b"], "kubernetes.io": {"namespace": "build", "a/b": {"~": "deep"}},
    });
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}

fn verify(token: &str, demands: &AssertionDemands<'_>) -> Result<Assertion, TokenError> {
    Assertion::verify(token, &[TWO.key.clone(), ONE.key.clone()], demands, NOW)
}

#[test]
fn a_good_one_tells_what_it_says() {
    let good = verify(&ONE.sign(&header(), &claims(json!({"jti": "j"}))), &demands()).unwrap();
    assert_eq!(
        (good.subject(), good.expires(), good.id()),
        ("system:serviceaccount:build:runner", NOW + 600, Some("j"))
    );
    for (claim, text) in [
        ("sub", "system:serviceaccount:build:runner"),
        ("groups", "b"),
        ("/kubernetes.io/namespace", "build"),
        ("/kubernetes.io/a~1b/~0", "deep"),
    ] {
        assert!(good.says(claim, text), "{claim}");
        assert!(!good.says(claim, "other") && !good.says(claim, ""), "{claim}");
    }
    for claim in
        ["kubernetes.io", "/kubernetes.io", "exp", "/groups/0", "", "/", "nothing", "/kubernetes.io/namespace/x"]
    {
        assert!(!good.says(claim, "build") && !good.says(claim, "a"), "{claim}");
    }
}

#[test]
fn every_fault_has_its_name() {
    let cases = [
        (json!({"iss": "https://other.test"}), TokenError::IssuerUntrusted),
        (json!({"iss": null}), TokenError::IssuerUntrusted),
        (json!({"sub": null}), TokenError::ClaimsInvalid),
        (json!({"sub": ""}), TokenError::ClaimsInvalid),
        (json!({"sub": "a\nb"}), TokenError::ClaimsInvalid),
        (json!({"sub": 7}), TokenError::ClaimsInvalid),
        (json!({"aud": "x"}), TokenError::AudienceWrong),
        (json!({"aud": []}), TokenError::AudienceWrong),
        (json!({"aud": null}), TokenError::AudienceWrong),
        (json!({"aud": ["https://instance.test", 1]}), TokenError::AudienceWrong),
        (json!({"aud": "https://instance.test/"}), TokenError::AudienceWrong),
        (json!({"exp": null}), TokenError::ClaimsInvalid),
        (json!({"exp": format!("{}", NOW + 60)}), TokenError::ClaimsInvalid),
        (json!({"exp": 1e300}), TokenError::ClaimsInvalid),
        (json!({"exp": NOW - 31, "iat": NOW - 60}), TokenError::Expired),
        (json!({"exp": NOW + 3601}), TokenError::LifetimeTooLong),
        (json!({"exp": NOW + 3601, "iat": null}), TokenError::LifetimeTooLong),
        (json!({"iat": NOW + 31}), TokenError::NotYetValid),
        (json!({"nbf": NOW + 31}), TokenError::NotYetValid),
        (json!({"nbf": -1}), TokenError::ClaimsInvalid),
    ];
    for (change, fault) in cases {
        let token = ONE.sign(&header(), &claims(change.clone()));
        assert_eq!(verify(&token, &demands()).map(drop), Err(fault), "{change}");
    }
    for (header, fault) in [
        (json!({"alg": "EdDSA"}), TokenError::KeyUnknown),
        (json!({"alg": "EdDSA", "kid": "three"}), TokenError::KeyUnknown),
        (json!({"alg": "EdDSA", "kid": "two"}), TokenError::SignatureInvalid),
        (json!({"alg": "RS256", "kid": "one"}), TokenError::AlgorithmWrong),
        (json!({"alg": "none", "kid": "one"}), TokenError::AlgorithmWrong),
        (json!({"alg": "HS256", "kid": "one"}), TokenError::AlgorithmWrong),
        (json!({"alg": "EdDSA", "kid": "one", "crit": ["b64"]}), TokenError::HeaderUnsupported),
        (json!({"alg": "EdDSA", "kid": "one", "jwk": {}}), TokenError::HeaderUnsupported),
        (json!({"alg": "EdDSA", "kid": "one", "typ": "at+jwt"}), TokenError::TypeWrong),
    ] {
        assert_eq!(verify(&ONE.sign(&header, &claims(json!({}))), &demands()).map(drop), Err(fault), "{header}");
    }
}

#[test]
fn an_assertion_of_a_client_is_for_one_audience_and_under_any_of_its_keys() {
    let demands = AssertionDemands { shared_audience: false, by_kid: false, ..demands() };
    let one = |aud: Value| ONE.sign(&json!({"alg": "EdDSA", "kid": "whatever"}), &claims(json!({"aud": aud})));
    assert!(verify(&one(json!("https://instance.test")), &demands).is_ok());
    assert!(verify(&one(json!(["https://instance.test"])), &demands).is_ok());
    let shared = one(json!(["https://instance.test", "https://evil.test"]));
    assert_eq!(verify(&shared, &demands).map(drop), Err(TokenError::AudienceWrong));
}

proptest! {
    #[test]
    fn no_bytes_panic(text in "[ -~]{0,200}", dots in "[A-Za-z0-9_.-]{0,200}") {
        prop_assert!(verify(&text, &demands()).is_err());
        prop_assert!(verify(&dots, &demands()).is_err());
    }

    #[test]
    fn no_signed_claims_panic(name in "[a-z/~]{0,8}", number in any::<i64>(), text in "\\PC{0,20}") {
        for value in [json!(number), json!(text), json!([text]), json!({"x": number})] {
            let token = ONE.sign(&header(), &claims(json!({ name.clone(): value })));
            if let Ok(read) = verify(&token, &demands()) {
                let _ = read.says(&name, &text);
            }
        }
    }
}
