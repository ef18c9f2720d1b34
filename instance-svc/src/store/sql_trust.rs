//! [`TrustStore`] in SQL.

use std::time::Duration;

use async_trait::async_trait;
use postern_token::Revocation;
use sqlx::any::AnyRow;
use sqlx::{Any, AnyConnection, Row as _, Transaction};

use super::sql::{SqlStore, count, stored, touched};
use super::trust::{
    Activation, ActivationRule, KeyRecord, KeyState, Lease, NewKey, TrustEvent, TrustRecord, TrustStore,
};
use super::{Millis, StoreError};

/// Changes that are kept for subscribers that are behind.
const KEPT_EVENTS: i64 = 10_000;
/// How long a lease holds without an acknowledgement.
const LEASE: Duration = Duration::from_secs(30);
/// How long after now any token that was minted by now may still be taken, in seconds: the longest life and the leeway.
pub(super) const TOKENS_LIVE_SECONDS: i64 = 15 * 60 + 60;

fn lease_millis() -> Millis {
    i64::try_from(LEASE.as_millis()).unwrap_or(i64::MAX)
}

fn state_text(state: KeyState) -> &'static str {
    match state {
        KeyState::Pending => "pending",
        KeyState::Active => "active",
        KeyState::Retired => "retired",
    }
}

fn key(row: &AnyRow) -> Result<KeyRecord, StoreError> {
    let state = match row.try_get::<String, _>("state")?.as_str() {
        "pending" => KeyState::Pending,
        "active" => KeyState::Active,
        "retired" => KeyState::Retired,
        other => return Err(StoreError::Damaged(format!("a key's state `{other}`"))),
    };
    Ok(KeyRecord {
        kid: row.try_get("kid")?,
        public_jwk: row.try_get("public_jwk")?,
        sealed_private: row.try_get("sealed_private")?,
        state,
        published_at: row.try_get("published_at")?,
        published_sequence: count(row, "published_sequence")?,
        activated_at: row.try_get("activated_at")?,
        retired_at: row.try_get("retired_at")?,
        remove_at: row.try_get("remove_at")?,
    })
}

fn lease(row: &AnyRow) -> Result<Lease, StoreError> {
    Ok(Lease {
        replica_id: row.try_get("replica_id")?,
        member_id: row.try_get("member_id")?,
        acknowledged: count(row, "acknowledged")?,
        ends_at: row.try_get("ends_at")?,
    })
}

fn damaged(error: &serde_json::Error) -> StoreError {
    StoreError::Damaged(error.to_string())
}

fn json(value: &impl serde::Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| damaged(&error))
}

/// Counts the change, which takes the lock, and writes it down; its sequence number.
pub(super) async fn event(change: &mut AnyConnection, now: Millis, event: &TrustEvent) -> Result<u64, StoreError> {
    let row = sqlx::query("UPDATE instance SET trust_sequence = trust_sequence + 1 RETURNING trust_sequence")
        .fetch_one(&mut *change)
        .await?;
    let sequence: i64 = row.try_get("trust_sequence")?;
    sqlx::query("INSERT INTO trust_events (sequence, event, created_at) VALUES ($1, $2, $3)")
        .bind(sequence)
        .bind(json(event)?)
        .bind(now)
        .execute(&mut *change)
        .await?;
    sqlx::query("DELETE FROM trust_events WHERE sequence <= $1")
        .bind(sequence - KEPT_EVENTS)
        .execute(&mut *change)
        .await?;
    u64::try_from(sequence).map_err(|_| StoreError::Damaged("a negative sequence".to_owned()))
}

/// What a revocation refuses, as its row's name: a second one of the same name widens the first.
fn revocation_id(revocation: &Revocation) -> String {
    match revocation {
        Revocation::Token { jti, .. } => format!("token {jti}"),
        Revocation::Credential { id, .. } => format!("credential {id}"),
        Revocation::Subject { id, .. } => format!("subject {id}"),
        Revocation::Instance { id, .. } => format!("instance {id}"),
        Revocation::Key { kid, .. } => format!("key {kid}"),
    }
}

