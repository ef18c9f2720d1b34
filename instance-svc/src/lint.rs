//! What of the configuration can never apply as things stand: bindings that nobody can use, models that nothing reaches, prompts that are
//! never picked.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use http::Uri;
use postern_egress::Policy;
use postern_prompt::{Origin, Registry as PromptRegistry};
use postern_proto::{Failure, Feature};

use crate::partners::Partners;
use crate::prompts::Prompts;
use crate::registry::{Binding, BoundTo, Model, Registry};
use crate::store::{Kind, PrincipalRecord, Store};

/// Looks for it.
pub struct Lint {
    registry: Arc<Registry>,
    prompts: Arc<Prompts>,
    store: Arc<dyn Store>,
}

/// What there is to look at.
struct Seen {
    bindings: BTreeMap<Feature, Binding>,
    models: Vec<Model>,
    principals: Vec<PrincipalRecord>,
    /// The groups that users of other instances count as members of.
    foreign_groups: Vec<Vec<String>>,
    prompts: Vec<(String, String)>,
}

/// A subject, and what is wrong with it.
pub type Found = (String, String);

impl Lint {
    /// Over these parts.
    #[must_use]
    pub fn new(registry: Arc<Registry>, prompts: Arc<Prompts>, store: Arc<dyn Store>) -> Self {
        Self { registry, prompts, store }
    }

    /// Looks at everything.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE.
    pub async fn run(&self) -> Result<Vec<Found>, Failure> {
        let foreign = Partners::new(self.store.clone()).issuers().await?;
        let seen = Seen {
            bindings: self.registry.bindings().await?,
            models: self.registry.models().await?,
            principals: self.store.principals().await?,
            foreign_groups: foreign.into_iter().map(|issuer| issuer.groups).collect(),
            prompts: self.prompts.all().await?,
        };
        let mut found = Vec::new();
        for (feature, binding) in &seen.bindings {
            found.extend(seen.binding(*feature, binding).map(|problem| (format!("feature:{feature}"), problem)));
        }
        for model in &seen.models {
            let subject = format!("model:{}", model.record.name);
            found.extend(seen.model(model).into_iter().map(|problem| (subject.clone(), problem)));
        }
        found.extend(seen.idle_prompts());
        Ok(found)
    }
}

/// Providers whose API has no embeddings.
const NO_EMBEDDINGS: [&str; 1] = ["anthropic"];

impl Seen {
    /// Whether somebody is in one of the groups of each of these lists; an empty list is anyone.
    fn somebody_is_in(&self, lists: &[&[String]]) -> bool {
        let is_in = |groups: &[String]| {
            lists.iter().all(|list| list.is_empty() || groups.iter().any(|group| list.contains(group)))
        };
        let own = self.principals.iter().filter(|one| matches!(one.kind, Kind::User | Kind::Service));
        own.map(|one| &one.groups).chain(&self.foreign_groups).any(|groups| is_in(groups))
    }

    fn binding(&self, feature: Feature, binding: &Binding) -> Option<String> {
        match &binding.to {
            BoundTo::Disabled => return None,
            BoundTo::Managed(gateway) => {
                let is_there = |one: &PrincipalRecord| one.kind == Kind::ManagedGateway && one.name == *gateway;
                if !self.principals.iter().any(is_there) {
                    return Some(format!("it is bound to the gateway `{gateway}`, which is not in the fleet"));
                }
            }
            BoundTo::SelfHosted(names) => {
                let bound = || self.models.iter().filter(|model| names.contains(&model.record.name));
                if feature == Feature::Embed
                    && bound().all(|model| NO_EMBEDDINGS.contains(&model.spec.provider.as_str()))
                {
                    return Some("the servers of the models that it is bound to have no embeddings".to_owned());
                }
                if !bound().any(|model| self.somebody_is_in(&[&binding.groups, &model.spec.groups])) {
                    return Some("nobody is in a group of the binding and in one of a bound model".to_owned());
                }
            }
        }
        if self.somebody_is_in(&[&binding.groups]) {
            return None;
        }
        Some(format!("it is for {}, and nobody is in any of these groups", binding.groups.join(", ")))
    }

    fn model(&self, model: &Model) -> Vec<String> {
        let (name, spec, mut problems) = (&model.record.name, &model.spec, Vec::new());
        let bound = |binding: &Binding| matches!(&binding.to, BoundTo::SelfHosted(names) if names.contains(name));
        if !self.bindings.values().any(bound) {
            problems
                .push("no feature is bound to it, so nobody can use it; `postern feature bind` binds one".to_owned());
        }
        let serves = |one: &PrincipalRecord| {
            one.kind == Kind::Adapter && one.adapter_group.as_ref() == Some(&spec.adapter_group)
        };
        if !self.principals.iter().any(serves) {
            let group = &spec.adapter_group;
            problems.push(format!(
                "no adapter of the fleet serves the group `{group}`; `postern fleet add adapter` adds one"
            ));
        }
        let policy = Policy::new(spec.endpoint_networks.iter().copied());
        for endpoint in &spec.endpoints {
            // A name may stand for any address.
            let host =
                endpoint.url.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_default();
            let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
            if let Some(denied) = address.ok().and_then(|address| policy.check(address).err()) {
                problems.push(format!("its endpoint {} is never called: {denied}", endpoint.url));
            }
        }
        problems
    }

    /// Prompts that are picked for no model, whoever asks.
    fn idle_prompts(&self) -> Vec<Found> {
        let files: Vec<_> =
            self.prompts.iter().map(|(name, text)| (PathBuf::from(format!("{name}.toml")), text.clone())).collect();
        let registry = match PromptRegistry::layered(&[(Origin::Instance, &files)]) {
            Ok(registry) => registry,
            // Written by a version that took more.
            Err(unusable) => {
                return vec![(
                    format!("prompt:{}", unusable.place),
                    format!("no gateway of this version can use it: {}", unusable.problem),
                )];
            }
        };
        let mut idle = Vec::new();
        for (template, _) in registry.all().filter(|(_, origin)| *origin == Origin::Instance) {
            let Ok(feature) = template.feature.parse::<Feature>() else { continue };
            let names = match self.bindings.get(&feature).map(|binding| &binding.to) {
                Some(BoundTo::SelfHosted(names)) => names.as_slice(),
                _ => &[],
            };
            let bound = self.models.iter().filter(|model| names.contains(&model.record.name));
            let families: BTreeSet<&str> = bound.map(|model| model.spec.family.as_str()).collect();
            let picks = |family: &&str| registry.pick(feature, family, None) == Some(template);
            let problem = if families.is_empty() {
                format!("the feature `{feature}` is bound to no model of this instance")
            } else if families.iter().any(picks) {
                continue;
            } else if template.family != "base" && registry.pick(feature, &template.family, None) == Some(template) {
                format!(
                    "no model that `{feature}` is bound to is of its family; theirs are {}",
                    families.into_iter().collect::<Vec<_>>().join(", ")
                )
            } else {
                "another stands before it: it is used only where its version is pinned or asked for".to_owned()
            };
            idle.push((format!("prompt:{}", template.name()), problem));
        }
        idle
    }
}
