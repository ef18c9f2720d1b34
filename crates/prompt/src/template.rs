//! One template: what it needs, and how it is rendered.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use minijinja::{Environment, UndefinedBehavior, Value};
use semver::Version;
use serde::Deserialize;

/// Steps that a rendering may take.
const FUEL: u64 = 100_000;
/// Largest part that is rendered, in bytes.
const MAX_RENDERED: usize = 8 * 1024 * 1024;
/// Largest file of a template, in bytes.
pub(crate) const MAX_FILE: usize = 64 * 1024;

/// A versioned prompt of a feature for a family.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    /// What it is for.
    pub feature: String,
    /// For whom; `base` for all families.
    pub family: String,
    /// Which version.
    pub version: Version,
    /// What a person should know of it.
    pub description: String,
    /// What it is given, by name.
    pub variables: BTreeMap<String, Variable>,
    /// How to sample, where the caller does not say.
    pub parameters: Sampling,
    system: String,
    user: String,
}

/// Something that a template is given.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variable {
    /// What it is.
    pub description: String,
    /// Whether it must be given, and not be empty.
    #[serde(default)]
    pub required: bool,
    /// Its largest size, in bytes.
    #[serde(default = "default_max_bytes")]
    pub max_bytes: usize,
    /// The values that it may have; empty for any.
    #[serde(default)]
    pub one_of: Vec<String>,
}

const fn default_max_bytes() -> usize {
    262_144
}

/// How to sample.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sampling {
    /// Most tokens of the answer.
    pub max_tokens: Option<u32>,
    /// 0 to 2.
    pub temperature: Option<f64>,
    /// 0 to 1.
    pub top_p: Option<f64>,
    /// Texts that end the answer.
    pub stop: Vec<String>,
}

/// What a model is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The instructions; empty when there are none.
    pub system: String,
    /// The question.
    pub user: String,
}

/// A template that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TemplateProblem {
    /// The file is too large.
    #[error("is larger than {} KiB", MAX_FILE >> 10)]
    TooLarge,
    /// The file is not of the form.
    #[error("{0}")]
    Form(#[from] toml::de::Error),
    /// A part is not a template.
    #[error("`{part}`: {problem}")]
    Syntax {
        /// Which part.
        part: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A part names what is not declared.
    #[error("uses `{0}`, which [variables] does not declare")]
    Undeclared(String),
    /// A variable that no part names.
    #[error("declares `{0}`, which it does not use")]
    Unused(String),
    /// A part uses what is not offered: texts could grow by it without bound, or work without end.
    #[error(
        "`{part}`: `{what}` is not offered; there are if, elif, else, comparisons and the filters fenced, tagged and trim, {MAX_WORK} of them at most"
    )]
    Refused {
        /// Which part.
        part: &'static str,
        /// What it uses.
        what: String,
    },
    /// There is no question.
    #[error("has no `user`")]
    NoQuestion,
}

/// Variables that do not fit a template, or a template that does not render with them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// A variable is missing or empty.
    #[error("is required")]
    Missing(String),
    /// There is no variable of that name.
    #[error("is not a variable of this prompt; there are: {}", .known.join(", "))]
    Unknown {
        /// The name that was given.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// A variable is too large.
    #[error("is larger than {max} bytes")]
    TooLarge {
        /// Which.
        name: String,
        /// The largest size.
        max: usize,
    },
    /// A variable has a value that it may not have.
    #[error("must be one of: {}", .known.join(", "))]
    NotOneOf {
        /// Which.
        name: String,
        /// The values there are.
        known: Vec<String>,
    },
    /// The template itself fails: too much work, too long, or a fault in it.
    #[error("{0}")]
    Template(String),
}

