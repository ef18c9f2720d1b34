//! What models and their servers can do: what is known of a provider, a family and an identifier, in rows of which the later win, and
//! what an administrator says of the one model, which wins over all. Gateways and adapters are told the outcome.

use postern_proto::Failure;
use postern_proto::instance::v1::{Capabilities, CodeMode, ParameterNames};

/// The wire formats that adapters offer.
pub const PROVIDERS: [&str; 11] = [
    "openai",
    "azure_openai",
    "mistral",
    "anthropic",
    "gemini",
    "vertex",
    "ollama",
    "llamacpp",
    "cohere",
    "bedrock",
    "postern",
];

/// For whom a row holds; what is absent holds for all.
struct Row {
    providers: &'static [&'static str],
    /// Beginnings of family names.
    families: &'static [&'static str],
    /// Beginnings of the model's name at its server, after any `vendor/` or `anthropic.`.
    identifiers: &'static [&'static str],
    says: Says,
    why: &'static str,
}

/// What a row says; what is absent it leaves.
#[derive(Clone, Copy)]
struct Says {
    code: Option<CodeMode>,
    max_tokens_field: Option<&'static str>,
    sampling: Option<bool>,
    system_role: Option<bool>,
    structured_output: Option<bool>,
    images: Option<bool>,
    reasoning_history: Option<bool>,
    adaptive_thinking: Option<bool>,
    chat_api: Option<&'static str>,
    /// These beside those of the rows before.
    refused_parameters: &'static [&'static str],
}

const NOTHING: Says = Says {
    code: None,
    max_tokens_field: None,
    sampling: None,
    system_role: None,
    structured_output: None,
    images: None,
    reasoning_history: None,
    adaptive_thinking: None,
    chat_api: None,
    refused_parameters: &[],
};

/// The parameters that a model may be said to refuse.
const PARAMETERS: [&str; 13] = [
    "temperature",
    "top_p",
    "top_k",
    "stop",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "top_logprobs",
    "reasoning_effort",
    "parallel_tool_calls",
    "user",
    "max_tokens",
    "tool_choice",
];
const ANY: &[&str] = &[];
const OPENAI_LIKE: &[&str] = &["openai", "azure_openai"];
const GOOGLE: &[&str] = &["gemini", "vertex"];

