//! The adapter's stream to its instance: endpoints come down, acknowledgements and what probes saw go up.

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use postern_proto::instance::v1 as pb;
use postern_proto::instance::v1::config_service_client::ConfigServiceClient;
use postern_proto::instance::v1::connect_adapter_request::Message as Up;
use postern_proto::instance::v1::connect_adapter_response::Message as Down;
use postern_proto::{Failure, Reason};
use postern_runtime::grpc;
use postern_runtime::instance::{InstanceLink, next};
use postern_runtime::readiness::{Condition, Readiness};
use postern_runtime::request_id::RequestId;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::probe;
use crate::service::Models;

/// Messages that may wait to go up.
const WAITING: usize = 16;
/// Probes at once; the instance sends few.
const MAX_PROBES: usize = 4;

/// Follows the instance until the process stops; readiness waits for the first snapshot. A gateway that hosts adapters names the
/// group of each.
pub fn follow(link: &InstanceLink, models: Models, readiness: &Readiness, group: Option<&str>) {
    let name = group.map_or_else(|| "endpoints".to_owned(), |group| format!("endpoints of {group}"));
    let arrived = readiness.condition(name);
    let inner = link.clone();
    link.subscribe("adapter stream", move |token| {
        let (link, models, arrived) = (inner.clone(), models.clone(), arrived.clone());
        async move {
            match follow_once(&link, &token, &models, &arrived).await {
                Ok(()) => Failure::new(Reason::InstanceUnavailable, "the adapter stream ended"),
                Err(failure) => failure,
            }
        }
    });
}

async fn follow_once(link: &InstanceLink, token: &str, models: &Models, arrived: &Condition) -> Result<(), Failure> {
    let (up, outgoing) = mpsc::channel(WAITING);
    // There is room for what this function says itself; a stream that is gone is noticed by its reader.
    let send = |message| up.try_send(pb::ConnectAdapterRequest { message: Some(message) }).is_ok();
    let hello = pb::AdapterHello { replica_id: link.replica_id().to_owned() };
    let _ = send(Up::Hello(hello));
    let request = grpc::onward(ReceiverStream::new(outgoing), &RequestId::generate(), token, None);
    let mut down = ConfigServiceClient::new(link.channel())
        .max_decoding_message_size(grpc::MAX_MESSAGE_BYTES)
        .connect_adapter(request)
        .await
        .map_err(|status| Failure::from_status(&status, Reason::InstanceUnavailable))?
        .into_inner();
    let mut probes = FuturesUnordered::new();
    loop {
        let message = tokio::select! {
            message = next(&mut down) => message?,
            Some(()) = probes.next() => continue,
        };
        match message.map(|message| message.message) {
            None => return Ok(()),
            Some(Some(Down::Snapshot(pb::AdapterSnapshot { version, endpoints }))) => {
                models.endpoints.replace(endpoints);
                arrived.open();
                let _ = send(Up::Acknowledgement(pb::AdapterAcknowledgement { version }));
            }
            Some(Some(Down::Probe(request))) if probes.len() < MAX_PROBES => {
                probes.push(probe::run(models, request, &up));
            }
            Some(Some(Down::Probe(_) | Down::Heartbeat(_)) | None) => {}
        }
    }
}
