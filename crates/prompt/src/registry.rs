//! All templates, and which of them is meant.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use include_dir::{Dir, include_dir};
use postern_proto::Feature;
use semver::Version;

use crate::template::{MAX_FILE, Template, TemplateProblem};

static SHIPPED: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/prompts");

/// The family that stands for all.
const BASE: &str = "base";
/// Templates in an overlay.
const MAX_TEMPLATES: usize = 1024;

/// Where a template comes from; the later stands before the earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The binary.
    Shipped,
    /// The instance.
    Instance,
    /// The overlay directory.
    Overlay,
}

/// Files by their place in an overlay, with their texts.
pub type Files = Vec<(PathBuf, String)>;

/// A template that cannot be used, and where it is.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct Unusable {
    /// Its file.
    pub place: String,
    /// What is wrong.
    pub problem: String,
    /// Whether it is its name that is wrong.
    pub of_name: bool,
}

type Key = (String, String, Version);

/// The templates by feature, family and version. Those of an overlay stand before shipped ones of the same name.
#[derive(Debug, Clone)]
pub struct Registry(BTreeMap<Key, (Template, Origin)>);

impl Registry {
    /// What is shipped.
    ///
    /// # Errors
    /// [`Unusable`]; a test holds that there is none.
    pub fn shipped() -> Result<Self, Unusable> {
        let mut registry = Self(BTreeMap::new());
        for features in SHIPPED.dirs() {
            for families in features.dirs() {
                for file in families.files() {
                    let text = file.contents_utf8().unwrap_or_default();
                    registry.add(template(file.path(), text)?, Origin::Shipped);
                }
            }
        }
        Ok(registry)
    }

    /// What is shipped, with these before it.
    ///
    /// # Errors
    /// [`Unusable`]; nothing of an overlay is used then.
    pub fn overlaid(overlay: &[(PathBuf, String)]) -> Result<Self, Unusable> {
        Self::layered(&[(Origin::Overlay, overlay)])
    }

    /// What is shipped, with these before it, the later before the earlier.
    ///
    /// # Errors
    /// [`Unusable`]; nothing of any of them is used then.
    pub fn layered(layers: &[(Origin, &[(PathBuf, String)])]) -> Result<Self, Unusable> {
        let mut registry = Self::shipped()?;
        for (origin, files) in layers {
            for (path, text) in *files {
                registry.add(template(path, text)?, *origin);
            }
        }
        Ok(registry)
    }

    fn add(&mut self, template: Template, origin: Origin) {
        let key = (template.feature.clone(), template.family.clone(), template.version.clone());
        self.0.insert(key, (template, origin));
    }

    /// The template of a feature for a family. A directory's stands before the instance's, and that before a shipped one; then the one whose
    /// name the family's begins with, the longest first, else the base; then its newest stable version, or the one that is pinned.
    #[must_use]
    pub fn pick(&self, feature: Feature, family: &str, pinned: Option<&Version>) -> Option<&Template> {
        let fits = |(template, _): &(&Template, Origin)| {
            let is_pinned = pinned.map_or(template.version.pre.is_empty(), |version| template.version == *version);
            is_pinned
                && template.feature == feature.name()
                && (template.family == BASE || family.starts_with(&template.family))
        };
        let weight = |(template, origin): &(&Template, Origin)| {
            let length = if template.family == BASE { 0 } else { template.family.len() };
            (*origin, length, template.version.clone())
        };
        self.all().filter(fits).max_by_key(weight).map(|(template, _)| template)
    }

    /// All templates of a feature.
    pub fn of(&self, feature: Feature) -> impl Iterator<Item = &Template> {
        self.all().map(|(template, _)| template).filter(move |template| template.feature == feature.name())
    }

    /// All templates.
    pub fn all(&self) -> impl Iterator<Item = (&Template, Origin)> {
        self.0.values().map(|(template, origin)| (template, *origin))
    }
}

