//! What every store must do, whatever engine is under it.

use std::sync::Arc;

use postern_runtime::SystemClock;
use postern_token::Revocation;

use super::*;

/// A store of its own for each test, and what must outlive it.
struct Opened {
    store: SqlStore,
    again: Again,
}

/// How to open the same database once more.
enum Again {
    Sqlite(tempfile::TempDir),
    Postgres(String),
}

impl Again {
    async fn open(&self) -> SqlStore {
        match self {
            Self::Sqlite(dir) => SqlStore::open_sqlite(&dir.path().join("x.db"), Arc::new(SystemClock)).await.unwrap(),
            Self::Postgres(url) => SqlStore::open_postgres(url, Arc::new(SystemClock)).await.unwrap(),
        }
    }
}

async fn set_up(again: Again) -> Opened {
    let store = again.open().await;
    store.set_up(InstanceRecord { id: "ins_1".to_owned(), sealed_pepper: "p".to_owned() }).await.unwrap();
    Opened { store, again }
}

async fn sqlite() -> Option<Opened> {
    Some(set_up(Again::Sqlite(tempfile::tempdir().unwrap())).await)
}

/// The server that `make test` starts. Without one these tests say so, and fail where everything must be there.
const SERVER: &str = "POSTERN_TEST_POSTGRES_URL";

async fn postgres() -> Option<Opened> {
    let Ok(server) = std::env::var(SERVER) else {
        assert!(std::env::var("CI").is_err(), "{SERVER} is not set: the behaviour suite did not run on PostgreSQL");
        eprintln!("NOT RUN ON POSTGRESQL: {SERVER} is not set; `make test` starts a server and sets it");
        return None;
    };
    sqlx::any::install_default_drivers();
    let database = format!("t{}", uuid::Uuid::now_v7().simple());
    let pool = sqlx::AnyPool::connect(&server).await.unwrap();
    sqlx::query(sqlx::AssertSqlSafe(format!("CREATE DATABASE {database}"))).execute(&pool).await.unwrap();
    let (base, options) = server
        .split_once('?')
        .map_or((server.as_str(), String::new()), |(base, options)| (base, format!("?{options}")));
    let (place, _) = base.rsplit_once('/').unwrap();
    Some(set_up(Again::Postgres(format!("{place}/{database}{options}"))).await)
}

/// Each test on both engines.
macro_rules! behaviours {
    ($($name:ident;)+) => {
        mod on_sqlite {
            $(#[tokio::test] async fn $name() { super::$name(super::sqlite().await.unwrap()).await; })+
        }
        mod on_postgres {
            $(#[tokio::test] async fn $name() {
                if let Some(opened) = super::postgres().await { super::$name(opened).await; }
            })+
        }
    };
}

behaviours! {
    an_instance_is_set_up_once;
    the_time_is_now;
    there_is_one_active_key_and_one_pending;
    a_pending_key_signs_after_its_lead_and_all_acknowledgements;
    who_does_not_acknowledge_is_left_behind_after_twice_the_lead;
    a_revoked_key_is_gone_and_another_signs;
    events_come_without_a_gap_in_the_order_of_the_commits;
    what_is_revoked_is_told_and_kept;
    what_is_revoked_already_is_not_told_again_and_nobody_floods_the_feed;
    a_principal_comes_with_its_credential_and_takes_all_of_them_along;
    a_principal_whose_credential_fails_is_not_added;
    a_revocation_stays_at_its_first_time;
    one_proof_proves_one_credential_until_that_ends;
    a_federated_credential_is_found_by_issuer_and_subject;
    an_assertion_is_used_once;
    what_another_instance_publishes_only_grows_newer;
    who_leaves_a_group_has_its_tokens_revoked;
    what_is_sealed_is_listed_and_replaced_unless_it_has_changed;
    a_model_is_replaced_only_from_the_version_before;
    features_are_bound_in_place_and_unbound;
    prompts_are_put_in_place_and_removed;
    every_change_counts_and_changes_at_once_queue;
}

