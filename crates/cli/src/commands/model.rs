//! `model`.

use std::io::IsTerminal as _;
use std::time::Duration;

use postern_proto::instance::v1 as pb;
use postern_proto::instance::v1::model_registry_service_client::ModelRegistryServiceClient;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::time;
use crate::args::{Model, ModelSettings};
use crate::client::{Client, of_instance};
use crate::output::{Output, Problem};
use crate::secret;

/// Runs a command of the family.
pub async fn run(client: &Client, command: Model, json: bool) -> Result<Output, Problem> {
    let mut registry = ModelRegistryServiceClient::new(client.instance());
    match command {
        Model::Add { name, settings } => {
            let credential = Some(credential(&settings, true)?.unwrap_or(none()));
            let model = with_settings(pb::Model { name, ..Default::default() }, *settings);
            let request = client.administer(pb::CreateModelRequest { model: Some(model), credential }).await?;
            let made = registry.create_model(request).await.map_err(|status| of_instance(&status))?.into_inner();
            Ok(shown("registered", made.model.unwrap_or_default()))
        }
        Model::Update { name, settings } => {
            let request = client.administer(pb::GetModelRequest { name }).await?;
            let found = registry.get_model(request).await.map_err(|status| of_instance(&status))?.into_inner();
            let credential = credential(&settings, false)?;
            let model = with_settings(found.model.unwrap_or_default(), *settings);
            let request = client.administer(pb::UpdateModelRequest { model: Some(model), credential }).await?;
            let made = registry.update_model(request).await.map_err(|status| of_instance(&status))?.into_inner();
            Ok(shown("changed", made.model.unwrap_or_default()))
        }
        Model::List => {
            let request = client.administer(pb::ListModelsRequest {}).await?;
            let models =
                registry.list_models(request).await.map_err(|status| of_instance(&status))?.into_inner().models;
            let rows = models.iter().map(|model| {
                let urls: Vec<_> = model.endpoints.iter().map(|endpoint| endpoint.url.as_str()).collect();
                [model.name.clone(), model.family.clone(), model.provider.clone(), urls.join(" ")]
            });
            let rows = rows.collect();
            Ok(Output::table(["NAME", "FAMILY", "PROVIDER", "URL"], rows, models.iter().map(view).collect()))
        }
        Model::Show { name } => {
            let request = client.administer(pb::GetModelRequest { name }).await?;
            let found = registry.get_model(request).await.map_err(|status| of_instance(&status))?.into_inner();
            Ok(shown("registered", found.model.unwrap_or_default()))
        }
        Model::Check { name } => check(client, &mut registry, name, json).await,
        Model::Remove { name } => {
            let request = client.administer(pb::DeleteModelRequest { name: name.clone() }).await?;
            registry.delete_model(request).await.map_err(|status| of_instance(&status))?;
            Ok(Output::new(format!("removed {name}"), json!({ "removed": name })))
        }
    }
}

async fn check(
    client: &Client,
    registry: &mut ModelRegistryServiceClient<tonic::transport::Channel>,
    name: String,
    json: bool,
) -> Result<Output, Problem> {
    let mut request = client.administer(pb::CheckModelRequest { name: name.clone() }).await?;
    request.set_timeout(Duration::from_secs(90));
    let mut steps = registry.check_model(request).await.map_err(|status| of_instance(&status))?.into_inner();
    let mut seen = Vec::new();
    let mut good = true;
    while let Some(answer) = steps.message().await.map_err(|status| of_instance(&status))? {
        let step = answer.step.unwrap_or_default();
        let ms = step.elapsed.and_then(|elapsed| Duration::try_from(elapsed).ok()).unwrap_or_default().as_millis();
        let verdict = if step.ok { "ok  " } else { "FAIL" };
        if !json {
            println!("{verdict}  {:<12} {:>6} ms  {}", step.name, ms, step.detail);
        }
        good &= step.ok;
        seen.push(json!({
            "adapter": step.adapter, "endpoint": step.endpoint_id, "step": step.name, "ok": step.ok,
            "detail": step.detail, "elapsed_ms": u64::try_from(ms).unwrap_or(u64::MAX),
        }));
    }
    good &= !seen.is_empty();
    let text = if good {
        format!("{name} can be used")
    } else {
        format!("{name} cannot be used; its registration is unchanged")
    };
    Ok(Output::new(text, json!({ "model": name, "ok": good, "steps": seen })).bad_unless(good))
}

