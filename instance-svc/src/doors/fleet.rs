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
use crate::store::{Kind, PrincipalRecord};

/// The door.
pub struct FleetDoor {
    /// The domain behind it.
    pub directory: Arc<Directory>,
    /// Who is connected.
    pub fleet: Fleet,
    /// The public half of the trust root, which new members pin.
    pub trust_root: String,
}

impl FleetDoor {
    fn member(&self, record: PrincipalRecord) -> pb::FleetMember {
        let kind = match record.kind {
            Kind::Gateway => pb::fleet_member::Kind::Gateway(pb::fleet_member::Gateway {
                audience: record.audience.unwrap_or_default(),
                address: record.address.unwrap_or_default(),
            }),
            _ => pb::fleet_member::Kind::Adapter(pb::fleet_member::Adapter {
                group: record.adapter_group.unwrap_or_default(),
            }),
        };
        pb::FleetMember {
            connected_replicas: self.fleet.replicas(&record.id),
            id: record.id,
            name: record.name,
            kind: Some(kind),
            create_time: timestamp(record.created_at),
        }
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
            Some(pb::create_fleet_member_request::Kind::Gateway(pb::fleet_member::Gateway { audience, address })) => {
                NewMember::Gateway { audience, address }
            }
            Some(pb::create_fleet_member_request::Kind::Adapter(pb::fleet_member::Adapter { group })) => {
                NewMember::Adapter { group }
            }
            None => return Err(refuse(Failure::field("kind", "must be gateway or adapter"))),
        };
        let proof = super::principals::proof(proof).map_err(refuse)?;
        let (record, secret) = self.directory.add_member(name, member, proof).await.map_err(refuse)?;
        tracing::info!(fleet.member = record.name, "fleet member added");
        let credential = secret.map(|secret| secret.expose().to_owned()).unwrap_or_default();
        Ok(acted(
            record.name.clone(),
            pb::CreateFleetMemberResponse {
                member: Some(self.member(record)),
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
        let members = records.into_iter().map(|record| self.member(record)).collect();
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
