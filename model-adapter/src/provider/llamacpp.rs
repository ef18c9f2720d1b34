//! llama.cpp's server (<https://github.com/ggml-org/llama.cpp/tree/master/tools/server>): OpenAI's API below `/v1`; its own `/completion`,
//! and `/infill`, where the server fills in the middle in its model's own layout.

use http::StatusCode;
use http::header::AUTHORIZATION;
use postern_proto::completion::v1::{
    Completion, CompletionEvent, FinishReason, Parameters, SourceFile, TokenLogprob, Usage, UsageProvenance,
};
use postern_proto::model::v1::{EmbedRequest, Generation, RawPrompt, generation};
use postern_proto::{Blame, Failure};
use serde_json::{Map, Value, json};

use super::emit::{self, EventStream, TakeEvent, invalid, truncated};
use super::openai::LLAMACPP;
use super::say::Dropped;
use super::{Api, Call, Provider, StreamDecoder, Target, error, logprobs, say};
use crate::decode::sse;

/// The provider.
pub struct LlamaCpp;

impl Provider for LlamaCpp {
    fn name(&self) -> &'static str {
        "llamacpp"
    }

    fn apis(&self) -> &'static [Api] {
        &[Api::Chat, Api::Completions, Api::Infill, Api::Embeddings]
    }

    fn call(&self, target: &Target<'_>, generation: &Generation, stream: bool) -> Result<Call, Failure> {
        let parameters = generation.parameters.clone().unwrap_or_default();
        // A server of several models goes by it.
        let mut body = Map::from_iter([("model".to_owned(), target.identifier.into())]);
        let path = match &generation.prompt {
            Some(generation::Prompt::Raw(RawPrompt { text, suffix: Some(suffix), files })) => {
                let file = |SourceFile { path, text }: &SourceFile| json!({ "filename": path, "text": text });
                body.insert("input_prefix".to_owned(), text.as_str().into());
                body.insert("input_suffix".to_owned(), suffix.as_str().into());
                if !files.is_empty() {
                    body.insert("input_extra".to_owned(), files.iter().map(file).collect::<Vec<_>>().into());
                }
                "/infill"
            }
            // Several answers come under an index in OpenAI's form alone.
            Some(generation::Prompt::Raw(raw)) if parameters.choices.is_none_or(|choices| choices <= 1) => {
                body.insert("prompt".to_owned(), raw.text.as_str().into());
                "/completion"
            }
            _ => return LLAMACPP.call(target, generation, stream),
        };
        body.insert("stream".to_owned(), stream.into());
        let mut dropped = Dropped::of("llamacpp");
        add_parameters(&mut body, &parameters, &mut dropped)?;
        let body = serde_json::to_vec(&body).map_err(Failure::internal)?.into();
        let headers = say::headers(AUTHORIZATION, "Bearer ", target.api_key)?;
        Ok(Call { path: path.to_owned(), headers, body, warnings: dropped.warnings, api: Api::Infill })
    }

    fn embed(&self, target: &Target<'_>, asked: &EmbedRequest) -> Result<Call, Failure> {
        LLAMACPP.embed(target, asked)
    }

    /// It counts as Anthropic's API does.
    fn count(&self, target: &Target<'_>, generation: &Generation) -> Result<Option<Call>, Failure> {
        let Some(counting) = super::anthropic::Anthropic.count(target, generation)? else { return Ok(None) };
        let (path, headers) =
            (format!("/v1{}", counting.path), say::headers(AUTHORIZATION, "Bearer ", target.api_key)?);
        Ok(Some(Call { path, headers, ..counting }))
    }

    fn read_error(&self, status: StatusCode, body: &[u8]) -> Failure {
        let failure = LLAMACPP.read_error(status, body);
        if !failure.message.contains("Infill is not supported") {
            return failure;
        }
        // Not the caller's fault, and nothing that another try would mend.
        let message = "the model fills in no middle; an administrator can have its code completed by what is before the cursor \
                       (`postern model update NAME --code layout`) or by asking (`--code chat`)";
        Failure { message: message.to_owned(), ..failure }.with_blame(Blame::Adapter)
    }

    fn list_models(&self, target: &Target<'_>) -> Result<Option<Call>, Failure> {
        LLAMACPP.list_models(target)
    }

    fn stream_decoder(&self, api: Api) -> Box<dyn StreamDecoder> {
        match api {
            Api::Infill => Box::new(EventStream::<OwnEvents>::default()),
            _ => LLAMACPP.stream_decoder(api),
        }
    }

    fn read(&self, api: Api, body: &[u8]) -> Result<Completion, Failure> {
        if api != Api::Infill {
            return LLAMACPP.read(api, body);
        }
        let answer = parsed(body)?;
        // One prompt's answer may come in a list of one.
        let answer = answer.get(0).unwrap_or(&answer);
        let text = answer["content"].as_str().ok_or_else(|| invalid("no content"))?;
        if answer["stop"] == false {
            return Err(truncated());
        }
        let mut whole = emit::whole((text.to_owned(), String::new()), Vec::new(), finish_reason(answer), usage(answer));
        whole.choices.iter_mut().for_each(|choice| choice.logprobs = likely(answer));
        Ok(whole)
    }
}