fn principal(name: &str, kind: Kind) -> PrincipalRecord {
    PrincipalRecord {
        id: format!("id-{name}"),
        name: name.to_owned(),
        kind,
        roles: vec![Role::Admin, Role::ModelManager],
        groups: vec!["a".to_owned(), "b".to_owned()],
        audience: None,
        address: None,
        adapter_group: None,
        created_at: 1,
    }
}

fn credential(id: &str, principal_id: &str) -> CredentialRecord {
    CredentialRecord {
        id: id.to_owned(),
        principal_id: principal_id.to_owned(),
        purpose: Purpose::Inference,
        label: "label".to_owned(),
        proof: Proof::Secret { mac: format!("mac-{id}") },
        created_at: 1,
        expires_at: Some(2),
        revoked_at: None,
        last_used_at: None,
        networks: vec!["10.0.0.0/8".parse().unwrap()],
    }
}

fn model(name: &str, version: u64) -> ModelRecord {
    ModelRecord {
        name: name.to_owned(),
        spec: "{}".to_owned(),
        credential_kind: "none".to_owned(),
        sealed_credential: None,
        version,
        created_at: 1,
        updated_at: 1,
    }
}

fn key(kid: &str) -> NewKey {
    NewKey { kid: kid.to_owned(), public_jwk: "{}".to_owned(), sealed_private: "s".to_owned() }
}

fn rule(lead: Millis) -> ActivationRule {
    ActivationRule { lead, verify_on: 60_000 }
}

async fn states(store: &SqlStore) -> Vec<(String, KeyState)> {
    let keys = store.trust().await.unwrap().keys;
    let mut states: Vec<_> = keys.into_iter().map(|key| (key.kid, key.state)).collect();
    states.sort_by(|one, other| one.0.cmp(&other.0));
    states
}

async fn an_instance_is_set_up_once(Opened { store, again }: Opened) {
    let second = InstanceRecord { id: "ins_2".to_owned(), sealed_pepper: "q".to_owned() };
    assert_eq!(store.set_up(second).await.unwrap().id, "ins_1");
    drop(store);
    assert_eq!(again.open().await.instance().await.unwrap().unwrap().id, "ins_1", "and it is kept");
}

async fn the_time_is_now(Opened { store, .. }: Opened) {
    let now = postern_runtime::Clock::now(&postern_runtime::SystemClock);
    let told = u64::try_from(store.now().await.unwrap()).unwrap() / 1000;
    assert!(told.abs_diff(now) <= 2, "{told} {now}");
}

async fn there_is_one_active_key_and_one_pending(Opened { store, .. }: Opened) {
    store.add_key(key("a"), KeyState::Active).await.unwrap();
    let before = store.versions().await.unwrap();
    assert!(matches!(store.add_key(key("b"), KeyState::Active).await, Err(StoreError::Exists)));
    assert_eq!(store.versions().await.unwrap(), before, "a change that failed left nothing behind");
    store.add_key(key("b"), KeyState::Pending).await.unwrap();
    assert!(matches!(store.add_key(key("c"), KeyState::Pending).await, Err(StoreError::Exists)));
    assert_eq!(states(&store).await, [("a".to_owned(), KeyState::Active), ("b".to_owned(), KeyState::Pending)]);
}

async fn a_pending_key_signs_after_its_lead_and_all_acknowledgements(Opened { store, .. }: Opened) {
    let gateway = principal("gateway", Kind::Gateway);
    store.add_principal(gateway.clone(), None).await.unwrap();
    assert_eq!(store.activate_key(rule(0)).await.unwrap(), Activation::NoPendingKey);
    store.add_key(key("a"), KeyState::Active).await.unwrap();
    store.renew_lease("replica", &gateway.id, store.versions().await.unwrap().trust).await.unwrap();
    store.add_key(key("b"), KeyState::Pending).await.unwrap();
    assert!(
        matches!(store.activate_key(rule(3_600_000)).await.unwrap(), Activation::TooEarly { wait } if wait > 3_000_000)
    );
    store.renew_lease("replica", &gateway.id, store.versions().await.unwrap().trust).await.unwrap();
    let done = store.activate_key(rule(0)).await.unwrap();
    assert_eq!(done, Activation::Done { kid: "b".to_owned(), left_behind: Vec::new() });
    let keys = store.trust().await.unwrap().keys;
    let retired = keys.iter().find(|key| key.kid == "a").unwrap();
    assert_eq!((retired.state, &retired.sealed_private), (KeyState::Retired, &None), "the private half is destroyed");
    assert_eq!(retired.remove_at, retired.retired_at.map(|time| time + 60_000));
    store.remove_ended_keys().await.unwrap();
    assert_eq!(states(&store).await.len(), 2, "it still verifies");
}

