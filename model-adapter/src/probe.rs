//! What an administrator's check finds out from here: can the name be resolved, the address reached, does the server take the
//! credential, does it have the model, does it complete.

use std::time::Duration;

use postern_proto::completion::v1::{ContentPart, Message, Parameters, Role, content_part};
use postern_proto::instance::v1 as pb;
use postern_proto::model::v1::{ChatPrompt, Generation, generation};
use postern_proto::{Failure, Reason};
use postern_runtime::request_id::RequestId;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::endpoints::Endpoint;
use crate::service::Models;
use crate::upstream;

/// How long one step may take.
const STEP_PATIENCE: Duration = Duration::from_secs(20);

/// Probes these endpoints in turn and sends each step as it ends.
pub async fn run(models: &Models, request: pb::ProbeRequest, up: &mpsc::Sender<pb::ConnectAdapterRequest>) {
    let pb::ProbeRequest { probe_id, endpoint_ids } = request;
    for endpoint_id in endpoint_ids {
        let mut report = Report { probe_id: probe_id.clone(), endpoint_id: endpoint_id.clone(), up };
        match models.endpoints.get(&endpoint_id) {
            Some(endpoint) => probe(models, &endpoint, &mut report).await,
            None => {
                let unknown = Failure::new(Reason::EndpointNotFound, "the endpoint has not reached the adapter");
                report.step("resolve", async { Err(unknown) }).await;
            }
        }
    }
    send(up, pb::ProbeResult { probe_id, step: None, done: true }).await;
}

async fn probe(models: &Models, endpoint: &Endpoint, report: &mut Report<'_>) {
    let connector = &endpoint.connector;
    let resolved =
        report.step("resolve", async { Ok(connector.way(&endpoint.url("/")?).await.map_err(told)?.to_string()) });
    if !resolved.await {
        return;
    }
    let connected = report.step("connect", async {
        let stream = connector.connect(&endpoint.url("/")?).await.map_err(told)?;
        Ok(stream.peer_addr().map(|address| address.to_string()).unwrap_or_default())
    });
    if !connected.await {
        return;
    }
    let mut listed = Value::Null;
    let authenticated = report.step("authenticate", async {
        let Some(call) = endpoint.provider.list_models(&endpoint.target())? else {
            // The completion will tell.
            return Ok("the API has no list to try the credential with".to_owned());
        };
        match upstream::send(endpoint, call, &RequestId::generate(), models.clock.now()).await {
            Ok(response) => {
                let body = upstream::read_all(response.into_body()).await?;
                listed = serde_json::from_slice(&body).unwrap_or_default();
                Ok("the server takes the credential".to_owned())
            }
            // Some servers have no list; the completion will tell.
            Err(failure) if failure.reason == Reason::ModelMissingUpstream => {
                Ok("the server lists no models".to_owned())
            }
            Err(failure) => Err(failure),
        }
    });
    if !authenticated.await {
        return;
    }
    report.step("model", async { Ok(model_listed(endpoint.target().identifier, &listed)) }).await;
    report.step("complete", complete(models, endpoint)).await;
}

/// Whether the list names the model. Servers with one model answer whatever name is asked, so a missing name is no failure.
fn model_listed(identifier: &str, listed: &Value) -> String {
    let lists = [&listed["data"], &listed["models"]].into_iter().filter_map(Value::as_array).flatten();
    let id = |model: &Value| model["id"].as_str().or_else(|| model["name"].as_str()).map(str::to_owned);
    let ids: Vec<String> = lists.filter_map(id).map(|id| id.trim_start_matches("models/").to_owned()).collect();
    if ids.iter().any(|id| id == identifier) {
        return format!("the server lists `{identifier}`");
    }
    let shown = ids.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    format!("the server does not list `{identifier}`; it lists: {shown}")
}

async fn complete(models: &Models, endpoint: &Endpoint) -> Result<String, Failure> {
    let text = content_part::Part::Text("Say OK.".to_owned());
    let message = Message {
        role: Role::User as i32,
        content: vec![ContentPart { part: Some(text), ..ContentPart::default() }],
        ..Default::default()
    };
    let generation = Generation {
        endpoint_id: endpoint.id.clone(),
        prompt: Some(generation::Prompt::Chat(ChatPrompt { messages: vec![message], ..Default::default() })),
        parameters: Some(Parameters { max_tokens: Some(1), ..Default::default() }),
    };
    let completion = models.generate_once(generation, &RequestId::generate()).await?;
    let tokens =
        completion.usage.and_then(|usage| usage.output_tokens).map_or("?".to_owned(), |tokens| tokens.to_string());
    Ok(format!("the model answered ({tokens} output tokens)"))
}

/// An administrator may know the addresses that a caller may not.
fn told(error: postern_egress::ConnectError) -> Failure {
    let failure = upstream::not_connected(&error);
    Failure { message: error.to_string(), ..failure }
}

struct Report<'a> {
    probe_id: String,
    endpoint_id: String,
    up: &'a mpsc::Sender<pb::ConnectAdapterRequest>,
}

impl Report<'_> {
    /// Runs a step and sends what it saw; whether it went well.
    async fn step(&mut self, name: &str, step: impl Future<Output = Result<String, Failure>>) -> bool {
        let begun = Instant::now();
        let late = || Err(Failure::new(Reason::DeadlineExceeded, "no answer in time"));
        let seen = tokio::time::timeout(STEP_PATIENCE, step).await.unwrap_or_else(|_| late());
        let (ok, detail) = match seen {
            Ok(detail) => (true, detail),
            Err(failure) => (false, failure.to_string()),
        };
        let step = pb::ProbeStep {
            // The instance knows the name of who is connected.
            adapter: String::new(),
            endpoint_id: self.endpoint_id.clone(),
            name: name.to_owned(),
            ok,
            detail,
            elapsed: prost_types::Duration::try_from(begun.elapsed()).ok(),
        };
        send(self.up, pb::ProbeResult { probe_id: self.probe_id.clone(), step: Some(step), done: false }).await;
        ok
    }
}

async fn send(up: &mpsc::Sender<pb::ConnectAdapterRequest>, result: pb::ProbeResult) {
    let message = pb::connect_adapter_request::Message::ProbeResult(result);
    // A stream that broke is noticed by its reader; the probe is then over.
    let _ = up.send(pb::ConnectAdapterRequest { message: Some(message) }).await;
}
