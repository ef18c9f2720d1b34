//! `make vectors DIR=<folder>`: runs Wycheproof's JSON files (<https://github.com/C2SP/wycheproof>) through the key reader and the
//! signature layer of an open issuer profile. Prints each difference by `tcId`; exits non-zero when an invalid vector was
//! accepted, or a valid one of an algorithm of ours was refused without a reason that is listed here.
#![expect(clippy::print_stdout, reason = "it prints its findings")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey, VerificationAlgorithm};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use postern_token::{Algorithm, OpenForm, PublicKey, read_jwks, signed_payload};
use serde_json::{Map, Value, json};

/// What became of a vector.
enum Outcome {
    Accepted,
    Refused,
    /// Of an algorithm or form that is not ours.
    Skipped,
}

#[derive(Default)]
struct Tally {
    passed: u32,
    failed: u32,
    skipped: u32,
}

/// Flags of valid vectors that are refused, and why.
const REFUSED_FLAGS: &[(&str, &str)] = &[("SmallPublicKey", "the exponent is not 65537")];

fn main() -> ExitCode {
    let Some(dir) = std::env::args_os().nth(1) else {
        println!("usage: vectors DIR");
        return ExitCode::FAILURE;
    };
    let mut files = Vec::new();
    collect(Path::new(&dir), &mut files);
    files.sort();
    let mut tally = Tally::default();
    for file in &files {
        run(file, &mut tally);
    }
    if files.is_empty() {
        println!("no JSON file below {}", Path::new(&dir).display());
    }
    println!("{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.skipped);
    match tally.failed == 0 && tally.passed > 0 {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "json") {
            files.push(path);
        }
    }
}

fn run(path: &Path, tally: &mut Tally) {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some(document) = std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok()) else {
        println!("{name}: not JSON; 1 skipped");
        tally.skipped += 1;
        return;
    };
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for group in document["testGroups"].as_array().into_iter().flatten() {
        for test in group["tests"].as_array().into_iter().flatten() {
            let id = test["tcId"].as_u64().unwrap_or_default();
            let verdict = test["result"].as_str().unwrap_or_default();
            let comment = test["comment"].as_str().unwrap_or_default();
            let flag = |flag: &str| test["flags"].as_array().is_some_and(|flags| flags.iter().any(|one| one == flag));
            let excuse = REFUSED_FLAGS.iter().find(|(name, _)| flag(name)).map(|(_, why)| *why);
            match (outcome(group, test), verdict) {
                (Outcome::Skipped, _) => skipped += 1,
                (Outcome::Accepted, "valid") | (Outcome::Refused, "invalid") | (_, "acceptable") => passed += 1,
                (Outcome::Refused, _) => match excuse {
                    Some(why) => {
                        println!("{name} {id}: valid, refused as listed: {why}");
                        passed += 1;
                    }
                    None => {
                        println!("{name} {id}: FAILED: valid, but refused ({comment})");
                        failed += 1;
                    }
                },
                (Outcome::Accepted, _) => {
                    println!("{name} {id}: FAILED: {verdict}, but accepted ({comment})");
                    failed += 1;
                }
            }
        }
    }
    println!("{name}: {passed} passed, {failed} failed, {skipped} skipped");
    tally.passed += passed;
    tally.failed += failed;
    tally.skipped += skipped;
}

fn outcome(group: &Value, test: &Value) -> Outcome {
    match group["type"].as_str().unwrap_or_default() {
        "JsonWebSignature" | "JsonWebKey" | "JsonWebCrypto" => web_signature(group, test),
        "RsassaPkcs1Verify" => rsa(group, test),
        "EcdsaP1363Verify" => ecdsa_fixed(group, test),
        "EcdsaVerify" => ecdsa_der(group, test),
        "EddsaVerify" => eddsa(group, test),
        _ => Outcome::Skipped,
    }
}

fn accepted_if(accepted: bool) -> Outcome {
    if accepted { Outcome::Accepted } else { Outcome::Refused }
}

/// What the vectors leave out of a header may be absent; everything else is as strict as ever.
fn form() -> OpenForm {
    OpenForm { types: vec![None, Some("JWT".to_owned())], kid_optional: true, ..OpenForm::default() }
}

/// Whether a key is of a type that is ours at all.
fn ours(key: &Value) -> bool {
    let algorithm = key["alg"].as_str();
    let known = algorithm.is_none_or(|name| Algorithm::from_name(name).is_some());
    match key["kty"].as_str().unwrap_or_default() {
        "RSA" => known,
        "EC" => known && key["crv"] == "P-256",
        "OKP" => known && key["crv"] == "Ed25519",
        _ => false,
    }
}