async fn who_does_not_acknowledge_is_left_behind_after_twice_the_lead(Opened { store, .. }: Opened) {
    let gateway = principal("gateway", Kind::Gateway);
    store.add_principal(gateway.clone(), None).await.unwrap();
    store.add_key(key("a"), KeyState::Active).await.unwrap();
    store.renew_lease("slow", &gateway.id, 1).await.unwrap();
    store.add_key(key("b"), KeyState::Pending).await.unwrap();
    // A lead of nothing has passed twice at once.
    let done = store.activate_key(rule(0)).await.unwrap();
    let Activation::Done { left_behind, .. } = done else { panic!("{done:?}") };
    assert_eq!(left_behind.iter().map(|lease| lease.replica_id.as_str()).collect::<Vec<_>>(), ["slow"]);
    assert!(!store.has_lease("slow").await.unwrap() && store.leases().await.unwrap().is_empty());
    store.renew_lease("gone", &gateway.id, 1).await.unwrap();
    store.end_lease("gone").await.unwrap();
    assert!(!store.has_lease("gone").await.unwrap());
}

async fn a_revoked_key_is_gone_and_another_signs(Opened { store, .. }: Opened) {
    store.add_key(key("a"), KeyState::Active).await.unwrap();
    store.add_key(key("b"), KeyState::Pending).await.unwrap();
    assert!(matches!(store.revoke_key("nobody", 9, key("x")).await, Err(StoreError::Missing)));
    store.revoke_key("a", 9, key("x")).await.unwrap();
    assert_eq!(states(&store).await, [("b".to_owned(), KeyState::Active)], "the published one signs at once");
    store.revoke_key("b", 9, key("c")).await.unwrap();
    assert_eq!(states(&store).await, [("c".to_owned(), KeyState::Active)], "there was none, so the new one signs");
    let revoked = store.trust().await.unwrap().revocations;
    assert!(revoked.contains(&Revocation::Key { kid: "a".to_owned(), until: 9 }), "{revoked:?}");
}

async fn events_come_without_a_gap_in_the_order_of_the_commits(Opened { store, .. }: Opened) {
    let begin = store.versions().await.unwrap().trust;
    let revocation = |number: u64| Revocation::Token {
        jti: number.to_string(),
        subject: "eve".to_owned(),
        issued: number,
        until: u64::MAX >> 1,
    };
    let changes = (0..20).map(|number| {
        let store = store.clone();
        tokio::spawn(async move { store.revoke(revocation(number)).await })
    });
    for change in changes.collect::<Vec<_>>() {
        change.await.unwrap().unwrap();
    }
    let events = store.trust_events(begin).await.unwrap();
    assert_eq!(
        events.iter().map(|(sequence, _)| *sequence).collect::<Vec<_>>(),
        (begin + 1..=begin + 20).collect::<Vec<_>>()
    );
    assert_eq!(store.trust().await.unwrap().revocations.len(), 20);
    assert_eq!(store.trust_events(begin + 20).await.unwrap(), []);
    // Whoever is further behind than what is kept is told so.
    sqlx::query("DELETE FROM trust_events WHERE sequence <= $1")
        .bind(i64::try_from(begin + 3).unwrap())
        .execute(store.pool())
        .await
        .unwrap();
    assert!(matches!(store.trust_events(begin).await, Err(StoreError::Missing)));
    assert_eq!(store.trust_events(begin + 3).await.unwrap().len(), 17);
    store.run("DELETE FROM trust_events").await.unwrap();
    assert!(matches!(store.trust_events(begin + 3).await, Err(StoreError::Missing)), "nothing is not no news");
}