/// Reads the files of an overlay directory, relative to it. A directory that is not there is an empty one.
///
/// # Errors
/// [`Unusable`] when something in it cannot be read.
pub fn read_overlay(dir: &Path) -> Result<Files, Unusable> {
    let unusable = |path: &Path, problem: &dyn std::fmt::Display| Unusable {
        place: path.display().to_string(),
        problem: problem.to_string(),
        of_name: false,
    };
    let mut found = Vec::new();
    let mut dirs = vec![(dir.to_owned(), 0)];
    while let Some((at, depth)) = dirs.pop() {
        let entries = match std::fs::read_dir(&at) {
            Ok(entries) => entries,
            Err(error) if depth == 0 && error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
            Err(error) => return Err(unusable(&at, &error)),
        };
        for entry in entries {
            let path = entry.map_err(|error| unusable(&at, &error))?.path();
            // Kubernetes mounts a ConfigMap through hidden folders, and what it shows are links.
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
                continue;
            }
            if path.is_dir() && depth < 2 {
                dirs.push((path, depth + 1));
            } else if path.extension().is_some_and(|extension| extension == "toml") {
                let size = std::fs::metadata(&path).map_err(|error| unusable(&path, &error))?.len();
                if size > MAX_FILE as u64 || found.len() == MAX_TEMPLATES {
                    return Err(unusable(&path, &"is too large, or one too many"));
                }
                let text = std::fs::read_to_string(&path).map_err(|error| unusable(&path, &error))?;
                let relative = path.strip_prefix(dir).unwrap_or(&path).to_owned();
                found.push((relative, text));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The template of a name such as `explain_code/base/1.0.0`.
///
/// # Errors
/// [`Unusable`].
pub fn read_named(name: &str, text: &str) -> Result<Template, Unusable> {
    let read = template(Path::new(&format!("{name}.toml")), text)?;
    if read.name() == name {
        return Ok(read);
    }
    let problem = format!("is written `{}`", read.name());
    Err(Unusable { place: name.chars().take(MAX_NAME).collect(), problem, of_name: true })
}

/// Longest name of a family, and of a template that is repeated.
const MAX_FAMILY: usize = 63;
const MAX_NAME: usize = 160;

/// The template of a file, named by its place: `<feature>/<family|base>/<version>.toml`.
fn template(path: &Path, text: &str) -> Result<Template, Unusable> {
    let place = || path.display().to_string().chars().take(MAX_NAME).collect();
    let unusable =
        |problem: &dyn std::fmt::Display| Unusable { place: place(), problem: problem.to_string(), of_name: true };
    let parts: Vec<_> = path.iter().filter_map(|part| part.to_str()).collect();
    let [feature, family, file] = parts.as_slice() else {
        return Err(unusable(&"is not at <feature>/<family|base>/<version>.toml"));
    };
    if !feature.parse::<Feature>().map_err(|error| unusable(&error))?.has_prompt() {
        return Err(unusable(&"the feature has no prompt"));
    }
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    if family.len() > MAX_FAMILY || !family.chars().all(is_word) {
        return Err(unusable(&"a family is written with a-z, 0-9, '-', '_' and '.'"));
    }
    let version = file.strip_suffix(".toml").unwrap_or(file).parse::<Version>().map_err(|error| unusable(&error))?;
    Template::read(feature, family, version, text)
        .map_err(|problem: TemplateProblem| Unusable { of_name: false, ..unusable(&problem) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_shipped_can_be_used_and_every_feature_with_a_prompt_has_a_base() {
        let registry = Registry::shipped().unwrap();
        for feature in Feature::ALL.into_iter().filter(|feature| feature.has_prompt()) {
            let picked = registry.pick(feature, "nobody", None).unwrap_or_else(|| panic!("{feature} has no base"));
            assert_eq!(picked.family, BASE);
        }
        for (template, _) in registry.all() {
            assert!(template.feature.parse::<Feature>().unwrap().has_prompt(), "{}", template.name());
        }
    }

    const TEXT: &str = "description = 'd'\nuser = '{{ code }}'\n[variables.code]\ndescription = 'c'";

    fn overlay(paths: &[&str]) -> Vec<(PathBuf, String)> {
        paths.iter().map(|path| (PathBuf::from(path), TEXT.to_owned())).collect()
    }

    #[test]
    fn the_nearest_family_and_the_newest_stable_version_is_meant_unless_one_is_pinned() {
        let registry = Registry::overlaid(&overlay(&[
            "explain_code/base/9.0.0.toml",
            "explain_code/qwen/1.0.0.toml",
            "explain_code/qwen2.5/1.0.0.toml",
            "explain_code/qwen2.5/1.2.0.toml",
            "explain_code/qwen2.5/2.0.0-rc.1.toml",
        ]))
        .unwrap();
        let pick = |family: &str, pinned: Option<&str>| {
            let pinned = pinned.map(|version| version.parse().unwrap());
            registry.pick(Feature::ExplainCode, family, pinned.as_ref()).map(Template::name)
        };
        // The instance's newest stands behind a directory's oldest.
        let (instance, directory) =
            (overlay(&["explain_code/qwen/999.0.0.toml"]), overlay(&["explain_code/base/0.1.0.toml"]));
        let layered = Registry::layered(&[(Origin::Instance, &instance), (Origin::Overlay, &directory)]).unwrap();
        let picked = layered.pick(Feature::ExplainCode, "qwen3", None).map(Template::name);
        assert_eq!(picked.as_deref(), Some("explain_code/base/0.1.0"));
        assert_eq!(pick("llama3", None).as_deref(), Some("explain_code/base/9.0.0"));
        assert_eq!(pick("qwen3", None).as_deref(), Some("explain_code/qwen/1.0.0"));
        assert_eq!(pick("qwen2.5-coder", None).as_deref(), Some("explain_code/qwen2.5/1.2.0"));
        assert_eq!(pick("qwen2.5-coder", Some("2.0.0-rc.1")).as_deref(), Some("explain_code/qwen2.5/2.0.0-rc.1"));
        assert_eq!(pick("qwen2.5-coder", Some("9.0.0")).as_deref(), Some("explain_code/base/9.0.0"));
        assert_eq!(pick("qwen2.5-coder", Some("3.0.0")), None);
    }

    #[test]
    fn an_overlay_with_a_fault_is_refused_whole() {
        for path in [
            "x.toml",
            "telepathy/base/1.0.0.toml",
            "explain_code/base/one.toml",
            "explain_code/base/a/1.0.0.toml",
            "chat/base/1.0.0.toml",
            "explain_code/Qwen 2/1.0.0.toml",
        ] {
            let error = Registry::overlaid(&overlay(&["explain_code/base/9.0.0.toml", path])).unwrap_err();
            assert_eq!(error.place, path);
        }
    }

    #[test]
    fn a_prompt_has_one_name() {
        assert_eq!(read_named("explain_code/base/2.0.0", TEXT).unwrap().name(), "explain_code/base/2.0.0");
        for name in [
            "",
            "explain_code/base/2.0.0.toml",
            "./explain_code/base/2.0.0",
            "explain_code//base/2.0.0",
            "explain_code/base/../2.0.0",
            "explain_code/base/02.0.0",
        ] {
            assert!(read_named(name, TEXT).unwrap_err().of_name, "{name}");
        }
        assert!(!read_named("explain_code/base/2.0.0", "user = '{{'").unwrap_err().of_name);
    }

    #[test]
    fn a_later_layer_stands_before_an_earlier_one() {
        let (instance, directory) = (
            overlay(&["explain_code/base/9.0.0.toml", "fix_code/base/9.0.0.toml"]),
            overlay(&["explain_code/base/9.0.0.toml"]),
        );
        let registry = Registry::layered(&[(Origin::Instance, &instance), (Origin::Overlay, &directory)]).unwrap();
        let origin = |feature| {
            let picked = registry.pick(feature, "general", None).unwrap();
            registry.all().find(|(template, _)| *template == picked).map(|(_, origin)| origin)
        };
        assert_eq!(origin(Feature::ExplainCode), Some(Origin::Overlay));
        assert_eq!(origin(Feature::FixCode), Some(Origin::Instance));
        assert_eq!(origin(Feature::WriteTests), Some(Origin::Shipped));
    }

    #[test]
    fn a_directory_is_read_and_one_that_is_not_there_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read_overlay(&dir.path().join("none")).unwrap().is_empty());
        let folder = dir.path().join("explain_code/base");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::create_dir_all(dir.path().join("..data")).unwrap();
        std::fs::write(folder.join("9.0.0.toml"), TEXT).unwrap();
        std::fs::write(folder.join("README.md"), "x").unwrap();
        let read = read_overlay(dir.path()).unwrap();
        assert_eq!(read, overlay(&["explain_code/base/9.0.0.toml"]));
        std::fs::write(folder.join("10.0.0.toml"), "x".repeat(MAX_FILE + 1)).unwrap();
        assert!(read_overlay(dir.path()).is_err());
    }
}
