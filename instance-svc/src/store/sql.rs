//! The store on a relational database: one portable SQL over sqlx's `Any` driver, for SQLite and PostgreSQL.
//!
//! A change that takes more than one statement begins with a write to the one row of the instance. SQLite takes its write lock
//! then, PostgreSQL that row's, so two changes queue instead of deadlocking, and what a change reads after it stays true.

use std::path::Path;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use postern_runtime::Clock;
use sqlx::any::{AnyConnectOptions, AnyPoolOptions, AnyRow};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{Any, AnyConnection, AnyPool, Executor as _, Row as _, SqlSafeStr as _, Transaction};

use super::{Change, InstanceRecord, Millis, ModelRecord, SealedRecord, Store, StoreError, Versions};

/// The schema's steps. A step that was released is never changed.
const MIGRATIONS: [(i64, &str, &str); 9] = [
    (1, "initial", include_str!("../../migrations/0001_initial.sql")),
    (2, "trust", include_str!("../../migrations/0002_trust.sql")),
    (3, "audit", include_str!("../../migrations/0003_audit.sql")),
    (4, "trust_root", include_str!("../../migrations/0004_trust_root.sql")),
    (5, "revocations_by_subject", include_str!("../../migrations/0005_revocations_by_subject.sql")),
    (6, "proofs_and_groups", include_str!("../../migrations/0006_proofs_and_groups.sql")),
    (7, "trusted_issuers", include_str!("../../migrations/0007_trusted_issuers.sql")),
    (8, "publishers_heard", include_str!("../../migrations/0008_publishers_heard.sql")),
    (9, "prompts", include_str!("../../migrations/0009_prompts.sql")),
];

fn migrations() -> Migrator {
    let step = |(version, name, sql): (i64, &'static str, &'static str)| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(MIGRATIONS.into_iter().map(step).collect())
}

/// How long a statement may wait for a connection or for SQLite's write lock.
const PATIENCE: Duration = Duration::from_secs(5);

/// The database engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Engine {
    Sqlite,
    Postgres,
}

/// The store. Its time is the database's; the clock only says whether a test has moved time.
#[derive(Debug, Clone)]
pub struct SqlStore {
    pool: AnyPool,
    engine: Engine,
    clock: Arc<dyn Clock>,
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(fault) if fault.is_unique_violation() => Self::Exists,
            sqlx::Error::RowNotFound => Self::Missing,
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => Self::Damaged(error.to_string()),
            _ => Self::Unavailable(error),
        }
    }
}

impl SqlStore {
    /// Opens a SQLite file, makes it when it is not there, and brings it to the newest schema.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when it cannot be opened or migrated.
    pub async fn open_sqlite(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        sqlx::any::install_default_drivers();
        let url = format!("sqlite://{}?mode=rwc", path.display());
        let options = AnyConnectOptions::from_str(&url)?;
        let pool = AnyPoolOptions::new()
            .max_connections(8)
            .acquire_timeout(PATIENCE)
            .after_connect(|connection, _| {
                Box::pin(async move {
                    // FULL: what was acknowledged survives a power cut.
                    connection.execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA busy_timeout = 5000;").await?;
                    Ok(())
                })
            })
            .connect_with(options)
            .await?;
        Self::migrated(pool, Engine::Sqlite, clock).await
    }

    /// Opens a PostgreSQL database by URL (`postgres://user:password@host/database`) and brings it to the newest schema.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when it cannot be opened or migrated.
    pub async fn open_postgres(url: &str, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        sqlx::any::install_default_drivers();
        let options = AnyConnectOptions::from_str(url)?;
        let pool = AnyPoolOptions::new().max_connections(16).acquire_timeout(PATIENCE).connect_with(options).await?;
        Self::migrated(pool, Engine::Postgres, clock).await
    }

    async fn migrated(pool: AnyPool, engine: Engine, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        migrations()
            .run(&pool)
            .await
            .map_err(|error| StoreError::Unavailable(sqlx::Error::Migrate(Box::new(error))))?;
        Ok(Self { pool, engine, clock })
    }

    /// Runs any statement, for tests of what somebody else may do to the database.
    #[cfg(test)]
    pub async fn run(&self, sql: &'static str) -> Result<(), StoreError> {
        sqlx::query(sql).execute(&self.pool).await?;
        Ok(())
    }

    pub(super) fn pool(&self) -> &AnyPool {
        &self.pool
    }