fn none() -> pb::ModelCredential {
    pb::ModelCredential { credential: Some(pb::model_credential::Credential::None(pb::NoCredential {})) }
}

/// The API key: from a file, by prompt, or none.
fn credential(settings: &ModelSettings, ask: bool) -> Result<Option<pb::ModelCredential>, Problem> {
    let key = match &settings.api_key_file {
        _ if settings.no_api_key => return Ok(Some(none())),
        Some(path) => secret::from_file(path)?,
        None if ask && std::io::stdin().is_terminal() => secret::ask("API key: ")?,
        None => return Ok(None),
    };
    let value = key.expose_secret().to_owned();
    Ok(Some(pb::ModelCredential { credential: Some(pb::model_credential::Credential::ApiKey(pb::ApiKey { value })) }))
}

/// The model with what was given in place of what it has.
fn with_settings(mut model: pb::Model, settings: ModelSettings) -> pb::Model {
    fn put<T>(place: &mut T, given: Option<T>) {
        if let Some(given) = given {
            *place = given;
        }
    }
    let texts = |networks: Vec<ipnet::IpNet>| {
        Some(networks.iter().map(ToString::to_string).collect()).filter(|texts: &Vec<String>| !texts.is_empty())
    };
    let endpoints: Vec<_> = settings.url.into_iter().map(|url| pb::Endpoint { id: String::new(), url }).collect();
    put(&mut model.endpoints, Some(endpoints).filter(|endpoints| !endpoints.is_empty()));
    put(&mut model.identifier, settings.identifier);
    put(&mut model.family, settings.family);
    put(&mut model.provider, settings.provider);
    put(&mut model.endpoint_networks, texts(settings.endpoint_network));
    put(&mut model.client_networks, texts(settings.client_network));
    if settings.no_endpoint_network {
        model.endpoint_networks.clear();
    }
    put(&mut model.groups, Some(settings.group).filter(|groups| !groups.is_empty()));
    if settings.any_group {
        model.groups.clear();
    }
    if settings.any_client_network {
        model.client_networks.clear();
    }
    put(&mut model.adapter_group, settings.adapter_group);
    let limits = model.limits.get_or_insert_default();
    put(&mut limits.context_length, settings.context_length);
    put(&mut limits.max_concurrency, settings.max_concurrency);
    model
}

fn credential_name(model: &pb::Model) -> &'static str {
    match model.credential_kind() {
        pb::CredentialKind::ApiKey => "api_key",
        pb::CredentialKind::None => "none",
        pb::CredentialKind::Unspecified => "unknown",
    }
}

fn view(model: &pb::Model) -> Value {
    let limits = model.limits.unwrap_or_default();
    json!({
        "name": model.name, "family": model.family, "provider": model.provider, "identifier": model.identifier,
        "endpoints": model.endpoints.iter().map(|e| json!({ "id": e.id, "url": e.url })).collect::<Value>(),
        "client_networks": model.client_networks, "endpoint_networks": model.endpoint_networks,
        "groups": model.groups, "adapter_group": model.adapter_group, "credential": credential_name(model), "version": model.version,
        "context_length": limits.context_length, "max_concurrency": limits.max_concurrency,
        "created_at": time(model.create_time), "updated_at": time(model.update_time),
    })
}

fn shown(what: &str, model: pb::Model) -> Output {
    let urls: Vec<_> = model.endpoints.iter().map(|endpoint| endpoint.url.as_str()).collect();
    let list = |items: &[String], empty: &str| if items.is_empty() { empty.to_owned() } else { items.join(" ") };
    let text = format!(
        "{what} {}\n  url                {}\n  identifier         {}\n  family             {}\n  provider           {}\n  \
         credential         {}\n  endpoint networks  {}\n  client networks    {}\n  groups             {}\n  \
         adapter group      {}",
        model.name,
        urls.join(" "),
        model.identifier,
        model.family,
        model.provider,
        credential_name(&model),
        list(&model.endpoint_networks, "public addresses only"),
        list(&model.client_networks, "any"),
        list(&model.groups, "anyone"),
        model.adapter_group,
    );
    Output::new(text, view(&model))
}
