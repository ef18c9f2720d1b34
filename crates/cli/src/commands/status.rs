//! `status`.

use postern_proto::gateway::v1::ListModelsRequest;
use postern_proto::gateway::v1::completion_service_client::CompletionServiceClient;
use postern_proto::health::v1::health_client::HealthClient;
use postern_proto::instance::v1::IntrospectTokenRequest;
use postern_proto::instance::v1::token_service_client::TokenServiceClient;
use postern_proto::{Failure, Feature, Reason};
use postern_runtime::grpc;
use postern_runtime::request_id::RequestId;
use serde_json::{Value, json};
use tonic::transport::Channel;

use crate::client::{Client, of_gateway};
use crate::output::{Output, Problem};

/// What can be reached and used with this login.
pub async fn status(client: &Client) -> Result<Output, Problem> {
    let (instance, gateway) = (health(client.instance()).await, health(client.gateway()).await);
    let models = models(client).await;
    let (instance_at, gateway_at) = client.places();
    let mut text = format!("instance  {instance_at}  {instance}\ngateway   {gateway_at}  {gateway}\n");
    let mut id = None;
    let json_models = match &models {
        Ok(models) if models.is_empty() => {
            text.push_str("models    none that this login may use");
            json!([])
        }
        Ok(models) => {
            let lines: Vec<_> =
                models.iter().map(|(name, features)| format!("model     {name}  {}", features.join(", "))).collect();
            text.push_str(&lines.join("\n"));
            models.iter().map(|(name, features)| json!({ "name": name, "features": features })).collect()
        }
        // An administrator's login uses no models; that is not bad news.
        Err(failure) if failure.reason == Reason::ScopeDenied => {
            id = instance_id(client).await;
            text.push_str(&id.as_ref().map(|id| format!("id        {id}\n")).unwrap_or_default());
            text.push_str("login     for administration");
            json!([])
        }
        Err(failure) => {
            text.push_str(&format!("models    {failure}"));
            json!({ "error": { "reason": failure.reason.name(), "message": failure.message } })
        }
    };
    let usable = match &models {
        Ok(_) => true,
        Err(failure) => failure.reason == Reason::ScopeDenied,
    };
    let good = instance == "serving" && gateway == "serving" && usable;
    let json = json!({
        "instance": { "address": instance_at, "health": instance, "id": id },
        "gateway": { "address": gateway_at, "health": gateway },
        "models": json_models,
    });
    Ok(Output::new(text, json).bad_unless(good))
}

/// The instance's id, where this login may introspect: other instances know it by that (`fleet add instance`).
async fn instance_id(client: &Client) -> Option<String> {
    let token = client.exchange("", &["instance:admin".to_owned()], None).await.ok()?.access_token;
    let request = client.administer(IntrospectTokenRequest { token }).await.ok()?;
    let answer = TokenServiceClient::new(client.instance()).introspect_token(request).await.ok()?;
    let claims: Value = serde_json::from_str(&answer.into_inner().claims_json).ok()?;
    claims["postern_instance"].as_str().map(str::to_owned)
}

async fn health(channel: Channel) -> &'static str {
    let mut request = tonic::Request::new(Default::default());
    request.set_timeout(std::time::Duration::from_secs(5));
    match HealthClient::new(channel).check(request).await {
        Ok(answer) if answer.get_ref().status == 1 => "serving",
        Ok(_) => "not serving",
        Err(_) => "cannot be reached",
    }
}

async fn models(client: &Client) -> Result<Vec<(String, Vec<String>)>, Failure> {
    let scope: Vec<_> = Feature::ALL.iter().map(|feature| feature.scope().to_owned()).collect();
    let token = client.exchange("", &scope, None).await?.access_token;
    let request = grpc::onward(ListModelsRequest {}, &RequestId::generate(), &token, None);
    let answer = CompletionServiceClient::new(client.gateway()).list_models(request).await;
    let models = answer.map_err(|status| of_gateway(&status))?.into_inner().models;
    Ok(models.into_iter().map(|model| (model.name, model.features)).collect())
}
