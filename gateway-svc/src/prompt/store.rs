//! The registry in use: what is shipped, before it the instance's prompts, and before these an overlay directory that is read anew when it
//! changes. An overlay that cannot be used never takes the place of one that could.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use postern_prompt::{Files, Origin, Registry, Unusable, read_named, read_overlay};
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
    layers: Arc<Mutex<Layers>>,
    pins: Arc<BTreeMap<Feature, Version>>,
}

/// What stands before the shipped ones, as it is in use.
#[derive(Debug, Clone, Default)]
struct Layers {
    instance: Files,
    directory: Files,
}

impl Layers {
    /// The directory is nearest.
    fn registry(&self) -> Result<Registry, Unusable> {
        Registry::layered(&[(Origin::Instance, &self.instance), (Origin::Overlay, &self.directory)])
    }
}

impl Prompts {
    /// Reads the overlay and follows its changes until the process stops.
    ///
    /// # Errors
    /// [`ConfigError`]: at the start there is nothing to fall back on.
    pub fn follow(config: &PromptsConfig, lifecycle: &Lifecycle) -> Result<Self, ConfigError> {
        let unusable = |error: Unusable| ConfigError::invalid("prompts.overlay_dir", error);
        let directory = config.overlay_dir.as_deref().map(read_overlay).transpose().map_err(unusable)?;
        let layers = Layers { directory: directory.unwrap_or_default(), instance: Files::new() };
        let registry = layers.registry().map_err(unusable)?;
        let pins = pins(&config.pins, &registry)?;
        let (current, layers) = (Arc::new(ArcSwap::from_pointee(registry)), Arc::new(Mutex::new(layers)));
        let prompts = Self { current, layers, pins: Arc::new(pins) };
        if let Some(dir) = config.overlay_dir.clone() {
            let (watching, stopping) = (prompts.clone().watch(dir), lifecycle.stopping().clone());
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

    /// Takes the prompts that the instance has now, by name with their texts.
    pub fn take_over(&self, prompts: Vec<(String, String)>) {
        // One that cannot be used, of an instance of another version, takes no others along.
        let usable = |(name, text): &(String, String)| match read_named(name, text) {
            Ok(_) => true,
            Err(problem) => {
                tracing::error!(%problem, "a prompt of the instance cannot be used");
                false
            }
        };
        let file = |(name, text)| (PathBuf::from(format!("{name}.toml")), text);
        let instance = prompts.into_iter().filter(usable).map(file).collect();
        self.put("the instance's prompts", |layers| &mut layers.instance, instance);
    }

    async fn watch(self, dir: PathBuf) {
        let mut seen = self.layers.lock().unwrap_or_else(PoisonError::into_inner).directory.clone();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let dir = dir.clone();
            match tokio::task::spawn_blocking(move || read_overlay(&dir)).await {
                Ok(Ok(files)) if files != seen => {
                    seen.clone_from(&files);
                    self.put("the prompt overlay", |layers| &mut layers.directory, files);
                }
                Ok(Ok(_)) | Err(_) => {}
                Ok(Err(problem)) => {
                    tracing::warn!(%problem, "the prompt overlay cannot be read; what was in use stays")
                }
            }
        }
    }

    /// Puts files in a layer, unless what comes of it cannot be used.
    fn put(&self, what: &str, layer: fn(&mut Layers) -> &mut Files, files: Files) {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut after = layers.clone();
        if *layer(&mut after) == files {
            return;
        }
        *layer(&mut after) = files;
        let registry = after.registry().map_err(|problem| problem.to_string());
        // A version that is pinned must stay, once it is there.
        let now = self.current.load();
        let lost = |registry: &Registry| {
            let lost = |(feature, version): &(&Feature, &Version)| {
                has(&now, **feature, version) && !has(registry, **feature, version)
            };
            self.pins.iter().find(lost).map(|(feature, version)| format!("the pinned {feature} {version} is gone"))
        };
        let registry = registry.and_then(|registry| lost(&registry).map_or(Ok(registry), Err));
        match registry {
            Ok(registry) => {
                let (instance, overlay) = (after.instance.len(), after.directory.len());
                tracing::info!(prompts = registry.all().count(), instance, overlay, "prompts in use");
                self.current.store(Arc::new(registry));
                *layers = after;
            }
            Err(problem) => tracing::warn!(%problem, "{what} cannot be used; what was in use stays"),
        }
    }
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
        // The instance may hold it: its prompts come once the gateway follows it.
        if !has(registry, feature, &version) {
            tracing::warn!(%feature, %version, "the pinned prompt is not there; until the instance gives it, the feature has none");
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
    async fn the_instances_prompts_stand_between_the_shipped_ones_and_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let config = PromptsConfig { overlay_dir: Some(dir.path().to_owned()), ..Default::default() };
        let prompts = Prompts::follow(&config, &Lifecycle::new(&Readiness::default())).unwrap();
        let named = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        prompts.take_over(vec![named("explain_code/base/2.0.0", TEXT)]);
        assert_eq!(picked(&prompts), "explain_code/base/2.0.0");
        // One that cannot be used takes no others along, and one that is gone is gone.
        prompts
            .take_over(vec![named("explain_code/base/3.0.0", "user = '{{'"), named("explain_code/base/2.1.0", TEXT)]);
        assert_eq!(picked(&prompts), "explain_code/base/2.1.0");
        prompts.take_over(Vec::new());
        assert_eq!(picked(&prompts), "explain_code/base/1.0.0");
    }

    #[tokio::test]
    async fn a_pinned_version_may_come_from_the_instance_and_stays_once_it_is_there() {
        let pin = |version: &str| PromptsConfig {
            pins: [("explain_code".to_owned(), version.to_owned())].into(),
            ..Default::default()
        };
        let prompts = Prompts::follow(&pin("1.0.0"), &Lifecycle::new(&Readiness::default())).unwrap();
        assert_eq!(prompts.pinned(Feature::ExplainCode), Some(&Version::new(1, 0, 0)));
        assert!(Prompts::follow(&pin("one"), &Lifecycle::new(&Readiness::default())).is_err());

        let prompts = Prompts::follow(&pin("2.0.0"), &Lifecycle::new(&Readiness::default())).unwrap();
        let has = || has(&prompts.current(), Feature::ExplainCode, &Version::new(2, 0, 0));
        let named = |version: &str| vec![(format!("explain_code/base/{version}"), TEXT.to_owned())];
        prompts.take_over(named("3.0.0"));
        assert!(!has());
        prompts.take_over(named("2.0.0"));
        assert!(has());
        prompts.take_over(Vec::new());
        assert!(has());
    }
}
