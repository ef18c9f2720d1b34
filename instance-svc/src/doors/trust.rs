//! `postern.instance.v1.TrustService`.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use postern_proto::instance::v1 as pb;
use postern_proto::instance::v1::trust_delta::Change;
use postern_proto::instance::v1::trust_service_server::TrustService;
use postern_proto::instance::v1::watch_trust_response::Message;
use postern_proto::{Failure, Reason};
use postern_runtime::grpc::refuse;
use postern_runtime::trust::{wire_key, wire_revocation};
use postern_runtime::verifier::TrustChange;
use postern_runtime::{Clock, Lifecycle, notes};
use postern_token::{IssuerProfile, Revocation};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::guard::Caller;
use super::{Answers, HEARTBEAT};
use crate::audit::{Audit, Event};
use crate::exchange::adapter_audience;
use crate::fleet::Fleet;
use crate::partners::Partners;
use crate::root::TrustRoot;
use crate::store::{Kind, PrincipalRecord, Store, Versions};
use crate::trust::{Told, Trust, TrustSnapshot};

/// Keys in one chunk.
const KEYS_A_CHUNK: usize = 16;
/// Revocations in one chunk.
const REVOCATIONS_A_CHUNK: usize = 1024;
/// Messages that may wait for a slow subscriber; one that is slower than this is behind, and its lease says so.
const WAITING: usize = 64;
/// Revocations in one sealed state.
const MOST_SEALED: usize = 10_000;
/// Replicas of another instance that publish at once.
const MOST_PUBLISHERS: u32 = 8;
/// How often what one publishes is taken in, and how often it is written down that it is there.
const PUBLISH_EVERY: Duration = Duration::from_secs(1);
const HEARD_EVERY: Duration = Duration::from_secs(60);
/// A lease is renewed at least this often while its holder acknowledges.
const RENEW_EVERY: Duration = Duration::from_secs(10);

/// The door.
pub struct TrustDoor {
    /// The keys and revocations.
    pub trust: Arc<Trust>,
    /// Seals what gateways keep.
    pub root: TrustRoot,
    /// For the time of a seal.
    pub clock: Arc<dyn Clock>,
    /// How long verifiers may keep the key set.
    pub jwks_max_age: Duration,
    /// Who is connected.
    pub fleet: Fleet,
    /// Who belongs to the fleet, and the leases.
    pub store: Arc<dyn Store>,
    /// The log.
    pub audit: Audit,
    /// News of the fleet.
    pub versions: watch::Receiver<Versions>,
    /// Ends the streams.
    pub lifecycle: Lifecycle,
}

/// What tokens for this member of the fleet say as their audience.
fn audience(member: &PrincipalRecord) -> String {
    match (member.kind, &member.audience, &member.adapter_group) {
        (Kind::Gateway, Some(audience), _) => audience.clone(),
        (_, _, group) => adapter_audience(group.as_deref().unwrap_or("default")),
    }
}

fn profile(profile: &IssuerProfile, audience: String) -> pb::IssuerProfile {
    let seconds = i64::try_from(profile.max_lifetime).unwrap_or(i64::MAX);
    pb::IssuerProfile {
        issuer: profile.issuer.clone(),
        instance_id: profile.instances.first().cloned().unwrap_or_default(),
        max_lifetime: Some(prost_types::Duration { seconds, nanos: 0 }),
        audience,
    }
}

/// A whole snapshot in chunks.
fn chunks(profile: &IssuerProfile, snapshot: TrustSnapshot, audience: String) -> Vec<pb::TrustChunk> {
    let TrustSnapshot { sequence, keys, revocations } = snapshot;
    let issuer = self::profile(profile, audience);
    let empty = || pb::TrustChunk { sequence, ..Default::default() };
    let mut chunks = vec![pb::TrustChunk { issuer: Some(issuer), ..empty() }];
    chunks.extend(
        keys.chunks(KEYS_A_CHUNK).map(|keys| pb::TrustChunk { keys: keys.iter().map(wire_key).collect(), ..empty() }),
    );
    let wire = |some: &[Revocation]| some.iter().cloned().map(wire_revocation).collect();
    chunks.extend(
        revocations.chunks(REVOCATIONS_A_CHUNK).map(|some| pb::TrustChunk { revocations: wire(some), ..empty() }),
    );
    if let Some(last) = chunks.last_mut() {
        last.last = true;
    }
    chunks
}

fn delta((sequence, told): (u64, Told)) -> pb::TrustDelta {
    let change = told.map(|change| match change {
        TrustChange::KeyAdded(key) => Change::KeyAdded(wire_key(&key)),
        TrustChange::KeyRemoved(kid) => Change::KeyRemoved(kid),
        TrustChange::Revoked(revocation) => Change::Revocation(wire_revocation(revocation)),
    });
    pb::TrustDelta { sequence, change }
}

#[tonic::async_trait]
impl TrustService for TrustDoor {
    async fn get_jwks(&self, _: Request<pb::GetJwksRequest>) -> Result<Response<pb::GetJwksResponse>, Status> {
        let max_age = prost_types::Duration::try_from(self.jwks_max_age).ok();
        Ok(Response::new(pb::GetJwksResponse { jwks_json: self.trust.jwks(), max_age }))
    }

