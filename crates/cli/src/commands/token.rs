//! `token`.

use postern_proto::Feature;
use serde_json::json;

use super::time;
use crate::args::Token;
use crate::client::Client;
use crate::output::{Output, Problem};

/// Prints a fresh access token.
pub async fn token(client: &Client, args: Token) -> Result<Output, Problem> {
    let scope = match args.scope.is_empty() {
        true => Feature::ALL.iter().map(|feature| feature.scope().to_owned()).collect(),
        false => args.scope,
    };
    let answer = client.exchange(args.audience.as_deref().unwrap_or_default(), &scope, args.lifetime).await?;
    let json = json!({
        "access_token": answer.access_token, "token_type": answer.token_type, "expires_at": time(answer.expire_time),
        "scope": answer.scope, "audience": answer.audience,
    });
    Ok(Output::new(answer.access_token, json))
}
