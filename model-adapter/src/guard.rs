//! Stands before the network door: only gateways, by an access token that the instance gives to nobody else.

use http::request;
use postern_proto::{Failure, Reason};
use postern_runtime::Verifier;
use postern_runtime::auth;
use postern_runtime::guard::Admit;
use postern_runtime::instance::GENERATE_SCOPE;
use postern_runtime::peer::certificate_of;
use postern_runtime::policy::{Access, PolicyTable, Row};

/// Who may call each method. A method that is not here is refused.
pub const TABLE: PolicyTable<&str> = PolicyTable(&[
    Row { method: "/postern.model.v1.ModelService/StreamGenerate", access: Access::Roles(&[GENERATE_SCOPE]) },
    Row { method: "/postern.model.v1.ModelService/Generate", access: Access::Roles(&[GENERATE_SCOPE]) },
    Row { method: "/postern.model.v1.ModelService/Embed", access: Access::Roles(&[GENERATE_SCOPE]) },
    Row { method: "/postern.model.v1.ModelService/CountTokens", access: Access::Roles(&[GENERATE_SCOPE]) },
    // Orchestrators carry no credential.
    Row { method: "/grpc.health.v1.Health/Check", access: Access::Open },
    Row { method: "/grpc.health.v1.Health/List", access: Access::Open },
    Row { method: "/grpc.health.v1.Health/Watch", access: Access::Open },
]);

/// Believes tokens of its verifier.
pub struct AdapterGuard {
    /// The instance's keys.
    pub verifier: Verifier,
}

#[tonic::async_trait]
impl Admit for AdapterGuard {
    async fn admit(&self, head: &mut request::Parts) -> Result<(), Failure> {
        let scopes = match TABLE.access(head.uri.path()) {
            None => return Err(Failure::new(Reason::Unimplemented, "the adapter does not offer this method")),
            Some(Access::Open) => return Ok(()),
            Some(Access::Pipeline) => &[],
            Some(Access::Roles(scopes)) => *scopes,
        };
        let verified = self.verifier.verify(auth::bearer(&head.headers)?, certificate_of(&head.extensions))?;
        if !scopes.iter().any(|scope| verified.allows(scope)) {
            return Err(Failure::new(Reason::RoleMissing, "only gateways may call an adapter"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_that_is_served_has_a_row() {
        let served = postern_proto::methods(|service| {
            service == "postern.model.v1.ModelService" || service == "grpc.health.v1.Health"
        });
        assert!(served.len() > 4);
        assert_eq!(TABLE.differences(&served), Vec::<String>::new());
    }
}