const ROWS: &[Row] = &[
    Row {
        providers: &["openai", "azure_openai", "ollama"],
        families: ANY,
        identifiers: ANY,
        says: Says { code: Some(CodeMode::Layout), ..NOTHING },
        why: "a completions endpoint takes any text",
    },
    Row {
        providers: &["llamacpp", "postern"],
        families: ANY,
        identifiers: ANY,
        says: Says { code: Some(CodeMode::Server), ..NOTHING },
        why: "it knows its model's layout itself",
    },
    Row {
        providers: &["mistral", "anthropic", "gemini", "vertex", "cohere", "bedrock"],
        families: ANY,
        identifiers: ANY,
        says: Says { code: Some(CodeMode::Chat), ..NOTHING },
        why: "its API has no raw completions",
    },
    Row {
        providers: &["mistral"],
        families: &["codestral"],
        identifiers: ANY,
        says: Says { code: Some(CodeMode::Server), ..NOTHING },
        why: "Mistral's API fills in the middle with Codestral",
    },
    Row {
        providers: &["mistral"],
        families: ANY,
        identifiers: &["codestral"],
        says: Says { code: Some(CodeMode::Server), ..NOTHING },
        why: "Mistral's API fills in the middle with Codestral",
    },
    Row {
        providers: OPENAI_LIKE,
        families: &["gpt", "claude", "gemini"],
        identifiers: ANY,
        says: Says { code: Some(CodeMode::Chat), ..NOTHING },
        why: "these are served by chat alone",
    },
    Row {
        providers: &["openai", "azure_openai", "ollama", "llamacpp"],
        families: &["llama3", "llama-3", "mistral", "mixtral", "gpt-oss"],
        identifiers: ANY,
        says: Says { code: Some(CodeMode::Chat), ..NOTHING },
        why: "these were trained to chat and not to fill in the middle",
    },
    Row {
        providers: OPENAI_LIKE,
        families: ANY,
        identifiers: &["o1", "o3", "o4", "gpt-5", "gpt-6"],
        says: Says {
            code: Some(CodeMode::Chat),
            max_tokens_field: Some("max_completion_tokens"),
            sampling: Some(false),
            ..NOTHING
        },
        why: "OpenAI's reasoning models take no sampling parameters and count their thoughts",
    },
    Row {
        providers: OPENAI_LIKE,
        families: ANY,
        identifiers: &["o3", "o4", "gpt-5", "gpt-6"],
        says: Says { refused_parameters: &["stop"], ..NOTHING },
        why: "from o3 on, they stop where they like",
    },
    Row {
        providers: OPENAI_LIKE,
        families: ANY,
        identifiers: &[
            "o1-pro",
            "o3-pro",
            "codex-mini",
            "gpt-5-codex",
            "gpt-5.1-codex",
            "gpt-5.2-codex",
            "gpt-5.3-codex",
            "gpt-5-pro",
            "gpt-5.2-pro",
            "gpt-5.4",
            "gpt-5.5",
            "gpt-5.6",
            "gpt-6",
        ],
        says: Says { chat_api: Some("responses"), ..NOTHING },
        why: "these are served by the Responses API alone, or call tools there alone",
    },
    Row {
        providers: OPENAI_LIKE,
        families: ANY,
        identifiers: &["gpt-5-chat"],
        says: Says { sampling: Some(true), ..NOTHING },
        why: "it chats without thinking first",
    },
    Row {
        providers: OPENAI_LIKE,
        families: ANY,
        identifiers: &["o1-mini", "o1-preview"],
        says: Says { system_role: Some(false), structured_output: Some(false), images: Some(false), ..NOTHING },
        why: "the first of them took less",
    },
    Row {
        providers: &["anthropic", "bedrock", "openai"],
        families: ANY,
        identifiers: &[
            "claude-opus-4-7",
            "claude-opus-4-8",
            "claude-opus-5",
            "claude-sonnet-5",
            "claude-haiku-5",
            "claude-fable-5",
            "claude-mythos-5",
        ],
        says: Says { sampling: Some(false), adaptive_thinking: Some(true), ..NOTHING },
        why: "from Opus 4.7 on, Claude samples as it likes and thinks by effort",
    },
    Row {
        providers: &["anthropic", "bedrock"],
        families: ANY,
        identifiers: &["claude-opus-5-5", "claude-sonnet-5-5", "claude-fable-5-1", "claude-mythos-5-1"],
        says: Says { refused_parameters: &["tool_choice"], ..NOTHING },
        why: "these take no demand for a call",
    },
    Row {
        providers: &["bedrock"],
        families: ANY,
        identifiers: &["claude-opus-4-7", "claude-opus-4-8", "claude-opus-5", "claude-sonnet-5"],
        says: Says { structured_output: Some(false), ..NOTHING },
        why: "Bedrock does not hold these to a form",
    },
    Row {
        providers: &["bedrock"],
        families: ANY,
        identifiers: &["gpt-5", "gpt-6"],
        says: Says { sampling: Some(false), refused_parameters: &["stop"], ..NOTHING },
        why: "OpenAI's reasoning models take no sampling parameters there either",
    },
    Row {
        providers: GOOGLE,
        families: ANY,
        identifiers: &[
            "gemini-2.5",
            "gemini-3",
            "gemini-flash-latest",
            "gemini-flash-lite-latest",
            "gemini-pro-latest",
        ],
        says: Says { refused_parameters: &["presence_penalty", "frequency_penalty"], ..NOTHING },
        why: "from 2.5 on, Gemini takes no penalties",
    },
    Row {
        providers: &["gemini"],
        families: ANY,
        identifiers: &["gemini-2.5", "gemini-3"],
        says: Says { refused_parameters: &["top_logprobs"], ..NOTHING },
        why: "log probabilities are Vertex AI's",
    },
    Row {
        providers: GOOGLE,
        families: ANY,
        identifiers: &["gemini-3.5-flash-lite", "gemini-3.6-flash"],
        says: Says { sampling: Some(false), ..NOTHING },
        why: "their sampling is fixed",
    },
    Row {
        providers: GOOGLE,
        families: ANY,
        identifiers: &["gemini-1", "gemini-2.0", "gemini-2.5-flash-image", "gemma"],
        says: Says { refused_parameters: &["reasoning_effort"], ..NOTHING },
        why: "these do not think",
    },
    Row {
        providers: OPENAI_LIKE,
        families: ANY,
        identifiers: &["o1", "o3", "o4"],
        says: Says { refused_parameters: &["parallel_tool_calls"], ..NOTHING },
        why: "they call as they like",
    },
    Row {
        providers: OPENAI_LIKE,
        families: ANY,
        identifiers: &[
            "gpt-4o-search-preview",
            "gpt-4o-mini-search-preview",
            "kimi-k2.5",
            "kimi-k2.6",
            "kimi-k2.7",
            "kimi-k3",
        ],
        says: Says { sampling: Some(false), ..NOTHING },
        why: "their sampling is fixed",
    },
    Row {
        providers: OPENAI_LIKE,
        families: ANY,
        identifiers: &["grok-3-mini", "grok-4"],
        says: Says { refused_parameters: &["presence_penalty", "frequency_penalty", "stop"], ..NOTHING },
        why: "xAI's reasoning models take none of these",
    },
    Row {
        providers: &["openai"],
        families: ANY,
        identifiers: &["deepseek-reasoner", "deepseek-v4"],
        says: Says { refused_parameters: &["tool_choice"], ..NOTHING },
        why: "while they think, which they do by themselves, they take no demand for a call",
    },
    Row {
        providers: &["gemini"],
        families: ANY,
        identifiers: &["gemma-3"],
        says: Says { system_role: Some(false), ..NOTHING },
        why: "Gemma 3 has no place for instructions",
    },
    Row {
        providers: &["openai"],
        families: ANY,
        identifiers: &[
            "deepseek-chat",
            "deepseek-reasoner",
            "deepseek-v3.2",
            "deepseek-v4",
            "kimi-k2-thinking",
            "kimi-k2.5",
            "kimi-k2.6",
            "kimi-k2.7",
            "kimi-k3",
        ],
        says: Says { reasoning_history: Some(true), ..NOTHING },
        why: "their servers refuse a turn of tool calls whose thoughts are gone",
    },
    Row {
        providers: &["openai", "llamacpp"],
        families: &["gemma", "codegemma"],
        identifiers: ANY,
        says: Says { system_role: Some(false), ..NOTHING },
        why: "Gemma's chat template knows no system role",
    },
    Row {
        providers: &["openai", "llamacpp", "ollama"],
        families: &["deepseek-r1"],
        identifiers: ANY,
        says: Says { system_role: Some(false), ..NOTHING },
        why: "DeepSeek-R1 was trained without instructions apart from the question",
    },
];

