//! `postern.gateway.v1.ExplainService` about anybody: what a gateway says of a request of theirs, after what the instance knows.

use std::net::IpAddr;
use std::sync::Arc;

use postern_proto::gateway::v1 as pb;
use postern_proto::gateway::v1::explain_service_client::ExplainServiceClient;
use postern_proto::gateway::v1::explain_service_server::ExplainService;
use postern_proto::{Failure, Feature, Reason, UnknownFeature};
use postern_runtime::grpc;
use postern_runtime::grpc::refuse;
use postern_runtime::peer::{client_of, vouch};
use postern_runtime::request_id::RequestId;
use tonic::{Request, Response, Status};

use super::acted;
use super::relay::passed_on;
use crate::registry::{BoundTo, bindings};
use crate::relay::Relay;
use crate::store::{Found, Kind, PrincipalRecord, Purpose, Store};

/// The door.
pub struct ExplainDoor {
    /// The way to a gateway.
    pub relay: Arc<Relay>,
    /// Who there is.
    pub store: Arc<dyn Store>,
}

#[tonic::async_trait]
impl ExplainService for ExplainDoor {
    async fn explain_request(
        &self,
        request: Request<pb::ExplainRequestRequest>,
    ) -> Result<Response<pb::ExplainRequestResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let headers = metadata.into_headers();
        let own = client_of(&extensions, &headers).map_err(refuse)?;
        let pb::ExplainRequestRequest { feature, model, variables, subject, client_address } = message;
        let unknown = |error: UnknownFeature| refuse(Failure::field("feature", error.to_string()));
        let name: Feature = feature.parse().map_err(unknown)?;
        let address = match client_address.as_str() {
            "" => own,
            text => {
                let address = text.parse::<IpAddr>();
                Some(address.map_err(|_| refuse(Failure::field("client_address", "is no IP address")))?)
            }
        };
        let subject = self.subject(&subject).await.map_err(refuse)?;
        let credential = self.credential(&subject).await.map_err(refuse)?;
        let told = format!("{feature} for {} {}", subject.id, subject.name);
        let bound = bindings(&*self.store).await.map_err(refuse)?.remove(&name);
        let mut answer = match bound {
            // Whoever runs that gateway is told of users when they ask for something, not before.
            Some(binding) if matches!(binding.to, BoundTo::Managed(_)) => {
                managed(&binding.to, &binding.groups, &subject)
            }
            _ => {
                let onward = self.relay.to_explain(subject, name).await.map_err(refuse)?;
                let (subject, client_address) = Default::default();
                let message = pb::ExplainRequestRequest { feature, model, variables, subject, client_address };
                let id = extensions.get::<RequestId>().cloned().unwrap_or_else(RequestId::generate);
                let mut request = grpc::onward(message, &id, &onward.token, grpc::timeout_of(&headers));
                if let (Some(address), Some(voucher)) = (address, &onward.voucher) {
                    vouch(request.metadata_mut().as_mut(), voucher, address).map_err(refuse)?;
                }
                let mut gateway = ExplainServiceClient::new(onward.channel);
                gateway.explain_request(request).await.map_err(passed_on)?.into_inner()
            }
        };
        if !credential.ok && answer.allowed {
            (answer.allowed, answer.reason) = (false, Reason::CredentialInvalid.name().to_owned());
        }
        answer.findings.insert(0, credential);
        Ok(acted(told, answer))
    }
}

impl ExplainDoor {
    async fn subject(&self, name: &str) -> Result<PrincipalRecord, Failure> {
        if name.is_empty() {
            return Err(Failure::field("subject", "is missing: the instance explains requests of a user"));
        }
        let found = self.store.principal(name).await?;
        let found = found.filter(|found| matches!(found.kind, Kind::User | Kind::Service));
        found.ok_or_else(|| {
            let message = "there is no user or service account of that name; `postern user list` shows those there are";
            Failure::new(Reason::NotFound, message)
        })
    }

    /// Whether the user has something to ask with.
    async fn credential(&self, subject: &PrincipalRecord) -> Result<pb::Finding, Failure> {
        let (all, now) = (self.store.credentials(&subject.id).await?, self.store.now().await?);
        let live = all.into_iter().filter(|credential| credential.purpose == Purpose::Inference);
        let live =
            live.map(|credential| Found { credential, principal: subject.clone() }).filter(|found| found.is_live(now));
        let count = live.count();
        let detail = match count {
            0 => format!("{} has no credential for inference that holds", subject.name),
            1 => format!("{} has a credential for inference", subject.name),
            count => format!("{} has {count} credentials for inference", subject.name),
        };
        Ok(pb::Finding { name: "credential".to_owned(), ok: count > 0, detail })
    }
}

/// What is known here of a feature that another instance's gateway serves.
fn managed(to: &BoundTo, groups: &[String], subject: &PrincipalRecord) -> pb::ExplainRequestResponse {
    let is_member = groups.is_empty() || subject.groups.iter().any(|group| groups.contains(group));
    let to = match to {
        BoundTo::Managed(gateway) => format!("managed by {gateway}, which decides by its own rules"),
        _ => String::new(),
    };
    let membership = match (groups.is_empty(), is_member) {
        (true, _) => "the feature is for anyone".to_owned(),
        (false, _) => format!("the feature is for {}", groups.join(", ")),
    };
    let finding = |name: &str, ok, detail| pb::Finding { name: name.to_owned(), ok, detail };
    let reason = if is_member { String::new() } else { Reason::GroupMissing.name().to_owned() };
    let findings = vec![finding("binding", true, to), finding("groups", is_member, membership)];
    pb::ExplainRequestResponse { allowed: is_member, reason, findings, models: Vec::new() }
}
