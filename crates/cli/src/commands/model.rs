//! `model`.

use std::io::IsTerminal as _;
use std::time::Duration;

use postern_proto::instance::v1 as pb;
use postern_proto::instance::v1::model_registry_service_client::ModelRegistryServiceClient;
use secrecy::{ExposeSecret as _, SecretString};
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
            let model = with_settings(pb::Model { name, ..Default::default() }, *settings)?;
            let request = client.administer(pb::CreateModelRequest { model: Some(model), credential }).await?;
            let made = registry.create_model(request).await.map_err(|status| of_instance(&status))?.into_inner();
            Ok(shown("registered", made.model.unwrap_or_default()))
        }
        Model::Update { name, settings } => {
            let request = client.administer(pb::GetModelRequest { name }).await?;
            let found = registry.get_model(request).await.map_err(|status| of_instance(&status))?.into_inner();
            let credential = credential(&settings, false)?;
            let model = with_settings(found.model.unwrap_or_default(), *settings)?;
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
    use pb::model_credential::Credential;
    pb::ModelCredential { credential: Some(Credential::None(pb::NoCredential {})), client_certificate: None }
}

/// The API key or AWS key: from a file, by prompt, or none; and the client certificate.
fn credential(settings: &ModelSettings, ask: bool) -> Result<Option<pb::ModelCredential>, Problem> {
    use pb::model_credential::Credential;
    let client_certificate = client_certificate(settings)?;
    let has_key = settings.no_api_key || settings.api_key_file.is_some() || settings.aws_key_file.is_some();
    let identity = aws_identity(settings)?;
    let has_key = has_key || settings.google_metadata || settings.google_key_file.is_some() || identity.is_some();
    if !ask && client_certificate.is_some() && !has_key {
        // A credential is replaced whole.
        return Err(Problem::new(
            "say what becomes of the key: give --api-key-file, --aws-key-file or --no-api-key too",
        ));
    }
    let key = |text: &SecretString| Credential::ApiKey(pb::ApiKey { value: text.expose_secret().to_owned() });
    let google = |key_json: String| Credential::Google(pb::GoogleServiceAccount { key_json });
    let credential = match (&settings.api_key_file, &settings.aws_key_file) {
        _ if identity.is_some() => identity.map(Credential::AwsIdentity),
        _ if settings.google_metadata => Some(google(String::new())),
        _ if settings.google_key_file.is_some() => {
            let whole = settings.google_key_file.as_deref().map(secret::whole_file).transpose()?;
            whole.map(|text| google(text.expose_secret().to_owned()))
        }
        _ if settings.no_api_key => Some(Credential::None(pb::NoCredential {})),
        (Some(path), _) => Some(key(&secret::from_file(path)?)),
        (None, Some(path)) => Some(Credential::Aws(aws_key(path)?)),
        (None, None) if client_certificate.is_some() => Some(Credential::None(pb::NoCredential {})),
        (None, None) if ask && std::io::stdin().is_terminal() => Some(key(&secret::ask("API key: ")?)),
        (None, None) => None,
    };
    Ok(credential.map(|credential| pb::ModelCredential { credential: Some(credential), client_certificate }))
}

fn client_certificate(settings: &ModelSettings) -> Result<Option<pb::ClientCertificate>, Problem> {
    let (Some(certificate), Some(key)) = (&settings.client_cert_file, &settings.client_key_file) else {
        return Ok(None);
    };
    let private_key_pem = secret::whole_file(key)?.expose_secret().to_owned();
    Ok(Some(pb::ClientCertificate { certificate_pem: read(certificate)?, private_key_pem }))
}