fn begins(beginnings: &[&str], text: &str) -> bool {
    beginnings.is_empty() || beginnings.iter().any(|beginning| text.starts_with(beginning))
}

/// The outcome for a model.
#[must_use]
pub fn of(provider: &str, family: &str, identifier: &str, said: &Capabilities) -> Capabilities {
    let name = identifier.rsplit('/').next().unwrap_or(identifier).to_ascii_lowercase();
    let name = name.as_str();
    let name = ["anthropic.", "openai."]
        .into_iter()
        .find_map(|vendor| name.rsplit_once(vendor))
        .map_or(name, |(_, name)| name);
    let mut known = NOTHING;
    let mut refused = Vec::new();
    for Row { providers, families, identifiers, says, why: _ } in ROWS {
        if providers.contains(&provider) && begins(families, family) && begins(identifiers, name) {
            refused.extend(says.refused_parameters.iter().map(|name| (*name).to_owned()));
            known = Says {
                code: says.code.or(known.code),
                max_tokens_field: says.max_tokens_field.or(known.max_tokens_field),
                sampling: says.sampling.or(known.sampling),
                system_role: says.system_role.or(known.system_role),
                structured_output: says.structured_output.or(known.structured_output),
                images: says.images.or(known.images),
                reasoning_history: says.reasoning_history.or(known.reasoning_history),
                adaptive_thinking: says.adaptive_thinking.or(known.adaptive_thinking),
                chat_api: says.chat_api.or(known.chat_api),
                refused_parameters: &[],
            };
        }
    }
    Capabilities {
        code: said.code.or(known.code.map(Into::into)),
        max_tokens_field: said.max_tokens_field.clone().or(known.max_tokens_field.map(str::to_owned)),
        sampling: said.sampling.or(known.sampling),
        system_role: said.system_role.or(known.system_role),
        tools: said.tools,
        structured_output: said.structured_output.or(known.structured_output),
        images: said.images.or(known.images),
        // Behind `vendor/` it is served by somebody else, who may have another API for it.
        chat_api: said.chat_api.clone().or(known.chat_api.filter(|_| !identifier.contains('/')).map(str::to_owned)),
        reasoning_history: said.reasoning_history.or(known.reasoning_history),
        adaptive_thinking: said.adaptive_thinking.or(known.adaptive_thinking),
        refused_parameters: said
            .refused_parameters
            .clone()
            .or_else(|| (!refused.is_empty()).then_some(ParameterNames { names: refused })),
    }
}

