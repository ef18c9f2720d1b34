//! `prompt`: the registry as the binary ships it, with the instance's prompts and an overlay directory before it.

use std::path::{Path, PathBuf};

use postern_prompt::{Files, Origin, Registry, Template, read_overlay};
use postern_proto::Feature;
use postern_proto::instance::v1 as pb;
use postern_proto::instance::v1::prompt_service_client::PromptServiceClient;
use serde_json::{Value, json};

use super::complete::{or_stdin, variables};
use crate::args::{Overlay, Prompt};
use crate::client::{Client, of_instance};
use crate::output::{Output, Problem};
use crate::profile::Profiles;

/// Runs a command of the family.
pub async fn run(profiles: &Profiles, command: Prompt) -> Result<Output, Problem> {
    match command {
        Prompt::List { overlay } => {
            let registry = registry(profiles, &overlay).await?;
            let all: Vec<_> = registry.all().collect();
            let row = |(template, origin): &(&Template, Origin)| {
                [template.name(), origin_name(*origin).to_owned(), template.description.clone()]
            };
            let rows = all.iter().map(row).collect();
            let views = all.iter().map(|(template, origin)| view(template, *origin)).collect();
            Ok(Output::table(["PROMPT", "FROM", "DOES"], rows, views))
        }
        Prompt::Show { prompt, overlay } => {
            let registry = registry(profiles, &overlay).await?;
            let template = find(&registry, &prompt)?;
            let text =
                format!("{}\n{}\n\n{}{}", template.name(), template.description, needs(template), source(template));
            Ok(Output::new(text.trim_end(), view(template, origin(&registry, template))))
        }
        Prompt::Render { prompt, variables: given, overlay } => {
            let registry = registry(profiles, &overlay).await?;
            let template = find(&registry, &prompt)?;
            let rendered = template.render(&variables(&given)?).map_err(|wrong| match wrong.variable() {
                Some(name) => Problem::new(format!("`{name}` {wrong}")),
                None => Problem::new(wrong.to_string()),
            })?;
            let text = format!("-- system\n{}\n-- user\n{}", rendered.system, rendered.user);
            Ok(Output::new(
                text,
                json!({ "prompt": template.name(), "system": rendered.system, "user": rendered.user }),
            ))
        }
        Prompt::Put { name, file } => {
            let text = match file.to_str() {
                Some("-") => or_stdin(None)?,
                _ => std::fs::read_to_string(&file)
                    .map_err(|error| Problem::new(format!("{}: {error}", file.display())))?,
            };
            let client = Client::new(profiles.load()?)?;
            let prompt = Some(pb::Prompt { name: name.clone(), text });
            let request = client.administer(pb::PutPromptRequest { prompt }).await?;
            let mut prompts = PromptServiceClient::new(client.instance());
            prompts.put_prompt(request).await.map_err(|status| of_instance(&status))?;
            Ok(Output::new(format!("{name}: in use at every gateway in a moment"), json!({ "put": name })))
        }
        Prompt::Remove { name } => {
            let client = Client::new(profiles.load()?)?;
            let request = client.administer(pb::RemovePromptRequest { name: name.clone() }).await?;
            let mut prompts = PromptServiceClient::new(client.instance());
            prompts.remove_prompt(request).await.map_err(|status| of_instance(&status))?;
            Ok(Output::new(format!("{name}: removed"), json!({ "removed": name })))
        }
        Prompt::Lint { dir } => lint(&dir),
        Prompt::Diff { before, after, overlay } => {
            let registry = registry(profiles, &overlay).await?;
            let (before, after) = (find(&registry, &before)?, find(&registry, &after)?);
            let whole = |template: &Template| format!("{}{}", needs(template), source(template));
            let lines = diff(&whole(before), &whole(after));
            let same = lines.iter().all(|line| line.starts_with(' '));
            let text = format!("--- {}\n+++ {}\n{}", before.name(), after.name(), lines.join("\n"));
            Ok(Output::new(
                text,
                json!({ "before": before.name(), "after": after.name(), "same": same, "lines": lines }),
            ))
        }
    }
}

async fn registry(profiles: &Profiles, overlay: &Overlay) -> Result<Registry, Problem> {
    let problem = |error: postern_prompt::Unusable| Problem::new(error.to_string());
    let files = overlay.dir.as_deref().map(read_overlay).transpose().map_err(problem)?.unwrap_or_default();
    let instance = if overlay.instance { of_the_instance(profiles).await? } else { Files::new() };
    Registry::layered(&[(Origin::Instance, &instance), (Origin::Overlay, &files)]).map_err(problem)
}

async fn of_the_instance(profiles: &Profiles) -> Result<Files, Problem> {
    let client = Client::new(profiles.load()?)?;
    let request = client.administer(pb::ListPromptsRequest {}).await?;
    let mut prompts = PromptServiceClient::new(client.instance());
    let list = prompts.list_prompts(request).await.map_err(|status| of_instance(&status))?.into_inner().prompts;
    let file = |pb::Prompt { name, text }| (PathBuf::from(format!("{name}.toml")), text);
    Ok(list.into_iter().map(file).collect())
}

/// `feature`, `feature/family` or `feature/family/version`.
fn find<'a>(registry: &'a Registry, name: &str) -> Result<&'a Template, Problem> {
    let mut parts = name.splitn(3, '/');
    let feature = parts.next().unwrap_or_default();
    let feature: Feature = feature.parse().map_err(|error| Problem::new(format!("{error}")))?;
    let family = parts.next().unwrap_or("base");
    let version = parts.next().map(str::parse).transpose();
    let version = version.map_err(|_| Problem::new(format!("`{name}` ends in no version such as 1.0.0")))?;
    let found = registry.pick(feature, family, version.as_ref());
    found.ok_or_else(|| {
        Problem::new(format!("there is no prompt `{name}`; `postern prompt list` shows those there are"))
    })
}

