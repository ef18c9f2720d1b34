//! `chat`, `code`, `run`, `embed` and `explain`: what the model writes goes to standard output as it comes; what it cost, to standard error.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::path::Path;

use postern_proto::completion::v1::{
    ContentPart, FinishReason, Message, Parameters, Role, SourceFile, Usage, completion_event::Event, content_part,
    delta,
};
use postern_proto::gateway::v1 as pb;
use postern_proto::gateway::v1::completion_service_client::CompletionServiceClient;
use postern_proto::gateway::v1::explain_service_client::ExplainServiceClient;
use postern_proto::{Failure, Feature, UnknownFeature};
use postern_runtime::grpc;
use postern_runtime::request_id::RequestId;
use serde_json::json;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::args::{Chat, Code, Embed, Explain, Run, Sampling, Variables, Via};
use crate::client::{Client, of_gateway};
use crate::output::{Output, Problem};

/// Longest text that is read from standard input, in bytes.
const MAX_INPUT_BYTES: u64 = 8 * 1024 * 1024;

/// Asks a model.
pub async fn chat(client: &Client, args: Chat, json: bool) -> Result<Output, Problem> {
    let said = |role: Role, text: String| Message {
        role: role as i32,
        content: vec![ContentPart { part: Some(content_part::Part::Text(text)), cache: None }],
        ..Default::default()
    };
    let system = args.system.map(|text| said(Role::System, text));
    let question = said(Role::User, or_stdin(args.prompt)?);
    let chat = pb::Chat {
        model: args.sampling.model.clone().unwrap_or_default(),
        messages: system.into_iter().chain([question]).collect(),
        parameters: Some(parameters(&args.sampling)),
        ..Default::default()
    };
    let request = request(client, pb::StreamChatRequest { chat: Some(chat) }, Feature::Chat, args.sampling.via).await?;
    let answer = service(client, args.sampling.via).stream_chat(request).await.map_err(failed)?;
    let mut events = answer.into_inner();
    let mut shown = Shown::new(json);
    while let Some(message) = events.message().await.map_err(failed)? {
        shown.take(message.event.and_then(|event| event.event))?;
    }
    shown.output()
}

/// Completes code.
pub async fn code(client: &Client, args: Code, json: bool) -> Result<Output, Problem> {
    let code = pb::Code {
        model: args.sampling.model.clone().unwrap_or_default(),
        prefix: or_stdin(args.prefix)?,
        suffix: args.suffix,
        file_path: args.file_path.unwrap_or_default(),
        related_files: args.related.iter().map(|path| related(path)).collect::<Result<_, _>>()?,
        parameters: Some(parameters(&args.sampling)),
        ..Default::default()
    };
    let message = pb::StreamCompleteCodeRequest { code: Some(code) };
    let request = request(client, message, Feature::CodeCompletion, args.sampling.via).await?;
    let answer = service(client, args.sampling.via).stream_complete_code(request).await.map_err(failed)?;
    let mut events = answer.into_inner();
    let mut shown = Shown::new(json);
    while let Some(message) = events.message().await.map_err(failed)? {
        shown.take(message.event.and_then(|event| event.event))?;
    }
    shown.output()
}

fn related(path: &Path) -> Result<SourceFile, Problem> {
    let text = std::fs::read_to_string(path).map_err(|error| Problem::new(format!("{}: {error}", path.display())))?;
    Ok(SourceFile { path: path.display().to_string(), text })
}

/// Runs a feature of the prompt registry.
pub async fn run(client: &Client, args: Run, json: bool) -> Result<Output, Problem> {
    let feature: Feature = args.feature.parse().map_err(|error: UnknownFeature| Problem::new(error.to_string()))?;
    let run = pb::PromptRun {
        feature: args.feature,
        model: args.sampling.model.clone().unwrap_or_default(),
        variables: variables(&args.variables)?.into_iter().collect(),
        prompt_version: args.prompt_version.unwrap_or_default(),
        parameters: Some(parameters(&args.sampling)),
    };
    let message = pb::StreamRunPromptRequest { run: Some(run) };
    let request = request(client, message, feature, args.sampling.via).await?;
    let answer = service(client, args.sampling.via).stream_run_prompt(request).await.map_err(failed)?;
    let mut events = answer.into_inner();
    let mut shown = Shown::new(json);
    while let Some(message) = events.message().await.map_err(failed)? {
        shown.take(message.event.and_then(|event| event.event))?;
    }
    shown.output()
}

