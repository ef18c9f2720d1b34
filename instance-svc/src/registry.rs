//! The models and what features are bound to them.

use std::collections::BTreeMap;
use std::sync::Arc;

use postern_proto::instance::v1 as pb;
use postern_proto::{Failure, Feature, ModelName, Reason};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::model::ModelSpec;
use crate::model_credential::ModelCredential;
use crate::seal::Sealer;
use crate::store::{Change, Kind, Millis, ModelRecord, Store};

/// What a feature is bound to, and for whom, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Stored")]
pub struct Binding {
    /// To what.
    pub to: BoundTo,
    /// The groups whose members may use it; empty for anyone.
    pub groups: Vec<String>,
}

/// What a feature is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BoundTo {
    /// Off.
    Disabled,
    /// Models of this instance, in order of preference.
    SelfHosted(Vec<String>),
    /// A gateway of another instance, by its name in the fleet.
    Managed(String),
}

/// A binding as any version of Postern stored it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Stored {
    Now { to: BoundTo, groups: Vec<String> },
    BeforeGroups(BoundTo),
}

impl From<Stored> for Binding {
    fn from(stored: Stored) -> Self {
        match stored {
            Stored::Now { to, groups } => Self { to, groups },
            Stored::BeforeGroups(to) => Self { to, groups: Vec::new() },
        }
    }
}

/// A registered model.
#[derive(Debug, Clone)]
pub struct Model {
    /// Its row.
    pub record: ModelRecord,
    /// Its settings.
    pub spec: ModelSpec,
}

/// The registry.
pub struct Registry {
    store: Arc<dyn Store>,
    sealer: Arc<Sealer>,
    /// Changes check one thing and write another; they queue here.
    changing: Mutex<()>,
}

const MAX_BOUND_MODELS: usize = 256;

