//! What is fuzzed: each takes any bytes, and panics when something that must hold does not. `fuzz/` hands them to libFuzzer; the
//! tests run them on seeds and on seeds that were tampered with.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, LazyLock};

use http::{HeaderMap, HeaderValue};
use model_adapter::provider::{Api, Provider, all, embeddings};
use postern_runtime::peer::{AddressSource, ClientConfig, Peer};
use postern_runtime::proxy_protocol::{HEAD_BYTES, MAX_REST_BYTES, read, rest_length};
use postern_token::{
    Assertion, AssertionDemands, Form, IssuerProfile, OpenForm, PublicKey, TrustTable, Unverified, jwks_json, read_jwks,
};
use serde_json::json;

use crate::Forge;
use crate::replay::{Exchange, cut_anywhere, exchanges};

/// A target: its name, what it does with bytes, and bytes that lead far into it.
pub type Target = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

/// All of them.
pub const TARGETS: &[Target] = &[
    ("token", token, token_seeds),
    ("assertion", assertion, token_seeds),
    ("jwks", jwks, jwks_seeds),
    ("proxy_header", proxy_header, proxy_header_seeds),
    ("forwarded_chain", forwarded_chain, forwarded_chain_seeds),
    ("answers", answers, answers_seeds),
];

const NOW: u64 = 1_800_000_000;
const ISSUER: &str = "https://issuer.test";

static KEY: LazyLock<PublicKey> =
    LazyLock::new(|| PublicKey::foreign(Forge::stranger().jwk().to_string().as_bytes()).unwrap());
static TABLE: LazyLock<TrustTable> = LazyLock::new(|| {
    let own = IssuerProfile::own(ISSUER.to_owned(), "ins".to_owned(), "aud".to_owned(), 900);
    let open = IssuerProfile {
        issuer: "https://other.test".to_owned(),
        form: Form::Open(OpenForm { types: vec![None, Some("at+jwt".to_owned())], ..OpenForm::default() }),
        ..own.clone()
    };
    let announced = PublicKey::own(&Forge::instance().jwk().to_string()).unwrap();
    TrustTable::new([(own, vec![announced]), (open, vec![KEY.clone()])])
});

fn claims(issuer: &str) -> serde_json::Value {
    json!({
        "iss": issuer, "sub": "s", "aud": "aud", "exp": NOW + 60, "nbf": NOW, "iat": NOW, "jti": "j", "client_id": "s",
        "scope": "feature:chat", "postern_instance": "ins", "postern_realm": "self-managed", "postern_credential": "c",
    })
}

/// An access token that passes was signed by a key of the table, byte for byte.
pub fn token(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(unverified) = Unverified::new(text) else { return };
    let _ = unverified.says();
    if let Ok(verified) = TABLE.verify(unverified, NOW) {
        let good = token_seeds().into_iter().map(|seed| String::from_utf8(seed).unwrap());
        assert!(good.into_iter().any(|seed| seed == text), "nobody signed {text}");
        assert!(!verified.has_expired(NOW) && TABLE.still_holds(&verified));
    }
}

/// An assertion that passes was signed by the key.
pub fn assertion(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let demands = AssertionDemands {
        issuer: "https://other.test",
        audiences: &["aud"],
        shared_audience: true,
        max_lifetime: 900,
        by_kid: false,
    };
    if let Ok(read) = Assertion::verify(text, std::slice::from_ref(&*KEY), &demands, NOW) {
        assert!(token_seeds().contains(&data.to_vec()), "nobody signed {text}");
        let _ = (read.says("/a/b", "c"), read.says(text, text));
    }
}

fn token_seeds() -> Vec<Vec<u8>> {
    // Signatures of RSA PKCS#1 are the same each time.
    let own = Forge::instance().sign(&claims(ISSUER));
    let other = Forge::stranger().sign(&claims("https://other.test"));
    let plain = Forge::stranger().sign_under(
        &base64::Engine::encode(
            &base64::engine::general_purpose::URL_SAFE_NO_PAD,
            json!({ "alg": "RS256", "kid": Forge::stranger().kid() }).to_string(),
        ),
        &claims("https://other.test"),
    );
    [own, other, plain].map(String::into_bytes).to_vec()
}

/// A key set that is read reads the same when it is written and read again.
pub fn jwks(data: &[u8]) {
    if let Ok(keys) = read_jwks(data) {
        let again = read_jwks(jwks_json(&keys).as_bytes()).unwrap();
        assert_eq!(keys, again);
    }
}

