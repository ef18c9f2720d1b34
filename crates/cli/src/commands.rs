//! The commands, one family a file.

pub mod audit;
pub mod complete;
pub mod feature;
pub mod fleet;
pub mod issuer;
pub mod keys;
pub mod login;
pub mod model;
pub mod prompt;
pub mod status;
pub mod token;
pub mod user;

use postern_proto::instance::v1 as pb;
use postern_proto::instance::v1::proof::Proof;

use crate::args;
use crate::output::Problem;

/// A proof as it was asked for; `None`: by a secret.
fn proof(given: args::Proof) -> Result<Option<pb::Proof>, Problem> {
    let args::Proof { public_key_file, certificate, issuer, claim } = given;
    let proof = if let Some(path) = public_key_file {
        let jwk_json =
            std::fs::read_to_string(&path).map_err(|error| Problem::new(format!("{}: {error}", path.display())))?;
        Proof::PublicKey(pb::proof::PublicKey { jwk_json })
    } else if let Some(name) = certificate {
        Proof::Certificate(pb::proof::Certificate { name })
    } else if let Some(issuer) = issuer {
        let pair = |text: &String| {
            let (claim, text) = text.split_once('=').ok_or_else(|| Problem::new("--claim is given as NAME=TEXT"))?;
            Ok((claim.to_owned(), text.to_owned()))
        };
        let claims = claim.iter().map(pair).collect::<Result<_, Problem>>()?;
        Proof::Federated(pb::proof::Federated { issuer, claims })
    } else {
        return Ok(None);
    };
    Ok(Some(pb::Proof { proof: Some(proof) }))
}

/// A time as RFC 3339 in UTC; empty when there is none.
fn time(time: Option<prost_types::Timestamp>) -> String {
    time.map(|time| time.to_string()).unwrap_or_default()
}