impl Registry {
    /// A registry over these parts.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, sealer: Arc<Sealer>) -> Self {
        Self { store, sealer, changing: Mutex::new(()) }
    }

    /// Registers a model.
    ///
    /// # Errors
    /// REQUEST_INVALID, ALREADY_EXISTS, STORE_UNAVAILABLE.
    pub async fn create(&self, model: pb::Model, credential: ModelCredential) -> Result<Model, Failure> {
        let (name, spec) = ModelSpec::check(model, None)?;
        let now = self.store.now().await?;
        let model = self.sealed(&name, spec, &credential, (1, now, now))?;
        self.store.add_model(model.record.clone()).await.map_err(|error| match error.into() {
            Failure { reason: Reason::AlreadyExists, .. } => {
                Failure::new(Reason::AlreadyExists, format!("there is a model `{name}` already"))
            }
            failure => failure,
        })?;
        Ok(model)
    }

    /// Replaces a model's settings, and its credential when one is given.
    ///
    /// # Errors
    /// REQUEST_INVALID, NOT_FOUND, VERSION_CONFLICT, STORE_UNAVAILABLE.
    pub async fn update(&self, model: pb::Model, credential: Option<ModelCredential>) -> Result<Model, Failure> {
        let _changing = self.changing.lock().await;
        let expected = model.version;
        let before = self.get(&model.name).await?;
        let conflict = || Failure::new(Reason::VersionConflict, "the model was changed meanwhile; read it again");
        if expected != 0 && expected != before.record.version {
            return Err(conflict());
        }
        let (name, spec) = ModelSpec::check(model, Some(&before.spec))?;
        if credential.is_none() && before.record.sealed_credential.is_some() && !spec.is_reached_as(&before.spec) {
            // Else whoever may change a model could send its key to a server of their own.
            let message =
                "give the credential again: the stored one belongs to the URL, provider and networks it was given for";
            return Err(Failure::field("credential", message));
        }
        let now = self.store.now().await?;
        let times = (before.record.version + 1, before.record.created_at, now);
        let after = match credential {
            Some(credential) => self.sealed(&name, spec, &credential, times)?,
            None => {
                let record = ModelRecord {
                    spec: json(&spec)?,
                    version: before.record.version + 1,
                    updated_at: now,
                    ..before.record
                };
                Model { record, spec }
            }
        };
        self.store.replace_model(after.record.clone()).await.map_err(|error| match error.into() {
            Failure { reason: Reason::NotFound, .. } => conflict(),
            failure => failure,
        })?;
        Ok(after)
    }

    fn sealed(
        &self,
        name: &ModelName,
        spec: ModelSpec,
        credential: &ModelCredential,
        (version, created_at, updated_at): (u64, Millis, Millis),
    ) -> Result<Model, Failure> {
        if let Some((provider, field)) = credential.only_for().filter(|(provider, _)| spec.provider != *provider) {
            return Err(Failure::field(field, format!("is for the provider {provider}")));
        }
        let seal = |secret: Vec<u8>| self.sealer.seal(&record_name(name.as_str()), &secret);
        let sealed_credential = credential.secret().map(seal).transpose().map_err(Failure::internal)?;
        let record = ModelRecord {
            name: name.to_string(),
            spec: json(&spec)?,
            credential_kind: credential.kind(),
            sealed_credential,
            version,
            created_at,
            updated_at,
        };
        Ok(Model { record, spec })
    }

    /// Removes a model that no feature is bound to.
    ///
    /// # Errors
    /// NOT_FOUND, IN_USE, STORE_UNAVAILABLE.
    pub async fn remove(&self, name: &str) -> Result<(), Failure> {
        let _changing = self.changing.lock().await;
        for (feature, binding) in self.bindings().await? {
            if matches!(&binding.to, BoundTo::SelfHosted(models) if models.iter().any(|model| model == name)) {
                return Err(Failure::new(
                    Reason::InUse,
                    format!(
                        "the feature `{feature}` is bound to `{name}`; bind it to another model or unbind it first"
                    ),
                ));
            }
        }
        self.store.remove_model(name).await.map_err(|error| missing_model(error.into(), name))
    }

    /// A model.
    ///
    /// # Errors
    /// NOT_FOUND, STORE_UNAVAILABLE.
    pub async fn get(&self, name: &str) -> Result<Model, Failure> {
        let found = self.models().await?.into_iter().find(|model| model.record.name == name);
        found.ok_or_else(|| missing_model(Failure::new(Reason::NotFound, ""), name))
    }

    /// All models by name.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE.
    pub async fn models(&self) -> Result<Vec<Model>, Failure> {
        let read = |record: ModelRecord| {
            let spec = serde_json::from_str(&record.spec).map_err(Failure::internal)?;
            Ok(Model { record, spec })
        };
        self.store.models().await?.into_iter().map(read).collect()
    }

    /// A model's credential, opened.
    ///
    /// # Errors
    /// INTERNAL when it does not open.
    pub fn credential(&self, model: &Model) -> Result<ModelCredential, Failure> {
        let Some(sealed) = &model.record.sealed_credential else { return Ok(ModelCredential::none()) };
        let opened = self.sealer.open(&record_name(&model.record.name), sealed).map_err(Failure::internal)?;
        ModelCredential::opened(&model.record.credential_kind, &opened)
    }

    /// Binds a feature to models in order of preference, or to nothing.
    ///
    /// # Errors
    /// REQUEST_INVALID, MODEL_NOT_FOUND, STORE_UNAVAILABLE.
    pub async fn bind(&self, feature: Feature, binding: &Binding) -> Result<(), Failure> {
        let _changing = self.changing.lock().await;
        if let BoundTo::SelfHosted(models) = &binding.to {
            if models.is_empty() || models.len() > MAX_BOUND_MODELS {
                return Err(Failure::field("feature.self_hosted.models", format!("must be 1 to {MAX_BOUND_MODELS}")));
            }
            let known = self.models().await?;
            for (at, name) in models.iter().enumerate() {
                if models[..at].contains(name) {
                    return Err(Failure::field("feature.self_hosted.models", format!("`{name}` is given twice")));
                }
                if !known.iter().any(|model| model.record.name == *name) {
                    return Err(missing_model(Failure::new(Reason::ModelNotFound, ""), name));
                }
            }
        }
        if let BoundTo::Managed(gateway) = &binding.to {
            let fleet = self.store.principals().await?;
            if !fleet.iter().any(|member| member.kind == Kind::ManagedGateway && member.name == *gateway) {
                let problem =
                    "there is no managed gateway of that name; `postern fleet add gateway --managed` adds one";
                return Err(Failure::field("feature.managed.gateway", problem));
            }
        }
        Ok(self.store.bind_feature(feature.name(), Change::Set(json(binding)?)).await?)
    }

    /// Unbinds a feature, which turns it off.
    ///
    /// # Errors
    /// NOT_FOUND, STORE_UNAVAILABLE.
    pub async fn unbind(&self, feature: Feature) -> Result<(), Failure> {
        self.store.bind_feature(feature.name(), Change::Remove).await.map_err(|error| match error.into() {
            Failure { reason: Reason::NotFound, .. } => {
                Failure::new(Reason::NotFound, format!("the feature `{feature}` is not bound"))
            }
            failure => failure,
        })
    }

    /// The bindings by feature. A feature that is not here is unbound.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE.
    pub async fn bindings(&self) -> Result<BTreeMap<Feature, Binding>, Failure> {
        bindings(&*self.store).await
    }
}

/// The bindings in a store, by feature.
///
/// # Errors
/// STORE_UNAVAILABLE.
pub async fn bindings(store: &dyn Store) -> Result<BTreeMap<Feature, Binding>, Failure> {
    let mut bindings = BTreeMap::new();
    for (name, binding) in store.features().await? {
        // A feature of a newer version of Postern is not this one's business.
        if let Ok(feature) = name.parse() {
            bindings.insert(feature, serde_json::from_str(&binding).map_err(Failure::internal)?);
        }
    }
    Ok(bindings)
}

fn record_name(model: &str) -> String {
    format!("models/{model}")
}

fn json(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(Failure::internal)
}

fn missing_model(failure: Failure, name: &str) -> Failure {
    match failure.reason {
        Reason::NotFound | Reason::ModelNotFound => Failure::new(
            failure.reason,
            format!("there is no model `{name}`; `postern model list` shows those there are"),
        ),
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binding_of_before_there_were_groups_is_read() {
        let models = BoundTo::SelfHosted(vec!["m".to_owned()]);
        for (text, to, groups) in [
            (r#""disabled""#, BoundTo::Disabled, vec![]),
            (r#"{"self_hosted":["m"]}"#, models.clone(), vec![]),
            (r#"{"to":{"managed":"g"},"groups":[]}"#, BoundTo::Managed("g".to_owned()), vec![]),
            (r#"{"to":{"self_hosted":["m"]},"groups":["g"]}"#, models, vec!["g".to_owned()]),
        ] {
            let binding: Binding = serde_json::from_str(text).unwrap();
            assert_eq!(binding, Binding { to, groups }, "{text}");
            assert_eq!(serde_json::from_str::<Binding>(&json(&binding).unwrap()).unwrap(), binding);
        }
    }
}
