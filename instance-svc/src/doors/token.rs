//! `postern.instance.v1.TokenService`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use postern_proto::Failure;
use postern_proto::instance::v1 as pb;
use postern_proto::instance::v1::token_service_server::TokenService;
use postern_runtime::grpc::refuse;
use postern_runtime::peer::{certificate_of, shown_by};
use postern_runtime::tls::Shown as Certificate;
use tonic::{Request, Response, Status};

use super::acted;
use super::guard::{Caller, Vouched, address_of};
use crate::exchange::{Asked, Exchange};
use crate::identity::Shown;
use crate::introspection::{Introspection, Reach};

/// A secret of this instance.
pub(crate) const CREDENTIAL_TYPE: &str = "urn:postern:params:oauth:token-type:credential";
/// The certificate of the connection.
const CERTIFICATE_TYPE: &str = "urn:postern:params:oauth:token-type:certificate";
/// RFC 8693 §3.
const JWT_TYPES: [&str; 2] = ["urn:ietf:params:oauth:token-type:jwt", "urn:ietf:params:oauth:token-type:id_token"];
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

/// What a subject token of this type is.
///
/// # Errors
/// REQUEST_INVALID names the field.
pub(super) fn shown<'a>(token: &'a str, kind: &str, certificate: &'a Certificate) -> Result<Shown<'a>, Failure> {
    if kind == CERTIFICATE_TYPE {
        if !token.is_empty() {
            return Err(Failure::field("subject_token", "must be empty: the certificate is the connection's"));
        }
        return Ok(Shown::Certificate(certificate));
    }
    if token.is_empty() {
        return Err(Failure::field("subject_token", "is empty"));
    }
    match kind {
        "" | CREDENTIAL_TYPE => Ok(Shown::Secret(token)),
        kind if JWT_TYPES.contains(&kind) => Ok(Shown::Jwt(token)),
        _ => {
            let problem = format!("must be {CREDENTIAL_TYPE}, {CERTIFICATE_TYPE} or {}", JWT_TYPES.join(" or "));
            Err(Failure::field("subject_token_type", problem))
        }
    }
}

fn asked(request: &pb::ExchangeTokenRequest, address: Option<IpAddr>) -> Result<Asked, Failure> {
    let pb::ExchangeTokenRequest { subject_token: _, subject_token_type: _, audience, scope, lifetime, actor_token } =
        request;
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
        // A gateway that passes a credential on shows its own certificate, which is not the caller's.
        let passed_on = request.extensions().get::<Vouched>().is_some();
        let certificate = certificate_of(request.extensions()).filter(|_| !passed_on).map(str::to_owned);
        let holder = shown_by(request.extensions());
        let request = request.into_inner();
        // Whoever shows a certificate gets a token that is good only with it (RFC 8705 §3).
        let asked = Asked { certificate, ..asked(&request, address).map_err(refuse)? };
        let shown = shown(&request.subject_token, &request.subject_token_type, &holder).map_err(refuse)?;
        let exchanged = self.exchange.exchange(shown, asked).await.map_err(refuse)?;
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
