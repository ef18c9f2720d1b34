//! Embeddings: the attempts of a request whose answer comes in one piece.

use std::time::Duration;

use postern_proto::completion::v1::Usage;
use postern_proto::model::v1 as pb;
use postern_proto::{Failure, Reason};
use postern_runtime::Standing;
use postern_runtime::ending::draining;
use tokio::time::Instant;

use super::authorise::Permit;
use super::relay::{Deadline, Record, goes_on};
use super::{Caller, Pipeline};
use crate::ask::Texts;
use crate::routes::Model;

/// Vectors, in the order of the texts.
#[derive(Debug)]
pub struct Embedded {
    /// The registered model that answered.
    pub model: String,
    /// One for each text.
    pub vectors: Vec<Vec<f32>>,
    /// What it cost.
    pub usage: Usage,
    /// What was left out of the request.
    pub warnings: Vec<String>,
}

/// Models that are tried for one request, at most.
const MAX_ATTEMPTS: usize = 4;

/// Tries the models in turn.
pub(super) async fn embed(
    pipeline: &Pipeline,
    permit: &Permit,
    mut standing: Standing,
    caller: &Caller<'_>,
    ask: &Texts,
) -> Result<Embedded, Failure> {
    let begun = Instant::now();
    let mut record = Record::new(permit, begun);
    let mut refusal = None;
    // Vectors of two models are not of one space: only a model that was not named may stand in for another.
    for model in permit.models().iter().take(MAX_ATTEMPTS) {
        let deadline = Deadline::of(begun, model.timers.total, caller.timeout);
        let tried = tokio::select! {
            biased;
            revoked = standing.revoked() => Err(revoked),
            () = pipeline.ending.cancelled() => Err(draining()),
            () = tokio::time::sleep_until(deadline.at) => Err(deadline.failure()),
            () = tokio::time::sleep_until(begun + model.timers.first_content) => Err(late(model.timers.first_content)),
            answered = one(pipeline, model, caller, ask) => answered,
        };
        match tried {
            Ok(embedded) => {
                record.model.clone_from(&embedded.model);
                record.finish(embedded.usage);
                return Ok(embedded);
            }
            Err(failure) if goes_on(&failure) => {
                refusal.get_or_insert(failure);
            }
            Err(failure) => {
                refusal = Some(failure);
                break;
            }
        }
    }
    let failure = refusal.unwrap_or_else(|| Failure::new(Reason::ModelUnreachable, "the model has no endpoint"));
    record.fail(&failure);
    Err(failure)
}

fn late(waited: Duration) -> Failure {
    let message = format!("the model sent no embeddings within {} s", waited.as_secs_f64());
    Failure::new(Reason::FirstContentTimeout, message)
}

async fn one(pipeline: &Pipeline, model: &Model, caller: &Caller<'_>, ask: &Texts) -> Result<Embedded, Failure> {
    let idlest = model.endpoints.iter().min_by_key(|endpoint| pipeline.admission.outstanding(endpoint));
    let endpoint = idlest.ok_or_else(|| Failure::new(Reason::ModelUnreachable, "the model has no endpoint"))?;
    let _places = (pipeline.admission.at_model(model)?, pipeline.admission.at_endpoint(endpoint)?);
    let (endpoint_id, tokens) = (endpoint.clone(), ask.tokens.clone());
    let (inputs, dimensions) = (ask.inputs.clone(), ask.dimensions);
    let request = pb::EmbedRequest { endpoint_id, inputs, dimensions, tokens, extra_json: ask.extra_json.clone() };
    let answer = pipeline.adapters.of(&model.adapter_group)?.embed(request, &caller.request_id).await?;
    Ok(Embedded {
        model: model.name.clone(),
        vectors: answer.embeddings.into_iter().map(|vector| vector.values).collect(),
        usage: answer.usage.unwrap_or_default(),
        warnings: answer.warnings,
    })
}