    pub(super) async fn begin(&self) -> Result<Transaction<'_, Any>, StoreError> {
        Ok(self.pool.begin().await?)
    }

    /// The database's time, which within a change is the time of asking and not of the change's begin.
    pub(super) async fn time(&self, connection: &mut AnyConnection) -> Result<Millis, StoreError> {
        let sql = match self.engine {
            Engine::Sqlite => "SELECT CAST((julianday('now') - 2440587.5) * 86400000.0 AS INTEGER) AS now",
            Engine::Postgres => "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT) AS now",
        };
        let now: Millis = sqlx::query(sql).fetch_one(connection).await?.try_get("now")?;
        Ok(now + stored(self.clock.moved_by()) * 1000)
    }

    /// Begins a change of configuration: counts it, which also takes the lock.
    pub(super) async fn change_config(&self) -> Result<Transaction<'_, Any>, StoreError> {
        let mut change = self.pool.begin().await?;
        sqlx::query("UPDATE instance SET config_version = config_version + 1").execute(&mut *change).await?;
        Ok(change)
    }

    /// Puts a text of configuration by name, or removes it.
    async fn put(
        &self,
        (set, remove): (&'static str, &'static str),
        name: &str,
        text: Change<String>,
    ) -> Result<(), StoreError> {
        let mut change = self.change_config().await?;
        let done = match text {
            Change::Set(text) => sqlx::query(set).bind(name).bind(text).execute(&mut *change).await?,
            Change::Remove => sqlx::query(remove).bind(name).execute(&mut *change).await?,
        };
        touched(&done)?;
        Ok(change.commit().await?)
    }
}

fn model(row: &AnyRow) -> Result<ModelRecord, StoreError> {
    Ok(ModelRecord {
        name: row.try_get("name")?,
        spec: row.try_get("spec")?,
        credential_kind: row.try_get("credential_kind")?,
        sealed_credential: row.try_get("sealed_credential")?,
        version: count(row, "version")?,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
    })
}

pub(super) fn count(row: &AnyRow, column: &str) -> Result<u64, StoreError> {
    u64::try_from(row.try_get::<i64, _>(column)?).map_err(|_| StoreError::Damaged(format!("a negative {column}")))
}