fn lint(dir: &Path) -> Result<Output, Problem> {
    let files = read_overlay(dir).map_err(|error| Problem::new(error.to_string()))?;
    if files.is_empty() {
        return Err(Problem::new(format!("{} holds no prompt", dir.display())));
    }
    // One by one, so that every fault is told.
    let faults = files.iter().filter_map(|file| Registry::overlaid(std::slice::from_ref(file)).err());
    let faults: Vec<_> = faults.map(|fault| fault.to_string()).collect();
    let mut idle = Vec::new();
    if let Ok(registry) = Registry::overlaid(&files) {
        for (template, origin) in registry.all().filter(|(_, origin)| *origin == Origin::Overlay) {
            let feature = template.feature.parse::<Feature>().ok();
            let picked = feature.and_then(|feature| registry.pick(feature, &template.family, None));
            if picked.is_some_and(|picked| picked != template) {
                let name = template.name();
                idle.push(format!(
                    "{name}: used only where its version is pinned or asked for ({})",
                    origin_name(origin)
                ));
            }
        }
    }
    let good = faults.is_empty();
    let mut lines: Vec<_> = faults.iter().map(|fault| format!("FAIL  {fault}")).collect();
    lines.extend(idle.iter().map(|note| format!("note  {note}")));
    lines.push(format!("{} prompts, {} cannot be used", files.len(), faults.len()));
    Ok(Output::new(lines.join("\n"), json!({ "ok": good, "faults": faults, "notes": idle })).bad_unless(good))
}

fn origin(registry: &Registry, template: &Template) -> Origin {
    registry.all().find(|(found, _)| *found == template).map_or(Origin::Shipped, |(_, origin)| origin)
}

const fn origin_name(origin: Origin) -> &'static str {
    match origin {
        Origin::Shipped => "shipped",
        Origin::Instance => "instance",
        Origin::Overlay => "overlay",
    }
}

fn needs(template: &Template) -> String {
    let line = |(name, variable): (&String, &postern_prompt::Variable)| {
        let need = if variable.required { "required, " } else { "" };
        let known = if variable.one_of.is_empty() {
            String::new()
        } else {
            format!(" One of: {}.", variable.one_of.join(", "))
        };
        format!("  {name}  ({need}at most {} bytes)  {}{known}\n", variable.max_bytes, variable.description)
    };
    template.variables.iter().map(line).collect()
}

fn source(template: &Template) -> String {
    template.parts().iter().map(|(part, text)| format!("\n-- {part}\n{}\n", text.trim_end())).collect()
}

fn view(template: &Template, origin: Origin) -> Value {
    let variable = |(name, variable): (&String, &postern_prompt::Variable)| {
        json!({
            "name": name, "description": variable.description, "required": variable.required,
            "max_bytes": variable.max_bytes, "one_of": variable.one_of,
        })
    };
    let [(_, system), (_, user)] = template.parts();
    json!({
        "prompt": template.name(), "origin": origin_name(origin), "description": template.description,
        "variables": template.variables.iter().map(variable).collect::<Value>(), "system": system, "user": user,
    })
}

/// The lines of both, marked ` `, `-` and `+`, by their longest common subsequence.
fn diff(before: &str, after: &str) -> Vec<String> {
    let (old, new): (Vec<_>, Vec<_>) = (before.lines().collect(), after.lines().collect());
    let mut common = vec![vec![0_u32; new.len() + 1]; old.len() + 1];
    for (i, line) in old.iter().enumerate().rev() {
        for (j, other) in new.iter().enumerate().rev() {
            common[i][j] =
                if line == other { common[i + 1][j + 1] + 1 } else { common[i + 1][j].max(common[i][j + 1]) };
        }
    }
    let (mut i, mut j, mut lines) = (0, 0, Vec::new());
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            lines.push(format!(" {}", old[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || (i < old.len() && common[i + 1][j] >= common[i][j + 1]) {
            lines.push(format!("-{}", old[i]));
            i += 1;
        } else {
            lines.push(format!("+{}", new[j]));
            j += 1;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diff_keeps_what_is_common() {
        assert_eq!(diff("a\nb\nc", "a\nx\nc\nd"), [" a", "-b", "+x", " c", "+d"]);
        assert_eq!(diff("", "a"), ["+a"]);
        assert_eq!(diff("a", ""), ["-a"]);
    }

    #[test]
    fn a_prompt_is_found_by_as_much_of_its_name_as_is_given() {
        let registry = Registry::shipped().unwrap();
        for name in ["explain_code", "explain_code/base", "explain_code/qwen", "explain_code/base/1.0.0"] {
            assert_eq!(find(&registry, name).ok().map(Template::name).as_deref(), Some("explain_code/base/1.0.0"));
        }
        for name in ["", "telepathy", "explain_code/base/one", "explain_code/base/9.0.0", "chat"] {
            assert!(find(&registry, name).is_err(), "{name}");
        }
    }

    #[test]
    fn an_overlay_with_faults_is_told_of_each_and_of_what_is_never_used() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("explain_code/base");
        std::fs::create_dir_all(&base).unwrap();
        let text = "description = 'd'\nuser = '{{ code }}'\n[variables.code]\ndescription = 'c'";
        std::fs::write(base.join("0.9.0.toml"), text).unwrap();
        let output = lint(dir.path()).ok().unwrap();
        assert!(output.is_good());
        std::fs::write(base.join("2.0.0.toml"), "user = '{{'").unwrap();
        assert!(!lint(dir.path()).ok().unwrap().is_good());
    }
}