/// Embeds texts.
pub async fn embed(client: &Client, args: Embed) -> Result<Output, Problem> {
    let (model, tokens) = (args.model.unwrap_or_default(), Vec::new());
    let embedding =
        pb::Embedding { model, inputs: args.texts, dimensions: args.dimensions, tokens, ..Default::default() };
    let message = pb::EmbedRequest { embedding: Some(embedding) };
    let request = request(client, message, Feature::Embed, args.via).await?;
    let answer = service(client, args.via).embed(request).await.map_err(failed)?.into_inner();
    let line = |vector: &pb::Vector| {
        let numbers: Vec<_> = vector.values.iter().map(ToString::to_string).collect();
        numbers.join(" ")
    };
    let text = answer.vectors.iter().map(line).collect::<Vec<_>>().join("\n");
    let vectors: Vec<_> = answer.vectors.iter().map(|vector| vector.values.clone()).collect();
    Ok(Output::new(text, json!({ "model": answer.model, "vectors": vectors })))
}

/// Says what a request would meet.
pub async fn explain(client: &Client, args: Explain) -> Result<Output, Problem> {
    let feature: Feature = args.feature.parse().map_err(|error: UnknownFeature| Problem::new(error.to_string()))?;
    let message = pb::ExplainRequestRequest {
        feature: args.feature,
        model: args.model.unwrap_or_default(),
        variables: variables(&args.variables)?.into_iter().collect(),
        subject: args.subject.clone().unwrap_or_default(),
        client_address: args.from.map(|address| address.to_string()).unwrap_or_default(),
    };
    let answer = match args.subject {
        None => {
            let request = request(client, message, feature, Via::Gateway).await?;
            ExplainServiceClient::new(client.gateway()).explain_request(request).await
        }
        Some(_) => {
            let request = client.administer(message).await?;
            ExplainServiceClient::new(client.instance()).explain_request(request).await
        }
    };
    let answer = answer.map_err(failed)?;
    let pb::ExplainRequestResponse { allowed, reason, findings, models } = answer.into_inner();
    let mut lines: Vec<_> = findings
        .iter()
        .map(|finding| format!("{}  {:<10} {}", if finding.ok { "ok  " } else { "FAIL" }, finding.name, finding.detail))
        .collect();
    for model in &models {
        let how = match (model.left_out.as_str(), model.prompt.as_str(), model.code.as_str()) {
            ("", "", "") => "no prompt of ours".to_owned(),
            ("", "", code) => format!("code by {code}"),
            ("", prompt, _) => format!("prompt {prompt}"),
            (left_out, ..) => format!("left out: {left_out}"),
        };
        let (endpoints, outstanding) = (model.endpoints, model.outstanding);
        lines.push(format!(
            "try   {} ({}): {how}; {endpoints} endpoints, {outstanding} requests there",
            model.name, model.family
        ));
    }
    lines.push(if allowed { "it would be answered".to_owned() } else { format!("it would be refused: {reason}") });
    let findings: Vec<_> = findings
        .iter()
        .map(|finding| json!({ "name": finding.name, "ok": finding.ok, "detail": finding.detail }))
        .collect();
    let planned: Vec<_> = models
        .iter()
        .map(|model| {
            json!({
                "name": model.name, "family": model.family, "endpoints": model.endpoints,
                "outstanding": model.outstanding, "prompt": model.prompt, "code": model.code, "left_out": model.left_out,
            })
        })
        .collect();
    let json = json!({ "allowed": allowed, "reason": reason, "findings": findings, "models": planned });
    Ok(Output::new(lines.join("\n"), json).bad_unless(allowed))
}

/// What a prompt is given, by name.
pub fn variables(given: &Variables) -> Result<BTreeMap<String, String>, Problem> {
    fn pair<'a>(text: &'a str, option: &str) -> Result<(String, &'a str), Problem> {
        let (name, value) = text.split_once('=').ok_or_else(|| Problem::new(format!("{option} is given as NAME=…")))?;
        Ok((name.to_owned(), value))
    }
    let mut variables = BTreeMap::new();
    for text in &given.vars {
        let (name, value) = pair(text, "--var")?;
        variables.insert(name, value.to_owned());
    }
    for text in &given.var_files {
        let (name, path) = pair(text, "--var-file")?;
        let value = match path {
            "-" => or_stdin(None)?,
            path => std::fs::read_to_string(path).map_err(|error| Problem::new(format!("{path}: {error}")))?,
        };
        variables.insert(name, value);
    }
    Ok(variables)
}

