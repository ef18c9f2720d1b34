//! The subscriber's end of the trust feed: a verifier that always has the instance's newest keys and revocations.
//!
//! A snapshot comes in chunks and counts when it is whole; then come deltas, each the sequence before it and one more. A gap,
//! a key that is not what it says, or silence ends the stream, and a new one begins with a new snapshot. What was learned stays
//! in use meanwhile.

use std::time::Duration;

use postern_proto::instance::v1 as pb;
use postern_proto::instance::v1::trust_delta::Change;
use postern_proto::instance::v1::trust_service_client::TrustServiceClient;
use postern_proto::instance::v1::watch_trust_response::Message;
use postern_proto::{Failure, Reason};
use postern_token::{IssuerProfile, PublicKey, Revocation};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::grpc;
use crate::instance::{InstanceLink, next};
use crate::notes::{self, Notes};
use crate::readiness::{Condition, Readiness};
use crate::request_id::RequestId;
use crate::verifier::{TrustChange, Verifier};

/// Keys in one snapshot; more is a fault.
const MAX_KEYS: usize = 256;
/// Revocations in one snapshot; more is a fault.
const MAX_REVOCATIONS: usize = 200_000;
/// When the instance was last heard of, in seconds of age.
const STALENESS: &str = "postern_trust_staleness_seconds";
const GAUGE_EVERY: Duration = Duration::from_secs(1);

/// Follows the trust feed until the process stops; readiness waits for the first snapshot, or for one in the notes.
pub fn follow(link: &InstanceLink, verifier: Verifier, readiness: &Readiness, notes: Notes) {
    let arrived = readiness.condition("keys");
    if let Some(Ok(())) = recalled(&notes).map(|state| use_state(state, &verifier)) {
        arrived.open();
    }
    let inner = link.clone();
    let watched = verifier.clone();
    link.every(GAUGE_EVERY, move || {
        if let Some(age) = watched.staleness() {
            metrics::gauge!(STALENESS).set(age.as_secs_f64());
        }
    });
    link.subscribe("trust feed", move |token| {
        let (link, verifier, arrived, notes) = (inner.clone(), verifier.clone(), arrived.clone(), notes.clone());
        async move {
            match once(&link, &token, &verifier, &arrived, &notes).await {
                Ok(()) => Failure::new(Reason::InstanceUnavailable, "the trust feed ended"),
                Err(failure) => failure,
            }
        }
    });
}

fn recalled(notes: &Notes) -> Option<pb::TrustState> {
    notes.recall(notes::TRUST, |state: &pb::TrustState| state.time)
}

/// Puts a noted state to use. It was sealed by the instance; it is read as strictly as the feed all the same.
fn use_state(state: pb::TrustState, verifier: &Verifier) -> Result<(), Failure> {
    let pb::TrustState { time: _, sequence, issuer, keys, revocations } = state;
    let chunk = pb::TrustChunk { sequence, last: true, issuer, keys, revocations };
    Feed::default().chunk(chunk, verifier).map(drop)
}

async fn once(
    link: &InstanceLink,
    token: &str,
    verifier: &Verifier,
    arrived: &Condition,
    notes: &Notes,
) -> Result<(), Failure> {
    let lost = |status: tonic::Status| Failure::from_status(&status, Reason::InstanceUnavailable);
    // One acknowledgement under way and one waiting is enough: each says all that those before it said.
    let (up, outgoing) = mpsc::channel(2);
    let hello = pb::WatchTrustRequest { replica_id: link.replica_id().to_owned(), acknowledged_sequence: 0 };
    let _ = up.try_send(hello.clone());
    let request = grpc::onward(ReceiverStream::new(outgoing), &RequestId::generate(), token, None);
    let mut feed = TrustServiceClient::new(link.channel()).watch_trust(request).await.map_err(lost)?.into_inner();
    let mut state = Feed::default();
    while let Some(message) = next(&mut feed).await? {
        if let Some(Message::Seal(sealed)) = &message.message {
            notes.keep(notes::TRUST, sealed);
            continue;
        }
        let removes_a_key = matches!(
            &message.message,
            Some(Message::Delta(pb::TrustDelta { change: Some(Change::KeyRemoved(_)), .. }) | Message::Chunk(_))
        );
        if let Some(sequence) = state.take(message, verifier)? {
            if removes_a_key {
                link.renew_tokens();
            }
            arrived.open();
            verifier.heard();
            let _ = up.try_send(pb::WatchTrustRequest { acknowledged_sequence: sequence, ..hello.clone() });
        }
    }
    Ok(())
}

/// What has come so far.
#[derive(Default)]
struct Feed {
    /// The sequence of the state in use; `None` before the first snapshot is whole.
    sequence: Option<u64>,
    profile: Option<IssuerProfile>,
    keys: Vec<PublicKey>,
    revocations: Vec<Revocation>,
}

fn broken(what: &str) -> Failure {
    Failure::new(Reason::InstanceUnavailable, format!("the trust feed sent {what}"))
}