/// Revoked tokens of a subject that are told one by one. Who revokes more of its own has all that are as old revoked, so that
/// nobody can make the feed as long as it likes.
const MOST_TOKENS_OF_A_SUBJECT: usize = 100;

fn revocation(row: &AnyRow) -> Result<Revocation, StoreError> {
    let text: String = row.try_get("revocation")?;
    serde_json::from_str(&text).map_err(|error| damaged(&error))
}

/// Takes the lock of the trust state.
async fn lock(change: &mut AnyConnection) -> Result<(), StoreError> {
    sqlx::query("UPDATE instance SET trust_sequence = trust_sequence").execute(change).await?;
    Ok(())
}

/// Revokes, unless that is revoked already: then nothing changes and nobody is told.
pub(super) async fn revoke(change: &mut AnyConnection, now: Millis, asked: Revocation) -> Result<(), StoreError> {
    lock(change).await?;
    let (mut asked, mut subject) = (asked, String::new());
    if let Revocation::Token { subject: of, issued, until, .. } = &asked {
        subject.clone_from(of);
        let whole = Revocation::Subject { id: of.clone(), issued_by: *issued, until: *until };
        let others = sqlx::query("SELECT revocation FROM revocations WHERE subject = $1 OR id = $2")
            .bind(of)
            .bind(revocation_id(&whole))
            .fetch_all(&mut *change)
            .await?;
        let others = others.iter().map(revocation).collect::<Result<Vec<_>, _>>()?;
        if others.iter().any(|other| other.covers(&asked)) {
            return Ok(());
        }
        if others.len() >= MOST_TOKENS_OF_A_SUBJECT {
            sqlx::query("DELETE FROM revocations WHERE subject = $1").bind(of).execute(&mut *change).await?;
            asked = others.iter().fold(whole, Revocation::widened_by);
            subject.clear();
        }
    }
    let id = revocation_id(&asked);
    let before =
        sqlx::query("SELECT revocation FROM revocations WHERE id = $1").bind(&id).fetch_optional(&mut *change).await?;
    if let Some(before) = before.as_ref().map(revocation).transpose()? {
        if before.covers(&asked) {
            return Ok(());
        }
        asked = asked.widened_by(&before);
    }
    event(change, now, &TrustEvent::Revoked(asked.clone())).await?;
    sqlx::query(
        "INSERT INTO revocations (id, revocation, until, subject) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (id) DO UPDATE SET revocation = excluded.revocation, until = excluded.until",
    )
    .bind(id)
    .bind(json(&asked)?)
    .bind(stored(asked.until()))
    .bind(subject)
    .execute(change)
    .await?;
    Ok(())
}

async fn insert_key(change: &mut AnyConnection, now: Millis, key: &NewKey, state: KeyState) -> Result<(), StoreError> {
    let sequence = event(change, now, &TrustEvent::KeyAdded { jwk: key.public_jwk.clone() }).await?;
    sqlx::query(
        "INSERT INTO signing_keys \
         (kid, state, public_jwk, sealed_private, created_at, published_at, published_sequence, activated_at) \
         VALUES ($1, $2, $3, $4, $5, $5, $6, $7)",
    )
    .bind(&key.kid)
    .bind(state_text(state))
    .bind(&key.public_jwk)
    .bind(&key.sealed_private)
    .bind(now)
    .bind(stored(sequence))
    .bind((state == KeyState::Active).then_some(now))
    .execute(&mut *change)
    .await?;
    if state == KeyState::Active {
        event(change, now, &TrustEvent::KeyActivated { kid: key.kid.clone() }).await?;
    }
    Ok(())
}

async fn promote(change: &mut AnyConnection, now: Millis, kid: &str) -> Result<(), StoreError> {
    let promoted = sqlx::query("UPDATE signing_keys SET state = 'active', activated_at = $2 WHERE kid = $1")
        .bind(kid)
        .bind(now)
        .execute(&mut *change)
        .await?;
    touched(&promoted)?;
    event(change, now, &TrustEvent::KeyActivated { kid: kid.to_owned() }).await?;
    Ok(())
}