async fn what_is_revoked_is_told_and_kept(Opened { store, again }: Opened) {
    let eve = principal("eve", Kind::User);
    store.add_principal(eve.clone(), Some(credential("c1", &eve.id))).await.unwrap();
    let begin = store.versions().await.unwrap().trust;
    store.revoke_credential("c1").await.unwrap();
    store.remove_principal("eve", &[Kind::User]).await.unwrap();
    let told: Vec<_> = store.trust_events(begin).await.unwrap().into_iter().map(|(_, event)| event).collect();
    assert!(matches!(&told[0], TrustEvent::Revoked(Revocation::Credential { id, .. }) if id == "c1"), "{told:?}");
    assert!(matches!(&told[1], TrustEvent::Revoked(Revocation::Subject { id, .. }) if *id == eve.id), "{told:?}");
    drop(store);
    let store = again.open().await;
    assert_eq!(store.trust().await.unwrap().revocations.len(), 2);
    store.forget_ended_revocations().await.unwrap();
    assert_eq!(store.trust().await.unwrap().revocations.len(), 2, "they have not ended");
    store.revoke(Revocation::Credential { id: "old".to_owned(), until: 1 }).await.unwrap();
    store.forget_ended_revocations().await.unwrap();
    assert_eq!(store.trust().await.unwrap().revocations.len(), 2, "that one had");
}

async fn what_is_revoked_already_is_not_told_again_and_nobody_floods_the_feed(Opened { store, .. }: Opened) {
    const FAR: u64 = u64::MAX >> 1;
    let token = |subject: &str, number: u64| Revocation::Token {
        jti: format!("{subject}{number}"),
        subject: subject.to_owned(),
        issued: number,
        until: FAR,
    };
    let subject = |issued_by, until| Revocation::Subject { id: "eve".to_owned(), issued_by, until };
    let begin = store.versions().await.unwrap().trust;
    for _ in 0..3 {
        store.revoke(token("bob", 1)).await.unwrap();
    }
    assert_eq!(store.trust_events(begin).await.unwrap().len(), 1);
    for number in 0..=300 {
        store.revoke(token("eve", number)).await.unwrap();
    }
    let kept = store.trust().await.unwrap().revocations;
    assert!(kept.len() < 103, "{}", kept.len());
    let refused = |number| kept.iter().any(|one| one.covers(&token("eve", number)));
    assert!((0..=300).all(refused) && kept.contains(&token("bob", 1)), "nothing is refused less than was asked for");
    // Neither does a narrower one take a wider one's place.
    let before = store.versions().await.unwrap().trust;
    store.revoke(subject(1000, FAR)).await.unwrap();
    store.revoke(subject(999, FAR)).await.unwrap();
    assert_eq!(store.trust_events(before).await.unwrap().len(), 1);
    assert!(store.trust().await.unwrap().revocations.contains(&subject(1000, FAR)));
}

async fn a_principal_comes_with_its_credential_and_takes_all_of_them_along(Opened { store, .. }: Opened) {
    let eve = principal("eve", Kind::User);
    store.add_principal(eve.clone(), Some(credential("c1", &eve.id))).await.unwrap();
    store.add_credential(credential("c2", &eve.id)).await.unwrap();
    let found = store.credential_by_handle("mac-c1").await.unwrap().unwrap();
    assert_eq!((found.principal.name.as_str(), found.principal.roles.len()), ("eve", 2));
    assert_eq!((found.credential.expires_at, found.is_live(1), found.is_live(2)), (Some(2), true, false));
    assert_eq!(store.credentials(&eve.id).await.unwrap().len(), 2);
    assert!(store.credential_by_handle("mac-nobody").await.unwrap().is_none());
    assert!(matches!(store.add_principal(principal("eve", Kind::Service), None).await, Err(StoreError::Exists)));
    assert!(matches!(store.remove_principal("eve", &[Kind::Gateway]).await, Err(StoreError::Missing)));
    store.remove_principal("eve", &[Kind::Service, Kind::User]).await.unwrap();
    assert!(store.credential_by_id("c2").await.unwrap().is_none());
    assert!(store.principals().await.unwrap().is_empty());
}

