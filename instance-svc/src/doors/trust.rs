//! `postern.instance.v1.TrustService`.

use std::sync::Arc;

use futures_util::StreamExt as _;
use postern_proto::instance::v1 as pb;
use postern_proto::instance::v1::trust_service_server::TrustService;
use postern_proto::instance::v1::watch_trust_response::Message;
use postern_proto::{Failure, Reason};
use postern_runtime::Lifecycle;
use postern_runtime::grpc::refuse;
use postern_token::{PublicKey, jwks_json};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::guard::Caller;
use super::{Answers, HEARTBEAT};
use crate::exchange::adapter_audience;
use crate::fleet::{Fleet, Presence};
use crate::issuer::Identity;
use crate::store::{Kind, PrincipalRecord, Store, Versions};

/// How long a verifier may keep the keys.
pub(crate) const JWKS_MAX_AGE_SECONDS: i64 = 300;
/// Keys in one chunk.
const CHUNK: usize = 16;

/// The door.
pub struct TrustDoor {
    /// Who signs.
    pub identity: Identity,
    /// The public keys.
    pub keys: Arc<[PublicKey]>,
    /// The longest life of a token, in seconds.
    pub max_lifetime: u64,
    /// Who is connected.
    pub fleet: Fleet,
    /// Who belongs to the fleet.
    pub store: Arc<dyn Store>,
    /// News.
    pub versions: watch::Receiver<Versions>,
    /// Ends the streams.
    pub lifecycle: Lifecycle,
}

impl TrustDoor {
    /// A whole snapshot in chunks.
    fn snapshot(&self, sequence: u64, audience: &str) -> Vec<pb::TrustChunk> {
        let issuer = pb::IssuerProfile {
            issuer: self.identity.issuer.clone(),
            instance_id: self.identity.instance_id.clone(),
            max_lifetime: Some(prost_types::Duration {
                seconds: i64::try_from(self.max_lifetime).unwrap_or(i64::MAX),
                nanos: 0,
            }),
            audience: audience.to_owned(),
        };
        let key = |key: &PublicKey| pb::TrustKey {
            kid: key.kid().to_owned(),
            jwk_json: key.jwk_json(),
            header: key.header().to_owned(),
        };
        let mut chunks: Vec<_> = self
            .keys
            .chunks(CHUNK)
            .map(|keys| pb::TrustChunk { sequence, keys: keys.iter().map(key).collect(), ..Default::default() })
            .collect();
        if let Some(first) = chunks.first_mut() {
            first.issuer = Some(issuer);
        }
        if let Some(last) = chunks.last_mut() {
            last.last = true;
        }
        chunks
    }
}

/// What tokens for this member of the fleet say as their audience.
fn audience(member: &PrincipalRecord) -> String {
    match (member.kind, &member.audience, &member.adapter_group) {
        (Kind::Gateway, Some(audience), _) => audience.clone(),
        (_, _, group) => adapter_audience(group.as_deref().unwrap_or("default")),
    }
}

#[tonic::async_trait]
impl TrustService for TrustDoor {
    async fn get_jwks(&self, _: Request<pb::GetJwksRequest>) -> Result<Response<pb::GetJwksResponse>, Status> {
        Ok(Response::new(pb::GetJwksResponse {
            jwks_json: jwks_json(self.keys.iter()),
            max_age: Some(prost_types::Duration { seconds: JWKS_MAX_AGE_SECONDS, nanos: 0 }),
        }))
    }

    type WatchTrustStream = Answers<pb::WatchTrustResponse>;

    async fn watch_trust(
        &self,
        request: Request<Streaming<pb::WatchTrustRequest>>,
    ) -> Result<Response<Self::WatchTrustStream>, Status> {
        let caller = Caller::of(&request).map_err(refuse)?;
        let audience = audience(&caller.0);
        let mut versions = self.versions.clone();
        let sequence = versions.borrow_and_update().trust;
        let subscriber = Subscriber {
            said: request.into_inner(),
            member: caller.0.clone(),
            store: self.store.clone(),
            presence: self.fleet.enter(&caller.0.id),
            versions,
            sequence,
        };
        let (answers, stream) = mpsc::channel(CHUNK);
        let snapshot = self.snapshot(sequence, &audience);
        let stopping = self.lifecycle.stopping().clone();
        self.lifecycle.spawn(async move {
            let failure = tokio::select! {
                ended = subscriber.serve(snapshot, &answers) => match ended {
                    Ok(()) => return,
                    Err(failure) => failure,
                },
                () = stopping.cancelled() => draining(),
            };
            let _ = answers.try_send(Err(refuse(failure)));
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

/// The failure that ends a stream of a process that stops.
pub(crate) fn draining() -> Failure {
    Failure::new(Reason::Draining, "the instance is stopping; connect again")
}

/// The failure that ends the streams of a member that was removed.
pub(crate) fn removed() -> Failure {
    Failure::new(Reason::CredentialInvalid, "this member was removed from the fleet")
}

struct Subscriber {
    said: Streaming<pb::WatchTrustRequest>,
    member: Arc<PrincipalRecord>,
    store: Arc<dyn Store>,
    presence: Presence,
    versions: watch::Receiver<Versions>,
    sequence: u64,
}

impl Subscriber {
    /// Sends the snapshot, then heartbeats, until the subscriber goes.
    async fn serve(
        mut self,
        snapshot: Vec<pb::TrustChunk>,
        answers: &mpsc::Sender<Result<pb::WatchTrustResponse, Status>>,
    ) -> Result<(), Failure> {
        let message = |message| Ok(pb::WatchTrustResponse { message: Some(message) });
        for chunk in snapshot {
            if answers.send(message(Message::Chunk(chunk))).await.is_err() {
                return Ok(());
            }
        }
        let mut beat = tokio::time::interval(HEARTBEAT);
        loop {
            tokio::select! {
                said = self.said.next() => match said {
                    Some(Ok(said)) if said.acknowledged_sequence > 0 => tracing::info!(
                        fleet.member = self.member.name,
                        fleet.replica = said.replica_id,
                        trust.sequence = said.acknowledged_sequence,
                        "trust snapshot acknowledged"
                    ),
                    Some(Ok(_)) => {}
                    _ => break,
                },
                changed = self.versions.changed() => {
                    // New keys end the stream: the subscriber comes back for a snapshot at once.
                    if changed.is_err() || self.versions.borrow().trust != self.sequence {
                        break;
                    }
                    if !self.store.principals().await?.iter().any(|principal| principal.id == self.member.id) {
                        return Err(removed());
                    }
                }
                _ = beat.tick() => {
                    let heartbeat = pb::TrustHeartbeat { sequence: self.sequence };
                    if answers.send(message(Message::Heartbeat(heartbeat))).await.is_err() {
                        break;
                    }
                }
            }
        }
        drop(self.presence);
        Ok(())
    }
}
