//! Explain: what a request would meet, layer by layer, without running it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use postern_proto::completion::v1::Parameters;
use postern_proto::instance::v1::CodeMode;
use postern_proto::{Failure, Feature, Reason};
use postern_token::Verified;

use super::{Pipeline, authorise};
use crate::ask::Task;
use crate::prompt;
use crate::routes::{Model, RouteTable};

/// What a request would meet.
#[derive(Debug, Default)]
pub struct Explained {
    /// Why it would be refused.
    pub refusal: Option<Failure>,
    /// What was looked at: its name, whether the request passes it, and what was found.
    pub findings: Vec<(&'static str, bool, String)>,
    /// The models that would be tried.
    pub models: Vec<Planned>,
}

/// A model that would be tried.
#[derive(Debug)]
pub struct Planned {
    /// Its name.
    pub name: String,
    /// The family of its prompts.
    pub family: String,
    /// Endpoints, and requests under way at them.
    pub endpoints: (usize, usize),
    /// The template that is used.
    pub template: String,
    /// How code is completed.
    pub code: &'static str,
    /// Why it would be left out.
    pub left_out: String,
}

/// What is asked about.
pub struct Question {
    /// The feature.
    pub feature: Feature,
    /// The model that is named.
    pub model: Option<String>,
    /// What the feature's prompt is given.
    pub variables: BTreeMap<String, String>,
}

impl Explained {
    /// Looks at each rule of [`authorise::permit`] in its order, and lets that decide.
    pub(super) fn of(
        pipeline: &Pipeline,
        verified: &Verified,
        address: Option<IpAddr>,
        table: &RouteTable,
        question: &Question,
    ) -> Self {
        let Question { feature, model, .. } = question;
        let permit = authorise::permit(verified, (*feature, model.as_deref()), address, table);
        let claims = verified.claims();
        // Names are told of what the caller may see, as in a list of models; of the rest only that it is there.
        let bound = table.bound(*feature);
        let sees = |model: &&std::sync::Arc<Model>| {
            authorise::is_for(&model.groups, verified) && authorise::trusts(model, address)
        };
        let seen: Vec<_> = match permit.is_ok() {
            true => bound.iter().filter(sees).map(|model| model.name.as_str()).collect(),
            false => Vec::new(),
        };
        let binding = match (bound.is_empty(), seen.is_empty()) {
            (true, _) => "nothing: the feature is off".to_owned(),
            (false, true) => "bound".to_owned(),
            (false, false) => seen.join(", "),
        };
        let groups = table.groups(*feature);
        let is_member = authorise::is_for(groups, verified);
        let membership = match (groups.is_empty(), is_member) {
            (true, _) => "the feature is for anyone",
            (false, true) => "the feature is for a group that the caller is in",
            (false, false) => "the feature is for groups that the caller is not in",
        };
        let shown = address.map_or_else(|| "unknown".to_owned(), |address| address.to_string());
        let refused = |reason: Reason| !matches!(&permit, Err(failure) if failure.reason == reason);
        let mut findings = vec![
            ("token", true, format!("{} of {}", claims.sub, claims.iss)),
            ("scope", verified.allows(feature.scope()), claims.scope.clone()),
            ("binding", !bound.is_empty(), binding),
            ("groups", is_member && refused(Reason::GroupMissing), membership.to_owned()),
            ("network", refused(Reason::NetworkUntrusted), format!("the caller is at {shown}")),
        ];
        if let Some(model) = model {
            let shown: String = model.chars().filter(|c| !c.is_control()).take(64).collect();
            findings.push(("model", refused(Reason::ModelNotFound), format!("`{shown}` is asked for")));
        }
        let permit = match permit {
            Ok(permit) => permit,
            Err(failure) => return Self { refusal: Some(failure), findings, models: Vec::new() },
        };
        // Building prompts is work, for which there must be a place as for any request.
        let place = match pipeline.admission.admit(&permit) {
            Ok(place) => place,
            Err(failure) => {
                findings.push(("limit", false, failure.message.clone()));
                return Self { refusal: Some(failure), findings, models: Vec::new() };
            }
        };
        findings.push(("limit", true, "there is a place at this gateway".to_owned()));
        let models: Vec<_> = permit.models().iter().map(|model| pipeline.planned(model, question)).collect();
        let answered = models.iter().any(|model| model.left_out.is_empty());
        drop(place);
        let refusal = match (answered, models.first()) {
            (false, Some(first)) => Some(Failure::new(Reason::RequestInvalid, first.left_out.clone())),
            _ => None,
        };
        Self { refusal, findings, models }
    }
}

impl Pipeline {
    fn planned(&self, model: &Model, question: &Question) -> Planned {
        let outstanding = model.endpoints.iter().map(|endpoint| self.admission.outstanding(endpoint)).sum();
        let mut planned = Planned {
            name: model.name.clone(),
            family: model.family.clone(),
            endpoints: (model.endpoints.len(), outstanding),
            template: String::new(),
            code: "",
            left_out: String::new(),
        };
        let (feature, registry) = (question.feature, self.prompts.current());
        let task = match feature {
            Feature::Chat | Feature::Embed => return planned,
            Feature::CodeCompletion => {
                planned.code = match model.code {
                    CodeMode::Layout | CodeMode::Unspecified => "layout",
                    CodeMode::Server => "server",
                    CodeMode::Chat => "chat",
                };
                let (prefix, file_path) = (" ".to_owned(), String::new());
                Task::Code { prefix, suffix: None, file_path, files: Vec::new() }
            }
            feature => Task::Run { feature, variables: question.variables.clone(), version: None },
        };
        let pinned = self.prompts.pinned(feature);
        match prompt::build(&task, model, &Parameters::default(), &registry, pinned) {
            Ok(prompt) => planned.template = prompt.template,
            Err(failure) => {
                let field = failure.fields.first().map(|(field, _)| format!("{field}: ")).unwrap_or_default();
                planned.left_out = format!("{field}{}", failure.message);
            }
        }
        planned
    }
}
