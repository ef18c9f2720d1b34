//! `postern.instance.v1.PrincipalService`.

use std::sync::Arc;
use std::time::Duration;

use postern_proto::Failure;
use postern_proto::instance::v1 as pb;
use postern_proto::instance::v1::principal_service_server::PrincipalService;
use postern_proto::instance::v1::proof::Proof as Told;
use postern_runtime::grpc::refuse;
use postern_token::PublicKey;
use tonic::{Request, Response, Status};

use super::{acted, millis, timestamp};
use crate::directory::{Directory, NewCredential, PEOPLE};
use crate::federation::{Federation, IssuerSpec, Keys};
use crate::store::{CredentialRecord, FederatedIssuerRecord, Kind, PrincipalRecord, Proof, Purpose, Role};

/// The door.
pub struct PrincipalDoor {
    /// The domain behind it.
    pub directory: Arc<Directory>,
    /// Who vouches for some of them.
    pub federation: Federation,
}

fn principal(record: PrincipalRecord) -> pb::Principal {
    let kind = match record.kind {
        Kind::Service => pb::PrincipalKind::Service,
        Kind::User | Kind::Gateway | Kind::ManagedGateway | Kind::Adapter | Kind::Instance => pb::PrincipalKind::User,
    };
    let role = |role: &Role| match role {
        Role::Admin => Some(pb::Role::Admin as i32),
        Role::ModelManager => Some(pb::Role::ModelManager as i32),
        Role::Auditor => Some(pb::Role::Auditor as i32),
        Role::Gateway | Role::Adapter | Role::Instance => None,
    };
    pb::Principal {
        id: record.id,
        name: record.name,
        kind: kind as i32,
        roles: record.roles.iter().filter_map(role).collect(),
        groups: record.groups,
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
        proof: told(record.proof),
    }
}

/// A proof as it may be told: nothing of a secret.
fn told(proof: Proof) -> Option<pb::Proof> {
    let proof = match proof {
        Proof::Secret { mac: _ } => return None,
        Proof::PublicKey { jwk, thumbprint: _ } => Told::PublicKey(pb::proof::PublicKey { jwk_json: jwk }),
        Proof::Certificate { name } => Told::Certificate(pb::proof::Certificate { name }),
        Proof::Federated { issuer, claims } => {
            Told::Federated(pb::proof::Federated { issuer, claims: claims.into_iter().collect() })
        }
    };
    Some(pb::Proof { proof: Some(proof) })
}

/// A proof as an administrator asks for it.
///
/// # Errors
/// REQUEST_INVALID names the field.
pub(super) fn proof(given: Option<pb::Proof>) -> Result<Option<Proof>, Failure> {
    let Some(pb::Proof { proof }) = given else { return Ok(None) };
    match proof.ok_or_else(|| Failure::field("proof", "is empty"))? {
        Told::PublicKey(pb::proof::PublicKey { jwk_json }) => {
            let field = |problem: &dyn ToString| Failure::field("proof.public_key.jwk_json", problem.to_string());
            if jwk_json.len() > MOST_JWK_BYTES {
                return Err(field(&"is too long for a key"));
            }
            let key = PublicKey::foreign(jwk_json.as_bytes()).map_err(|error| field(&error))?;
            // As it was read, without whatever else stood there.
            let jwk = key.jwk_json();
            let read = serde_json::from_str(&jwk).map_err(|error| field(&error))?;
            let thumbprint = postern_token::thumbprint(&read).map_err(|error| field(&error))?;
            Ok(Some(Proof::PublicKey { jwk, thumbprint }))
        }
        Told::Certificate(pb::proof::Certificate { name }) => {
            let good = (1..=255).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic());
            if !good || name.contains('*') {
                return Err(Failure::field("proof.certificate.name", "must be one URI or DNS name"));
            }
            Ok(Some(Proof::Certificate { name }))
        }
        Told::Federated(pb::proof::Federated { issuer, claims }) => {
            let good = |text: &str| (1..=255).contains(&text.len()) && !postern_token::has_control(text);
            let choosing = |claim: &str| good(claim) && !matches!(claim, "iss" | "aud");
            if !good(&issuer) {
                return Err(Failure::field("proof.federated.issuer", "must be 1 to 255 characters"));
            }
            if !(1..=16).contains(&claims.len()) || !claims.iter().all(|(claim, text)| choosing(claim) && good(text)) {
                let problem = "must be 1 to 16 claims other than `iss` and `aud`, each with a text";
                return Err(Failure::field("proof.federated.claims", problem));
            }
            Ok(Some(Proof::Federated { issuer, claims: claims.into_iter().collect() }))
        }
    }
}