fn jwks_seeds() -> Vec<Vec<u8>> {
    let rsa = Forge::stranger().jwk();
    let ec = json!({
        "kty": "EC", "crv": "P-256", "kid": "e", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    });
    let okp = json!({ "kty": "OKP", "crv": "Ed25519", "kid": "o", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" });
    let set = json!({ "keys": [rsa, ec, okp] });
    vec![set.to_string().into_bytes(), json!({ "keys": [okp] }).to_string().into_bytes()]
}

/// A PROXY header is read as whole as it says that it is, and within bounds.
pub fn proxy_header(data: &[u8]) {
    let Some((head, rest)) = data.split_first_chunk::<HEAD_BYTES>() else { return };
    if let Ok(length) = rest_length(head) {
        assert!(length <= MAX_REST_BYTES);
        if let Some(rest) = rest.get(..length) {
            let _ = read(head, rest);
        }
    }
}

fn proxy_header_seeds() -> Vec<Vec<u8>> {
    let mut v4 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    v4.extend([192, 0, 2, 1, 192, 0, 2, 2, 0x30, 0x39, 0, 80]);
    let mut v6 = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24".to_vec();
    v6.extend([0x20; 36]);
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec();
    vec![v4, v6, local]
}

/// The client of a chain of proxies is the address of its socket, or one that a listed proxy wrote; what stands left of the first
/// stranger changes nothing.
pub fn forwarded_chain(data: &[u8]) {
    let rules = Arc::new(ClientConfig {
        client_address: AddressSource::ForwardedFor,
        proxies: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
        ..ClientConfig::default()
    });
    let client = |socket: &str, lines: &[&[u8]]| -> Option<IpAddr> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append("x-forwarded-for", HeaderValue::from_bytes(line).ok()?);
        }
        let address = SocketAddr::new(socket.parse().unwrap(), 1);
        let peer = Peer { address, certificate: None, shown: Arc::default(), rules: rules.clone() };
        peer.client(&headers).ok()
    };
    let lines: Vec<&[u8]> = data.split(|byte| *byte == b'\n').collect();
    let stranger: IpAddr = "192.0.2.7".parse().unwrap();
    if let Some(found) = client("192.0.2.7", &lines) {
        assert_eq!(found, stranger, "nobody believes a stranger's chain");
    }
    let mut behind = lines.clone();
    behind.push(b"192.0.2.7, 10.0.0.2");
    if let Some(found) = client("10.0.0.1", &behind) {
        assert_eq!(found, stranger);
    }
    let _ = client("10.0.0.1", &lines);
}

fn forwarded_chain_seeds() -> Vec<Vec<u8>> {
    [&b"1.2.3.4, 10.0.0.2"[..], b"[fd00::1]:80, 10.1.1.1:5\n::ffff:10.0.0.3", b"unknown, _hidden, 10.0.0.1"]
        .map(<[u8]>::to_vec)
        .to_vec()
}

/// The wire formats, by the first byte of an input.
fn formats() -> Vec<(&'static dyn Provider, Api)> {
    all().iter().flat_map(|provider| provider.apis().iter().map(|api| (*provider, *api))).collect()
}

/// What a server sends is read the same however it is cut, and nothing that it sends is a panic.
pub fn answers(data: &[u8]) {
    let Some((selector, body)) = data.split_first() else { return };
    let formats = formats();
    let (provider, api) = formats[usize::from(*selector) % formats.len()];
    if api == Api::Embeddings {
        let _ = embeddings::read(body);
        return;
    }
    let _ = provider.read(api, body);
    let _ = provider.read_error(http::StatusCode::BAD_REQUEST, body);
    if let Err(problem) = cut_anywhere(provider, api, body) {
        panic!("{} {api:?}: {problem}", provider.name());
    }
}

fn answers_seeds() -> Vec<Vec<u8>> {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens");
    let formats = formats();
    let seed = |exchange: Exchange| {
        let (provider, api) = exchange.row();
        let fits =
            |format: &(&dyn Provider, Api)| format.0.name() == provider && Some(format.1) == Api::from_name(&api);
        let at = u8::try_from(formats.iter().position(fits)?).ok()?;
        Some([vec![at], exchange.body()].concat())
    };
    exchanges(&goldens).unwrap().into_iter().filter_map(seed).collect()
}
