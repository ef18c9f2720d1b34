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
        let list = |items: &[String], empty: &str| if items.is_empty() { empty.to_owned() } else { items.join(", ") };
        let bound: Vec<_> = table.bound(*feature).iter().map(|model| model.name.clone()).collect();
        let groups = table.groups(*feature);
        let shown = address.map_or_else(|| "unknown".to_owned(), |address| address.to_string());
        let refused = |reason: Reason| !matches!(&permit, Err(failure) if failure.reason == reason);
        let mut findings = vec![
            ("token", true, format!("{} of {}", claims.sub, claims.iss)),
            ("scope", verified.allows(feature.scope()), claims.scope.clone()),
            ("binding", !bound.is_empty(), list(&bound, "nothing: the feature is off")),
            (
                "groups",
                authorise::is_for(groups, verified) && refused(Reason::GroupMissing),
                format!("for {}; the caller's: {}", list(groups, "anyone"), list(verified.groups(), "none")),
            ),
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
        let room = pipeline.admission.room();
        findings.push(("limit", room > 0, format!("room for {room} requests at this gateway")));
        let models: Vec<_> = permit.models().iter().map(|model| pipeline.planned(model, question)).collect();
        let answered = models.iter().any(|model| model.left_out.is_empty());
        let refusal = match (answered, models.first()) {
            (false, Some(first)) => Some(Failure::new(Reason::RequestInvalid, first.left_out.clone())),
            _ if room == 0 => Some(Failure::new(Reason::ConcurrencyLimited, "the gateway is at its limit of requests")),
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