/// A key of 4096 bits with room.
const MOST_JWK_BYTES: usize = 4096;

fn issuer((record, spec, known_keys): (FederatedIssuerRecord, IssuerSpec, usize)) -> pb::FederatedIssuer {
    use pb::federated_issuer::{Discovery, Keys as Wire};
    let keys = match spec.keys {
        Keys::Discovery => Wire::Discovery(Discovery {}),
        Keys::Url(url) => Wire::JwksUrl(url),
        Keys::Here(jwks) => Wire::JwksJson(jwks),
    };
    pb::FederatedIssuer {
        issuer: record.issuer,
        audience: spec.audience,
        keys: Some(keys),
        key_networks: spec.key_networks.iter().map(ToString::to_string).collect(),
        max_lifetime: prost_types::Duration::try_from(Duration::from_secs(spec.max_lifetime)).ok(),
        known_keys: u32::try_from(known_keys).unwrap_or(u32::MAX),
        create_time: timestamp(record.created_at),
    }
}

fn new_issuer(given: Option<pb::FederatedIssuer>) -> Result<(String, IssuerSpec), Failure> {
    use pb::federated_issuer::{Discovery, Keys as Wire};
    let given = given.ok_or_else(|| Failure::field("issuer", "is missing"))?;
    let pb::FederatedIssuer { issuer, audience, keys, key_networks, max_lifetime, known_keys: _, create_time: _ } =
        given;
    let keys = match keys {
        Some(Wire::Discovery(Discovery {})) => Keys::Discovery,
        Some(Wire::JwksUrl(url)) => Keys::Url(url),
        Some(Wire::JwksJson(jwks)) => Keys::Here(jwks),
        None => return Err(Failure::field("issuer.keys", "say where the issuer's keys are")),
    };
    let max_lifetime = match max_lifetime.map(Duration::try_from) {
        None => 3600,
        Some(Ok(given)) if (1..=86_400).contains(&given.as_secs()) => given.as_secs(),
        Some(_) => return Err(Failure::field("issuer.max_lifetime", "must be 1 to 86400 seconds")),
    };
    let key_networks = crate::model::networks("issuer.key_networks", &key_networks)?;
    Ok((issuer, IssuerSpec { audience, keys, key_networks, max_lifetime }))
}

fn role(role: i32) -> Result<Role, Failure> {
    match pb::Role::try_from(role) {
        Ok(pb::Role::Admin) => Ok(Role::Admin),
        Ok(pb::Role::ModelManager) => Ok(Role::ModelManager),
        Ok(pb::Role::Auditor) => Ok(Role::Auditor),
        _ => Err(Failure::field("roles", "must be admin, model manager or auditor")),
    }
}

fn new_principal(request: pb::CreatePrincipalRequest) -> Result<(String, Kind, Vec<Role>, Vec<String>), Failure> {
    let pb::CreatePrincipalRequest { name, kind, roles, groups } = request;
    let kind = match pb::PrincipalKind::try_from(kind) {
        Ok(pb::PrincipalKind::User) => Kind::User,
        Ok(pb::PrincipalKind::Service) => Kind::Service,
        _ => return Err(Failure::field("kind", "must be user or service")),
    };
    Ok((name, kind, roles.into_iter().map(role).collect::<Result<_, _>>()?, groups))
}

