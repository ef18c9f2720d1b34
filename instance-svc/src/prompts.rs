//! The prompts that stand before those that gateways ship.

use std::sync::Arc;

use postern_prompt::Template;
use postern_proto::{Failure, Reason};
use tokio::sync::Mutex;

use crate::store::{Change, Store};

/// All texts together, in bytes: they travel with the routes.
const MAX_BYTES: usize = 2 * 1024 * 1024;
const MAX_PROMPTS: usize = 1024;

/// The prompts.
pub struct Prompts {
    store: Arc<dyn Store>,
    /// A change looks at all of them and writes one; changes queue here.
    changing: Mutex<()>,
}

impl Prompts {
    /// The prompts of a store.
    #[must_use]
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, changing: Mutex::default() }
    }

    /// Puts a prompt, in place of one of the same name.
    ///
    /// # Errors
    /// REQUEST_INVALID names the field; STORE_UNAVAILABLE.
    pub async fn put(&self, name: &str, text: String) -> Result<Template, Failure> {
        let template = postern_prompt::read_named(name, &text).map_err(|unusable| {
            let field = if unusable.of_name { "prompt.name" } else { "prompt.text" };
            Failure::field(field, unusable.problem)
        })?;
        let _changing = self.changing.lock().await;
        let others = self.all().await?.into_iter().filter(|(other, _)| other != name);
        let (count, bytes) = others.fold((1, text.len()), |(count, bytes), (_, text)| (count + 1, bytes + text.len()));
        if count > MAX_PROMPTS || bytes > MAX_BYTES {
            let most = MAX_BYTES >> 20;
            let problem = format!("all prompts together are more than {MAX_PROMPTS}, or larger than {most} MiB");
            return Err(Failure::field("prompt", problem));
        }
        self.store.put_prompt(name, Change::Set(text)).await?;
        Ok(template)
    }

    /// Removes a prompt.
    ///
    /// # Errors
    /// NOT_FOUND, STORE_UNAVAILABLE.
    pub async fn remove(&self, name: &str) -> Result<(), Failure> {
        self.store.put_prompt(name, Change::Remove).await.map_err(|error| match error.into() {
            Failure { reason: Reason::NotFound, .. } => {
                let message =
                    "the instance has no prompt of that name; `postern prompt list --instance` shows those it has";
                Failure::new(Reason::NotFound, message)
            }
            failure => failure,
        })
    }

    /// All of them by name, with their texts.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE.
    pub async fn all(&self) -> Result<Vec<(String, String)>, Failure> {
        Ok(self.store.prompts().await?)
    }
}
