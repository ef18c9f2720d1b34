//! Route: in which order endpoints are tried. Models come in the order of their binding; within a model, the endpoint with
//! the fewest attempts under way comes first.

use std::collections::VecDeque;
use std::sync::Arc;

use super::admit::Admission;
use postern_proto::Failure;

use crate::prompt::Prompt;
use crate::routes::Model;

/// One endpoint to try.
pub struct Attempt {
    /// The model there.
    pub model: Arc<Model>,
    /// The endpoint.
    pub endpoint: String,
    /// What to send.
    pub prompt: Prompt,
}

/// Endpoints that are tried for one request, at most.
const MAX_ATTEMPTS: usize = 4;

pub(super) fn attempts(
    models: &[Arc<Model>],
    build: impl Fn(&Model) -> Result<Prompt, Failure>,
    admission: &Admission,
) -> Result<VecDeque<Attempt>, Failure> {
    let mut attempts = VecDeque::new();
    let mut refusal = None;
    for model in models {
        // A model that has no prompt for this does not keep others from answering.
        let prompt = match build(model) {
            Ok(prompt) => prompt,
            Err(failure) => {
                refusal.get_or_insert(failure);
                continue;
            }
        };
        let mut endpoints: Vec<_> =
            model.endpoints.iter().map(|endpoint| (admission.outstanding(endpoint), endpoint)).collect();
        endpoints.sort_by_key(|(outstanding, _)| *outstanding);
        for (_, endpoint) in endpoints {
            if attempts.len() == MAX_ATTEMPTS {
                return Ok(attempts);
            }
            attempts.push_back(Attempt { model: model.clone(), endpoint: endpoint.clone(), prompt: prompt.clone() });
        }
    }
    match refusal {
        Some(failure) if attempts.is_empty() => Err(failure),
        _ => Ok(attempts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ask::Task;
    use crate::prompt;
    use crate::routes::tests::model;
    use postern_prompt::Registry;
    use postern_proto::completion::v1::Parameters;

    #[test]
    fn models_come_in_order_and_idle_endpoints_first() {
        let admission = Admission::new(8);
        let _busy = admission.at_endpoint("a1");
        let models = [model("a", &["a1", "a2"]), model("b", &["b1", "b2", "b3"])].map(Arc::new);
        let registry = Registry::shipped().unwrap();
        let task = Task::Raw("x".to_owned());
        let build = |model: &Model| prompt::build(&task, model, &Parameters::default(), &registry, None);
        let order: Vec<_> =
            attempts(&models, build, &admission).unwrap().into_iter().map(|attempt| attempt.endpoint).collect();
        assert_eq!(order, ["a2", "a1", "b1", "b2"]);
        // One that has no prompt is left out, unless there is no other.
        let none = || Failure::internal("no prompt");
        let build_b = |model: &Model| if model.name == "a" { Err(none()) } else { build(model) };
        let order = attempts(&models, build_b, &admission).unwrap();
        assert!(order.iter().all(|attempt| attempt.model.name == "b") && order.len() == 3);
        assert!(attempts(&models, |_| Err(none()), &admission).is_err());
    }
}
