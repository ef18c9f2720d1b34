//! Principals, their credentials and the issuers that vouch for others, in SQL.

use async_trait::async_trait;
use ipnet::IpNet;
use postern_token::Revocation;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};

use super::sql::{SqlStore, count, stored, touched};
use super::sql_trust::{TOKENS_LIVE_SECONDS, revoke};
use super::{
    CredentialRecord, FederatedIssuerRecord, Found, Kind, Millis, PrincipalRecord, PrincipalStore, Proof, Purpose,
    Role, Store as _, StoreError, TrustedIssuerRecord,
};

fn principal(row: &AnyRow) -> Result<PrincipalRecord, StoreError> {
    let roles: String = row.try_get("roles")?;
    Ok(PrincipalRecord {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        kind: Kind::read(&row.try_get::<String, _>("kind")?)?,
        roles: roles.split_whitespace().map(Role::read).collect::<Result<_, _>>()?,
        groups: row.try_get::<String, _>("member_of")?.split_whitespace().map(str::to_owned).collect(),
        audience: row.try_get("audience")?,
        address: row.try_get("address")?,
        adapter_group: row.try_get("adapter_group")?,
        created_at: row.try_get("created_at")?,
    })
}

fn credential(row: &AnyRow) -> Result<CredentialRecord, StoreError> {
    Ok(CredentialRecord {
        id: row.try_get("id")?,
        principal_id: row.try_get("principal_id")?,
        purpose: Purpose::read(&row.try_get::<String, _>("purpose")?)?,
        label: row.try_get("label")?,
        proof: match row.try_get::<String, _>("proof")?.as_str() {
            "" => Proof::Secret { mac: row.try_get("mac")? },
            json => serde_json::from_str(json).map_err(|error| StoreError::Damaged(error.to_string()))?,
        },
        created_at: row.try_get("created_at")?,
        expires_at: row.try_get("expires_at")?,
        revoked_at: row.try_get("revoked_at")?,
        last_used_at: row.try_get("last_used_at")?,
        networks: networks(&row.try_get::<String, _>("networks")?)?,
    })
}

fn texts(roles: &[Role]) -> String {
    roles.iter().map(|role| role.text()).collect::<Vec<_>>().join(" ")
}

fn networks(text: &str) -> Result<Vec<IpNet>, StoreError> {
    let network = |text: &str| text.parse().map_err(|_| StoreError::Damaged(format!("a network `{text}`")));
    text.split_whitespace().map(network).collect()
}

fn seconds(millis: Millis) -> u64 {
    u64::try_from(millis / 1000).unwrap_or(0)
}

async fn insert_principal(
    change: &mut AnyConnection,
    record: &PrincipalRecord,
    credential: Option<CredentialRecord>,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO principals (id, name, kind, roles, audience, address, adapter_group, created_at, member_of) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(&record.id)
    .bind(&record.name)
    .bind(record.kind.text())
    .bind(texts(&record.roles))
    .bind(&record.audience)
    .bind(&record.address)
    .bind(&record.adapter_group)
    .bind(record.created_at)
    .bind(record.groups.join(" "))
    .execute(&mut *change)
    .await?;
    match credential {
        Some(credential) => insert_credential(change, &credential).await,
        None => Ok(()),
    }
}