async fn a_principal_whose_credential_fails_is_not_added(Opened { store, .. }: Opened) {
    let eve = principal("eve", Kind::User);
    store.add_principal(eve.clone(), Some(credential("c1", &eve.id))).await.unwrap();
    let bob = principal("bob", Kind::User);
    assert!(store.add_principal(bob.clone(), Some(credential("c1", &bob.id))).await.is_err());
    assert_eq!(store.principals().await.unwrap().len(), 1);
}

async fn a_revocation_stays_at_its_first_time(Opened { store, .. }: Opened) {
    let eve = principal("eve", Kind::User);
    store.add_principal(eve.clone(), Some(credential("c1", &eve.id))).await.unwrap();
    store.revoke_credential("c1").await.unwrap();
    let first = store.credential_by_id("c1").await.unwrap().unwrap().credential.revoked_at;
    store.revoke_credential("c1").await.unwrap();
    let found = store.credential_by_id("c1").await.unwrap().unwrap();
    assert!(first.is_some() && found.credential.revoked_at == first && !found.is_live(1));
    assert!(matches!(store.revoke_credential("nobody").await, Err(StoreError::Missing)));
}

fn proved(id: &str, principal_id: &str, proof: Proof) -> CredentialRecord {
    CredentialRecord { proof, expires_at: None, ..credential(id, principal_id) }
}

async fn one_proof_proves_one_credential_until_that_ends(Opened { store, .. }: Opened) {
    let (eve, bob) = (principal("eve", Kind::User), principal("bob", Kind::User));
    store.add_principal(eve.clone(), None).await.unwrap();
    store.add_principal(bob.clone(), None).await.unwrap();
    let certificate = || Proof::Certificate { name: "spiffe://x/y".to_owned() };
    let handle = handle_of_certificate(Purpose::Inference, "spiffe://x/y");
    store.add_credential(proved("c1", &eve.id, certificate())).await.unwrap();
    let found = store.credential_by_handle(&handle).await.unwrap().unwrap();
    assert_eq!((found.credential.proof, found.principal.name.as_str()), (certificate(), "eve"));
    let again = store.add_credential(proved("c2", &bob.id, certificate())).await;
    assert!(matches!(again, Err(StoreError::Exists)));
    // For another purpose it is another credential.
    let other = CredentialRecord { purpose: Purpose::Administration, ..proved("c3", &bob.id, certificate()) };
    store.add_credential(other).await.unwrap();
    store.revoke_credential("c1").await.unwrap();
    assert!(store.credential_by_handle(&handle).await.unwrap().is_none());
    let short = CredentialRecord { expires_at: Some(5), ..proved("c2", &bob.id, certificate()) };
    store.add_credential(short).await.unwrap();
    let later = CredentialRecord { created_at: 6, ..proved("c4", &eve.id, certificate()) };
    store.add_credential(later).await.unwrap();
    assert_eq!(store.credential_by_handle(&handle).await.unwrap().unwrap().credential.id, "c4");
}

async fn a_federated_credential_is_found_by_issuer_and_subject(Opened { store, .. }: Opened) {
    let eve = principal("eve", Kind::User);
    store.add_principal(eve.clone(), None).await.unwrap();
    let of = |issuer: &str, claims: &[(&str, &str)]| Proof::Federated {
        issuer: issuer.to_owned(),
        claims: claims.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect(),
    };
    store.add_credential(proved("c1", &eve.id, of("i", &[("sub", "s")]))).await.unwrap();
    store.add_credential(proved("c2", &eve.id, of("i", &[("repo", "r")]))).await.unwrap();
    store.add_credential(proved("c3", &eve.id, of("j", &[("sub", "s")]))).await.unwrap();
    store.add_credential(credential("c4", &eve.id)).await.unwrap();
    let found = async |issuer: &str, subject: &str| {
        let found = store.federated_credentials(issuer, subject).await.unwrap();
        let mut ids: Vec<_> = found.into_iter().map(|found| found.credential.id).collect();
        ids.sort();
        ids
    };
    assert_eq!(found("i", "s").await, ["c1", "c2"]);
    assert_eq!(found("i", "t").await, ["c2"]);
    assert_eq!(found("j", "s").await, ["c3"]);
    assert!(found("", "").await.is_empty(), "a secret is no federated credential");
    let issuer = FederatedIssuerRecord { issuer: "i".to_owned(), spec: "{}".to_owned(), created_at: 1 };
    let before = store.versions().await.unwrap().config;
    store.add_federated_issuer(issuer.clone()).await.unwrap();
    assert!(matches!(store.add_federated_issuer(issuer.clone()).await, Err(StoreError::Exists)));
    assert_eq!(store.federated_issuers().await.unwrap(), [issuer]);
    store.remove_federated_issuer("i").await.unwrap();
    assert!(matches!(store.remove_federated_issuer("i").await, Err(StoreError::Missing)));
    assert!(store.versions().await.unwrap().config >= before + 2);
}