impl SqlStore {
    /// Begins a change of trust: takes the lock, then reads the time, so that times are in the order of the changes.
    pub(super) async fn change_trust(&self) -> Result<(Transaction<'_, Any>, Millis), StoreError> {
        let mut change = self.begin().await?;
        lock(&mut change).await?;
        let now = self.time(&mut change).await?;
        Ok((change, now))
    }
}

#[async_trait]
impl TrustStore for SqlStore {
    async fn trust(&self) -> Result<TrustRecord, StoreError> {
        // Under the lock, so that all three are of one state on every engine.
        let (mut read, _) = self.change_trust().await?;
        let sequence = sqlx::query("SELECT trust_sequence FROM instance").fetch_one(&mut *read).await?;
        let keys = sqlx::query("SELECT * FROM signing_keys ORDER BY created_at, kid").fetch_all(&mut *read).await?;
        let revocations = sqlx::query("SELECT revocation FROM revocations").fetch_all(&mut *read).await?;
        Ok(TrustRecord {
            sequence: count(&sequence, "trust_sequence")?,
            keys: keys.iter().map(key).collect::<Result<_, _>>()?,
            revocations: revocations.iter().map(revocation).collect::<Result<_, _>>()?,
        })
    }

    async fn trust_events(&self, after: u64) -> Result<Vec<(u64, TrustEvent)>, StoreError> {
        let at_least = super::Store::versions(self).await?.trust;
        let rows = sqlx::query("SELECT sequence, event FROM trust_events WHERE sequence > $1 ORDER BY sequence")
            .bind(stored(after))
            .fetch_all(self.pool())
            .await?;
        let read = |row: &AnyRow| {
            let text: String = row.try_get("event")?;
            Ok((count(row, "sequence")?, serde_json::from_str(&text).map_err(|error| damaged(&error))?))
        };
        let events: Vec<(u64, TrustEvent)> = rows.iter().map(read).collect::<Result<_, StoreError>>()?;
        let follows = events.iter().zip(after + 1..).all(|((sequence, _), expected)| *sequence == expected)
            && events.last().map_or(after, |(sequence, _)| *sequence) >= at_least;
        if follows { Ok(events) } else { Err(StoreError::Missing) }
    }

    async fn add_key(&self, key: NewKey, state: KeyState) -> Result<(), StoreError> {
        let (mut change, now) = self.change_trust().await?;
        insert_key(&mut change, now, &key, state).await?;
        Ok(change.commit().await?)
    }

    async fn activate_key(&self, rule: ActivationRule) -> Result<Activation, StoreError> {
        let (mut change, now) = self.change_trust().await?;
        let pending =
            sqlx::query("SELECT * FROM signing_keys WHERE state = 'pending'").fetch_optional(&mut *change).await?;
        let Some(pending) = pending.as_ref().map(key).transpose()? else { return Ok(Activation::NoPendingKey) };
        let age = now - pending.published_at;
        if age < rule.lead {
            return Ok(Activation::TooEarly { wait: rule.lead - age });
        }
        let behind = sqlx::query("SELECT * FROM leases WHERE ends_at > $1 AND acknowledged < $2")
            .bind(now)
            .bind(stored(pending.published_sequence))
            .fetch_all(&mut *change)
            .await?;
        let left_behind = behind.iter().map(lease).collect::<Result<Vec<_>, _>>()?;
        if !left_behind.is_empty() && age < 2 * rule.lead {
            return Ok(Activation::Unacknowledged(left_behind));
        }
        for Lease { replica_id, .. } in &left_behind {
            sqlx::query("DELETE FROM leases WHERE replica_id = $1").bind(replica_id).execute(&mut *change).await?;
        }
        sqlx::query(
            "UPDATE signing_keys SET state = 'retired', sealed_private = NULL, retired_at = $1, remove_at = $2 \
             WHERE state = 'active'",
        )
        .bind(now)
        .bind(now + rule.verify_on)
        .execute(&mut *change)
        .await?;
        promote(&mut change, now, &pending.kid).await?;
        change.commit().await?;
        Ok(Activation::Done { kid: pending.kid, left_behind })
    }