/// Checks what an administrator says of a model.
///
/// # Errors
/// REQUEST_INVALID names the field.
pub fn check(said: &Capabilities) -> Result<(), Failure> {
    let one_of = |field: &str, given: Option<&String>, known: [&str; 2]| match given {
        Some(given) if !known.contains(&given.as_str()) => {
            Err(Failure::field(field, format!("must be {} or {}", known[0], known[1])))
        }
        _ => Ok(()),
    };
    let limits = ["max_tokens", "max_completion_tokens"];
    one_of("model.capabilities.max_tokens_field", said.max_tokens_field.as_ref(), limits)?;
    one_of("model.capabilities.chat_api", said.chat_api.as_ref(), ["chat", "responses"])?;
    let refused = said.refused_parameters.iter().flat_map(|refused| &refused.names);
    if let Some(unknown) = refused.into_iter().find(|name| !PARAMETERS.contains(&name.as_str())) {
        let shown: String = unknown.chars().filter(|c| !c.is_control()).take(64).collect();
        let message = format!("there is no `{shown}`; there are {}", PARAMETERS.join(", "));
        return Err(Failure::field("model.capabilities.refused_parameters", message));
    }
    match said.code.map(CodeMode::try_from) {
        None | Some(Ok(CodeMode::Layout | CodeMode::Server | CodeMode::Chat)) => Ok(()),
        Some(_) => Err(Failure::field("model.capabilities.code", "must be layout, server or chat")),
    }
}

/// The rows as a table of Markdown, for docs/providers.md.
#[must_use]
pub fn table() -> String {
    use std::fmt::Write as _;
    let mut text =
        "| provider | family | identifier | what is known | because |\n| --- | --- | --- | --- | --- |\n".to_owned();
    let list = |items: &[&str]| items.iter().map(|item| format!("`{item}`")).collect::<Vec<_>>().join(", ");
    let starts = |items: &[&str]| items.iter().map(|item| format!("`{item}*`")).collect::<Vec<_>>().join(", ");
    for Row { providers, families, identifiers, says, why } in ROWS {
        let mut known = Vec::new();
        if let Some(code) = says.code {
            known.push(format!("code: {}", code_name(code)));
        }
        if let Some(field) = says.max_tokens_field {
            known.push(format!("bound: `{field}`"));
        }
        for (name, said) in [
            ("sampling parameters", says.sampling),
            ("system role", says.system_role),
            ("structured output", says.structured_output),
            ("images", says.images),
            ("thoughts sent back", says.reasoning_history),
            ("thinking by effort", says.adaptive_thinking),
        ] {
            if let Some(said) = said {
                known.push(format!("{}{name}", if said { "" } else { "no " }));
            }
        }
        if let Some(api) = says.chat_api {
            known.push(format!("chat API: {api}"));
        }
        if !says.refused_parameters.is_empty() {
            known.push(format!("no {}", list(says.refused_parameters)));
        }
        let known = known.join("; ");
        let (providers, families, identifiers) = (list(providers), starts(families), starts(identifiers));
        let _ = writeln!(text, "| {providers} | {families} | {identifiers} | {known} | {why} |");
    }
    text
}