impl Wrong {
    /// The variable that is wrong; `None` when the template itself is.
    #[must_use]
    pub fn variable(&self) -> Option<&str> {
        match self {
            Self::Missing(name)
            | Self::Unknown { name, .. }
            | Self::TooLarge { name, .. }
            | Self::NotOneOf { name, .. } => Some(name),
            Self::Template(_) => None,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    description: String,
    #[serde(default)]
    variables: BTreeMap<String, Variable>,
    #[serde(default)]
    parameters: Sampling,
    #[serde(default)]
    system: String,
    user: String,
}

impl Template {
    /// Reads a template, and checks that its parts and its variables agree.
    ///
    /// # Errors
    /// [`TemplateProblem`].
    pub fn read(feature: &str, family: &str, version: Version, text: &str) -> Result<Self, TemplateProblem> {
        if text.len() > MAX_FILE {
            return Err(TemplateProblem::TooLarge);
        }
        let File { description, variables, parameters, system, user } = toml::from_str(text)?;
        if user.trim().is_empty() {
            return Err(TemplateProblem::NoQuestion);
        }
        let environment = environment();
        let mut used = BTreeSet::new();
        for (part, source) in [("system", &system), ("user", &user)] {
            let syntax = |error: minijinja::Error| TemplateProblem::Syntax { part, problem: error.to_string() };
            let template = environment.template_from_str(source).map_err(syntax)?;
            used.extend(template.undeclared_variables(false));
            if let Some(what) = refused(source) {
                return Err(TemplateProblem::Refused { part, what });
            }
        }
        if let Some(name) = used.iter().find(|name| !variables.contains_key(*name)) {
            return Err(TemplateProblem::Undeclared(name.clone()));
        }
        if let Some(name) = variables.keys().find(|name| !used.contains(*name)) {
            return Err(TemplateProblem::Unused(name.clone()));
        }
        let (feature, family) = (feature.to_owned(), family.to_owned());
        Ok(Self { feature, family, version, description, variables, parameters, system, user })
    }

    /// Its name, such as `explain_code/base/1.0.0`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}/{}", self.feature, self.family, self.version)
    }

    /// The parts as they were written.
    #[must_use]
    pub fn parts(&self) -> [(&'static str, &str); 2] {
        [("system", &self.system), ("user", &self.user)]
    }

    /// Renders it with these variables.
    ///
    /// # Errors
    /// [`Wrong`] names the variable.
    pub fn render(&self, given: &BTreeMap<String, String>) -> Result<Rendered, Wrong> {
        if let Some(name) = given.keys().find(|name| !self.variables.contains_key(*name)) {
            let name = name.chars().take(64).collect();
            return Err(Wrong::Unknown { name, known: self.variables.keys().cloned().collect() });
        }
        for (name, variable) in &self.variables {
            let value = given.get(name).map_or("", String::as_str);
            if variable.required && value.trim().is_empty() {
                return Err(Wrong::Missing(name.clone()));
            }
            if value.len() > variable.max_bytes {
                return Err(Wrong::TooLarge { name: name.clone(), max: variable.max_bytes });
            }
            if !value.is_empty() && !variable.one_of.is_empty() && !variable.one_of.iter().any(|known| known == value) {
                return Err(Wrong::NotOneOf { name: name.clone(), known: variable.one_of.clone() });
            }
        }
        let context: BTreeMap<&str, &str> =
            self.variables.keys().map(|name| (name.as_str(), given.get(name).map_or("", String::as_str))).collect();
        let environment = environment();
        let part = |source: &str| {
            let mut out = Bounded(Vec::new());
            let template = environment.template_from_str(source).map_err(|error| failed(&error))?;
            template.render_captured_to(&context, &mut out).map_err(|error| failed(&error))?;
            String::from_utf8(out.0).map_err(|error| Wrong::Template(error.to_string()))
        };
        Ok(Rendered { system: part(&self.system)?.trim().to_owned(), user: part(&self.user)?.trim().to_owned() })
    }
}

/// Where a tag ends: not within a text in quotes.
fn tag_end(tag: &str) -> usize {
    let (mut quote, mut before) = (None, ' ');
    for (at, c) in tag.char_indices() {
        match quote {
            Some(open) if c == open && before != '\\' => quote = None,
            Some(_) => {}
            None if matches!(c, '"' | '\'') => quote = Some(c),
            None if c == '}' && matches!(before, '}' | '%') => return at - 1,
            None => {}
        }
        before = c;
    }
    tag.len()
}

/// What a tag may begin with.
const STATEMENTS: [&str; 4] = ["if", "elif", "else", "endif"];
/// What may follow a `|`.
const FILTERS: [&str; 3] = ["fenced", "tagged", "trim"];
/// Tags and filters of a part: each may take in the largest variable.
const MAX_WORK: usize = 256;

/// What is not offered of a part; `None` when everything is. Nothing that is repeats, keeps or joins texts, so that what a part makes is as
/// large as what it is given, as often as it names it.
fn refused(source: &str) -> Option<String> {
    let (mut rest, mut work) = (source, 0);
    while let Some(at) = rest.find('{') {
        let (kind, tag) = (rest[at + 1..].chars().next(), rest.get(at + 2..).unwrap_or_default());
        match kind {
            Some('{' | '%') => {}
            Some('#') => {
                rest = tag.split_once("#}").map_or("", |(_, after)| after);
                continue;
            }
            _ => {
                rest = &rest[at + 1..];
                continue;
            }
        }
        let (inside, after) = tag.split_at(tag_end(tag));
        let inside = inside.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']);
        let statement = inside.split_whitespace().next().unwrap_or_default();
        if kind == Some('%') && !STATEMENTS.contains(&statement) {
            return Some(statement.to_owned());
        }
        let (mut quote, mut before, mut bare) = (None, ' ', String::new());
        for c in inside.chars() {
            match quote {
                Some(open) if c == open && before != '\\' => quote = None,
                Some(_) => {}
                None if matches!(c, '"' | '\'') => quote = Some(c),
                None if c.is_alphanumeric() || c.is_whitespace() || "_.,()=!<>|".contains(c) => bare.push(c),
                None => return Some(c.to_string()),
            }
            before = c;
        }
        let words = |text: &str| -> Vec<String> {
            text.split(|c: char| !c.is_alphanumeric() && c != '_')
                .filter(|word| !word.is_empty())
                .map(str::to_owned)
                .collect()
        };
        if words(&bare).iter().any(|word| word == "is") {
            return Some("is".to_owned());
        }
        for filtered in bare.split('|').skip(1) {
            let filter = words(filtered).into_iter().next().unwrap_or_default();
            if !FILTERS.contains(&filter.as_str()) {
                return Some(filter);
            }
            work += 1;
        }
        work += 1;
        rest = after.get(2..).unwrap_or_default();
    }
    (work > MAX_WORK).then(|| format!("{work} tags and filters"))
}

/// What went wrong, without the text that it went wrong in.
fn failed(error: &minijinja::Error) -> Wrong {
    let place = error.line().map(|line| format!(" at line {line}")).unwrap_or_default();
    Wrong::Template(format!("the template fails{place}: {}", error.kind()))
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(50);
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.add_filter("fenced", |text: &str, language: Option<&str>| Value::from(fenced(text, language)));
    environment.add_filter("tagged", |text: &str, tag: &str| Value::from(tagged(text, tag)));
    environment.add_filter("trim", |text: &str| Value::from(text.trim()));
    environment
}

/// A text in a fence of Markdown that nothing in the text can close.
#[must_use]
pub fn fenced(text: &str, language: Option<&str>) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(usize::max(3, longest + 1));
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '#' | '_' | '.');
    let language: String = language.unwrap_or_default().chars().filter(|c| word(*c)).take(32).collect();
    let end = if text.ends_with('\n') { "" } else { "\n" };
    format!("{fence}{language}\n{text}{end}{fence}")
}