#[tonic::async_trait]
impl PrincipalService for PrincipalDoor {
    async fn create_principal(
        &self,
        request: Request<pb::CreatePrincipalRequest>,
    ) -> Result<Response<pb::CreatePrincipalResponse>, Status> {
        let (name, kind, roles, groups) = new_principal(request.into_inner()).map_err(refuse)?;
        let record = self.directory.add_person(name, kind, roles, groups).await.map_err(refuse)?;
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

    async fn update_principal(
        &self,
        request: Request<pb::UpdatePrincipalRequest>,
    ) -> Result<Response<pb::UpdatePrincipalResponse>, Status> {
        let pb::UpdatePrincipalRequest { name, roles, groups } = request.into_inner();
        let roles: Vec<Role> = roles.into_iter().map(role).collect::<Result<_, _>>().map_err(refuse)?;
        let record = self.directory.update(&name, &roles, groups).await.map_err(refuse)?;
        tracing::info!(principal.name = record.name, principal.groups = record.groups.join(" "), "principal changed");
        let on = format!("{} to {:?} in {}", record.name, record.roles, record.groups.join(" "));
        Ok(acted(on, pb::UpdatePrincipalResponse { principal: Some(principal(record)) }))
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
        let request = request.into_inner();
        let pb::CreateCredentialRequest { principal, purpose, label, expire_time, networks, proof: given } = request;
        let purpose = match pb::CredentialPurpose::try_from(purpose) {
            Ok(pb::CredentialPurpose::Inference) => Purpose::Inference,
            Ok(pb::CredentialPurpose::Administration) => Purpose::Administration,
            _ => return Err(refuse(Failure::field("purpose", "must be inference or administration"))),
        };
        let networks = crate::model::networks("networks", &networks).map_err(refuse)?;
        let (expires_at, proof) = (expire_time.map(millis), proof(given).map_err(refuse)?);
        let new = NewCredential { purpose, label, expires_at, networks, proof };
        let (record, secret) = self.directory.add_credential(&principal, new).await.map_err(refuse)?;
        tracing::info!(principal.name = principal, credential.id = record.id, "credential added");
        let secret = secret.map(|secret| secret.expose().to_owned()).unwrap_or_default();
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

    async fn create_federated_issuer(
        &self,
        request: Request<pb::CreateFederatedIssuerRequest>,
    ) -> Result<Response<pb::CreateFederatedIssuerResponse>, Status> {
        let (name, spec) = new_issuer(request.into_inner().issuer).map_err(refuse)?;
        let record = self.federation.add(name, spec.clone()).await.map_err(refuse)?;
        tracing::info!(issuer = record.issuer, "federated issuer added");
        let on = record.issuer.clone();
        Ok(acted(on, pb::CreateFederatedIssuerResponse { issuer: Some(issuer((record, spec, 0))) }))
    }

    async fn list_federated_issuers(
        &self,
        _: Request<pb::ListFederatedIssuersRequest>,
    ) -> Result<Response<pb::ListFederatedIssuersResponse>, Status> {
        let issuers = self.federation.list().await.map_err(refuse)?;
        Ok(Response::new(pb::ListFederatedIssuersResponse { issuers: issuers.into_iter().map(issuer).collect() }))
    }

    async fn delete_federated_issuer(
        &self,
        request: Request<pb::DeleteFederatedIssuerRequest>,
    ) -> Result<Response<pb::DeleteFederatedIssuerResponse>, Status> {
        let name = request.into_inner().issuer;
        self.federation.remove(&name).await.map_err(refuse)?;
        tracing::info!(issuer = name, "federated issuer removed");
        Ok(acted(name, pb::DeleteFederatedIssuerResponse {}))
    }
}
