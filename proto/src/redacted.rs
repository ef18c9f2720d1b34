//! Debug for the messages that carry a secret: everything but the secret.

use std::fmt::{Debug, Formatter, Result};

use crate::instance::v1::{
    ApiKey, AwsAccessKey, ClientCertificate, CreateCredentialResponse, CreateFleetMemberResponse, ExchangeTokenRequest,
    ExchangeTokenResponse, GoogleServiceAccount, IntrospectTokenRequest, RevokeTokenRequest,
};

const REDACTED: &str = "[redacted]";

impl Debug for ApiKey {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Self { value: _ } = self;
        f.debug_struct("ApiKey").field("value", &REDACTED).finish()
    }
}

impl Debug for AwsAccessKey {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Self { access_key_id, secret_access_key: _, session_token: _, region } = self;
        f.debug_struct("AwsAccessKey")
            .field("access_key_id", access_key_id)
            .field("region", region)
            .finish_non_exhaustive()
    }
}

impl Debug for GoogleServiceAccount {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Self { key_json: _ } = self;
        f.debug_struct("GoogleServiceAccount").field("key_json", &REDACTED).finish()
    }
}

impl Debug for ClientCertificate {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Self { certificate_pem, private_key_pem: _ } = self;
        f.debug_struct("ClientCertificate").field("certificate_pem", certificate_pem).finish_non_exhaustive()
    }
}

impl Debug for ExchangeTokenRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Self { subject_token: _, subject_token_type, audience, scope, lifetime, actor_token: _ } = self;
        f.debug_struct("ExchangeTokenRequest")
            .field("subject_token", &REDACTED)
            .field("subject_token_type", subject_token_type)
            .field("audience", audience)
            .field("scope", scope)
            .field("lifetime", lifetime)
            .finish()
    }
}

impl Debug for ExchangeTokenResponse {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Self { access_token: _, issued_token_type: _, token_type: _, expire_time, scope, audience } = self;
        f.debug_struct("ExchangeTokenResponse")
            .field("access_token", &REDACTED)
            .field("expire_time", expire_time)
            .field("scope", scope)
            .field("audience", audience)
            .finish_non_exhaustive()
    }
}

impl Debug for CreateCredentialResponse {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Self { credential, secret: _ } = self;
        f.debug_struct("CreateCredentialResponse").field("credential", credential).field("secret", &REDACTED).finish()
    }
}

impl Debug for CreateFleetMemberResponse {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Self { member, credential: _, trust_root: _ } = self;
        f.debug_struct("CreateFleetMemberResponse").field("member", member).field("credential", &REDACTED).finish()
    }
}

impl Debug for IntrospectTokenRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Self { token: _ } = self;
        f.debug_struct("IntrospectTokenRequest").field("token", &REDACTED).finish()
    }
}

impl Debug for RevokeTokenRequest {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Self { token: _ } = self;
        f.debug_struct("RevokeTokenRequest").field("token", &REDACTED).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_shows_in_debug() {
        let secret = || "hunter2-hunter2".to_owned();
        let shown = [
            format!("{:?}", ApiKey { value: secret() }),
            format!(
                "{:?}",
                AwsAccessKey { secret_access_key: secret(), session_token: secret(), ..Default::default() }
            ),
            format!("{:?}", GoogleServiceAccount { key_json: secret() }),
            format!("{:?}", ClientCertificate { private_key_pem: secret(), ..Default::default() }),
            format!("{:?}", ExchangeTokenRequest { subject_token: secret(), ..Default::default() }),
            format!("{:?}", ExchangeTokenResponse { access_token: secret(), ..Default::default() }),
            format!("{:?}", CreateCredentialResponse { credential: None, secret: secret() }),
            format!("{:?}", CreateFleetMemberResponse { credential: secret(), ..Default::default() }),
            format!("{:?}", IntrospectTokenRequest { token: secret() }),
            format!("{:?}", RevokeTokenRequest { token: secret() }),
        ];
        for text in shown {
            assert!(!text.contains("hunter2"), "{text}");
        }
    }
}