/// What the adapter gets credentials of AWS's with; `None` where it is not to get any.
fn aws_identity(settings: &ModelSettings) -> Result<Option<pb::AwsIdentity>, Problem> {
    use pb::aws_identity::{Machine, Source, WebIdentity};
    let ModelSettings { aws_profile, aws_web_identity, aws_machine, aws_key_file, .. } = settings;
    let source = match (aws_profile, aws_web_identity, aws_machine, aws_key_file) {
        (Some(name), ..) => Source::Profile(name.clone()),
        (_, true, ..) => Source::WebIdentity(WebIdentity {}),
        (_, _, true, _) => Source::Machine(Machine {}),
        (.., Some(path)) if settings.aws_role.is_some() => Source::Key(aws_key(path)?),
        _ if settings.aws_role.is_some() => {
            return Err(Problem::new(
                "--aws-role needs --aws-key-file, --aws-profile, --aws-web-identity or --aws-machine",
            ));
        }
        _ => return Ok(None),
    };
    let of_key = match &source {
        Source::Key(key) => key.region.clone(),
        _ => String::new(),
    };
    Ok(Some(pb::AwsIdentity {
        region: settings.aws_region.clone().unwrap_or(of_key),
        source: Some(source),
        role_arn: settings.aws_role.clone().unwrap_or_default(),
        external_id: settings.aws_external_id.clone().unwrap_or_default(),
    }))
}

/// An AWS key as `{"access_key_id": …, "secret_access_key": …, "session_token": …, "region": …}`.
fn aws_key(path: &std::path::Path) -> Result<pb::AwsAccessKey, Problem> {
    let text = secret::whole_file(path)?;
    let wrong = || {
        let wanted = "a JSON object with access_key_id, secret_access_key and region";
        Problem::new(format!("{} is not {wanted}", path.display()))
    };
    // What is wrong in it is not quoted: it is a secret.
    let value: Value = serde_json::from_str(text.expose_secret()).map_err(|_| wrong())?;
    let member = |name: &str| value[name].as_str().map(str::to_owned);
    Ok(pb::AwsAccessKey {
        access_key_id: member("access_key_id").ok_or_else(wrong)?,
        secret_access_key: member("secret_access_key").ok_or_else(wrong)?,
        session_token: member("session_token").unwrap_or_default(),
        region: member("region").ok_or_else(wrong)?,
    })
}

fn read(path: &std::path::Path) -> Result<String, Problem> {
    std::fs::read_to_string(path).map_err(|error| Problem::new(format!("{}: {error}", path.display())))
}

/// What is said of the model, in place of what was said before.
fn say(said: &mut pb::Capabilities, settings: &ModelSettings) {
    let ModelSettings { code, max_tokens_field, chat_api, .. } = settings;
    if let Some(code) = code {
        said.code = Some(pb::CodeMode::from(*code).into());
    }
    for (place, given) in [(&mut said.max_tokens_field, max_tokens_field), (&mut said.chat_api, chat_api)] {
        if given.is_some() {
            place.clone_from(given);
        }
    }
    if !settings.refuses.is_empty() {
        said.refused_parameters = Some(pb::ParameterNames { names: settings.refuses.clone() });
    }
    if settings.adaptive_thinking {
        said.adaptive_thinking = Some(true);
    }
    if settings.reasoning_history {
        said.reasoning_history = Some(true);
    }
    for (place, says_not) in [
        (&mut said.sampling, settings.no_sampling),
        (&mut said.system_role, settings.no_system_role),
        (&mut said.tools, settings.no_tools),
        (&mut said.structured_output, settings.no_structured_output),
        (&mut said.images, settings.no_images),
    ] {
        if says_not {
            *place = Some(false);
        }
    }
}