async fn an_assertion_is_used_once(Opened { store, again }: Opened) {
    store.use_assertion("a", 4_000_000_000).await.unwrap();
    store.use_assertion("old", 5).await.unwrap();
    let other = again.open().await;
    assert!(matches!(other.use_assertion("a", 4_000_000_000).await, Err(StoreError::Exists)));
    store.forget_ended_revocations().await.unwrap();
    assert!(matches!(store.use_assertion("a", 9).await, Err(StoreError::Exists)));
    store.use_assertion("old", 5).await.unwrap();
}

async fn what_another_instance_publishes_only_grows_newer(Opened { store, .. }: Opened) {
    let other = principal("partner", Kind::Instance);
    let record = |issuer: &str| TrustedIssuerRecord {
        principal_id: other.id.clone(),
        issuer: issuer.to_owned(),
        spec: "{}".to_owned(),
        published: String::new(),
    };
    store.add_trusted_issuer(other.clone(), Some(credential("c1", &other.id)), record("i")).await.unwrap();
    let published = async || store.trusted_issuers().await.unwrap()[0].published.clone();
    store.publish_trust(&other.id, 5, "five").await.unwrap();
    let version = store.versions().await.unwrap().config;
    assert_eq!(store.publish_trust(&other.id, 4, "four").await.unwrap(), 5);
    store.publish_trust(&other.id, 6, "five").await.unwrap();
    assert_eq!((published().await.as_str(), store.versions().await.unwrap().config), ("five", version), "no news");
    store.publish_trust(&other.id, 7, "seven").await.unwrap();
    assert_eq!((published().await.as_str(), store.versions().await.unwrap().config), ("seven", version + 1));
    assert!(matches!(store.publish_trust("nobody", 9, "x").await, Err(StoreError::Missing)));
    let now = store.now().await.unwrap();
    store.forget_silent_publishers(now - 60_000).await.unwrap();
    assert_eq!(published().await, "seven", "it was heard just now");
    store.forget_silent_publishers(now + 60_000).await.unwrap();
    assert_eq!((published().await.as_str(), store.versions().await.unwrap().config), ("", version + 2));
    store.publisher_heard(&other.id).await.unwrap();
    assert_eq!(store.publish_trust(&other.id, 7, "seven").await.unwrap(), 7, "the same again, after a silence");
    assert_eq!(published().await, "seven");
    let rival = PrincipalRecord { id: "id-2".to_owned(), ..principal("rival", Kind::Instance) };
    let taken = TrustedIssuerRecord { principal_id: "id-2".to_owned(), ..record("i") };
    assert!(matches!(store.add_trusted_issuer(rival, None, taken).await, Err(StoreError::Exists)));
    assert_eq!(store.principals().await.unwrap().len(), 1, "nothing of it is left");
    store.remove_principal("partner", &[Kind::Instance]).await.unwrap();
    assert!(store.trusted_issuers().await.unwrap().is_empty());
}

