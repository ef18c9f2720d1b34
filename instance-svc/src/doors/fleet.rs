//! `postern.instance.v1.FleetService`.

use std::sync::Arc;

use postern_proto::Failure;
use postern_proto::instance::v1 as pb;
use postern_proto::instance::v1::fleet_service_server::FleetService;
use postern_runtime::grpc::refuse;
use tonic::{Request, Response, Status};

use super::{acted, timestamp};
use crate::directory::{Directory, FLEET, NewMember};
use crate::fleet::Fleet;
use crate::partners::{Entitlement, Partners};
use crate::store::{Kind, PrincipalRecord};

/// The door.
pub struct FleetDoor {
    /// The domain behind it.
    pub directory: Arc<Directory>,
    /// Who is connected.
    pub fleet: Fleet,
    /// The public half of the trust root, which new members pin.
    pub trust_root: String,
    /// The other instances.
    pub partners: Partners,
    /// The issuer URL of this one.
    pub own_issuer: String,
}

impl FleetDoor {
    async fn member(&self, record: PrincipalRecord) -> Result<pb::FleetMember, Failure> {
        let kind = match record.kind {
            Kind::Instance => {
                let issuer = self.partners.of(&record.id).await?.unwrap_or_default();
                pb::fleet_member::Kind::Instance(pb::fleet_member::Instance {
                    known_keys: u32::try_from(issuer.jwk_json.len()).unwrap_or(u32::MAX),
                    issuer: issuer.issuer,
                    instance_id: issuer.instance_id,
                    scopes: issuer.scopes,
                    groups: issuer.groups,
                    client_networks: issuer.client_networks,
                    max_lifetime: issuer.max_lifetime,
                    jwks_json: String::new(),
                })
            }
            kind @ (Kind::Gateway | Kind::ManagedGateway) => {
                pb::fleet_member::Kind::Gateway(pb::fleet_member::Gateway {
                    managed: kind == Kind::ManagedGateway,
                    audience: record.audience.unwrap_or_default(),
                    address: record.address.unwrap_or_default(),
                })
            }
            _ => pb::fleet_member::Kind::Adapter(pb::fleet_member::Adapter {
                group: record.adapter_group.unwrap_or_default(),
            }),
        };
        Ok(pb::FleetMember {
            connected_replicas: self.fleet.replicas(&record.id),
            id: record.id,
            name: record.name,
            kind: Some(kind),
            create_time: timestamp(record.created_at),
        })
    }
}

#[tonic::async_trait]
impl FleetService for FleetDoor {
    async fn create_fleet_member(
        &self,
        request: Request<pb::CreateFleetMemberRequest>,
    ) -> Result<Response<pb::CreateFleetMemberResponse>, Status> {
        let pb::CreateFleetMemberRequest { name, kind, proof } = request.into_inner();
        let member = match kind {
            Some(pb::create_fleet_member_request::Kind::Gateway(gateway)) => {
                let pb::fleet_member::Gateway { audience, address, managed } = gateway;
                NewMember::Gateway { audience, address, managed }
            }
            Some(pb::create_fleet_member_request::Kind::Adapter(pb::fleet_member::Adapter { group })) => {
                NewMember::Adapter { group }
            }
            Some(pb::create_fleet_member_request::Kind::Instance(instance)) => {
                NewMember::Instance(Entitlement::check(instance, &self.own_issuer).map_err(refuse)?)
            }
            None => return Err(refuse(Failure::field("kind", "must be gateway, adapter or instance"))),
        };
        let proof = super::principals::proof(proof).map_err(refuse)?;
        let (record, secret) = self.directory.add_member(name, member, proof).await.map_err(refuse)?;
        tracing::info!(fleet.member = record.name, "fleet member added");
        let credential = secret.map(|secret| secret.expose().to_owned()).unwrap_or_default();
        Ok(acted(
            record.name.clone(),
            pb::CreateFleetMemberResponse {
                member: Some(self.member(record).await.map_err(refuse)?),
                credential,
                trust_root: self.trust_root.clone(),
            },
        ))
    }

    async fn list_fleet_members(
        &self,
        _: Request<pb::ListFleetMembersRequest>,
    ) -> Result<Response<pb::ListFleetMembersResponse>, Status> {
        let records = self.directory.list(FLEET).await.map_err(refuse)?;
        let mut members = Vec::new();
        for record in records {
            members.push(self.member(record).await.map_err(refuse)?);
        }
        Ok(Response::new(pb::ListFleetMembersResponse { members }))
    }

    async fn delete_fleet_member(
        &self,
        request: Request<pb::DeleteFleetMemberRequest>,
    ) -> Result<Response<pb::DeleteFleetMemberResponse>, Status> {
        let name = request.into_inner().name;
        self.directory.remove(&name, FLEET).await.map_err(refuse)?;
        tracing::info!(fleet.member = name, "fleet member removed");
        Ok(acted(name, pb::DeleteFleetMemberResponse {}))
    }
}
