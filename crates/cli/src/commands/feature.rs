//! `feature`.

use postern_proto::instance::v1 as pb;
use postern_proto::instance::v1::feature::Binding;
use postern_proto::instance::v1::feature_service_client::FeatureServiceClient;
use serde_json::{Value, json};

use crate::args::Feature;
use crate::client::{Client, of_instance};
use crate::output::{Output, Problem};

/// Runs a command of the family.
pub async fn run(client: &Client, command: Feature) -> Result<Output, Problem> {
    let mut features = FeatureServiceClient::new(client.instance());
    match command {
        Feature::Bind { feature, models, managed, group, disabled } => {
            let binding = match (disabled, managed) {
                (true, _) => Binding::Disabled(pb::feature::Disabled {}),
                (false, Some(gateway)) => Binding::Managed(pb::feature::Managed { gateway }),
                (false, None) => Binding::SelfHosted(pb::feature::SelfHosted { models }),
            };
            let feature = pb::Feature { name: feature, binding: Some(binding), groups: group };
            let request = client.administer(pb::BindFeatureRequest { feature: Some(feature) }).await?;
            let bound = features.bind_feature(request).await.map_err(|status| of_instance(&status))?.into_inner();
            let bound = bound.feature.unwrap_or_default();
            Ok(Output::new(format!("{}: {}", bound.name, binding_text(&bound)), view(&bound)))
        }
        Feature::Unbind { feature } => {
            let request = client.administer(pb::UnbindFeatureRequest { name: feature.clone() }).await?;
            features.unbind_feature(request).await.map_err(|status| of_instance(&status))?;
            Ok(Output::new(format!("{feature}: off"), json!({ "unbound": feature })))
        }
        Feature::List => {
            let request = client.administer(pb::ListFeaturesRequest {}).await?;
            let list =
                features.list_features(request).await.map_err(|status| of_instance(&status))?.into_inner().features;
            let row = |feature: &pb::Feature| {
                let groups = if feature.groups.is_empty() { "anyone".to_owned() } else { feature.groups.join(", ") };
                [feature.name.clone(), binding_text(feature), groups]
            };
            let rows = list.iter().map(row).collect();
            Ok(Output::table(["FEATURE", "BOUND TO", "FOR"], rows, list.iter().map(view).collect()))
        }
    }
}

/// Says what can never apply.
pub async fn lint(client: &Client) -> Result<Output, Problem> {
    let mut features = FeatureServiceClient::new(client.instance());
    let request = client.administer(pb::LintFeaturesRequest {}).await?;
    let lints = features.lint_features(request).await.map_err(|status| of_instance(&status))?.into_inner().lints;
    let text = match lints.as_slice() {
        [] => "everything that is configured can apply".to_owned(),
        lints => lints.iter().map(|lint| format!("{}: {}", lint.subject, lint.problem)).collect::<Vec<_>>().join("\n"),
    };
    let views =
        lints.iter().map(|lint| json!({ "subject": lint.subject, "problem": lint.problem })).collect::<Vec<_>>();
    Ok(Output::new(text, json!({ "ok": lints.is_empty(), "lints": views })).bad_unless(lints.is_empty()))
}

fn binding_text(feature: &pb::Feature) -> String {
    match &feature.binding {
        Some(Binding::SelfHosted(bound)) => bound.models.join(", "),
        Some(Binding::Managed(bound)) => format!("managed by {}", bound.gateway),
        Some(Binding::Disabled(_)) => "disabled".to_owned(),
        None => "nothing (off)".to_owned(),
    }
}

fn view(feature: &pb::Feature) -> Value {
    let binding = match &feature.binding {
        Some(Binding::SelfHosted(bound)) => json!({ "self_hosted": bound.models }),
        Some(Binding::Managed(bound)) => json!({ "managed": bound.gateway }),
        Some(Binding::Disabled(_)) => json!("disabled"),
        None => Value::Null,
    };
    json!({ "feature": feature.name, "binding": binding, "groups": feature.groups })
}
