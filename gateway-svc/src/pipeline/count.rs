//! How many tokens a prompt has: by the model's server where it counts, else by a guess.

use postern_proto::completion::v1::UsageProvenance;
use postern_proto::model::v1 as pb;
use postern_proto::{Failure, Reason};
use postern_runtime::Standing;
use tokio::time::Instant;

use super::authorise::Permit;
use super::relay::Deadline;
use super::{Caller, Pipeline};
use crate::ask::{Ask, Task};
use crate::routes::Model;

/// A number of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// How many.
    pub tokens: u64,
    /// Whether the model's server said so, or it was guessed.
    pub provenance: UsageProvenance,
}

/// Asks the first model's server; one that does not count, or does not answer, leaves a guess.
pub(super) async fn count(
    pipeline: &Pipeline,
    permit: &Permit,
    mut standing: Standing,
    caller: &Caller<'_>,
    ask: &Ask,
) -> Result<Counted, Failure> {
    let guess = u64::try_from(ask.estimated_tokens()).unwrap_or(u64::MAX);
    let guessed = Counted { tokens: guess, provenance: UsageProvenance::Estimated };
    let Some(model) = permit.models().first() else { return Ok(guessed) };
    let deadline = Deadline::of(Instant::now(), model.timers.first_content, caller.timeout);
    let counted = tokio::select! {
        biased;
        revoked = standing.revoked() => return Err(revoked),
        () = tokio::time::sleep_until(deadline.at) => return Ok(guessed),
        counted = one(pipeline, model, caller, ask) => counted,
    };
    match counted {
        Ok(Some(tokens)) => Ok(Counted { tokens, provenance: UsageProvenance::Reported }),
        Ok(None) => Ok(guessed),
        // The request itself would be refused; what a server refuses may be the counting.
        Err(failure) if failure.reason == Reason::RequestInvalid => Err(failure),
        Err(failure) => {
            tracing::debug!(%failure, "the model's server did not count");
            Ok(guessed)
        }
    }
}

async fn one(pipeline: &Pipeline, model: &Model, caller: &Caller<'_>, ask: &Ask) -> Result<Option<u64>, Failure> {
    let Task::Chat(chat) = &ask.task else { return Ok(None) };
    let idlest = model.endpoints.iter().min_by_key(|endpoint| pipeline.admission.outstanding(endpoint));
    let endpoint = idlest.ok_or_else(|| Failure::new(Reason::ModelUnreachable, "the model has no endpoint"))?;
    let _places = (pipeline.admission.at_model(model)?, pipeline.admission.at_endpoint(endpoint)?);
    let generation = pb::Generation {
        endpoint_id: endpoint.clone(),
        prompt: Some(pb::generation::Prompt::Chat(chat.clone())),
        parameters: Some(ask.parameters.clone()),
    };
    let request = pb::CountTokensRequest { generation: Some(generation) };
    let answer = pipeline.adapters.of(&model.adapter_group)?.count_tokens(request, &caller.request_id).await?;
    Ok(answer.usage.and_then(|usage| usage.input_tokens))
}