pub(super) fn stored(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(super) fn touched(result: &sqlx::any::AnyQueryResult) -> Result<(), StoreError> {
    if result.rows_affected() == 0 { Err(StoreError::Missing) } else { Ok(()) }
}

#[async_trait]
impl Store for SqlStore {
    async fn now(&self) -> Result<Millis, StoreError> {
        let mut connection = self.pool.acquire().await?;
        self.time(&mut connection).await
    }

    async fn instance(&self) -> Result<Option<InstanceRecord>, StoreError> {
        let row = sqlx::query("SELECT id, sealed_pepper FROM instance").fetch_optional(&self.pool).await?;
        row.map(|row| Ok(InstanceRecord { id: row.try_get("id")?, sealed_pepper: row.try_get("sealed_pepper")? }))
            .transpose()
    }

    async fn set_up(&self, instance: InstanceRecord) -> Result<InstanceRecord, StoreError> {
        sqlx::query(
            "INSERT INTO instance (one, id, sealed_pepper, config_version, trust_sequence, created_at) \
             VALUES (1, $1, $2, 1, 1, $3) ON CONFLICT (one) DO NOTHING",
        )
        .bind(&instance.id)
        .bind(&instance.sealed_pepper)
        .bind(self.now().await?)
        .execute(&self.pool)
        .await?;
        self.instance().await?.ok_or(StoreError::Missing)
    }

    async fn trust_root(&self, sealed: String) -> Result<String, StoreError> {
        sqlx::query("UPDATE instance SET sealed_trust_root = $1 WHERE sealed_trust_root IS NULL")
            .bind(&sealed)
            .execute(&self.pool)
            .await?;
        let row = sqlx::query("SELECT sealed_trust_root FROM instance").fetch_one(&self.pool).await?;
        Ok(row.try_get("sealed_trust_root")?)
    }

    async fn versions(&self) -> Result<Versions, StoreError> {
        let row = sqlx::query("SELECT config_version, trust_sequence FROM instance").fetch_one(&self.pool).await?;
        Ok(Versions { config: count(&row, "config_version")?, trust: count(&row, "trust_sequence")? })
    }

    async fn sealed_records(&self) -> Result<Vec<SealedRecord>, StoreError> {
        let rows = sqlx::query(
            "SELECT 'instance/pepper' AS name, sealed_pepper AS sealed FROM instance \
             UNION ALL SELECT 'instance/trust_root', sealed_trust_root FROM instance WHERE sealed_trust_root IS NOT NULL \
             UNION ALL SELECT 'signing_keys/' || kid, sealed_private FROM signing_keys WHERE sealed_private IS NOT NULL \
             UNION ALL SELECT 'models/' || name, sealed_credential FROM models WHERE sealed_credential IS NOT NULL",
        )
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(|row| Ok(SealedRecord { name: row.try_get("name")?, sealed: row.try_get("sealed")? })).collect()
    }

    async fn replace_sealed(&self, record: &SealedRecord, sealed: &str) -> Result<bool, StoreError> {
        let (sql, key) = match record.name.split_once('/') {
            Some(("instance", "pepper")) => {
                ("UPDATE instance SET sealed_pepper = $1 WHERE sealed_pepper = $2 AND $3 = 'pepper'", "pepper")
            }
            Some(("instance", "trust_root")) => {
                ("UPDATE instance SET sealed_trust_root = $1 WHERE sealed_trust_root = $2 AND $3 = 'root'", "root")
            }
            Some(("signing_keys", kid)) => {
                ("UPDATE signing_keys SET sealed_private = $1 WHERE sealed_private = $2 AND kid = $3", kid)
            }
            Some(("models", name)) => {
                ("UPDATE models SET sealed_credential = $1 WHERE sealed_credential = $2 AND name = $3", name)
            }
            _ => return Err(StoreError::Missing),
        };
        let result = sqlx::query(sql).bind(sealed).bind(&record.sealed).bind(key).execute(&self.pool).await?;
        Ok(result.rows_affected() > 0)
    }

    async fn models(&self) -> Result<Vec<ModelRecord>, StoreError> {
        let rows = sqlx::query("SELECT * FROM models ORDER BY name").fetch_all(&self.pool).await?;
        rows.iter().map(model).collect()
    }

    async fn add_model(&self, record: ModelRecord) -> Result<(), StoreError> {
        let mut change = self.change_config().await?;
        sqlx::query(
            "INSERT INTO models (name, spec, credential_kind, sealed_credential, version, created_at, updated_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(&record.name)
        .bind(&record.spec)
        .bind(&record.credential_kind)
        .bind(&record.sealed_credential)
        .bind(stored(record.version))
        .bind(record.created_at)
        .bind(record.updated_at)
        .execute(&mut *change)
        .await?;
        Ok(change.commit().await?)
    }

    async fn replace_model(&self, record: ModelRecord) -> Result<(), StoreError> {
        let mut change = self.change_config().await?;
        let result = sqlx::query(
            "UPDATE models SET spec = $2, credential_kind = $3, sealed_credential = $4, version = $5, updated_at = $6 \
             WHERE name = $1 AND version = $7",
        )
        .bind(&record.name)
        .bind(&record.spec)
        .bind(&record.credential_kind)
        .bind(&record.sealed_credential)
        .bind(stored(record.version))
        .bind(record.updated_at)
        .bind(stored(record.version) - 1)
        .execute(&mut *change)
        .await?;
        touched(&result)?;
        Ok(change.commit().await?)
    }

    async fn remove_model(&self, name: &str) -> Result<(), StoreError> {
        let mut change = self.change_config().await?;
        let result = sqlx::query("DELETE FROM models WHERE name = $1").bind(name).execute(&mut *change).await?;
        touched(&result)?;
        Ok(change.commit().await?)
    }

    async fn features(&self) -> Result<Vec<(String, String)>, StoreError> {
        let rows = sqlx::query("SELECT name, binding FROM features ORDER BY name").fetch_all(&self.pool).await?;
        rows.iter().map(|row| Ok((row.try_get("name")?, row.try_get("binding")?))).collect()
    }

    async fn prompts(&self) -> Result<Vec<(String, String)>, StoreError> {
        let rows = sqlx::query("SELECT name, text FROM prompts ORDER BY name").fetch_all(&self.pool).await?;
        rows.iter().map(|row| Ok((row.try_get("name")?, row.try_get("text")?))).collect()
    }

    async fn put_prompt(&self, name: &str, text: Change<String>) -> Result<(), StoreError> {
        let set = "INSERT INTO prompts (name, text) VALUES ($1, $2) \
                   ON CONFLICT (name) DO UPDATE SET text = excluded.text";
        self.put((set, "DELETE FROM prompts WHERE name = $1"), name, text).await
    }

    async fn bind_feature(&self, name: &str, binding: Change<String>) -> Result<(), StoreError> {
        let set = "INSERT INTO features (name, binding) VALUES ($1, $2) \
                   ON CONFLICT (name) DO UPDATE SET binding = excluded.binding";
        self.put((set, "DELETE FROM features WHERE name = $1"), name, binding).await
    }
}