/// The model with what was given in place of what it has.
fn with_settings(mut model: pb::Model, settings: ModelSettings) -> Result<pb::Model, Problem> {
    let mut said = model.capabilities.take().unwrap_or_default();
    if settings.any_capabilities {
        said = pb::Capabilities::default();
    }
    say(&mut said, &settings);
    model.capabilities = Some(said);
    if let Some(path) = &settings.ca_file {
        model.ca_pem = read(path)?;
    }
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
    let timers = model.timers.get_or_insert_default();
    for (place, given) in [
        (&mut timers.connect, settings.connect_timeout),
        (&mut timers.first_content, settings.first_content_timeout),
        (&mut timers.idle, settings.idle_timeout),
        (&mut timers.total, settings.total_timeout),
    ] {
        if let Some(given) = given {
            let given =
                Duration::try_from_secs_f64(given).map_err(|error| Problem::new(format!("{given} s: {error}")))?;
            *place = prost_types::Duration::try_from(given).ok();
        }
    }
    if !settings.header.is_empty() {
        let header = |text: &String| {
            let (name, value) = text.split_once(':').ok_or_else(|| {
                Problem::new(format!("`{text}` is not a header; give it like --header 'x-team: search'"))
            })?;
            Ok(pb::Header { name: name.trim().to_ascii_lowercase(), value: value.trim().to_owned() })
        };
        model.headers = settings.header.iter().map(header).collect::<Result<_, Problem>>()?;
    }
    Ok(model)
}

fn credential_name(model: &pb::Model) -> &'static str {
    match model.credential_kind() {
        pb::CredentialKind::ApiKey => "api_key",
        pb::CredentialKind::Aws => "aws",
        pb::CredentialKind::AwsIdentity => "aws_identity",
        pb::CredentialKind::Google => "google",
        pb::CredentialKind::None => "none",
        pb::CredentialKind::Unspecified => "unknown",
    }
}

/// What an administrator said that it can do.
fn capabilities(said: Option<&pb::Capabilities>) -> Value {
    let said = said.cloned().unwrap_or_default();
    let code = said.code.map(|_| match said.code() {
        pb::CodeMode::Layout => "layout",
        pb::CodeMode::Server => "server",
        pb::CodeMode::Chat => "chat",
        pb::CodeMode::Unspecified => "unknown",
    });
    let members = [
        ("code", code.map(Value::from)),
        ("max_tokens_field", said.max_tokens_field.map(Value::from)),
        ("chat_api", said.chat_api.map(Value::from)),
        ("sampling", said.sampling.map(Value::from)),
        ("system_role", said.system_role.map(Value::from)),
        ("tools", said.tools.map(Value::from)),
        ("structured_output", said.structured_output.map(Value::from)),
        ("images", said.images.map(Value::from)),
        ("reasoning_history", said.reasoning_history.map(Value::from)),
        ("adaptive_thinking", said.adaptive_thinking.map(Value::from)),
        ("refused_parameters", said.refused_parameters.map(|refused| refused.names.into())),
    ];
    members
        .into_iter()
        .filter_map(|(name, said)| Some((name.to_owned(), said?)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// How long to wait, in seconds.
fn timers(model: &pb::Model) -> Value {
    let pb::Timers { connect, first_content, idle, total } = model.timers.unwrap_or_default();
    let seconds =
        |given: Option<prost_types::Duration>| Duration::try_from(given?).ok().map(|given| given.as_secs_f64());
    json!({
        "connect_s": seconds(connect), "first_content_s": seconds(first_content),
        "idle_s": seconds(idle), "total_s": seconds(total),
    })
}

fn view(model: &pb::Model) -> Value {
    let limits = model.limits.unwrap_or_default();
    json!({
        "name": model.name, "family": model.family, "provider": model.provider, "identifier": model.identifier,
        "endpoints": model.endpoints.iter().map(|e| json!({ "id": e.id, "url": e.url })).collect::<Value>(),
        "client_networks": model.client_networks, "endpoint_networks": model.endpoint_networks,
        "groups": model.groups, "adapter_group": model.adapter_group, "credential": credential_name(model), "version": model.version,
        "capabilities": capabilities(model.capabilities.as_ref()), "has_own_ca": !model.ca_pem.is_empty(),
        "headers": model.headers.iter().map(|header| json!({ "name": header.name, "value": header.value })).collect::<Value>(),
        "timers": timers(model),
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
