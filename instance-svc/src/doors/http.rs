//! The HTTP door: what anybody needs to verify a token. It lists only what is served.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use postern_token::{PublicKey, jwks_json};

use super::trust::JWKS_MAX_AGE_SECONDS;

struct Published {
    discovery: serde_json::Value,
    jwks: String,
    etag: String,
}

/// The routes.
pub fn router(issuer: &str, keys: &[PublicKey]) -> Router {
    let jwks = jwks_json(keys);
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, jwks.as_bytes());
    let etag: String = digest.as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    let published = Published {
        // OpenID Connect Discovery 1.0 §3, so far as there is something to discover: keys.
        discovery: serde_json::json!({
            "issuer": issuer,
            "jwks_uri": format!("{issuer}/oauth/discovery/keys"),
            "response_types_supported": [],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
        }),
        jwks,
        etag: format!("\"{etag}\""),
    };
    Router::new()
        .route("/.well-known/openid-configuration", get(discovery))
        .route("/oauth/discovery/keys", get(keys_of))
        .layer(postern_runtime::request_id::RequestIdLayer)
        .with_state(Arc::new(published))
}

async fn discovery(State(published): State<Arc<Published>>) -> Response {
    Json(&published.discovery).into_response()
}

async fn keys_of(State(published): State<Arc<Published>>, headers: HeaderMap) -> Response {
    let cache = [(CACHE_CONTROL, format!("public, max-age={JWKS_MAX_AGE_SECONDS}")), (ETAG, published.etag.clone())];
    let known = headers.get(IF_NONE_MATCH).is_some_and(|value| value.as_bytes() == published.etag.as_bytes());
    if known {
        return (StatusCode::NOT_MODIFIED, cache).into_response();
    }
    (cache, [(CONTENT_TYPE, "application/jwk-set+json")], published.jwks.clone()).into_response()
}
