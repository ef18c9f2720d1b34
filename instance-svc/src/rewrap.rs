//! Seals everything in the database anew under the current key-encryption key, record by record: each stays readable throughout, and
//! a change that comes meanwhile wins.

use std::sync::Arc;

use postern_proto::Failure;

use crate::seal::Sealer;
use crate::store::Store;

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rewrapped {
    /// Sealed anew.
    pub rewrapped: u32,
    /// Under the current key already.
    pub current: u32,
    /// Under no key that is known.
    pub unopened: u32,
}

/// Looks at the whole database at most.
const MOST_PASSES: usize = 5;

/// The rewrap.
pub struct Rewrap {
    store: Arc<dyn Store>,
    sealer: Arc<Sealer>,
}

impl Rewrap {
    /// Of this store under this sealer's key.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, sealer: Arc<Sealer>) -> Self {
        Self { store, sealer }
    }

    /// Rewraps. Running it twice does no harm.
    ///
    /// # Errors
    /// STORE_UNAVAILABLE; what was rewrapped until then stays so.
    pub async fn run(&self) -> Result<Rewrapped, Failure> {
        let mut done = self.pass().await?;
        // What a replica with the former key has sealed meanwhile is found by another look.
        for _ in 1..MOST_PASSES {
            let again = self.pass().await?;
            done = Rewrapped { rewrapped: done.rewrapped + again.rewrapped, ..again };
            if again.rewrapped == 0 {
                break;
            }
        }
        done.current = done.current.saturating_sub(done.rewrapped);
        Ok(done)
    }

    async fn pass(&self) -> Result<Rewrapped, Failure> {
        let mut done = Rewrapped::default();
        for record in self.store.sealed_records().await? {
            if self.sealer.is_current(&record.name, &record.sealed) {
                done.current += 1;
                continue;
            }
            let Ok(secret) = self.sealer.open(&record.name, &record.sealed) else {
                tracing::error!(record.name = record.name, "a sealed record opens under no key that is configured");
                done.unopened += 1;
                continue;
            };
            let fresh = self.sealer.seal(&record.name, &secret).map_err(Failure::internal)?;
            done.rewrapped += u32::from(self.store.replace_sealed(&record, &fresh).await?);
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{InstanceRecord, ModelRecord, SqlStore};
    use postern_runtime::SystemClock;

    #[tokio::test]
    async fn everything_is_sealed_anew_and_the_former_key_may_go() {
        let dir = tempfile::tempdir().unwrap();
        let (old_file, new_file) = (dir.path().join("old"), dir.path().join("new"));
        let old = Sealer::from_file(&old_file, true).unwrap();
        let store = SqlStore::open_sqlite(&dir.path().join("x.db"), Arc::new(SystemClock)).await.unwrap();
        let sealed_pepper = old.seal("instance/pepper", b"pepper").unwrap();
        store.set_up(InstanceRecord { id: "ins_1".to_owned(), sealed_pepper }).await.unwrap();
        store.trust_root(old.seal("instance/trust_root", b"root").unwrap()).await.unwrap();
        let model = |name: &str, sealed: Option<String>| ModelRecord {
            name: name.to_owned(),
            spec: "{}".to_owned(),
            credential_kind: "api_key".to_owned(),
            sealed_credential: sealed,
            version: 1,
            created_at: 1,
            updated_at: 1,
        };
        store.add_model(model("m", Some(old.seal("models/m", b"key").unwrap()))).await.unwrap();
        store.add_model(model("none", None)).await.unwrap();
        let stranger = Sealer::from_file(&dir.path().join("stranger"), true).unwrap();
        store.add_model(model("lost", Some(stranger.seal("models/lost", b"key").unwrap()))).await.unwrap();

        let both = || Sealer::from_file(&new_file, true).unwrap().with_former(std::slice::from_ref(&old_file)).unwrap();
        let store: Arc<dyn Store> = Arc::new(store);
        let rewrap = Rewrap::new(store.clone(), Arc::new(both()));
        assert_eq!(rewrap.run().await.unwrap(), Rewrapped { rewrapped: 3, current: 0, unopened: 1 });
        assert_eq!(rewrap.run().await.unwrap(), Rewrapped { rewrapped: 0, current: 3, unopened: 1 });
        let new = Sealer::from_file(&new_file, false).unwrap();
        for record in store.sealed_records().await.unwrap() {
            assert_eq!(new.open(&record.name, &record.sealed).is_ok(), record.name != "models/lost", "{}", record.name);
        }
        // A record that has changed meanwhile is left as it is.
        let mut record = store.sealed_records().await.unwrap().into_iter().find(|one| one.name == "models/m").unwrap();
        let now = std::mem::replace(&mut record.sealed, "another".to_owned());
        assert!(!store.replace_sealed(&record, "late").await.unwrap());
        assert_eq!(store.models().await.unwrap()[1].sealed_credential, Some(now));
    }
}