pub(super) fn or_stdin(text: Option<String>) -> Result<String, Problem> {
    if let Some(text) = text {
        return Ok(text);
    }
    let mut text = String::new();
    let read = std::io::stdin().take(MAX_INPUT_BYTES + 1).read_to_string(&mut text);
    let read = read.map_err(|error| Problem::new(format!("standard input: {error}")))?;
    if u64::try_from(read).is_ok_and(|read| read > MAX_INPUT_BYTES) {
        return Err(Problem::new(format!("standard input is longer than {} MiB", MAX_INPUT_BYTES >> 20)));
    }
    Ok(text)
}

fn parameters(sampling: &Sampling) -> Parameters {
    Parameters {
        max_tokens: sampling.max_tokens,
        temperature: sampling.temperature,
        seed: sampling.seed,
        ..Default::default()
    }
}

/// Straight to the gateway goes an access token for this one feature; the instance takes the credential itself.
async fn request<T>(client: &Client, message: T, feature: Feature, via: Via) -> Result<Request<T>, Failure> {
    let bearer = match via {
        Via::Gateway => client.exchange("", &[feature.scope().to_owned()], None).await?.access_token,
        Via::Instance => client.credential().to_owned(),
    };
    Ok(grpc::onward(message, &RequestId::generate(), &bearer, None))
}

fn service(client: &Client, via: Via) -> CompletionServiceClient<Channel> {
    CompletionServiceClient::new(match via {
        Via::Gateway => client.gateway(),
        Via::Instance => client.instance(),
    })
    .max_decoding_message_size(grpc::MAX_MESSAGE_BYTES)
    .max_encoding_message_size(grpc::MAX_MESSAGE_BYTES)
}

fn failed(status: Status) -> Problem {
    of_gateway(&status).into()
}

/// What has come of an answer.
struct Shown {
    json: bool,
    text: String,
    model: String,
    warnings: Vec<String>,
    prompt: String,
    usage: Option<Usage>,
    finish: Option<FinishReason>,
}

impl Shown {
    fn new(json: bool) -> Self {
        let (text, model, prompt, warnings) = (String::new(), String::new(), String::new(), Vec::new());
        Self { json, text, model, warnings, prompt, usage: None, finish: None }
    }

    fn take(&mut self, event: Option<Event>) -> Result<(), Problem> {
        match event {
            Some(Event::Start(start)) => {
                (self.model, self.warnings, self.prompt) = (start.model, start.warnings, start.prompt);
            }
            Some(Event::Delta(delta)) => {
                if let (0, Some(delta::Delta::Text(text))) = (delta.choice_index, delta.delta) {
                    self.text.push_str(&text);
                    if !self.json {
                        self.show(&text)?;
                    }
                }
            }
            Some(Event::Usage(usage)) => self.usage = Some(usage),
            Some(Event::End(end)) => self.finish = FinishReason::try_from(end.finish_reason).ok(),
            None => {}
        }
        Ok(())
    }

    /// A reader that has gone away (a closed pipe) ends the command, which stops the model.
    fn show(&self, text: &str) -> Result<(), Problem> {
        let mut out = std::io::stdout().lock();
        let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        written.map_err(|error| Problem::new(format!("standard output: {error}")))
    }

    fn output(self) -> Result<Output, Problem> {
        let Some(finish) = self.finish else {
            return Err(Problem::new("the answer broke off: its end did not come"));
        };
        let tokens = |count: Option<u64>| count.map_or("?".to_owned(), |count| count.to_string());
        let usage = self.usage.unwrap_or_default();
        let finish = match finish {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::ToolCalls => "tool_calls",
            FinishReason::ContentFilter => "content_filter",
            FinishReason::Other | FinishReason::Unspecified => "other",
        };
        if !self.json {
            self.show("\n")?;
            for warning in &self.warnings {
                eprintln!("note: {warning}");
            }
            let (read, written) = (tokens(usage.input_tokens), tokens(usage.output_tokens));
            let prompt = if self.prompt.is_empty() { String::new() } else { format!(", prompt {}", self.prompt) };
            eprintln!("[{}{prompt}: {read} tokens read, {written} written, ended by {finish}]", self.model);
        }
        let json = json!({
            "model": self.model, "text": self.text, "finish_reason": finish, "warnings": self.warnings,
            "prompt": self.prompt,
            "usage": { "input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens },
        });
        Ok(Output::new("", json))
    }
}
