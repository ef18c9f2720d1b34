//! The registry in use: what is shipped, with an overlay directory before it that is read anew when it changes. An overlay that cannot be
//! used never takes the place of one that could.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use postern_prompt::{Registry, Unusable, read_overlay};
use postern_proto::Feature;
use postern_runtime::config::ConfigError;
use postern_runtime::lifecycle::Lifecycle;
use semver::Version;
use serde::Deserialize;

/// `[prompts]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PromptsConfig {
    /// Prompts that stand before the shipped ones, at `<feature>/<family|base>/<version>.toml`. Read anew when they change.
    pub overlay_dir: Option<PathBuf>,
    /// The version of a feature's prompt, such as `explain_code = "1.0.0"`. Default: the newest.
    pub pins: BTreeMap<String, String>,
}

/// How often the overlay is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The registry in use.
#[derive(Clone)]
pub struct Prompts {
    current: Arc<ArcSwap<Registry>>,
    pins: Arc<BTreeMap<Feature, Version>>,
}

impl Prompts {
    /// Reads the overlay and follows its changes until the process stops.
    ///
    /// # Errors
    /// [`ConfigError`]: at the start there is nothing to fall back on.
    pub fn follow(config: &PromptsConfig, lifecycle: &Lifecycle) -> Result<Self, ConfigError> {
        let (registry, seen) = match &config.overlay_dir {
            None => (Registry::shipped().map_err(|error| ConfigError::invalid("prompts", error))?, Vec::new()),
            Some(dir) => load(dir.clone()).map_err(|error| ConfigError::invalid("prompts.overlay_dir", error))?,
        };
        let pins = pins(&config.pins, &registry)?;
        let prompts = Self { current: Arc::new(ArcSwap::from_pointee(registry)), pins: Arc::new(pins) };
        if let Some(dir) = config.overlay_dir.clone() {
            let (watching, stopping) = (prompts.clone().watch(dir, seen), lifecycle.stopping().clone());
            lifecycle.spawn(async move {
                tokio::select! {
                    () = watching => {}
                    () = stopping.cancelled() => {}
                }
            });
        }
        Ok(prompts)
    }

    /// The registry of the moment.
    #[must_use]
    pub fn current(&self) -> Arc<Registry> {
        self.current.load_full()
    }

    /// The version that is pinned for a feature.
    #[must_use]
    pub fn pinned(&self, feature: Feature) -> Option<&Version> {
        self.pins.get(&feature)
    }

    async fn watch(self, dir: PathBuf, mut seen: Files) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let (dir, before) = (dir.clone(), seen.clone());
            let looked = tokio::task::spawn_blocking(move || changed(&dir, &before)).await;
            match looked {
                Ok(Ok(None)) | Err(_) => {}
                Ok(Ok(Some(files))) => {
                    seen.clone_from(&files);
                    self.put(&files);
                }
                Ok(Err(problem)) => {
                    tracing::warn!(%problem, "the prompt overlay cannot be read; what was in use stays")
                }
            }
        }
    }

    fn put(&self, files: &Files) {
        let registry = Registry::overlaid(files).map_err(|problem| problem.to_string());
        // A version that is pinned must stay.
        let lost = |registry: &Registry| {
            let lost = |(feature, version): &(&Feature, &Version)| !has(registry, **feature, version);
            self.pins.iter().find(lost).map(|(feature, version)| format!("the pinned {feature} {version} is gone"))
        };
        let registry = registry.and_then(|registry| lost(&registry).map_or(Ok(registry), Err));
        match registry {
            Ok(registry) => {
                tracing::info!(prompts = registry.all().count(), overlay = files.len(), "prompts in use");
                self.current.store(Arc::new(registry));
            }
            Err(problem) => tracing::warn!(%problem, "the prompt overlay cannot be used; what was in use stays"),
        }
    }
}

type Files = Vec<(PathBuf, String)>;

fn load(dir: PathBuf) -> Result<(Registry, Files), Unusable> {
    let files = read_overlay(&dir)?;
    Ok((Registry::overlaid(&files)?, files))
}

fn changed(dir: &std::path::Path, before: &Files) -> Result<Option<Files>, Unusable> {
    Ok(Some(read_overlay(dir)?).filter(|files| files != before))
}

fn has(registry: &Registry, feature: Feature, version: &Version) -> bool {
    registry.of(feature).any(|template| template.version == *version)
}

fn pins(given: &BTreeMap<String, String>, registry: &Registry) -> Result<BTreeMap<Feature, Version>, ConfigError> {
    let mut pins = BTreeMap::new();
    for (name, version) in given {
        let key = format!("prompts.pins.{name}");
        let feature: Feature = name.parse().map_err(|error| ConfigError::invalid(&key, error))?;
        let version: Version = version.parse().map_err(|error| ConfigError::invalid(&key, error))?;
        if !has(registry, feature, &version) {
            return Err(ConfigError::invalid(&key, format_args!("there is no prompt {name} of version {version}")));
        }
        pins.insert(feature, version);
    }
    Ok(pins)
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_runtime::readiness::Readiness;

    const TEXT: &str = "description = 'd'\nuser = '{{ code }}'\n[variables.code]\ndescription = 'c'";

    fn picked(prompts: &Prompts) -> String {
        let registry = prompts.current();
        registry.pick(Feature::ExplainCode, "general", prompts.pinned(Feature::ExplainCode)).unwrap().name()
    }

    #[tokio::test(start_paused = true)]
    async fn an_overlay_is_read_anew_and_a_broken_one_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("explain_code/base");
        std::fs::create_dir_all(&base).unwrap();
        let config = PromptsConfig { overlay_dir: Some(dir.path().to_owned()), ..Default::default() };
        let prompts = Prompts::follow(&config, &Lifecycle::new(&Readiness::default())).unwrap();
        assert_eq!(picked(&prompts), "explain_code/base/1.0.0");
        std::fs::write(base.join("2.0.0.toml"), TEXT).unwrap();
        let until = async |name: &str| {
            for _ in 0..50 {
                tokio::time::sleep(LOOK_EVERY).await;
                if picked(&prompts) == name {
                    return true;
                }
                // The look itself is on a thread, which paused time does not wait for.
                std::thread::yield_now();
            }
            false
        };
        assert!(until("explain_code/base/2.0.0").await);
        std::fs::write(base.join("3.0.0.toml"), "user = '{{'").unwrap();
        assert!(!until("explain_code/base/3.0.0").await);
        assert_eq!(picked(&prompts), "explain_code/base/2.0.0");
        let broken = Prompts::follow(&config, &Lifecycle::new(&Readiness::default()));
        assert!(broken.is_err());
    }

    #[tokio::test]
    async fn a_version_can_be_pinned_and_one_that_is_not_there_cannot() {
        let pin = |version: &str| PromptsConfig {
            pins: [("explain_code".to_owned(), version.to_owned())].into(),
            ..Default::default()
        };
        let prompts = Prompts::follow(&pin("1.0.0"), &Lifecycle::new(&Readiness::default())).unwrap();
        assert_eq!(prompts.pinned(Feature::ExplainCode), Some(&Version::new(1, 0, 0)));
        for version in ["9.9.9", "one"] {
            assert!(Prompts::follow(&pin(version), &Lifecycle::new(&Readiness::default())).is_err());
        }
    }
}