/// A text between tags that nothing in the text can close: where it would, it has a backslash in it.
#[must_use]
pub fn tagged(text: &str, tag: &str) -> String {
    let tag: String = tag.chars().filter(|c| c.is_ascii_lowercase() || matches!(c, '_' | '-')).take(32).collect();
    let closing = format!("</{tag}");
    let (mut body, mut from) = (String::with_capacity(text.len()), 0);
    // Lower case of ASCII is as long as what it is of.
    for (at, _) in text.to_ascii_lowercase().match_indices(&closing) {
        body.push_str(&text[from..at]);
        body.push_str("<\\/");
        from = at + 2;
    }
    body.push_str(&text[from..]);
    format!("<{tag}>{body}</{tag}>")
}

/// Takes so much and no more.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_RENDERED {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the prompt is too large"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Template, TemplateProblem> {
        Template::read("explain_code", "base", Version::new(1, 0, 0), text)
    }

    fn variables(given: &[(&str, &str)]) -> BTreeMap<String, String> {
        given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    const GOOD: &str = r#"
        description = "d"
        system = "Be brief."
        user = "{% if tone %}{{ tone }}: {% endif %}{{ code | fenced('rust') }}"
        [variables.code]
        description = "the code"
        required = true
        max_bytes = 10
        [variables.tone]
        description = "the tone"
        one_of = ["kind", "dry"]
    "#;

    #[test]
    fn a_template_is_rendered_with_its_variables() {
        let template = read(GOOD).unwrap();
        assert_eq!(template.name(), "explain_code/base/1.0.0");
        let rendered = template.render(&variables(&[("code", "a"), ("tone", "dry")])).unwrap();
        assert_eq!(rendered.user, "dry: ```rust\na\n```");
        assert_eq!(rendered.system, "Be brief.");
        assert_eq!(template.render(&variables(&[("code", "{{ tone }}")])).unwrap().user, "```rust\n{{ tone }}\n```");
    }

    #[test]
    fn variables_that_do_not_fit_are_named() {
        let template = read(GOOD).unwrap();
        let wrong = |given: &[(&str, &str)]| template.render(&variables(given)).unwrap_err();
        assert_eq!(wrong(&[]), Wrong::Missing("code".to_owned()));
        assert_eq!(wrong(&[("code", " ")]), Wrong::Missing("code".to_owned()));
        assert_eq!(wrong(&[("code", "0123456789a")]).variable(), Some("code"));
        assert_eq!(wrong(&[("code", "a"), ("tone", "rude")]).variable(), Some("tone"));
        assert_eq!(wrong(&[("code", "a"), ("colour", "red")]).variable(), Some("colour"));
    }

    #[test]
    fn a_template_that_is_none_is_refused() {
        let with = |user: &str| format!("description = 'd'\nuser = '''{user}'''\n[variables.code]\ndescription = 'c'");
        for (text, problem) in [
            ("".to_owned(), "missing field"),
            (with("{{ code"), "`user`"),
            (with("{{ other }}{{ code }}"), "does not declare"),
            (with("hi"), "does not use"),
            (with(" "), "has no `user`"),
            (format!("{}\ncolour = 1", with("{{ code }}")), "unknown field"),
            ("x".repeat(MAX_FILE + 1), "larger"),
        ] {
            let error = read(&text).err().unwrap().to_string();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn nothing_repeats_keeps_or_joins_texts() {
        let with =
            |user: &str| format!("description = 'd'\nuser = \"\"\"{user}\"\"\"\n[variables.code]\ndescription = 'c'");
        for user in [
            "{{ code ~ code }}",
            "{{ code * 9 }}",
            "{{ code + code }}",
            "{% set x = code %}{{ x }}",
            "{%- set x = code -%}{{ x }}",
            "{% for a in code %}x{% endfor %}",
            "{% with a={'x':{'y':1}}, b=code %}{{ b }}{% endwith %}",
            "{% filter trim %}{{ code }}{% endfilter %}",
            "{{ {'a':code} }}",
            "{{ [code, code] }}",
            "{% include 'x' %}{{ code }}",
            "{% macro m() %}{{ code }}{% endmacro %}",
            "{% raw %}{{{% endraw %}{{ code }}",
            "{{ '}}' ~ code }}",
            "{{ code }}{% block x %}{% endblock %}",
            "{{ code | replace('a', code) }}",
            "{{ code | trim | upper }}",
            "{% if code is defined %}{{ code }}{% endif %}",
            "{{ '' if code is not none else code }}",
        ] {
            assert!(matches!(read(&with(user)), Err(TemplateProblem::Refused { part: "user", .. })), "{user}");
        }
        let many = "{{ code | trim }}".repeat(MAX_WORK / 2 + 1);
        assert!(matches!(read(&with(&many)), Err(TemplateProblem::Refused { .. })));
        for user in [
            "2 * 2 ~ 4 + {{- code -}} set { for } { { {a: [1]}",
            "{# {% for %} #}{{ code }}",
            "{% if code == 'a}} ~ b' and not code %}x{% elif code != '' %}{{ code | fenced('rust') }}{%- else -%}y{% endif %}",
        ] {
            assert!(read(&with(user)).is_ok(), "{user}: {:?}", read(&with(user)).err());
        }
    }

    proptest! {
        #[test]
        fn nothing_in_a_text_closes_its_fence(text in "[`a\n~]{0,40}") {
            let fenced = fenced(&text, Some("a b`\n"));
            let fence: String = fenced.chars().take_while(|c| *c == '`').collect();
            let (_, body) = fenced.split_once('\n').unwrap();
            let beginning = format!("{fence}ab\n");
            prop_assert!(fenced.starts_with(&beginning));
            let closing: Vec<_> = body.lines().filter(|line| line.starts_with(&fence)).collect();
            prop_assert_eq!(closing, [fence.as_str()]);
        }

        #[test]
        fn nothing_in_a_text_closes_its_tags(text in "(</?|a|A|b|>|\\n|é){0,40}") {
            let whole = tagged(&text, "ab");
            let body = whole.strip_prefix("<ab>").and_then(|rest| rest.strip_suffix("</ab>")).unwrap();
            prop_assert!(!body.to_ascii_lowercase().contains("</ab"));
            // Nothing but the backslashes is added.
            prop_assert_eq!(body.replace("<\\/", "</"), text);
        }
    }
}
