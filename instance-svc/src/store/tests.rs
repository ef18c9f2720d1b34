//! What every store must do, whatever engine is under it.

use super::*;

struct Opened {
    store: SqlStore,
    dir: tempfile::TempDir,
}

async fn open() -> Opened {
    let dir = tempfile::tempdir().unwrap();
    let store = SqlStore::open_sqlite(&dir.path().join("x.db")).await.unwrap();
    store.set_up(InstanceRecord { id: "ins_1".to_owned(), sealed_pepper: "p".to_owned() }).await.unwrap();
    Opened { store, dir }
}

fn principal(name: &str, kind: Kind) -> PrincipalRecord {
    PrincipalRecord {
        id: format!("id-{name}"),
        name: name.to_owned(),
        kind,
        roles: vec![Role::Admin, Role::ModelManager],
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
        mac: format!("mac-{id}"),
        created_at: 1,
        expires_at: Some(2),
        revoked_at: None,
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

fn key(kid: &str) -> KeyRecord {
    KeyRecord { kid: kid.to_owned(), public_jwk: "{}".to_owned(), sealed_private: Some("s".to_owned()), active: true }
}

#[tokio::test]
async fn an_instance_is_set_up_once() {
    let Opened { store, dir } = open().await;
    let second = InstanceRecord { id: "ins_2".to_owned(), sealed_pepper: "q".to_owned() };
    assert_eq!(store.set_up(second).await.unwrap().id, "ins_1");
    drop(store);
    let again = SqlStore::open_sqlite(&dir.path().join("x.db")).await.unwrap();
    assert_eq!(again.instance().await.unwrap().unwrap().id, "ins_1", "and it is kept");
}

#[tokio::test]
async fn the_time_is_now() {
    let Opened { store, dir: _dir } = open().await;
    let now = postern_runtime::Clock::now(&postern_runtime::SystemClock);
    let told = u64::try_from(store.now().await.unwrap()).unwrap() / 1000;
    assert!(told.abs_diff(now) <= 2, "{told} {now}");
}

#[tokio::test]
async fn there_is_one_active_key() {
    let Opened { store, dir: _dir } = open().await;
    store.add_active_key(key("a")).await.unwrap();
    let before = store.versions().await.unwrap();
    assert!(matches!(store.add_active_key(key("b")).await, Err(StoreError::Exists)));
    assert_eq!(store.versions().await.unwrap(), before, "a change that failed left nothing behind");
    let keys = store.keys().await.unwrap();
    assert_eq!(keys.iter().map(|key| (key.kid.as_str(), key.active)).collect::<Vec<_>>(), [("a", true)]);
}

#[tokio::test]
async fn a_principal_comes_with_its_credential_and_takes_all_of_them_along() {
    let Opened { store, dir: _dir } = open().await;
    let eve = principal("eve", Kind::User);
    store.add_principal(eve.clone(), Some(credential("c1", &eve.id))).await.unwrap();
    store.add_credential(credential("c2", &eve.id)).await.unwrap();
    let found = store.credential_by_mac("mac-c1").await.unwrap().unwrap();
    assert_eq!((found.principal.name.as_str(), found.principal.roles.len()), ("eve", 2));
    assert_eq!((found.credential.expires_at, found.is_live(1), found.is_live(2)), (Some(2), true, false));
    assert_eq!(store.credentials(&eve.id).await.unwrap().len(), 2);
    assert!(store.credential_by_mac("mac-nobody").await.unwrap().is_none());
    assert!(matches!(store.add_principal(principal("eve", Kind::Service), None).await, Err(StoreError::Exists)));
    assert!(matches!(store.remove_principal("eve", &[Kind::Gateway]).await, Err(StoreError::Missing)));
    store.remove_principal("eve", &[Kind::Service, Kind::User]).await.unwrap();
    assert!(store.credential_by_id("c2").await.unwrap().is_none());
    assert!(store.principals().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_principal_whose_credential_fails_is_not_added() {
    let Opened { store, dir: _dir } = open().await;
    let eve = principal("eve", Kind::User);
    store.add_principal(eve.clone(), Some(credential("c1", &eve.id))).await.unwrap();
    let bob = principal("bob", Kind::User);
    assert!(store.add_principal(bob.clone(), Some(credential("c1", &bob.id))).await.is_err());
    assert_eq!(store.principals().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_revocation_stays_at_its_first_time() {
    let Opened { store, dir: _dir } = open().await;
    let eve = principal("eve", Kind::User);
    store.add_principal(eve.clone(), Some(credential("c1", &eve.id))).await.unwrap();
    store.revoke_credential("c1").await.unwrap();
    let first = store.credential_by_id("c1").await.unwrap().unwrap().credential.revoked_at;
    store.revoke_credential("c1").await.unwrap();
    let found = store.credential_by_id("c1").await.unwrap().unwrap();
    assert!(first.is_some() && found.credential.revoked_at == first && !found.is_live(1));
    assert!(matches!(store.revoke_credential("nobody").await, Err(StoreError::Missing)));
}

#[tokio::test]
async fn a_model_is_replaced_only_from_the_version_before() {
    let Opened { store, dir: _dir } = open().await;
    store.add_model(model("m", 1)).await.unwrap();
    assert!(matches!(store.add_model(model("m", 1)).await, Err(StoreError::Exists)));
    store.replace_model(model("m", 2)).await.unwrap();
    assert!(matches!(store.replace_model(model("m", 2)).await, Err(StoreError::Missing)));
    assert!(matches!(store.replace_model(model("n", 2)).await, Err(StoreError::Missing)));
    store.remove_model("m").await.unwrap();
    assert!(matches!(store.remove_model("m").await, Err(StoreError::Missing)));
}

#[tokio::test]
async fn features_are_bound_in_place_and_unbound() {
    let Opened { store, dir: _dir } = open().await;
    for binding in ["one", "two"] {
        store.bind_feature("chat", Change::Set(binding.to_owned())).await.unwrap();
    }
    assert_eq!(store.features().await.unwrap(), [("chat".to_owned(), "two".to_owned())]);
    store.bind_feature("chat", Change::Remove).await.unwrap();
    assert!(matches!(store.bind_feature("chat", Change::Remove).await, Err(StoreError::Missing)));
}

#[tokio::test]
async fn every_change_counts_and_changes_at_once_queue() {
    let Opened { store, dir: _dir } = open().await;
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
