//! The part of the store that holds the audit log.

use async_trait::async_trait;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::sql::{SqlStore, count, stored};
use super::{Millis, StoreError};

/// A row of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// The chain.
    pub chain: String,
    /// From 1.
    pub number: u64,
    /// When.
    pub time: Millis,
    /// The event as JSON.
    pub event: String,
    /// Over the hash before and the event, in hexadecimal.
    pub hash: String,
}

/// A place in the log; rows of one time stand in the order of chain and number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditPlace {
    /// When.
    pub time: Millis,
    /// In which chain; empty: before every chain.
    pub chain: String,
    /// Where in it.
    pub number: u64,
}

impl AuditPlace {
    /// Behind everything that was written before a time.
    #[must_use]
    pub const fn before(time: Millis) -> Self {
        Self { time, chain: String::new(), number: 0 }
    }
}

/// The log.
#[async_trait]
pub trait AuditStore: Send + Sync {
    /// Adds rows, all or none.
    async fn append_audit(&self, rows: &[AuditRow]) -> Result<(), StoreError>;
    /// Rows before this place in the order of time, chain and number, newest first.
    async fn audit_before(&self, place: &AuditPlace, limit: u32) -> Result<Vec<AuditRow>, StoreError>;
    /// The last row of every chain.
    async fn audit_heads(&self) -> Result<Vec<AuditRow>, StoreError>;
    /// A chain's rows after a number, in order.
    async fn audit_chain(&self, chain: &str, after: u64, limit: u32) -> Result<Vec<AuditRow>, StoreError>;
}

fn row(row: &AnyRow) -> Result<AuditRow, StoreError> {
    Ok(AuditRow {
        chain: row.try_get("chain")?,
        number: count(row, "number")?,
        time: row.try_get("time")?,
        event: row.try_get("event")?,
        hash: row.try_get("hash")?,
    })
}

#[async_trait]
impl AuditStore for SqlStore {
    async fn append_audit(&self, rows: &[AuditRow]) -> Result<(), StoreError> {
        let mut change = self.begin().await?;
        for row in rows {
            sqlx::query("INSERT INTO audit (chain, number, time, event, hash) VALUES ($1, $2, $3, $4, $5)")
                .bind(&row.chain)
                .bind(stored(row.number))
                .bind(row.time)
                .bind(&row.event)
                .bind(&row.hash)
                .execute(&mut *change)
                .await?;
        }
        Ok(change.commit().await?)
    }

    async fn audit_before(&self, place: &AuditPlace, limit: u32) -> Result<Vec<AuditRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM audit WHERE time < $1 OR (time = $1 AND (chain < $2 OR (chain = $2 AND number < $3))) \
             ORDER BY time DESC, chain DESC, number DESC LIMIT $4",
        )
        .bind(place.time)
        .bind(&place.chain)
        .bind(stored(place.number))
        .bind(i64::from(limit))
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(row).collect()
    }

    async fn audit_heads(&self) -> Result<Vec<AuditRow>, StoreError> {
        let sql = "SELECT a.* FROM audit a JOIN (SELECT chain, MAX(number) AS last FROM audit GROUP BY chain) heads \
                   ON a.chain = heads.chain AND a.number = heads.last ORDER BY a.time, a.chain";
        let rows = sqlx::query(sql).fetch_all(self.pool()).await?;
        rows.iter().map(row).collect()
    }

    async fn audit_chain(&self, chain: &str, after: u64, limit: u32) -> Result<Vec<AuditRow>, StoreError> {
        let rows = sqlx::query("SELECT * FROM audit WHERE chain = $1 AND number > $2 ORDER BY number LIMIT $3")
            .bind(chain)
            .bind(stored(after))
            .bind(i64::from(limit))
            .fetch_all(self.pool())
            .await?;
        rows.iter().map(row).collect()
    }
}
