//! Who may call each method that the instance serves.

use postern_runtime::policy::{Access, PolicyTable, Row};

use crate::store::Role;

const ADMIN: Access<Role> = Access::Roles(&[Role::Admin]);
const MANAGER: Access<Role> = Access::Roles(&[Role::Admin, Role::ModelManager]);
const FLEET: Access<Role> = Access::Roles(&[Role::Gateway, Role::Adapter]);

const fn row(method: &'static str, access: Access<Role>) -> Row<Role> {
    Row { method, access }
}

/// The table. A method that is not here is refused.
pub const TABLE: PolicyTable<Role> = PolicyTable(&[
    // The credential in the message is the authentication.
    row("/postern.instance.v1.TokenService/ExchangeToken", Access::Open),
    row(
        "/postern.instance.v1.TokenService/IntrospectToken",
        Access::Roles(&[Role::Admin, Role::Auditor, Role::Gateway]),
    ),
    // The token or credential in the message is the authentication.
    row("/postern.instance.v1.TokenService/RevokeToken", Access::Open),
    row("/postern.instance.v1.TokenService/RevokeSubject", ADMIN),
    row("/postern.instance.v1.AuditService/ListAuditEvents", Access::Roles(&[Role::Admin, Role::Auditor])),
    row("/postern.instance.v1.AuditService/VerifyAuditLog", Access::Roles(&[Role::Admin, Role::Auditor])),
    row("/postern.instance.v1.KeyService/ListKeys", Access::Roles(&[Role::Admin, Role::Auditor])),
    row("/postern.instance.v1.KeyService/RotateKeys", ADMIN),
    row("/postern.instance.v1.KeyService/RevokeKey", ADMIN),
    row("/postern.instance.v1.KeyService/RewrapSecrets", ADMIN),
    // Public keys are public.
    row("/postern.instance.v1.TrustService/GetJwks", Access::Open),
    row("/postern.instance.v1.TrustService/WatchTrust", FLEET),
    row("/postern.instance.v1.TrustService/PublishTrust", Access::Roles(&[Role::Instance])),
    row("/postern.instance.v1.PrincipalService/CreatePrincipal", ADMIN),
    row("/postern.instance.v1.PrincipalService/ListPrincipals", ADMIN),
    row("/postern.instance.v1.PrincipalService/UpdatePrincipal", ADMIN),
    row("/postern.instance.v1.PrincipalService/DeletePrincipal", ADMIN),
    row("/postern.instance.v1.PrincipalService/CreateCredential", ADMIN),
    row("/postern.instance.v1.PrincipalService/ListCredentials", ADMIN),
    row("/postern.instance.v1.PrincipalService/RevokeCredential", ADMIN),
    row("/postern.instance.v1.PrincipalService/CreateFederatedIssuer", ADMIN),
    row("/postern.instance.v1.PrincipalService/ListFederatedIssuers", ADMIN),
    row("/postern.instance.v1.PrincipalService/DeleteFederatedIssuer", ADMIN),
    row("/postern.instance.v1.FleetService/CreateFleetMember", ADMIN),
    row("/postern.instance.v1.FleetService/ListFleetMembers", MANAGER),
    row("/postern.instance.v1.FleetService/DeleteFleetMember", ADMIN),
    row("/postern.instance.v1.ModelRegistryService/CreateModel", MANAGER),
    row("/postern.instance.v1.ModelRegistryService/GetModel", MANAGER),
    row("/postern.instance.v1.ModelRegistryService/ListModels", MANAGER),
    row("/postern.instance.v1.ModelRegistryService/UpdateModel", MANAGER),
    row("/postern.instance.v1.ModelRegistryService/DeleteModel", MANAGER),
    row("/postern.instance.v1.ModelRegistryService/CheckModel", MANAGER),
    row("/postern.instance.v1.FeatureService/BindFeature", MANAGER),
    row("/postern.instance.v1.FeatureService/UnbindFeature", MANAGER),
    row("/postern.instance.v1.FeatureService/ListFeatures", MANAGER),
    row("/postern.instance.v1.FeatureService/LintFeatures", MANAGER),
    row("/postern.instance.v1.PromptService/PutPrompt", MANAGER),
    row("/postern.instance.v1.PromptService/ListPrompts", MANAGER),
    row("/postern.instance.v1.PromptService/RemovePrompt", MANAGER),
    row("/postern.instance.v1.ConfigService/WatchRoutes", Access::Roles(&[Role::Gateway])),
    row("/postern.instance.v1.ConfigService/ConnectAdapter", Access::Roles(&[Role::Adapter])),
    // The relay: the gateway judges the token, or the exchange judges the credential.
    row("/postern.gateway.v1.CompletionService/Chat", Access::Pipeline),
    row("/postern.gateway.v1.CompletionService/StreamChat", Access::Pipeline),
    row("/postern.gateway.v1.CompletionService/CompleteCode", Access::Pipeline),
    row("/postern.gateway.v1.CompletionService/StreamCompleteCode", Access::Pipeline),
    row("/postern.gateway.v1.CompletionService/RunPrompt", Access::Pipeline),
    row("/postern.gateway.v1.CompletionService/StreamRunPrompt", Access::Pipeline),
    row("/postern.gateway.v1.CompletionService/Embed", Access::Pipeline),
    row("/postern.gateway.v1.CompletionService/ListModels", Access::Pipeline),
    // About anybody.
    row("/postern.gateway.v1.ExplainService/ExplainRequest", ADMIN),
    // Orchestrators carry no credential.
    row("/grpc.health.v1.Health/Check", Access::Open),
    row("/grpc.health.v1.Health/List", Access::Open),
    row("/grpc.health.v1.Health/Watch", Access::Open),
]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_that_is_served_has_a_row() {
        let served = postern_proto::methods(|service| {
            service.starts_with("postern.instance.v1.")
                || service.starts_with("postern.gateway.v1.")
                || service == "grpc.health.v1.Health"
        });
        assert!(served.len() > 25);
        assert_eq!(TABLE.differences(&served), Vec::<String>::new());
    }
}