impl Feed {
    /// Takes a message in; the sequence to acknowledge.
    fn take(&mut self, message: pb::WatchTrustResponse, verifier: &Verifier) -> Result<Option<u64>, Failure> {
        match message.message {
            Some(Message::Chunk(chunk)) => self.chunk(chunk, verifier),
            Some(Message::Delta(delta)) => self.delta(delta, verifier).map(Some),
            Some(Message::Heartbeat(beat)) if Some(beat.sequence) == self.sequence => Ok(self.sequence),
            Some(Message::Heartbeat(_)) => Err(broken("a heartbeat of another state")),
            Some(Message::Seal(_)) | None => Ok(None),
        }
    }

    fn chunk(&mut self, chunk: pb::TrustChunk, verifier: &Verifier) -> Result<Option<u64>, Failure> {
        let pb::TrustChunk { sequence, last, issuer, keys, revocations } = chunk;
        if let Some(issuer) = issuer {
            let pb::IssuerProfile { issuer, instance_id, max_lifetime, audience } = issuer;
            let max_lifetime = max_lifetime.map_or(0, |d| u64::try_from(d.seconds).unwrap_or(0));
            self.profile = Some(IssuerProfile::own(issuer, instance_id, audience, max_lifetime));
        }
        for key in keys {
            self.keys.push(read_key(&key)?);
        }
        for revocation in revocations {
            self.revocations.push(read_revocation(revocation)?);
        }
        if self.keys.len() > MAX_KEYS || self.revocations.len() > MAX_REVOCATIONS {
            return Err(broken("more than a snapshot may hold"));
        }
        if !last {
            return Ok(None);
        }
        let whole = std::mem::take(self);
        let profile = whole.profile.ok_or_else(|| broken("a snapshot without an issuer"))?;
        if whole.keys.is_empty() {
            // A worse set never replaces a better one.
            return Err(broken("a snapshot without keys"));
        }
        tracing::info!(
            trust.sequence = sequence,
            trust.keys = whole.keys.len(),
            trust.revocations = whole.revocations.len(),
            "trust snapshot in use"
        );
        verifier.replace_own(profile, whole.keys, whole.revocations);
        self.sequence = Some(sequence);
        Ok(Some(sequence))
    }

    fn delta(&mut self, delta: pb::TrustDelta, verifier: &Verifier) -> Result<u64, Failure> {
        let pb::TrustDelta { sequence, change } = delta;
        if self.sequence.and_then(|before| before.checked_add(1)) != Some(sequence) {
            return Err(broken("a delta that does not follow the state before it"));
        }
        match change {
            Some(Change::KeyAdded(key)) => verifier.apply(TrustChange::KeyAdded(Box::new(read_key(&key)?))),
            Some(Change::KeyRemoved(kid)) => verifier.apply(TrustChange::KeyRemoved(kid)),
            Some(Change::Revocation(revocation)) => verifier.apply(TrustChange::Revoked(read_revocation(revocation)?)),
            None => {}
        }
        tracing::info!(trust.sequence = sequence, "trust change in use");
        self.sequence = Some(sequence);
        Ok(sequence)
    }
}

fn read_key(key: &pb::TrustKey) -> Result<PublicKey, Failure> {
    let read = PublicKey::own(&key.jwk_json).map_err(|_| broken("a key that cannot be used"))?;
    if read.kid() != key.kid || read.header() != key.header {
        return Err(broken("a key whose id or header is not its own"));
    }
    Ok(read)
}

/// A revocation as the feed says it.
///
/// # Errors
/// INSTANCE_UNAVAILABLE for one of a kind that is not known here.
pub fn read_revocation(wire: pb::Revocation) -> Result<Revocation, Failure> {
    use pb::revocation::{Of, Token, UpTo};
    let pb::Revocation { of, until } = wire;
    Ok(match of.ok_or_else(|| broken("a revocation of a kind that is not known here"))? {
        Of::Token(Token { jti, subject, issued }) => Revocation::Token { jti, subject, issued, until },
        Of::CredentialId(id) => Revocation::Credential { id, until },
        Of::Subject(UpTo { id, issued }) => Revocation::Subject { id, issued_by: issued, until },
        Of::Instance(UpTo { id, issued }) => Revocation::Instance { id, issued_by: issued, until },
        Of::Kid(kid) => Revocation::Key { kid, until },
    })
}

/// A revocation as the feed says it.
#[must_use]
pub fn wire_revocation(revocation: Revocation) -> pb::Revocation {
    use pb::revocation::{Of, Token, UpTo};
    let until = revocation.until();
    let of = match revocation {
        Revocation::Token { jti, subject, issued, until: _ } => Of::Token(Token { jti, subject, issued }),
        Revocation::Credential { id, until: _ } => Of::CredentialId(id),
        Revocation::Subject { id, issued_by, until: _ } => Of::Subject(UpTo { id, issued: issued_by }),
        Revocation::Instance { id, issued_by, until: _ } => Of::Instance(UpTo { id, issued: issued_by }),
        Revocation::Key { kid, until: _ } => Of::Kid(kid),
    };
    pb::Revocation { of: Some(of), until }
}

/// A key as the feed says it.
#[must_use]
pub fn wire_key(key: &PublicKey) -> pb::TrustKey {
    pb::TrustKey { kid: key.kid().to_owned(), jwk_json: key.jwk_json(), header: key.header() }
}
