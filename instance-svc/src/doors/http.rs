//! The HTTP door: what anybody needs to verify a token, and OAuth. Discovery lists only what is served.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use postern_token::Algorithm;
use serde_json::{Value, json};

use super::oauth::{self, OAuthDoor};
use crate::trust::Trust;

struct Published {
    issuer: String,
    trust: Arc<Trust>,
    max_age: Duration,
}

/// The routes.
pub fn router(issuer: &str, trust: Arc<Trust>, max_age: Duration, oauth: OAuthDoor) -> Router {
    let published = Published { issuer: issuer.to_owned(), trust, max_age };
    Router::new()
        .route("/.well-known/openid-configuration", get(openid))
        .route("/.well-known/oauth-authorization-server", get(oauth_metadata))
        .route("/oauth/discovery/keys", get(keys))
        .with_state(Arc::new(published))
        .merge(oauth::router(oauth))
        .layer(postern_runtime::request_id::RequestIdLayer)
}

/// RFC 8414 §2, so far as there is something to tell.
fn metadata(published: &Published) -> Value {
    let at = |path: &str| format!("{}{path}", published.issuer);
    json!({
        "issuer": published.issuer,
        "jwks_uri": at("/oauth/discovery/keys"),
        "token_endpoint": at("/oauth/token"),
        "introspection_endpoint": at("/oauth/introspect"),
        "revocation_endpoint": at("/oauth/revoke"),
        "grant_types_supported": [oauth::CLIENT_CREDENTIALS, oauth::TOKEN_EXCHANGE],
        "token_endpoint_auth_methods_supported": oauth::AUTH_METHODS,
        "token_endpoint_auth_signing_alg_values_supported": Algorithm::ALL.map(Algorithm::name),
        "introspection_endpoint_auth_methods_supported": oauth::AUTH_METHODS,
        "introspection_endpoint_auth_signing_alg_values_supported": Algorithm::ALL.map(Algorithm::name),
        "revocation_endpoint_auth_methods_supported": ["none"],
        // Required, and never empty by RFC 8414 §3.2; there is no authorization endpoint, so the registered type that issues nothing.
        "response_types_supported": ["none"],
        "scopes_supported": postern_proto::Feature::ALL.map(postern_proto::Feature::scope),
    })
}

async fn oauth_metadata(State(published): State<Arc<Published>>) -> Response {
    Json(metadata(&published)).into_response()
}

/// OpenID Connect Discovery 1.0 §3: there are no ID tokens here; its readers come for the keys.
async fn openid(State(published): State<Arc<Published>>) -> Response {
    let mut document = metadata(&published);
    document["subject_types_supported"] = json!(["public"]);
    document["id_token_signing_alg_values_supported"] = json!(Algorithm::ALL.map(Algorithm::name));
    Json(document).into_response()
}

async fn keys(State(published): State<Arc<Published>>, headers: HeaderMap) -> Response {
    let jwks = published.trust.jwks();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, jwks.as_bytes());
    let etag: String = digest.as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    let etag = format!("\"{etag}\"");
    let known = headers.get(IF_NONE_MATCH).is_some_and(|value| value.as_bytes() == etag.as_bytes());
    let cache = [(CACHE_CONTROL, format!("public, max-age={}", published.max_age.as_secs())), (ETAG, etag)];
    if known {
        return (StatusCode::NOT_MODIFIED, cache).into_response();
    }
    (cache, [(CONTENT_TYPE, "application/jwk-set+json")], jwks).into_response()
}
