//! Publishes this instance's keys and revocations to another one, whose gateways take its tokens. It dials out, for nobody may be
//! able to dial in.

use std::sync::Arc;

use postern_proto::instance::v1 as pb;
use postern_proto::instance::v1::trust_service_client::TrustServiceClient;
use postern_proto::{Failure, Reason};
use postern_runtime::instance::{InstanceLink, next};
use postern_runtime::request_id::RequestId;
use postern_runtime::trust::wire_revocation;
use postern_runtime::{Clock, grpc};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::partners::MOST_REVOCATIONS;
use crate::trust::Trust;

/// Publishes over this link until the process stops.
pub fn publish(link: &InstanceLink, trust: Arc<Trust>, clock: Arc<dyn Clock>) {
    let inner = link.clone();
    link.subscribe("trust publication", move |token| {
        let (link, trust, clock) = (inner.clone(), trust.clone(), clock.clone());
        async move {
            match once(&link, &token, &trust, &*clock).await {
                Ok(()) => Failure::new(Reason::InstanceUnavailable, "the trust publication ended"),
                Err(failure) => failure,
            }
        }
    });
}

async fn once(link: &InstanceLink, token: &str, trust: &Trust, clock: &dyn Clock) -> Result<(), Failure> {
    let (up, outgoing) = mpsc::channel(1);
    let mut news = trust.watch();
    news.mark_changed();
    let request = grpc::onward(ReceiverStream::new(outgoing), &RequestId::generate(), token, None);
    let answers = TrustServiceClient::new(link.channel()).publish_trust(request).await;
    let mut answers =
        answers.map_err(|status| Failure::from_status(&status, Reason::InstanceUnavailable))?.into_inner();
    loop {
        // The other side answers each message, and beats between.
        tokio::select! {
            Ok(()) = news.changed() => {
                let place = up.reserve().await.map_err(Failure::internal)?;
                news.mark_unchanged();
                place.send(state(trust, clock.now()));
            }
            answer = next(&mut answers) => match answer? {
                Some(pb::PublishTrustResponse { acknowledged_sequence }) => {
                    // Replicas publish side by side, so a little ahead is another replica's news.
                    if acknowledged_sequence > trust.sequence() && trust.is_current().await.unwrap_or(false) {
                        let message = "the other instance knows a newer state of this one than there is: was the database \
                                       restored? remove this instance there and add it again";
                        return Err(Failure::new(Reason::TrustStale, message));
                    }
                }
                None => return Ok(()),
            },
        }
    }
}

fn state(trust: &Trust, now: u64) -> pb::PublishTrustRequest {
    let (snapshot, revocations) = trust.condensed(MOST_REVOCATIONS, now);
    pb::PublishTrustRequest {
        sequence: snapshot.sequence,
        jwk_json: snapshot.keys.iter().map(postern_token::PublicKey::jwk_json).collect(),
        revocations: revocations.into_iter().map(wire_revocation).collect(),
    }
}