async fn who_leaves_a_group_has_its_tokens_revoked(Opened { store, .. }: Opened) {
    let eve = principal("eve", Kind::User);
    store.add_principal(eve.clone(), None).await.unwrap();
    let group = |name: &str| vec![name.to_owned()];
    let more = [group("a"), group("b"), group("c")].concat();
    let update =
        async |roles: &[Role], groups: &[String]| store.update_principal("eve", &[Kind::User], roles, groups).await;
    assert_eq!(update(&[Role::Auditor], &more).await.unwrap().groups, more);
    assert!(store.trust().await.unwrap().revocations.is_empty(), "nothing was lost");
    assert_eq!(store.principals().await.unwrap()[0].roles, [Role::Auditor]);
    update(&[], &group("b")).await.unwrap();
    let revoked = store.trust().await.unwrap().revocations;
    assert!(matches!(&revoked[..], [Revocation::Subject { id, .. }] if *id == eve.id), "{revoked:?}");
    let elsewhere = store.update_principal("eve", &[Kind::Service], &[], &[]).await;
    assert!(matches!(elsewhere, Err(StoreError::Missing)));
}

async fn what_is_sealed_is_listed_and_replaced_unless_it_has_changed(Opened { store, .. }: Opened) {
    store.trust_root("root".to_owned()).await.unwrap();
    store.add_key(key("k"), KeyState::Active).await.unwrap();
    store.add_model(ModelRecord { sealed_credential: Some("m".to_owned()), ..model("org/m", 1) }).await.unwrap();
    let records = store.sealed_records().await.unwrap();
    let mut names: Vec<_> = records.iter().map(|record| record.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["instance/pepper", "instance/trust_root", "models/org/m", "signing_keys/k"]);
    for record in &records {
        store.replace_sealed(record, "fresh").await.unwrap();
        // What was there is not there any more.
        store.replace_sealed(record, "late").await.unwrap();
    }
    let now = store.sealed_records().await.unwrap();
    assert!(now.len() == 4 && now.iter().all(|record| record.sealed == "fresh"));
}

async fn a_model_is_replaced_only_from_the_version_before(Opened { store, .. }: Opened) {
    store.add_model(model("m", 1)).await.unwrap();
    assert!(matches!(store.add_model(model("m", 1)).await, Err(StoreError::Exists)));
    store.replace_model(model("m", 2)).await.unwrap();
    assert!(matches!(store.replace_model(model("m", 2)).await, Err(StoreError::Missing)));
    assert!(matches!(store.replace_model(model("n", 2)).await, Err(StoreError::Missing)));
    store.remove_model("m").await.unwrap();
    assert!(matches!(store.remove_model("m").await, Err(StoreError::Missing)));
}

async fn features_are_bound_in_place_and_unbound(Opened { store, .. }: Opened) {
    for binding in ["one", "two"] {
        store.bind_feature("chat", Change::Set(binding.to_owned())).await.unwrap();
    }
    assert_eq!(store.features().await.unwrap(), [("chat".to_owned(), "two".to_owned())]);
    store.bind_feature("chat", Change::Remove).await.unwrap();
    assert!(matches!(store.bind_feature("chat", Change::Remove).await, Err(StoreError::Missing)));
}

async fn prompts_are_put_in_place_and_removed(Opened { store, .. }: Opened) {
    let before = store.versions().await.unwrap().config;
    for text in ["one", "two"] {
        store.put_prompt("explain_code/base/2.0.0", Change::Set(text.to_owned())).await.unwrap();
    }
    assert_eq!(store.prompts().await.unwrap(), [("explain_code/base/2.0.0".to_owned(), "two".to_owned())]);
    store.put_prompt("explain_code/base/2.0.0", Change::Remove).await.unwrap();
    assert!(matches!(store.put_prompt("explain_code/base/2.0.0", Change::Remove).await, Err(StoreError::Missing)));
    assert_eq!(store.versions().await.unwrap().config, before + 3);
}

async fn every_change_counts_and_changes_at_once_queue(Opened { store, .. }: Opened) {
    let before = store.versions().await.unwrap().config;
    let changes = (0..20).map(|number| {
        let store = store.clone();
        tokio::spawn(async move { store.add_model(model(&format!("m{number}"), 1)).await })
    });
    for change in changes.collect::<Vec<_>>() {
        change.await.unwrap().unwrap();
    }
    assert_eq!(store.versions().await.unwrap().config, before + 20);
    assert_eq!(store.models().await.unwrap().len(), 20);
}
