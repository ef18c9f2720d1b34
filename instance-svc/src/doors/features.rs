//! `postern.instance.v1.FeatureService`.

use std::sync::Arc;

use postern_proto::instance::v1 as pb;
use postern_proto::instance::v1::feature_service_server::FeatureService;
use postern_proto::{Failure, Feature};
use postern_runtime::grpc::refuse;
use tonic::{Request, Response, Status};

use super::acted;
use crate::lint::Lint;
use crate::registry::{Binding, BoundTo, Registry};

/// The door.
pub struct FeatureDoor {
    /// The domain behind it.
    pub registry: Arc<Registry>,
    /// What can never apply.
    pub lint: Lint,
}

/// A feature as the contract says it.
pub(crate) fn feature(name: Feature, binding: Option<&Binding>) -> pb::Feature {
    let groups = binding.map(|binding| binding.groups.clone()).unwrap_or_default();
    let binding = binding.map(|binding| match &binding.to {
        BoundTo::Disabled => pb::feature::Binding::Disabled(pb::feature::Disabled {}),
        BoundTo::SelfHosted(models) => {
            pb::feature::Binding::SelfHosted(pb::feature::SelfHosted { models: models.clone() })
        }
        BoundTo::Managed(gateway) => pb::feature::Binding::Managed(pb::feature::Managed { gateway: gateway.clone() }),
    });
    pb::Feature { name: name.name().to_owned(), binding, groups }
}

fn named(name: &str) -> Result<Feature, Failure> {
    name.parse().map_err(|error: postern_proto::UnknownFeature| Failure::field("feature.name", error.to_string()))
}

fn bound(given: Option<pb::Feature>) -> Result<(Feature, Binding), Failure> {
    let pb::Feature { name, binding, groups } = given.ok_or_else(|| Failure::field("feature", "is missing"))?;
    let to = match binding {
        Some(pb::feature::Binding::Disabled(pb::feature::Disabled {})) => BoundTo::Disabled,
        Some(pb::feature::Binding::SelfHosted(pb::feature::SelfHosted { models })) => BoundTo::SelfHosted(models),
        Some(pb::feature::Binding::Managed(pb::feature::Managed { gateway })) => BoundTo::Managed(gateway),
        None => return Err(Failure::field("feature.binding", "is missing")),
    };
    Ok((named(&name)?, Binding { to, groups: crate::directory::groups("feature.groups", groups)? }))
}

#[tonic::async_trait]
impl FeatureService for FeatureDoor {
    async fn bind_feature(
        &self,
        request: Request<pb::BindFeatureRequest>,
    ) -> Result<Response<pb::BindFeatureResponse>, Status> {
        let (name, binding) = bound(request.into_inner().feature).map_err(refuse)?;
        self.registry.bind(name, &binding).await.map_err(refuse)?;
        tracing::info!(feature.name = name.name(), "feature bound");
        let on = format!("{name} to {binding:?}");
        Ok(acted(on, pb::BindFeatureResponse { feature: Some(feature(name, Some(&binding))) }))
    }

    async fn unbind_feature(
        &self,
        request: Request<pb::UnbindFeatureRequest>,
    ) -> Result<Response<pb::UnbindFeatureResponse>, Status> {
        let name = named(&request.into_inner().name).map_err(refuse)?;
        self.registry.unbind(name).await.map_err(refuse)?;
        tracing::info!(feature.name = name.name(), "feature unbound");
        Ok(acted(name.name(), pb::UnbindFeatureResponse {}))
    }

    async fn list_features(
        &self,
        _: Request<pb::ListFeaturesRequest>,
    ) -> Result<Response<pb::ListFeaturesResponse>, Status> {
        let bindings = self.registry.bindings().await.map_err(refuse)?;
        let features = Feature::ALL.into_iter().map(|name| feature(name, bindings.get(&name))).collect();
        Ok(Response::new(pb::ListFeaturesResponse { features }))
    }

    async fn lint_features(
        &self,
        _: Request<pb::LintFeaturesRequest>,
    ) -> Result<Response<pb::LintFeaturesResponse>, Status> {
        let found = self.lint.run().await.map_err(refuse)?;
        let lints = found.into_iter().map(|(subject, problem)| pb::Lint { subject, problem }).collect();
        Ok(Response::new(pb::LintFeaturesResponse { lints }))
    }
}
