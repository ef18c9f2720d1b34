//! Tools as the Responses API has them: functions, functions in a namespace, and tools that take a text, all of which a model is shown as
//! functions; and those that the vendor runs itself, which nobody else can.

use std::collections::BTreeMap;

use postern_proto::Failure;
use postern_proto::completion::v1::Tool;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::doors::wire::list;

/// What stands between a namespace and a name in what the model is shown.
const BETWEEN: &str = "__";

/// Warnings of dropped tools.
const MAX_WARNINGS: usize = 16;

#[derive(Deserialize)]
pub(super) struct WireTool {
    r#type: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    parameters: Option<Box<RawValue>>,
    #[serde(default)]
    strict: Option<bool>,
    /// Of a namespace.
    #[serde(default, deserialize_with = "list")]
    tools: Vec<Function>,
}

#[derive(Deserialize)]
struct Function {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    parameters: Option<Box<RawValue>>,
    #[serde(default)]
    strict: Option<bool>,
}

/// Which of the functions that a model is shown are something else to the caller.
#[derive(Default)]
pub(super) struct Tools {
    custom: Vec<String>,
    /// Namespace and name by the name that is shown.
    namespaced: BTreeMap<String, (String, String)>,
}

/// What a tool that takes a text is shown as.
const TEXT_PARAMETERS: &str =
    r#"{"type":"object","properties":{"input":{"type":"string"}},"required":["input"],"additionalProperties":false}"#;

impl Tools {
    /// Whether the tool takes a text.
    pub fn is_custom(&self, name: &str) -> bool {
        self.custom.iter().any(|custom| custom == name)
    }

    /// Namespace and name of a tool.
    pub fn namespaced(&self, shown: &str) -> Option<(&str, &str)> {
        self.namespaced.get(shown).map(|(namespace, name)| (namespace.as_str(), name.as_str()))
    }

    /// The functions that a tool is shown as. One that the vendor runs is none, and a warning says so.
    pub fn take(&mut self, wire: WireTool, to: &mut Vec<Tool>, warnings: &mut Vec<String>) -> Result<(), Failure> {
        let WireTool { r#type, name, description, parameters, strict, tools } = wire;
        let missing = || Failure::field("tools", "a tool has no name");
        match r#type.as_str() {
            "function" => to.push(function(name.ok_or_else(missing)?, description, parameters, strict)),
            "custom" => {
                let name = name.ok_or_else(missing)?;
                self.custom.push(name.clone());
                let parameters_json = TEXT_PARAMETERS.to_owned();
                to.push(Tool {
                    name,
                    description: description.unwrap_or_default(),
                    parameters_json,
                    strict: None,
                    cache: None,
                });
            }
            "namespace" => {
                let namespace = name.ok_or_else(missing)?;
                for Function { name, description, parameters, strict } in tools {
                    let name = name.ok_or_else(missing)?;
                    let shown = shown(&namespace, &name);
                    self.namespaced.insert(shown.clone(), (namespace.clone(), name));
                    to.push(function(shown, description, parameters, strict));
                }
            }
            other => {
                let shown: String = other.chars().filter(|c| !c.is_control()).take(32).collect();
                let warning = format!("the tool `{shown}` was dropped: only its vendor runs it");
                if warnings.len() < MAX_WARNINGS && !warnings.contains(&warning) {
                    warnings.push(warning);
                }
            }
        }
        Ok(())
    }
}

/// The name that a model is shown for a tool in a namespace.
pub(super) fn shown(namespace: &str, name: &str) -> String {
    format!("{namespace}{BETWEEN}{name}")
}

fn function(
    name: String,
    description: Option<String>,
    parameters: Option<Box<RawValue>>,
    strict: Option<bool>,
) -> Tool {
    Tool {
        name,
        description: description.unwrap_or_default(),
        parameters_json: parameters
            .map(|schema| schema.get().to_owned())
            .filter(|text| text != "null")
            .unwrap_or_default(),
        strict,
        cache: None,
    }
}
