//! Route: in which order endpoints are tried. Models come in the order of their binding; within a model, the endpoint with
//! the fewest attempts under way comes first.

use std::collections::VecDeque;
use std::sync::Arc;

use super::admit::Admission;
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
    prompts: impl IntoIterator<Item = Prompt>,
    admission: &Admission,
) -> VecDeque<Attempt> {
    let mut attempts = VecDeque::new();
    for (model, prompt) in models.iter().zip(prompts) {
        let mut endpoints: Vec<_> =
            model.endpoints.iter().map(|endpoint| (admission.outstanding(endpoint), endpoint)).collect();
        endpoints.sort_by_key(|(outstanding, _)| *outstanding);
        for (_, endpoint) in endpoints {
            if attempts.len() == MAX_ATTEMPTS {
                return attempts;
            }
            attempts.push_back(Attempt { model: model.clone(), endpoint: endpoint.clone(), prompt: prompt.clone() });
        }
    }
    attempts
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
        let built =
            || prompt::build(&Task::Raw("x".to_owned()), &models[0], &Parameters::default(), &registry).unwrap();
        let order: Vec<_> = attempts(&models, std::iter::repeat_with(built), &admission)
            .into_iter()
            .map(|attempt| attempt.endpoint)
            .collect();
        assert_eq!(order, ["a2", "a1", "b1", "b2"]);
    }
}
