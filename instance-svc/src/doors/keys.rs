//! `postern.instance.v1.KeyService`.

use std::sync::Arc;

use postern_proto::Failure;
use postern_proto::instance::v1 as pb;
use postern_proto::instance::v1::key_service_server::KeyService;
use postern_runtime::grpc::refuse;
use postern_token::PublicKey;
use tonic::{Request, Response, Status};

use super::{acted, timestamp};
use crate::rewrap::{Rewrap, Rewrapped};
use crate::rotation::Rotation;
use crate::store::{KeyRecord, KeyState, Store};

/// The door.
pub struct KeyDoor {
    /// The schedule.
    pub rotation: Arc<Rotation>,
    /// The keys and leases.
    pub store: Arc<dyn Store>,
    /// Seals anew.
    pub rewrap: Rewrap,
}

fn key(record: KeyRecord) -> pb::SigningKey {
    let state = match record.state {
        KeyState::Pending => pb::KeyState::Pending,
        KeyState::Active => pb::KeyState::Active,
        KeyState::Retired => pb::KeyState::Retired,
    };
    let algorithm = PublicKey::own(&record.public_jwk).map(|key| key.algorithm().name().to_owned());
    pb::SigningKey {
        kid: record.kid,
        state: state as i32,
        algorithm: algorithm.unwrap_or_default(),
        publish_time: timestamp(record.published_at),
        activate_time: record.activated_at.and_then(timestamp),
        retire_time: record.retired_at.and_then(timestamp),
        remove_time: record.remove_at.and_then(timestamp),
    }
}

impl KeyDoor {
    async fn list(&self) -> Result<pb::ListKeysResponse, Failure> {
        let trust = self.store.trust().await?;
        let principals = self.store.principals().await?;
        let name = |id: &str| principals.iter().find(|one| one.id == id).map(|one| one.name.clone());
        let subscribers = self.store.leases().await?.into_iter().map(|lease| pb::TrustSubscriber {
            member: name(&lease.member_id).unwrap_or(lease.member_id),
            // Behind the mark is the stream, which is nobody's business.
            replica_id: lease.replica_id.split('#').next().unwrap_or_default().to_owned(),
            acknowledged_sequence: lease.acknowledged,
            lease_end_time: timestamp(lease.ends_at),
        });
        Ok(pb::ListKeysResponse {
            subscribers: subscribers.collect(),
            keys: trust.keys.into_iter().map(key).collect(),
            sequence: trust.sequence,
        })
    }
}

#[tonic::async_trait]
impl KeyService for KeyDoor {
    async fn list_keys(&self, _: Request<pb::ListKeysRequest>) -> Result<Response<pb::ListKeysResponse>, Status> {
        Ok(Response::new(self.list().await.map_err(refuse)?))
    }

    async fn rotate_keys(&self, _: Request<pb::RotateKeysRequest>) -> Result<Response<pb::RotateKeysResponse>, Status> {
        let active_kid = self.rotation.rotate().await.map_err(refuse)?;
        Ok(acted(active_kid.clone(), pb::RotateKeysResponse { active_kid }))
    }

    async fn revoke_key(
        &self,
        request: Request<pb::RevokeKeyRequest>,
    ) -> Result<Response<pb::RevokeKeyResponse>, Status> {
        let active_kid = self.rotation.revoke(&request.get_ref().kid).await.map_err(refuse)?;
        Ok(acted(request.into_inner().kid, pb::RevokeKeyResponse { active_kid }))
    }

    async fn rewrap_secrets(
        &self,
        _: Request<pb::RewrapSecretsRequest>,
    ) -> Result<Response<pb::RewrapSecretsResponse>, Status> {
        let Rewrapped { rewrapped, current, unopened } = self.rewrap.run().await.map_err(refuse)?;
        tracing::info!(
            seal.rewrapped = rewrapped,
            seal.current = current,
            seal.unopened = unopened,
            "secrets rewrapped"
        );
        let on = format!("{rewrapped} records");
        Ok(acted(on, pb::RewrapSecretsResponse { rewrapped, current, unopened }))
    }
}