async fn insert_credential(connection: &mut AnyConnection, record: &CredentialRecord) -> Result<(), StoreError> {
    let proof = match &record.proof {
        Proof::Secret { mac: _ } => String::new(),
        proof => serde_json::to_string(proof).map_err(|error| StoreError::Damaged(error.to_string()))?,
    };
    let (issuer, subject) = record.proof.issuer_and_subject();
    let handle = record.proof.handle(&record.principal_id, record.purpose);
    // What an ended credential was proved by may prove another.
    sqlx::query("UPDATE credentials SET mac = 'ended ' || id WHERE mac = $1 AND expires_at <= $2 AND proof <> ''")
        .bind(&handle)
        .bind(record.created_at)
        .execute(&mut *connection)
        .await?;
    sqlx::query(
        "INSERT INTO credentials \
         (id, principal_id, purpose, label, mac, created_at, expires_at, networks, proof, issuer, subject) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(&record.id)
    .bind(&record.principal_id)
    .bind(record.purpose.text())
    .bind(&record.label)
    .bind(handle)
    .bind(record.created_at)
    .bind(record.expires_at)
    .bind(record.networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
    .bind(proof)
    .bind(issuer)
    .bind(subject)
    .execute(connection)
    .await?;
    Ok(())
}

impl SqlStore {
    async fn credential(&self, sql: &'static str, value: &str) -> Result<Option<Found>, StoreError> {
        match sqlx::query(sql).bind(value).fetch_optional(self.pool()).await? {
            None => Ok(None),
            Some(row) => self.with_principal(credential(&row)?).await,
        }
    }

    async fn with_principal(&self, credential: CredentialRecord) -> Result<Option<Found>, StoreError> {
        let row = sqlx::query("SELECT * FROM principals WHERE id = $1")
            .bind(&credential.principal_id)
            .fetch_optional(self.pool())
            .await?;
        // A principal that was removed between the two reads took the credential with it.
        row.map(|row| Ok(Found { credential, principal: principal(&row)? })).transpose()
    }
}

#[async_trait]
impl PrincipalStore for SqlStore {
    async fn principals(&self) -> Result<Vec<PrincipalRecord>, StoreError> {
        let rows = sqlx::query("SELECT * FROM principals ORDER BY name").fetch_all(self.pool()).await?;
        rows.iter().map(principal).collect()
    }

    async fn principal(&self, name_or_id: &str) -> Result<Option<PrincipalRecord>, StoreError> {
        let row = sqlx::query("SELECT * FROM principals WHERE name = $1 OR id = $1")
            .bind(name_or_id)
            .fetch_optional(self.pool())
            .await?;
        row.as_ref().map(principal).transpose()
    }

    async fn add_principal(
        &self,
        record: PrincipalRecord,
        credential: Option<CredentialRecord>,
    ) -> Result<(), StoreError> {
        let mut change = self.change_config().await?;
        insert_principal(&mut change, &record, credential).await?;
        Ok(change.commit().await?)
    }

    async fn add_trusted_issuer(
        &self,
        record: PrincipalRecord,
        credential: Option<CredentialRecord>,
        issuer: TrustedIssuerRecord,
    ) -> Result<(), StoreError> {
        let mut change = self.change_config().await?;
        insert_principal(&mut change, &record, credential).await?;
        sqlx::query("INSERT INTO trusted_issuers (principal_id, issuer, spec, published) VALUES ($1, $2, $3, $4)")
            .bind(&issuer.principal_id)
            .bind(&issuer.issuer)
            .bind(&issuer.spec)
            .bind(&issuer.published)
            .execute(&mut *change)
            .await?;
        Ok(change.commit().await?)
    }

    async fn trusted_issuers(&self) -> Result<Vec<TrustedIssuerRecord>, StoreError> {
        let rows = sqlx::query("SELECT * FROM trusted_issuers ORDER BY issuer").fetch_all(self.pool()).await?;
        let record = |row: &AnyRow| {
            Ok(TrustedIssuerRecord {
                principal_id: row.try_get("principal_id")?,
                issuer: row.try_get("issuer")?,
                spec: row.try_get("spec")?,
                published: row.try_get("published")?,
            })
        };
        rows.iter().map(record).collect()
    }

    async fn publish_trust(&self, principal_id: &str, sequence: u64, published: &str) -> Result<u64, StoreError> {
        let there = async |connection: &mut AnyConnection| {
            let row = sqlx::query("SELECT sequence, published FROM trusted_issuers WHERE principal_id = $1")
                .bind(principal_id)
                .fetch_optional(connection)
                .await?
                .ok_or(StoreError::Missing)?;
            Ok::<_, StoreError>((count(&row, "sequence")?, row.try_get::<String, _>("published")?))
        };
        let (newest, before) = there(&mut *self.pool().acquire().await?).await?;
        if newest > sequence || before == published {
            return Ok(newest.max(sequence));
        }
        let mut change = self.change_config().await?;
        let now = self.time(&mut change).await?;
        // Again under the lock: of two replicas that publish at once, the newer state stays.
        sqlx::query(
            "UPDATE trusted_issuers SET published = $2, sequence = $3, heard_at = $4 \
             WHERE principal_id = $1 AND sequence <= $3",
        )
        .bind(principal_id)
        .bind(published)
        .bind(stored(sequence))
        .bind(now)
        .execute(&mut *change)
        .await?;
        let (newest, _) = there(&mut change).await?;
        change.commit().await?;
        Ok(newest)
    }

    async fn publisher_heard(&self, principal_id: &str) -> Result<(), StoreError> {
        sqlx::query("UPDATE trusted_issuers SET heard_at = $2 WHERE principal_id = $1")
            .bind(principal_id)
            .bind(self.now().await?)
            .execute(self.pool())
            .await?;
        Ok(())
    }

    async fn forget_silent_publishers(&self, since: Millis) -> Result<(), StoreError> {
        let silent = sqlx::query("SELECT principal_id FROM trusted_issuers WHERE heard_at < $1 AND published <> ''")
            .bind(since)
            .fetch_all(self.pool())
            .await?;
        if silent.is_empty() {
            return Ok(());
        }
        let mut change = self.change_config().await?;
        sqlx::query("UPDATE trusted_issuers SET published = '' WHERE heard_at < $1")
            .bind(since)
            .execute(&mut *change)
            .await?;
        Ok(change.commit().await?)
    }

    async fn update_principal(
        &self,
        name: &str,
        kinds: &[Kind],
        roles: &[Role],
        groups: &[String],
    ) -> Result<PrincipalRecord, StoreError> {
        let mut change = self.change_config().await?;
        let row = sqlx::query("SELECT * FROM principals WHERE name = $1")
            .bind(name)
            .fetch_optional(&mut *change)
            .await?
            .ok_or(StoreError::Missing)?;
        let before = principal(&row)?;
        if !kinds.contains(&before.kind) {
            return Err(StoreError::Missing);
        }
        sqlx::query("UPDATE principals SET roles = $2, member_of = $3 WHERE id = $1")
            .bind(&before.id)
            .bind(texts(roles))
            .bind(groups.join(" "))
            .execute(&mut *change)
            .await?;
        if before.groups.iter().any(|group| !groups.contains(group)) {
            let now = self.time(&mut change).await?;
            // One second more: a token that is being minted now may still say the old groups.
            let issued_by = seconds(now) + 1;
            let until = seconds(now) + TOKENS_LIVE_SECONDS.unsigned_abs();
            revoke(&mut change, now, Revocation::Subject { id: before.id.clone(), issued_by, until }).await?;
        }
        change.commit().await?;
        Ok(PrincipalRecord { roles: roles.to_vec(), groups: groups.to_vec(), ..before })
    }

    async fn remove_principal(&self, name: &str, kinds: &[Kind]) -> Result<(), StoreError> {
        let mut change = self.change_config().await?;
        let found = sqlx::query("SELECT id FROM principals WHERE name = $1")
            .bind(name)
            .fetch_optional(&mut *change)
            .await?
            .ok_or(StoreError::Missing)?;
        let id: String = found.try_get("id")?;
        for kind in kinds {
            let id = id.clone();
            let result = sqlx::query("DELETE FROM principals WHERE name = $1 AND kind = $2")
                .bind(name)
                .bind(kind.text())
                .execute(&mut *change)
                .await?;
            if result.rows_affected() > 0 {
                // Its tokens end with it, on every gateway; also one that is being minted now, for its id never comes back.
                let now = self.time(&mut change).await?;
                let until = seconds(now) + TOKENS_LIVE_SECONDS.unsigned_abs();
                revoke(&mut change, now, Revocation::Subject { id, issued_by: until, until }).await?;
                return Ok(change.commit().await?);
            }
        }
        Err(StoreError::Missing)
    }

    async fn add_credential(&self, credential: CredentialRecord) -> Result<(), StoreError> {
        insert_credential(&mut *self.pool().acquire().await?, &credential).await
    }

    async fn credentials(&self, principal_id: &str) -> Result<Vec<CredentialRecord>, StoreError> {
        let rows = sqlx::query("SELECT * FROM credentials WHERE principal_id = $1 ORDER BY created_at, id")
            .bind(principal_id)
            .fetch_all(self.pool())
            .await?;
        rows.iter().map(credential).collect()
    }

    async fn revoke_credential(&self, id: &str) -> Result<(), StoreError> {
        let (mut change, now) = self.change_trust().await?;
        let result = sqlx::query(
            "UPDATE credentials SET revoked_at = $2, mac = CASE WHEN proof = '' THEN mac ELSE 'ended ' || id END \
             WHERE id = $1 AND revoked_at IS NULL",
        )
        .bind(id)
        .bind(now)
        .execute(&mut *change)
        .await?;
        if result.rows_affected() == 0 {
            let known =
                sqlx::query("SELECT id FROM credentials WHERE id = $1").bind(id).fetch_optional(&mut *change).await?;
            return known.map(drop).ok_or(StoreError::Missing);
        }
        // The tokens that were minted for it end with it, on every gateway.
        let until = seconds(now) + TOKENS_LIVE_SECONDS.unsigned_abs();
        revoke(&mut change, now, Revocation::Credential { id: id.to_owned(), until }).await?;
        Ok(change.commit().await?)
    }

    async fn credential_used(&self, id: &str) -> Result<(), StoreError> {
        let now = self.now().await?;
        // Once a minute at most: a busy credential must not make a write of every read.
        sqlx::query(
            "UPDATE credentials SET last_used_at = $2 WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < $3)",
        )
        .bind(id)
        .bind(now)
        .bind(now - 60_000)
        .execute(self.pool())
        .await?;
        Ok(())
    }

    async fn credential_by_handle(&self, handle: &str) -> Result<Option<Found>, StoreError> {
        self.credential("SELECT * FROM credentials WHERE mac = $1", handle).await
    }

    async fn credential_by_id(&self, id: &str) -> Result<Option<Found>, StoreError> {
        self.credential("SELECT * FROM credentials WHERE id = $1", id).await
    }

    async fn federated_credentials(&self, issuer: &str, subject: &str) -> Result<Vec<Found>, StoreError> {
        let rows = sqlx::query("SELECT * FROM credentials WHERE issuer = $1 AND subject IN ('', $2) AND issuer <> ''")
            .bind(issuer)
            .bind(subject)
            .fetch_all(self.pool())
            .await?;
        let mut found = Vec::new();
        for row in &rows {
            found.extend(self.with_principal(credential(row)?).await?);
        }
        Ok(found)
    }

    async fn use_assertion(&self, id: &str, until: u64) -> Result<(), StoreError> {
        sqlx::query("INSERT INTO used_assertions (id, until) VALUES ($1, $2)")
            .bind(id)
            .bind(stored(until))
            .execute(self.pool())
            .await?;
        Ok(())
    }

    async fn federated_issuers(&self) -> Result<Vec<FederatedIssuerRecord>, StoreError> {
        let rows = sqlx::query("SELECT * FROM federated_issuers ORDER BY issuer").fetch_all(self.pool()).await?;
        let record = |row: &AnyRow| {
            let (issuer, spec) = (row.try_get("issuer")?, row.try_get("spec")?);
            Ok(FederatedIssuerRecord { issuer, spec, created_at: row.try_get("created_at")? })
        };
        rows.iter().map(record).collect()
    }

    async fn add_federated_issuer(&self, record: FederatedIssuerRecord) -> Result<(), StoreError> {
        let mut change = self.change_config().await?;
        sqlx::query("INSERT INTO federated_issuers (issuer, spec, created_at) VALUES ($1, $2, $3)")
            .bind(&record.issuer)
            .bind(&record.spec)
            .bind(record.created_at)
            .execute(&mut *change)
            .await?;
        Ok(change.commit().await?)
    }

    async fn remove_federated_issuer(&self, issuer: &str) -> Result<(), StoreError> {
        let mut change = self.change_config().await?;
        let result =
            sqlx::query("DELETE FROM federated_issuers WHERE issuer = $1").bind(issuer).execute(&mut *change).await?;
        touched(&result)?;
        Ok(change.commit().await?)
    }
}