    async fn remove_ended_keys(&self) -> Result<Vec<String>, StoreError> {
        let (mut change, now) = self.change_trust().await?;
        let ended = sqlx::query("SELECT kid FROM signing_keys WHERE state = 'retired' AND remove_at <= $1")
            .bind(now)
            .fetch_all(&mut *change)
            .await?;
        let mut kids = Vec::new();
        for row in &ended {
            let kid: String = row.try_get("kid")?;
            sqlx::query("DELETE FROM signing_keys WHERE kid = $1").bind(&kid).execute(&mut *change).await?;
            event(&mut change, now, &TrustEvent::KeyRemoved { kid: kid.clone() }).await?;
            kids.push(kid);
        }
        change.commit().await?;
        Ok(kids)
    }

    async fn revoke_key(&self, kid: &str, until: u64, instead: NewKey) -> Result<(), StoreError> {
        let (mut change, now) = self.change_trust().await?;
        let found =
            sqlx::query("SELECT * FROM signing_keys WHERE kid = $1").bind(kid).fetch_optional(&mut *change).await?;
        let state = found.as_ref().map(key).transpose()?.ok_or(StoreError::Missing)?.state;
        sqlx::query("DELETE FROM signing_keys WHERE kid = $1").bind(kid).execute(&mut *change).await?;
        if state == KeyState::Active {
            let pending = sqlx::query("SELECT kid FROM signing_keys WHERE state = 'pending'")
                .fetch_optional(&mut *change)
                .await?;
            match pending {
                Some(row) => promote(&mut change, now, &row.try_get::<String, _>("kid")?).await?,
                None => insert_key(&mut change, now, &instead, KeyState::Active).await?,
            }
        }
        event(&mut change, now, &TrustEvent::KeyRemoved { kid: kid.to_owned() }).await?;
        revoke(&mut change, now, Revocation::Key { kid: kid.to_owned(), until }).await?;
        Ok(change.commit().await?)
    }

    async fn revoke(&self, revocation: Revocation) -> Result<(), StoreError> {
        let (mut change, now) = self.change_trust().await?;
        revoke(&mut change, now, revocation).await?;
        Ok(change.commit().await?)
    }

    async fn forget_ended_revocations(&self) -> Result<(), StoreError> {
        let now = super::Store::now(self).await?;
        sqlx::query("DELETE FROM revocations WHERE until < $1").bind(now / 1000).execute(self.pool()).await?;
        sqlx::query("DELETE FROM used_assertions WHERE until < $1").bind(now / 1000).execute(self.pool()).await?;
        Ok(())
    }

    async fn renew_lease(&self, replica_id: &str, member_id: &str, acknowledged: u64) -> Result<(), StoreError> {
        let now = super::Store::now(self).await?;
        sqlx::query(
            "INSERT INTO leases (replica_id, member_id, acknowledged, ends_at) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (replica_id) DO UPDATE SET acknowledged = excluded.acknowledged, ends_at = excluded.ends_at",
        )
        .bind(replica_id)
        .bind(member_id)
        .bind(stored(acknowledged))
        .bind(now + lease_millis())
        .execute(self.pool())
        .await?;
        sqlx::query("DELETE FROM leases WHERE ends_at < $1").bind(now - lease_millis()).execute(self.pool()).await?;
        Ok(())
    }

    async fn has_lease(&self, replica_id: &str) -> Result<bool, StoreError> {
        let found = sqlx::query("SELECT replica_id FROM leases WHERE replica_id = $1")
            .bind(replica_id)
            .fetch_optional(self.pool())
            .await?;
        Ok(found.is_some())
    }

    async fn end_lease(&self, replica_id: &str) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM leases WHERE replica_id = $1").bind(replica_id).execute(self.pool()).await?;
        Ok(())
    }

    async fn leases(&self) -> Result<Vec<Lease>, StoreError> {
        let now = super::Store::now(self).await?;
        let rows = sqlx::query("SELECT * FROM leases WHERE ends_at > $1 ORDER BY member_id, replica_id")
            .bind(now)
            .fetch_all(self.pool())
            .await?;
        rows.iter().map(lease).collect()
    }
}
