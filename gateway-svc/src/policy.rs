//! Who may call each gRPC method that the gateway serves.

use std::sync::Arc;

use http::request;
use postern_proto::{Failure, Reason};
use postern_runtime::guard::Admit;
use postern_runtime::policy::{Access, PolicyTable, Row};
use postern_token::Verified;

use crate::doors::grpc::caller;
use crate::pipeline::Pipeline;

/// The table. A method that is not here is refused. The gateway knows no roles: its pipeline judges tokens by scope.
pub const TABLE: PolicyTable<std::convert::Infallible> = PolicyTable(&[
    Row { method: "/postern.gateway.v1.CompletionService/Chat", access: Access::Pipeline },
    Row { method: "/postern.gateway.v1.CompletionService/StreamChat", access: Access::Pipeline },
    Row { method: "/postern.gateway.v1.CompletionService/CompleteCode", access: Access::Pipeline },
    Row { method: "/postern.gateway.v1.CompletionService/StreamCompleteCode", access: Access::Pipeline },
    Row { method: "/postern.gateway.v1.CompletionService/RunPrompt", access: Access::Pipeline },
    Row { method: "/postern.gateway.v1.CompletionService/StreamRunPrompt", access: Access::Pipeline },
    Row { method: "/postern.gateway.v1.CompletionService/Embed", access: Access::Pipeline },
    Row { method: "/postern.gateway.v1.CompletionService/ListModels", access: Access::Pipeline },
    Row { method: "/postern.gateway.v1.ExplainService/ExplainRequest", access: Access::Pipeline },
    // Orchestrators carry no credential.
    Row { method: "/grpc.health.v1.Health/Check", access: Access::Open },
    Row { method: "/grpc.health.v1.Health/List", access: Access::Open },
    Row { method: "/grpc.health.v1.Health/Watch", access: Access::Open },
]);

/// Lets in what the table knows. Who calls is found out here, from the head, so that nobody unknown can make the gateway take in a
/// message; the pipeline does the rest.
pub struct GatewayGuard(pub Pipeline);

/// The caller that the guard found, as an extension of the request.
#[derive(Clone)]
pub struct Identified(pub Arc<Verified>);

#[tonic::async_trait]
impl Admit for GatewayGuard {
    async fn admit(&self, head: &mut request::Parts) -> Result<(), Failure> {
        match TABLE.access(head.uri.path()) {
            Some(Access::Open) => Ok(()),
            Some(Access::Pipeline) => {
                let headers = std::mem::take(&mut head.headers);
                let identified = self.0.identify(&caller(&headers, &head.extensions)).await;
                head.headers = headers;
                head.extensions.insert(Identified(identified?));
                Ok(())
            }
            Some(Access::Roles(_)) | None => {
                Err(Failure::new(Reason::Unimplemented, "the gateway does not offer this method"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_that_is_served_has_a_row() {
        let served = postern_proto::methods(|service| {
            service.starts_with("postern.gateway.v1.") || service == "grpc.health.v1.Health"
        });
        assert!(served.len() > 7);
        assert_eq!(TABLE.differences(&served), Vec::<String>::new());
    }
}
