//! `postern.instance.v1.TokenService`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use postern_proto::Failure;
use postern_proto::instance::v1 as pb;
use postern_proto::instance::v1::token_service_server::TokenService;
use postern_runtime::grpc::refuse;
use postern_runtime::peer::certificate_of;
use tonic::{Request, Response, Status};

use super::acted;
use super::guard::{Caller, address_of};
use crate::exchange::{Asked, Exchange};
use crate::introspection::{Introspection, Reach};

/// The type of the credentials that are exchanged.
pub(crate) const CREDENTIAL_TYPE: &str = "urn:postern:params:oauth:token-type:credential";
/// RFC 8693 §3.
pub(crate) const ACCESS_TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:access_token";
/// Scopes in one request.
pub(crate) const MAX_SCOPES: usize = 32;

/// The door.
pub struct TokenDoor {
    /// The domain behind it.
    pub exchange: Arc<Exchange>,
    /// What is said of tokens, and how they end.
    pub introspection: Arc<Introspection>,
}

fn asked(request: &pb::ExchangeTokenRequest, address: Option<IpAddr>) -> Result<Asked, Failure> {
    let pb::ExchangeTokenRequest { subject_token, subject_token_type, audience, scope, lifetime, actor_token } =
        request;
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
    let (audience, scope, actor_token) = (audience.clone(), scope.clone(), actor_token.clone());
    Ok(Asked { audience, scope, lifetime, actor_token, address, ..Asked::default() })
}

#[tonic::async_trait]
impl TokenService for TokenDoor {
    async fn exchange_token(
        &self,
        request: Request<pb::ExchangeTokenRequest>,
    ) -> Result<Response<pb::ExchangeTokenResponse>, Status> {
        let address = address_of(request.extensions(), request.metadata().as_ref()).map_err(refuse)?;
        let certificate = certificate_of(request.extensions()).map(str::to_owned);
        let request = request.into_inner();
        // Whoever shows a certificate gets a token that is good only with it (RFC 8705 §3).
        let asked = Asked { certificate, ..asked(&request, address).map_err(refuse)? };
        let exchanged = self.exchange.exchange(&request.subject_token, asked).await.map_err(refuse)?;
        let seconds = i64::try_from(exchanged.minted.expires).unwrap_or(i64::MAX);
        Ok(acted(
            exchanged.told(),
            pb::ExchangeTokenResponse {
                access_token: exchanged.minted.token,
                issued_token_type: ACCESS_TOKEN_TYPE.to_owned(),
                token_type: "Bearer".to_owned(),
                expire_time: Some(prost_types::Timestamp { seconds, nanos: 0 }),
                scope: exchanged.scope,
                audience: exchanged.audience,
            },
        ))
    }
    async fn introspect_token(
        &self,
        request: Request<pb::IntrospectTokenRequest>,
    ) -> Result<Response<pb::IntrospectTokenResponse>, Status> {
        let caller = Caller::of(&request).map_err(refuse)?;
        let pb::IntrospectTokenRequest { token } = request.into_inner();
        let claims = match Reach::of(&caller.principal) {
            Some(reach) => self.introspection.introspect(&token, &reach).await.map_err(refuse)?,
            None => None,
        };
        let claims_json = claims.as_ref().map(serde_json::to_string).transpose();
        let claims_json = claims_json.map_err(|error| refuse(Failure::internal(error)))?.unwrap_or_default();
        Ok(Response::new(pb::IntrospectTokenResponse { active: claims.is_some(), claims_json }))
    }

    async fn revoke_token(
        &self,
        request: Request<pb::RevokeTokenRequest>,
    ) -> Result<Response<pb::RevokeTokenResponse>, Status> {
        let answer = pb::RevokeTokenResponse {};
        match self.introspection.revoke(&request.into_inner().token).await.map_err(refuse)? {
            Some(told) => Ok(acted(told, answer)),
            None => Ok(super::nothing_done(answer)),
        }
    }

    async fn revoke_subject(
        &self,
        request: Request<pb::RevokeSubjectRequest>,
    ) -> Result<Response<pb::RevokeSubjectResponse>, Status> {
        let pb::RevokeSubjectRequest { name } = request.into_inner();
        self.introspection.revoke_subject(&name).await.map_err(refuse)?;
        tracing::info!(subject.name = name, "tokens of a subject revoked");
        Ok(acted(name, pb::RevokeSubjectResponse {}))
    }
}