fn web_signature(group: &Value, test: &Value) -> Outcome {
    if test.get("jwe").is_some() {
        return Outcome::Skipped;
    }
    let public = group.get("public").or_else(|| group.get("private")).unwrap_or(&Value::Null);
    let valid = test["result"] == "valid";
    // Another serialisation than the compact one is refused, as it must be.
    let Some(token) = test["jws"].as_str() else {
        return if valid { Outcome::Skipped } else { Outcome::Refused };
    };
    if let Some(set) = public["keys"].as_array() {
        // A valid vector under keys that are not ours says nothing of ours; an invalid one must be refused all the same.
        if valid && !set.iter().any(ours) {
            return Outcome::Skipped;
        }
        let Ok(keys) = read_jwks(public.to_string().as_bytes()) else { return Outcome::Refused };
        return accepted_if(signed_payload(token, &form(), &keys).is_ok());
    }
    if valid && !ours(public) {
        return Outcome::Skipped;
    }
    let Ok(key) = PublicKey::foreign(public.to_string().as_bytes()) else { return Outcome::Refused };
    accepted_if(signed_payload(token, &form(), &[key]).is_ok())
}

fn bytes(value: &Value) -> Option<Vec<u8>> {
    let text = value.as_str()?;
    let digit = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (text.len() % 2 == 0).then_some(())?;
    (0..text.len()).step_by(2).map(digit).collect()
}

fn message_and_signature(test: &Value) -> Option<(Vec<u8>, Vec<u8>)> {
    Some((bytes(&test["msg"])?, bytes(&test["sig"])?))
}

fn number(value: &Value) -> Option<String> {
    let bytes = bytes(value)?;
    let begin = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
    Some(URL_SAFE_NO_PAD.encode(&bytes[begin..]))
}

fn verify(jwk: &Map<String, Value>, algorithm: Algorithm, test: &Value) -> Outcome {
    let Some((message, signature)) = message_and_signature(test) else { return Outcome::Skipped };
    match PublicKey::foreign(Value::Object(jwk.clone()).to_string().as_bytes()) {
        Ok(key) => accepted_if(key.has_signed(algorithm, &message, &signature)),
        Err(_) => Outcome::Refused,
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

fn rsa(group: &Value, test: &Value) -> Outcome {
    let algorithm = match group["sha"].as_str().unwrap_or_default() {
        "SHA-256" => Algorithm::Rs256,
        "SHA-384" => Algorithm::Rs384,
        "SHA-512" => Algorithm::Rs512,
        _ => return Outcome::Skipped,
    };
    let size = group["keySize"].as_u64().or_else(|| group["keysize"].as_u64()).unwrap_or_default();
    if !(2048..=4096).contains(&size) {
        return Outcome::Skipped;
    }
    let key = &group["publicKey"];
    let n = number(&key["modulus"]).or_else(|| number(&group["n"]));
    let e = number(&key["publicExponent"]).or_else(|| number(&group["e"]));
    let (Some(n), Some(e)) = (n, e) else { return Outcome::Skipped };
    verify(&object(json!({ "kty": "RSA", "n": n, "e": e })), algorithm, test)
}

/// The uncompressed point of a P-256 group with SHA-256.
fn p256(group: &Value) -> Option<Vec<u8>> {
    let key = group.get("publicKey").or_else(|| group.get("key"))?;
    (group["sha"] == "SHA-256" && key["curve"] == "secp256r1").then_some(())?;
    bytes(&key["uncompressed"]).filter(|point| point.len() == 65)
}

fn ecdsa_fixed(group: &Value, test: &Value) -> Outcome {
    let Some(point) = p256(group) else { return Outcome::Skipped };
    let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
    verify(&object(json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y })), Algorithm::Es256, test)
}

/// Signatures in DER are none of JWS: the layer below is asked, and ours must refuse every one.
fn ecdsa_der(group: &Value, test: &Value) -> Outcome {
    let (Some(point), Some((message, signature))) = (p256(group), message_and_signature(test)) else {
        return Outcome::Skipped;
    };
    if matches!(ecdsa_fixed(group, test), Outcome::Accepted) {
        return Outcome::Accepted;
    }
    let algorithm: &'static dyn VerificationAlgorithm = &ECDSA_P256_SHA256_ASN1;
    accepted_if(UnparsedPublicKey::new(algorithm, &point).verify(&message, &signature).is_ok())
}

fn eddsa(group: &Value, test: &Value) -> Outcome {
    let key = group.get("publicKey").or_else(|| group.get("key")).unwrap_or(&Value::Null);
    if key["curve"] != "edwards25519" {
        return Outcome::Skipped;
    }
    let Some(x) = bytes(&key["pk"]).map(|point| URL_SAFE_NO_PAD.encode(point)) else { return Outcome::Skipped };
    verify(&object(json!({ "kty": "OKP", "crv": "Ed25519", "x": x })), Algorithm::EdDsa, test)
}