const fn code_name(code: CodeMode) -> &'static str {
    match code {
        CodeMode::Unspecified => "",
        CodeMode::Layout => "layout",
        CodeMode::Server => "server",
        CodeMode::Chat => "chat",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(provider: &str, family: &str, identifier: &str) -> CodeMode {
        of(provider, family, identifier, &Capabilities::default()).code()
    }

    fn names(names: &[&str]) -> ParameterNames {
        ParameterNames { names: names.iter().map(|name| (*name).to_owned()).collect() }
    }

    #[test]
    fn each_provider_completes_code_in_some_way() {
        for provider in PROVIDERS {
            assert_ne!(code(provider, "general", "m"), CodeMode::Unspecified, "{provider}");
        }
        assert_eq!(code("openai", "qwen2.5-coder", "q"), CodeMode::Layout);
        assert_eq!(code("openai", "gpt", "gpt-4o"), CodeMode::Chat);
        assert_eq!(code("mistral", "general", "mistral-large-latest"), CodeMode::Chat);
        assert_eq!(code("mistral", "general", "codestral-latest"), CodeMode::Server);
        assert_eq!(code("llamacpp", "general", "m"), CodeMode::Server);
    }

    #[test]
    fn what_is_said_of_the_one_model_wins() {
        let known = of("openai", "gpt", "openai/o3-mini", &Capabilities::default());
        assert_eq!((known.sampling, known.system_role), (Some(false), None));
        assert_eq!(known.max_tokens_field(), "max_completion_tokens");
        assert_eq!(of("openai", "gpt", "o1-mini", &Capabilities::default()).system_role, Some(false));
        let claude = of("bedrock", "claude", "eu.anthropic.claude-opus-4-7-v1:0", &Capabilities::default());
        assert_eq!((claude.sampling, claude.adaptive_thinking), (Some(false), Some(true)));
        assert_eq!(of("anthropic", "claude", "claude-sonnet-4-5", &Capabilities::default()).sampling, None);
        let refused = |provider, name, said: &Capabilities| {
            of(provider, "general", name, said).refused_parameters.map(|refused| refused.names).unwrap_or_default()
        };
        let nothing = Capabilities::default();
        assert_eq!(
            refused("gemini", "gemini-2.5-pro", &nothing),
            ["presence_penalty", "frequency_penalty", "top_logprobs"]
        );
        assert_eq!(refused("openai", "gpt-5.5", &nothing), ["stop"]);
        assert_eq!(of("openai", "gpt", "gpt-5.5", &nothing).chat_api(), "responses");
        assert_eq!(of("openai", "gpt", "openai/gpt-5.5", &nothing).chat_api, None);
        assert_eq!(of("bedrock", "gpt", "us.openai.gpt-5.6-sol", &nothing).sampling, Some(false));
        // What an administrator says is in place of what is known.
        let seed = Capabilities { refused_parameters: Some(names(&["seed"])), ..Default::default() };
        assert_eq!(refused("openai", "gpt-5.5", &seed), ["seed"]);
        let none = Capabilities { refused_parameters: Some(names(&[])), ..Default::default() };
        assert!(refused("openai", "gpt-5.5", &none).is_empty());
        let said = Capabilities { sampling: Some(true), code: Some(CodeMode::Layout.into()), ..Default::default() };
        let known = of("openai", "gpt", "o3", &said);
        assert_eq!((known.sampling, known.code()), (Some(true), CodeMode::Layout));
    }

    #[test]
    fn what_nobody_offers_cannot_be_said() {
        let field = |said: Capabilities| check(&said).unwrap_err().fields[0].0.clone();
        let bound = Capabilities { max_tokens_field: Some("tokens".to_owned()), ..Default::default() };
        assert_eq!(field(bound), "model.capabilities.max_tokens_field");
        assert_eq!(field(Capabilities { code: Some(7), ..Default::default() }), "model.capabilities.code");
        let api = Capabilities { chat_api: Some("assistants".to_owned()), ..Default::default() };
        assert_eq!(field(api), "model.capabilities.chat_api");
        let refused = Capabilities { refused_parameters: Some(names(&["stop", "mood"])), ..Default::default() };
        assert_eq!(field(refused), "model.capabilities.refused_parameters");
        assert!(check(&Capabilities::default()).is_ok());
    }

    /// The table in docs/providers.md is this one; `POSTERN_GENERATE=1` writes it.
    #[test]
    fn the_documents_table_is_the_one_in_use() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/providers.md");
        let text = std::fs::read_to_string(path).unwrap();
        let (begin, end) = ("<!-- capabilities: generated -->\n", "<!-- end -->");
        let (before, rest) = text.split_once(begin).unwrap();
        let (now, after) = rest.split_once(end).unwrap();
        if std::env::var_os("POSTERN_GENERATE").is_some() {
            std::fs::write(path, format!("{before}{begin}{}{end}{after}", table())).unwrap();
        } else {
            assert_eq!(now, table(), "`make generate` writes it");
        }
    }
}
