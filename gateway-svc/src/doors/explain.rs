//! `postern.gateway.v1.ExplainService`.

use postern_proto::gateway::v1 as pb;
use postern_proto::gateway::v1::explain_service_server::ExplainService;
use postern_proto::{Failure, UnknownFeature};
use postern_runtime::grpc::refuse;
use tonic::{Request, Response, Status};

use super::grpc::{caller, identified};
use crate::pipeline::{Explained, Pipeline, Planned, Question};

/// The door.
pub struct ExplainDoor {
    /// What is behind it.
    pub pipeline: Pipeline,
}

#[tonic::async_trait]
impl ExplainService for ExplainDoor {
    async fn explain_request(
        &self,
        request: Request<pb::ExplainRequestRequest>,
    ) -> Result<Response<pb::ExplainRequestResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let headers = metadata.into_headers();
        let pb::ExplainRequestRequest { feature, model, variables, subject, client_address } = message;
        for (field, given) in [("subject", subject), ("client_address", client_address)] {
            if !given.is_empty() {
                let problem = "a gateway tells callers of themselves; the instance tells administrators of others";
                return Err(refuse(Failure::field(field, problem)));
            }
        }
        let unknown = |error: UnknownFeature| refuse(Failure::field("feature", error.to_string()));
        let question = Question {
            feature: feature.parse().map_err(unknown)?,
            model: Some(model).filter(|model| !model.is_empty()),
            variables: variables.into_iter().collect(),
        };
        let verified = identified(&extensions).map_err(refuse)?;
        let explained = self.pipeline.explain(&verified, &caller(&headers, &extensions), &question).map_err(refuse)?;
        Ok(Response::new(answer(explained)))
    }
}

fn answer(explained: Explained) -> pb::ExplainRequestResponse {
    let Explained { refusal, findings, models } = explained;
    let finding = |(name, ok, detail): (&str, bool, String)| pb::Finding { name: name.to_owned(), ok, detail };
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let model = |planned: Planned| pb::PlannedModel {
        name: planned.name,
        family: planned.family,
        endpoints: count(planned.endpoints.0),
        outstanding: count(planned.endpoints.1),
        prompt: planned.template,
        code: planned.code.to_owned(),
        left_out: planned.left_out,
    };
    pb::ExplainRequestResponse {
        allowed: refusal.is_none(),
        reason: refusal.map(|failure| failure.reason.name().to_owned()).unwrap_or_default(),
        findings: findings.into_iter().map(finding).collect(),
        models: models.into_iter().map(model).collect(),
    }
}