/// Members that extra ones may not be: what the request says in its own fields, and what would change the form of the answer.
const RESERVED: [&str; 21] = [
    "model",
    "stream_options",
    "prompt",
    "input_prefix",
    "input_suffix",
    "input_extra",
    "stream",
    "n_predict",
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "stop",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "n_probs",
    "post_sampling_probs",
    "n",
    "n_cmpl",
    "response_fields",
];

fn add_parameters(
    body: &mut Map<String, Value>,
    parameters: &Parameters,
    dropped: &mut Dropped<'_>,
) -> Result<(), Failure> {
    let Parameters {
        max_tokens,
        temperature,
        top_p,
        top_k,
        stop,
        seed,
        presence_penalty,
        frequency_penalty,
        choices: _,
        user,
        parallel_tool_calls: _,
        reasoning_effort,
        top_logprobs,
        extra_json,
    } = parameters;
    dropped.one_choice(parameters)?;
    dropped.parameter("user", user.is_some());
    dropped.parameter("reasoning_effort", reasoning_effort.is_some());
    let mut add = |name: &str, value: Option<Value>| value.map(|value| body.insert(name.to_owned(), value));
    add("n_predict", max_tokens.map(Value::from));
    add("temperature", temperature.map(Value::from));
    add("top_p", top_p.map(Value::from));
    add("top_k", top_k.map(Value::from));
    add("stop", (!stop.is_empty()).then(|| stop.clone().into()));
    add("seed", seed.map(Value::from));
    add("presence_penalty", presence_penalty.map(Value::from));
    add("frequency_penalty", frequency_penalty.map(Value::from));
    // None at all are shown for 0.
    add("n_probs", top_logprobs.map(|top| top.max(1).into()));
    for (name, value) in say::json_object("parameters.extra_json", extra_json)? {
        if RESERVED.contains(&name.as_str()) {
            return Err(Failure::field("parameters.extra_json", format!("`{name}` has a field of its own")));
        }
        body.insert(name, value);
    }
    Ok(())
}

fn parsed(text: &[u8]) -> Result<Value, Failure> {
    let value: Value = serde_json::from_slice(text).map_err(|error| invalid(format_args!("not JSON: {error}")))?;
    match value.get("error").filter(|error| !error.is_null()) {
        Some(error) => Err(error::from_object(error)),
        None => Ok(value),
    }
}

/// Newer servers have one word for it, older ones a member each.
fn finish_reason(answer: &Value) -> FinishReason {
    let is = |name: &str| answer[name] == true;
    match answer["stop_type"].as_str() {
        Some("limit") => FinishReason::Length,
        Some(_) => FinishReason::Stop,
        None if is("stopped_limit") => FinishReason::Length,
        None => FinishReason::Stop,
    }
}

fn usage(answer: &Value) -> Option<Usage> {
    let (input_tokens, output_tokens) = (answer["tokens_evaluated"].as_u64(), answer["tokens_predicted"].as_u64());
    (input_tokens.is_some() || output_tokens.is_some()).then(|| Usage {
        input_tokens,
        output_tokens,
        cached_input_tokens: answer["timings"]["cache_n"].as_u64(),
        provenance: UsageProvenance::Reported as i32,
        ..Usage::default()
    })
}

fn likely(piece: &Value) -> Vec<TokenLogprob> {
    piece["completion_probabilities"].as_array().map(|tokens| logprobs::listed(tokens)).unwrap_or_default()
}

/// Events of `/completion` and `/infill`; the last says `stop`.
#[derive(Default)]
struct OwnEvents {
    done: bool,
}

impl TakeEvent for OwnEvents {
    fn take(&mut self, event: &sse::Event, out: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        if event.data == "[DONE]" {
            return Ok(());
        }
        let piece = parsed(event.data.as_bytes())?;
        emit::likely_text(out, 0, piece["content"].as_str().ok_or_else(|| invalid("no content"))?, likely(&piece));
        if piece["stop"] == true {
            emit::end(out, usage(&piece), &[finish_reason(&piece)]);
            self.done = true;
        }
        Ok(())
    }

    fn close(&mut self, _: &mut Vec<CompletionEvent>) -> Result<(), Failure> {
        Err(truncated())
    }

    fn is_done(&self) -> bool {
        self.done
    }
}
