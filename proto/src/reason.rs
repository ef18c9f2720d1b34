//! Why a request did not succeed: a short closed set, and what each reason is over gRPC and over HTTP.

use tonic::Code;

macro_rules! reasons {
    ($($(#[$doc:meta])+ $variant:ident = $name:literal, $code:ident, $http:literal;)+) => {
        /// Why a request did not succeed. The name travels as `google.rpc.ErrorInfo.reason`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$doc])+ $variant,)+ }

        impl Reason {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The name on the wire.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// The gRPC status code (<https://grpc.io/docs/guides/status-codes/>).
            #[must_use]
            pub const fn code(self) -> Code {
                match self { $(Self::$variant => Code::$code,)+ }
            }

            /// The HTTP status code (RFC 9110).
            #[must_use]
            pub const fn http_status(self) -> u16 {
                match self { $(Self::$variant => $http,)+ }
            }
        }
    };
}

reasons! {
    /// No token came with the request.
    TokenMissing = "TOKEN_MISSING", Unauthenticated, 401;
    /// What came is not a well-formed token.
    TokenMalformed = "TOKEN_MALFORMED", Unauthenticated, 401;
    /// The token is larger than 8 KiB.
    TokenTooLarge = "TOKEN_TOO_LARGE", Unauthenticated, 401;
    /// The token is of another type than an access token.
    TokenTypeWrong = "TOKEN_TYPE_WRONG", Unauthenticated, 401;
    /// The token's header asks for something that is not offered.
    TokenHeaderUnsupported = "TOKEN_HEADER_UNSUPPORTED", Unauthenticated, 401;
    /// The signature algorithm is not the key's.
    AlgorithmWrong = "ALGORITHM_WRONG", Unauthenticated, 401;
    /// The signing key is not known here.
    KeyUnknown = "KEY_UNKNOWN", Unauthenticated, 401;
    /// The signature is wrong.
    SignatureInvalid = "SIGNATURE_INVALID", Unauthenticated, 401;
    /// The claims are not what a token must hold.
    ClaimsInvalid = "CLAIMS_INVALID", Unauthenticated, 401;
    /// The token is not from the issuer whose key signed it.
    IssuerUntrusted = "ISSUER_UNTRUSTED", Unauthenticated, 401;
    /// The token is for another audience.
    AudienceWrong = "AUDIENCE_WRONG", Unauthenticated, 401;
    /// The token has ended.
    TokenExpired = "TOKEN_EXPIRED", Unauthenticated, 401;
    /// The token has not begun.
    TokenNotYetValid = "TOKEN_NOT_YET_VALID", Unauthenticated, 401;
    /// The token lives longer than is allowed.
    LifetimeTooLong = "LIFETIME_TOO_LONG", Unauthenticated, 401;
    /// The token was revoked, or its credential, subject, instance or key was.
    TokenRevoked = "TOKEN_REVOKED", Unauthenticated, 401;
    /// The token is bound to a certificate that the caller did not show.
    CertificateMismatch = "CERTIFICATE_MISMATCH", Unauthenticated, 401;
    /// The credential is unknown, revoked or ended.
    CredentialInvalid = "CREDENTIAL_INVALID", Unauthenticated, 401;
    /// The door takes access tokens only.
    CredentialNotAccepted = "CREDENTIAL_NOT_ACCEPTED", Unauthenticated, 401;
    /// No keys have arrived yet, so no token can be judged.
    TrustUnavailable = "TRUST_UNAVAILABLE", Unavailable, 503;
    /// The news of keys and revocations is older than is allowed, so no token can be judged.
    TrustStale = "TRUST_STALE", Unavailable, 503;
    /// Too many failed attempts; try again later.
    AttemptsLimited = "ATTEMPTS_LIMITED", ResourceExhausted, 429;

    /// The token's scopes do not cover this.
    ScopeMissing = "SCOPE_MISSING", PermissionDenied, 403;
    /// The caller's role does not cover this.
    RoleMissing = "ROLE_MISSING", PermissionDenied, 403;
    /// The feature, or the model, is for groups that the caller is not in.
    GroupMissing = "GROUP_MISSING", PermissionDenied, 403;
    /// The credential does not allow this audience.
    AudienceDenied = "AUDIENCE_DENIED", PermissionDenied, 403;
    /// The credential does not allow this scope.
    ScopeDenied = "SCOPE_DENIED", PermissionDenied, 403;
    /// The caller's address is outside the model's networks.
    NetworkUntrusted = "NETWORK_UNTRUSTED", PermissionDenied, 403;
    /// The feature is bound to nothing, or disabled.
    FeatureUnbound = "FEATURE_UNBOUND", FailedPrecondition, 403;
    /// No model of that name is bound to the feature.
    ModelNotFound = "MODEL_NOT_FOUND", NotFound, 404;
    /// The registry has no prompt of that feature and version.
    PromptNotFound = "PROMPT_NOT_FOUND", NotFound, 404;
    /// The adapter has no endpoint of that id.
    EndpointNotFound = "ENDPOINT_NOT_FOUND", NotFound, 404;
    /// There is no such thing.
    NotFound = "NOT_FOUND", NotFound, 404;
    /// There is one already.
    AlreadyExists = "ALREADY_EXISTS", AlreadyExists, 409;
    /// Something still needs it.
    InUse = "IN_USE", FailedPrecondition, 409;
    /// The key may not sign yet.
    KeyNotReady = "KEY_NOT_READY", FailedPrecondition, 409;
    /// It was changed meanwhile.
    VersionConflict = "VERSION_CONFLICT", Aborted, 409;

    /// The request is not well-formed.
    RequestInvalid = "REQUEST_INVALID", InvalidArgument, 400;
    /// The request is larger than is allowed.
    RequestTooLarge = "REQUEST_TOO_LARGE", InvalidArgument, 413;
    /// The prompt is longer than the model's context.
    ContextLengthExceeded = "CONTEXT_LENGTH_EXCEEDED", InvalidArgument, 400;
    /// The model's server refused the request.
    ModelRefusedRequest = "MODEL_REFUSED_REQUEST", InvalidArgument, 400;
    /// Not offered.
    Unimplemented = "UNIMPLEMENTED", Unimplemented, 404;

    /// The gateway or the model is at its limit.
    ConcurrencyLimited = "CONCURRENCY_LIMITED", ResourceExhausted, 429;
    /// The model's server is at its limit.
    ModelRateLimited = "MODEL_RATE_LIMITED", ResourceExhausted, 429;

    /// The model's server could not be reached.
    ModelUnreachable = "MODEL_UNREACHABLE", Unavailable, 503;
    /// The model's server says that it cannot serve now.
    ModelUnavailable = "MODEL_UNAVAILABLE", Unavailable, 503;
    /// The model's server does not take our credential.
    ModelCredentialRejected = "MODEL_CREDENTIAL_REJECTED", FailedPrecondition, 502;
    /// The model's server does not have the model or the path.
    ModelMissingUpstream = "MODEL_MISSING_UPSTREAM", FailedPrecondition, 502;
    /// The model's server failed.
    ModelFailed = "MODEL_FAILED", Unavailable, 502;
    /// The model's server answered something that is no answer.
    ModelAnswerInvalid = "MODEL_ANSWER_INVALID", Unavailable, 502;
    /// The model's answer broke off.
    ModelStreamTruncated = "MODEL_STREAM_TRUNCATED", Unavailable, 502;
    /// The endpoint's address is outside the allowed networks.
    EgressDenied = "EGRESS_DENIED", FailedPrecondition, 502;
    /// No content came in time.
    FirstContentTimeout = "FIRST_CONTENT_TIMEOUT", DeadlineExceeded, 504;
    /// Content stopped coming.
    IdleTimeout = "IDLE_TIMEOUT", DeadlineExceeded, 504;
    /// The whole took too long.
    DeadlineExceeded = "DEADLINE_EXCEEDED", DeadlineExceeded, 504;

    /// No adapter of the model's group can be reached.
    AdapterUnavailable = "ADAPTER_UNAVAILABLE", Unavailable, 503;
    /// The gateway cannot be reached.
    GatewayUnavailable = "GATEWAY_UNAVAILABLE", Unavailable, 503;
    /// The instance cannot be reached.
    InstanceUnavailable = "INSTANCE_UNAVAILABLE", Unavailable, 503;
    /// The database cannot be used.
    StoreUnavailable = "STORE_UNAVAILABLE", Unavailable, 503;
    /// The process is stopping.
    Draining = "DRAINING", Unavailable, 503;
    /// The caller went away, or a newer request took this one's place.
    Cancelled = "CANCELLED", Cancelled, 499;
    /// The caller did not read its answer.
    CallerStalled = "CALLER_STALLED", Cancelled, 499;
    /// A fault of ours.
    Internal = "INTERNAL", Internal, 500;
}

impl Reason {
    /// The reason of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_are_unique() {
        for reason in Reason::ALL {
            assert_eq!(Reason::from_name(reason.name()), Some(*reason));
        }
    }

    #[test]
    fn http_and_grpc_agree_on_whose_fault_it_is() {
        for reason in Reason::ALL {
            let client_code = matches!(
                reason.code(),
                Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument | Code::NotFound
            );
            assert!(!client_code || (400..500).contains(&reason.http_status()), "{}", reason.name());
        }
    }

    #[test]
    fn every_reason_that_a_comment_names_exists() {
        let comments = [
            include_str!("../postern/model/v1/model_service.proto"),
            include_str!("../postern/gateway/v1/completion_service.proto"),
            include_str!("../postern/instance/v1/token_service.proto"),
            include_str!("../postern/instance/v1/trust_service.proto"),
            include_str!("../postern/instance/v1/key_service.proto"),
            include_str!("../postern/instance/v1/audit_service.proto"),
            include_str!("../postern/instance/v1/principal_service.proto"),
            include_str!("../postern/instance/v1/fleet_service.proto"),
            include_str!("../postern/instance/v1/model_registry_service.proto"),
            include_str!("../postern/instance/v1/feature_service.proto"),
            include_str!("../postern/instance/v1/prompt_service.proto"),
            include_str!("../postern/gateway/v1/explain_service.proto"),
            include_str!("../postern/instance/v1/config_service.proto"),
        ];
        let mut rpcs = 0;
        for text in comments {
            let mut said = String::new();
            for line in text.lines().map(str::trim) {
                if let Some(comment) = line.strip_prefix("//") {
                    said.push_str(comment);
                } else {
                    if line.starts_with("rpc ") {
                        rpcs += 1;
                        assert!(said.contains("Callers:"), "no callers: {line}");
                        let (_, reasons) = said.split_once("Reasons:").unwrap_or_default();
                        let words = reasons.split(|c: char| !(c.is_ascii_uppercase() || c == '_'));
                        let named: Vec<_> = words.filter(|w| w.contains('_') || *w == "DRAINING").collect();
                        assert!(!reasons.is_empty(), "no reasons: {line}");
                        for name in named {
                            assert!(Reason::from_name(name).is_some(), "{name}: {line}");
                        }
                    }
                    said.clear();
                }
            }
        }
        assert!(rpcs > 25, "{rpcs}");
    }
}
