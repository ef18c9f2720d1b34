//! How Claude is told to think, at Anthropic and on Bedrock alike (<https://docs.anthropic.com/en/docs/build-with-claude/extended-thinking>).

use postern_proto::completion::v1::{Message, Parameters, Role, Thought};
use serde_json::{Map, Value, json};

use super::say::Dropped;

/// What a model may spend on thinking, by the effort that is asked for.
const BUDGETS: [(&str, u32); 3] = [("low", 2048), ("medium", 8192), ("high", 16_384)];
/// The least that it may spend.
const LEAST_BUDGET: u32 = 1024;
/// Efforts that newer models know.
const EFFORTS: [&str; 5] = ["low", "medium", "high", "xhigh", "max"];

/// What becomes of the effort that was asked for.
#[derive(Debug, Default, PartialEq)]
pub struct Thinking {
    /// The request's `thinking`.
    pub thinking: Option<Value>,
    /// The effort, where that is what steers the model.
    pub effort: Option<String>,
    /// Why it was dropped.
    pub warning: Option<&'static str>,
}

/// How the model is told to think: newer ones by an effort, as they like, others by a budget of tokens, which is less than the whole answer
/// may take.
pub fn thinking(parameters: &Parameters, max_tokens: u32, may_think: bool, is_adaptive: bool) -> Thinking {
    let Parameters { temperature, top_p, top_k, reasoning_effort, .. } = parameters;
    let Some(effort) = reasoning_effort else { return Thinking::default() };
    // OpenAI's least.
    let effort = if effort == "minimal" { "low" } else { effort.as_str() };
    // Thinking wants the sampling left alone.
    let is_plain = temperature.is_none_or(|given| given >= 1.0) && top_k.is_none() && top_p.is_none();
    if is_adaptive {
        if !EFFORTS.contains(&effort) {
            let warning =
                (effort != "none").then_some("`reasoning_effort` was dropped: the model knows no such effort");
            return Thinking { warning, ..Thinking::default() };
        }
        let thinking = (may_think && is_plain).then(|| json!({ "type": "adaptive", "display": "summarized" }));
        return Thinking { thinking, effort: Some(effort.to_owned()), warning: None };
    }
    // These think when they are told to.
    if effort == "none" {
        return Thinking::default();
    }
    let effort = if matches!(effort, "xhigh" | "max") { "high" } else { effort };
    let budget = BUDGETS.iter().find(|(name, _)| *name == effort).map(|(_, budget)| *budget);
    // What is left of the whole is for the answer.
    let budget = budget.map(|budget| budget.min(max_tokens / 4 * 3));
    match budget.filter(|budget| *budget >= LEAST_BUDGET && is_plain && may_think) {
        Some(budget) => {
            let thinking = Some(json!({ "type": "enabled", "budget_tokens": budget }));
            Thinking { thinking, ..Thinking::default() }
        }
        None => {
            let warning = "`reasoning_effort` was dropped: it needs a larger `max_tokens`, no sampling parameters, a free choice of \
                           tools, and the thoughts that this turn's calls began with";
            Thinking { warning: Some(warning), ..Thinking::default() }
        }
    }
}

/// A schema as Claude takes it: objects have no members but those that they name, and the bounds that it does not know are told in words
/// (<https://docs.anthropic.com/en/docs/build-with-claude/structured-outputs>).
pub fn schema(mut schema: Value) -> Value {
    match &mut schema {
        Value::Object(members) => {
            let untold: Vec<_> = UNTOLD.iter().filter_map(|name| Some((*name, members.shift_remove(*name)?))).collect();
            if !untold.is_empty() {
                let told: Vec<_> = untold.iter().map(|(name, value)| format!("{name}: {value}")).collect();
                let before = members.get("description").and_then(Value::as_str).map(|text| format!("{text} "));
                let description = format!("{}({})", before.unwrap_or_default(), told.join(", "));
                members.insert("description".to_owned(), description.into());
            }
            let names_object =
                |kind: &Value| kind == "object" || kind.as_array().is_some_and(|all| all.contains(&"object".into()));
            let is_object = members.get("type").is_some_and(names_object) || members.contains_key("properties");
            // A map of a kind of its own stays one, whatever comes of it.
            if is_object && members.get("additionalProperties").is_none_or(Value::is_boolean) {
                members.insert("additionalProperties".to_owned(), false.into());
            }
            for (name, member) in members.iter_mut() {
                // Names of properties are no keywords.
                let is_named = matches!(
                    name.as_str(),
                    "properties" | "$defs" | "definitions" | "patternProperties" | "dependentSchemas"
                );
                let given = member.take();
                *member = match given {
                    Value::Object(named) if is_named => {
                        named.into_iter().map(|(name, one)| (name, self::schema(one))).collect::<Map<_, _>>().into()
                    }
                    // Values are no schemas.
                    value if matches!(name.as_str(), "enum" | "const" | "default" | "examples" | "required") => value,
                    value => self::schema(value),
                };
            }
        }
        Value::Array(all) => all.iter_mut().for_each(|one| *one = self::schema(one.take())),
        _ => {}
    }
    schema
}

/// The bounds that Claude does not know.
const UNTOLD: [&str; 11] = [
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "maxItems",
    "uniqueItems",
    "minProperties",
    "maxProperties",
];

/// `temperature` and `top_p` as Claude takes them: up to 1, and one of the two.
pub fn sampling(parameters: &Parameters, dropped: &mut Dropped<'_>) -> (Option<f64>, Option<f64>) {
    let Parameters { temperature, top_p, .. } = parameters;
    if temperature.is_some_and(|given| given > 1.0) {
        dropped.warnings.push("`temperature` was lowered to 1, the most that the model takes".to_owned());
    }
    if temperature.is_some() && top_p.is_some() {
        dropped.warnings.push("`top_p` was dropped: the model takes `temperature` or `top_p`".to_owned());
    }
    (temperature.map(|given| given.min(1.0)), top_p.filter(|_| temperature.is_none()))
}

/// Whether the turn that is under way began with calls, and without the thoughts that went with them, which a model that thinks by a budget
/// would ask for.
pub fn begins_unthought(messages: &[Message], is_own: impl Fn(&Thought) -> bool) -> bool {
    let from = messages.iter().rposition(|message| message.role == Role::User as i32).map_or(0, |at| at + 1);
    let mut turn = messages.iter().skip(from);
    let first = turn.find(|message| message.role == Role::Assistant as i32);
    first.is_some_and(|first| !first.tool_calls.is_empty() && !first.thoughts.iter().any(is_own))
}