    type WatchTrustStream = Answers<pb::WatchTrustResponse>;

    async fn watch_trust(
        &self,
        request: Request<Streaming<pb::WatchTrustRequest>>,
    ) -> Result<Response<Self::WatchTrustStream>, Status> {
        let caller = Caller::of(&request).map_err(refuse)?;
        let mut versions = self.versions.clone();
        versions.mark_unchanged();
        let (answers, stream) = mpsc::channel(WAITING);
        let subscriber = Subscriber {
            member: caller.principal.clone(),
            stream: format!("#{}", uuid::Uuid::new_v4().simple()),
            caller: caller.clone(),
            trust: self.trust.clone(),
            root: self.root.clone(),
            clock: self.clock.clone(),
            store: self.store.clone(),
            answers: answers.clone(),
            lease: None,
        };
        let (said, presence) = (request.into_inner(), self.fleet.enter(&caller.principal.id));
        let stopping = self.lifecycle.stopping().clone();
        self.lifecycle.spawn(async move {
            let failure = tokio::select! {
                ended = subscriber.serve(said, versions) => ended.err(),
                () = stopping.cancelled() => Some(draining()),
            };
            drop(presence);
            if let Some(failure) = failure {
                let _ = answers.try_send(Err(refuse(failure)));
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    type PublishTrustStream = Answers<pb::PublishTrustResponse>;

    async fn publish_trust(
        &self,
        request: Request<Streaming<pb::PublishTrustRequest>>,
    ) -> Result<Response<Self::PublishTrustStream>, Status> {
        let caller = Caller::of(&request).map_err(refuse)?;
        if self.fleet.replicas(&caller.principal.id) >= MOST_PUBLISHERS {
            let message = format!("at most {MOST_PUBLISHERS} replicas of an instance publish at once");
            return Err(refuse(Failure::new(Reason::ConcurrencyLimited, message)));
        }
        tracing::info!(fleet.member = caller.principal.name, "another instance publishes its keys");
        let (answers, stream) = mpsc::channel(4);
        let (said, presence) = (request.into_inner(), self.fleet.enter(&caller.principal.id));
        let (partners, store) = (Partners::new(self.store.clone()), self.store.clone());
        let (audit, stopping) = (self.audit.clone(), self.lifecycle.stopping().clone());
        self.lifecycle.spawn(async move {
            let failure = tokio::select! {
                ended = take_in(&partners, &caller, (&*store, &audit), said, &answers) => ended.err(),
                () = stopping.cancelled() => Some(draining()),
            };
            drop(presence);
            if let Some(failure) = failure {
                let _ = answers.try_send(Err(refuse(failure)));
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

/// Takes in what another instance publishes, until it goes or is not one of ours any more.
async fn take_in(
    partners: &Partners,
    caller: &Caller,
    (store, audit): (&dyn Store, &Audit),
    mut said: Streaming<pb::PublishTrustRequest>,
    answers: &mpsc::Sender<Result<pb::PublishTrustResponse, Status>>,
) -> Result<(), Failure> {
    let mut beat = tokio::time::interval(HEARTBEAT);
    let (mut acknowledged_sequence, mut keys, mut heard) = (0, Vec::new(), None::<Instant>);
    // Each change is told to every gateway: no instance makes for more than one in this time.
    let mut turn = tokio::time::interval(PUBLISH_EVERY);
    turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            said = said.next() => match said {
                Some(Ok(said)) => {
                    turn.tick().await;
                    let new_keys = said.jwk_json.clone();
                    acknowledged_sequence = partners.publish(&caller.principal.id, said).await?;
                    if new_keys != keys {
                        let target = format!("{} keys, as of {acknowledged_sequence}", new_keys.len());
                        let (action, outcome) = ("publish-trust".to_owned(), "OK".to_owned());
                        let actor = format!("{} {}", caller.principal.id, caller.principal.name);
                        audit.record(Event { action, actor, target, outcome, ..Event::default() }).await?;
                        keys = new_keys;
                    }
                }
                _ => return Ok(()),
            },
            _ = beat.tick() => {
                caller.still_may(store).await?;
                if heard.is_none_or(|heard| heard.elapsed() > HEARD_EVERY) {
                    store.publisher_heard(&caller.principal.id).await?;
                    heard = Some(Instant::now());
                }
            }
        }
        let answer = pb::PublishTrustResponse { acknowledged_sequence };
        if answers.send(Ok(answer)).await.is_err() {
            return Ok(());
        }
    }
}

/// The failure that ends a stream of a process that stops.
pub(crate) fn draining() -> Failure {
    Failure::new(Reason::Draining, "the instance is stopping; connect again")
}

/// A replica's lease, as this stream last wrote it.
struct HeldLease {
    replica_id: String,
    acknowledged: u64,
    renewed: Instant,
}

struct Subscriber {
    member: Arc<PrincipalRecord>,
    caller: Caller,
    /// Tells this stream's lease from the one of an older stream of the same process, which may end later.
    stream: String,
    trust: Arc<Trust>,
    root: TrustRoot,
    clock: Arc<dyn Clock>,
    store: Arc<dyn Store>,
    answers: mpsc::Sender<Result<pb::WatchTrustResponse, Status>>,
    lease: Option<HeldLease>,
}

impl Subscriber {
    /// Feeds the subscriber until it goes, and ends its lease.
    async fn serve(
        mut self,
        said: Streaming<pb::WatchTrustRequest>,
        versions: watch::Receiver<Versions>,
    ) -> Result<(), Failure> {
        let ended = self.feed(said, versions).await;
        if let Some(HeldLease { replica_id, .. }) = self.lease {
            self.store.end_lease(&(replica_id + &self.stream)).await?;
        }
        ended
    }

    /// Sends the snapshot, then each change, with heartbeats between.
    async fn feed(
        &mut self,
        mut said: Streaming<pb::WatchTrustRequest>,
        mut versions: watch::Receiver<Versions>,
    ) -> Result<(), Failure> {
        // A subscriber that comes from another replica must not be told less than it knew.
        self.trust.caught_up().await?;
        let mut news = self.trust.watch();
        news.mark_unchanged();
        let snapshot = self.trust.snapshot();
        let mut told = snapshot.sequence;
        for chunk in chunks(self.trust.profile(), snapshot, audience(&self.member)) {
            self.send(Message::Chunk(chunk)).await;
        }
        self.send_seal().await;
        let mut beat = tokio::time::interval(HEARTBEAT);
        loop {
            tokio::select! {
                said = said.next() => match said {
                    Some(Ok(said)) => self.hear(said, told).await?,
                    _ => return Ok(()),
                },
                // The sender lives as long as the trust state, which is ours.
                Ok(()) = news.changed() => {
                    let behind = || Failure::new(Reason::TrustStale, "this replica is too far behind; connect again");
                    for change in self.trust.changes_after(told).ok_or_else(behind)? {
                        told = change.0;
                        self.send(Message::Delta(delta(change))).await;
                    }
                    self.send_seal().await;
                }
                changed = versions.changed() => {
                    changed.map_err(|_| draining())?;
                    self.caller.still_may(&*self.store).await?;
                }
                _ = beat.tick() => {
                    self.caller.still_may(&*self.store).await?;
                    // A heartbeat says that nothing else has happened, which only the database knows.
                    if self.trust.is_current().await.unwrap_or(false) {
                        self.send(Message::Heartbeat(pb::TrustHeartbeat { sequence: told })).await;
                    }
                }
            }
        }
    }

    /// Sends the state that holds now, to be kept by a gateway.
    async fn send_seal(&self) {
        if self.member.kind != Kind::Gateway {
            return;
        }
        let time = self.clock.now();
        let (TrustSnapshot { sequence, keys, .. }, revocations) = self.trust.condensed(MOST_SEALED, time);
        let state = pb::TrustState {
            time,
            sequence,
            issuer: Some(profile(self.trust.profile(), audience(&self.member))),
            keys: keys.iter().map(wire_key).collect(),
            revocations: revocations.into_iter().map(wire_revocation).collect(),
        };
        self.send(Message::Seal(self.root.seal(notes::TRUST, &state))).await;
    }

    /// A reader that is gone is noticed by the incoming half.
    async fn send(&self, message: Message) {
        let _ = self.answers.send(Ok(pb::WatchTrustResponse { message: Some(message) })).await;
    }

    /// Writes down how far the subscriber has come, of what it was told.
    async fn hear(&mut self, said: pb::WatchTrustRequest, told: u64) -> Result<(), Failure> {
        let pb::WatchTrustRequest { replica_id, acknowledged_sequence: acknowledged } = said;
        if replica_id.is_empty()
            || replica_id.len() > 64
            || replica_id.bytes().any(|b| !b.is_ascii_graphic() || b == b'#')
        {
            return Err(Failure::field("replica_id", "must be 1 to 64 visible ASCII characters other than #"));
        }
        if acknowledged > told {
            return Err(Failure::field("acknowledged_sequence", "is ahead of what was told"));
        }
        let id = format!("{replica_id}{}", self.stream);
        if let Some(lease) = &self.lease {
            if lease.replica_id != replica_id {
                return Err(Failure::field("replica_id", "changed within a stream"));
            }
            if lease.acknowledged == acknowledged && lease.renewed.elapsed() < RENEW_EVERY {
                return Ok(());
            }
            if !self.store.has_lease(&id).await? {
                let message = "this replica was too far behind and lost its lease; connect again";
                return Err(Failure::new(Reason::TrustStale, message));
            }
        }
        self.store.renew_lease(&id, &self.member.id, acknowledged).await?;
        tracing::debug!(
            fleet.member = self.member.name,
            fleet.replica = replica_id,
            trust.sequence = acknowledged,
            "trust acknowledged"
        );
        self.lease = Some(HeldLease { replica_id, acknowledged, renewed: Instant::now() });
        Ok(())
    }
}
