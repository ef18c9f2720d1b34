//! `postern.instance.v1.PrincipalService`.

use std::sync::Arc;

use postern_proto::Failure;
use postern_proto::instance::v1 as pb;
use postern_proto::instance::v1::principal_service_server::PrincipalService;
use postern_runtime::grpc::refuse;
use tonic::{Request, Response, Status};

use super::{acted, millis, timestamp};
use crate::directory::{Directory, PEOPLE};
use crate::store::{CredentialRecord, Kind, PrincipalRecord, Purpose, Role};

/// The door.
pub struct PrincipalDoor {
    /// The domain behind it.
    pub directory: Arc<Directory>,
}

fn principal(record: PrincipalRecord) -> pb::Principal {
    let kind = match record.kind {
        Kind::Service => pb::PrincipalKind::Service,
        Kind::User | Kind::Gateway | Kind::Adapter => pb::PrincipalKind::User,
    };
    let role = |role: &Role| match role {
        Role::Admin => Some(pb::Role::Admin as i32),
        Role::ModelManager => Some(pb::Role::ModelManager as i32),
        Role::Auditor => Some(pb::Role::Auditor as i32),
        Role::Gateway | Role::Adapter => None,
    };
    pb::Principal {
        id: record.id,
        name: record.name,
        kind: kind as i32,
        roles: record.roles.iter().filter_map(role).collect(),
        create_time: timestamp(record.created_at),
    }
}

fn credential(record: CredentialRecord) -> pb::Credential {
    let purpose = match record.purpose {
        Purpose::Administration => pb::CredentialPurpose::Administration,
        Purpose::Inference | Purpose::Fleet => pb::CredentialPurpose::Inference,
    };
    pb::Credential {
        id: record.id,
        purpose: purpose as i32,
        label: record.label,
        create_time: timestamp(record.created_at),
        expire_time: record.expires_at.and_then(timestamp),
        revoke_time: record.revoked_at.and_then(timestamp),
        last_use_time: record.last_used_at.and_then(timestamp),
        networks: record.networks.iter().map(ToString::to_string).collect(),
    }
}

fn new_principal(request: pb::CreatePrincipalRequest) -> Result<(String, Kind, Vec<Role>), Failure> {
    let pb::CreatePrincipalRequest { name, kind, roles } = request;
    let kind = match pb::PrincipalKind::try_from(kind) {
        Ok(pb::PrincipalKind::User) => Kind::User,
        Ok(pb::PrincipalKind::Service) => Kind::Service,
        _ => return Err(Failure::field("kind", "must be user or service")),
    };
    let role = |role: i32| match pb::Role::try_from(role) {
        Ok(pb::Role::Admin) => Ok(Role::Admin),
        Ok(pb::Role::ModelManager) => Ok(Role::ModelManager),
        Ok(pb::Role::Auditor) => Ok(Role::Auditor),
        _ => Err(Failure::field("roles", "must be admin, model manager or auditor")),
    };
    Ok((name, kind, roles.into_iter().map(role).collect::<Result<_, _>>()?))
}

#[tonic::async_trait]
impl PrincipalService for PrincipalDoor {
    async fn create_principal(
        &self,
        request: Request<pb::CreatePrincipalRequest>,
    ) -> Result<Response<pb::CreatePrincipalResponse>, Status> {
        let (name, kind, roles) = new_principal(request.into_inner()).map_err(refuse)?;
        let record = self.directory.add_person(name, kind, roles).await.map_err(refuse)?;
        tracing::info!(principal.name = record.name, principal.id = record.id, "principal added");
        Ok(acted(record.name.clone(), pb::CreatePrincipalResponse { principal: Some(principal(record)) }))
    }

    async fn list_principals(
        &self,
        _: Request<pb::ListPrincipalsRequest>,
    ) -> Result<Response<pb::ListPrincipalsResponse>, Status> {
        let records = self.directory.list(PEOPLE).await.map_err(refuse)?;
        let principals = records.into_iter().map(principal).collect();
        Ok(Response::new(pb::ListPrincipalsResponse { principals }))
    }

    async fn delete_principal(
        &self,
        request: Request<pb::DeletePrincipalRequest>,
    ) -> Result<Response<pb::DeletePrincipalResponse>, Status> {
        let name = request.into_inner().name;
        self.directory.remove(&name, PEOPLE).await.map_err(refuse)?;
        tracing::info!(principal.name = name, "principal removed");
        Ok(acted(name, pb::DeletePrincipalResponse {}))
    }

    async fn create_credential(
        &self,
        request: Request<pb::CreateCredentialRequest>,
    ) -> Result<Response<pb::CreateCredentialResponse>, Status> {
        let pb::CreateCredentialRequest { principal, purpose, label, expire_time, networks } = request.into_inner();
        let purpose = match pb::CredentialPurpose::try_from(purpose) {
            Ok(pb::CredentialPurpose::Inference) => Purpose::Inference,
            Ok(pb::CredentialPurpose::Administration) => Purpose::Administration,
            _ => return Err(refuse(Failure::field("purpose", "must be inference or administration"))),
        };
        let networks = crate::model::networks("networks", &networks).map_err(refuse)?;
        let end = expire_time.map(millis);
        let made = self.directory.add_credential(&principal, purpose, &label, end, &networks).await;
        let (record, secret) = made.map_err(refuse)?;
        tracing::info!(principal.name = principal, credential.id = record.id, "credential added");
        let secret = secret.expose().to_owned();
        let on = format!("{} of {}", record.id, record.principal_id);
        Ok(acted(on, pb::CreateCredentialResponse { credential: Some(credential(record)), secret }))
    }

    async fn list_credentials(
        &self,
        request: Request<pb::ListCredentialsRequest>,
    ) -> Result<Response<pb::ListCredentialsResponse>, Status> {
        let records = self.directory.credentials(&request.into_inner().principal).await.map_err(refuse)?;
        let credentials = records.into_iter().map(credential).collect();
        Ok(Response::new(pb::ListCredentialsResponse { credentials }))
    }

    async fn revoke_credential(
        &self,
        request: Request<pb::RevokeCredentialRequest>,
    ) -> Result<Response<pb::RevokeCredentialResponse>, Status> {
        let id = request.into_inner().id;
        self.directory.revoke_credential(&id).await.map_err(refuse)?;
        tracing::info!(credential.id = id, "credential revoked");
        Ok(acted(id, pb::RevokeCredentialResponse {}))
    }
}
