//! `postern.instance.v1.TokenService`.

use std::sync::Arc;
use std::time::Duration;

use postern_proto::Failure;
use postern_proto::instance::v1 as pb;
use postern_proto::instance::v1::token_service_server::TokenService;
use postern_runtime::grpc::refuse;
use tonic::{Request, Response, Status};

use crate::exchange::{Asked, Exchange};

/// The type of the credentials that are exchanged.
const CREDENTIAL_TYPE: &str = "urn:postern:params:oauth:token-type:credential";
/// RFC 8693 §3.
const ACCESS_TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:access_token";
/// Scopes in one request.
const MAX_SCOPES: usize = 32;

/// The door.
pub struct TokenDoor {
    /// The domain behind it.
    pub exchange: Arc<Exchange>,
}

fn asked(request: &pb::ExchangeTokenRequest) -> Result<Asked, Failure> {
    let pb::ExchangeTokenRequest { subject_token, subject_token_type, audience, scope, lifetime } = request;
    if subject_token.is_empty() {
        return Err(Failure::field("subject_token", "is empty"));
    }
    if !matches!(subject_token_type.as_str(), "" | CREDENTIAL_TYPE) {
        return Err(Failure::field("subject_token_type", format!("must be {CREDENTIAL_TYPE}")));
    }
    if scope.len() > MAX_SCOPES {
        return Err(Failure::field("scope", format!("at most {MAX_SCOPES} scopes")));
    }
    let lifetime = lifetime
        .map(|lifetime| Duration::try_from(lifetime).map(|lifetime| lifetime.as_secs()))
        .transpose()
        .map_err(|_| Failure::field("lifetime", "must not be negative"))?;
    Ok(Asked { audience: audience.clone(), scope: scope.clone(), lifetime, actor: None })
}

#[tonic::async_trait]
impl TokenService for TokenDoor {
    async fn exchange_token(
        &self,
        request: Request<pb::ExchangeTokenRequest>,
    ) -> Result<Response<pb::ExchangeTokenResponse>, Status> {
        let request = request.into_inner();
        let asked = asked(&request).map_err(refuse)?;
        let exchanged = self.exchange.exchange(&request.subject_token, asked).await.map_err(refuse)?;
        let seconds = i64::try_from(exchanged.minted.expires).unwrap_or(i64::MAX);
        Ok(Response::new(pb::ExchangeTokenResponse {
            access_token: exchanged.minted.token,
            issued_token_type: ACCESS_TOKEN_TYPE.to_owned(),
            token_type: "Bearer".to_owned(),
            expire_time: Some(prost_types::Timestamp { seconds, nanos: 0 }),
            scope: exchanged.scope,
            audience: exchanged.audience,
        }))
    }
}
