//! `user`.

use postern_proto::instance::v1 as pb;
use postern_proto::instance::v1::principal_service_client::PrincipalServiceClient;
use postern_proto::instance::v1::proof::Proof;
use postern_proto::instance::v1::token_service_client::TokenServiceClient;
use postern_runtime::{Clock as _, SystemClock};
use serde_json::{Value, json};

use super::time;
use crate::args::{Purpose, Role, User, UserToken};
use crate::client::{Client, of_instance};
use crate::output::{Output, Problem};
use crate::secret;

/// Runs a command of the family.
pub async fn run(client: &Client, command: User) -> Result<Output, Problem> {
    let mut principals = PrincipalServiceClient::new(client.instance());
    match command {
        User::Add { name, service, role, group } => {
            let kind = if service { pb::PrincipalKind::Service } else { pb::PrincipalKind::User };
            let message = pb::CreatePrincipalRequest { name, kind: kind as i32, roles: wire(&role), groups: group };
            let request = client.administer(message).await?;
            let made = principals.create_principal(request).await.map_err(|status| of_instance(&status))?.into_inner();
            let made = made.principal.unwrap_or_default();
            Ok(Output::new(format!("added {} ({})", made.name, made.id), view(&made)))
        }
        User::Update { name, role, no_roles, group, no_groups } => {
            let request = client.administer(pb::ListPrincipalsRequest {}).await?;
            let list = principals.list_principals(request).await.map_err(|status| of_instance(&status))?.into_inner();
            let before = list.principals.into_iter().find(|one| one.name == name);
            let pb::Principal { roles: had, groups: was_in, .. } = before.unwrap_or_default();
            let roles = if role.is_empty() && !no_roles { had } else { wire(&role) };
            let groups = if group.is_empty() && !no_groups { was_in } else { group };
            let request = client.administer(pb::UpdatePrincipalRequest { name, roles, groups }).await?;
            let made = principals.update_principal(request).await.map_err(|status| of_instance(&status))?.into_inner();
            let made = made.principal.unwrap_or_default();
            Ok(Output::new(format!("changed {}", made.name), view(&made)))
        }
        User::List => {
            let request = client.administer(pb::ListPrincipalsRequest {}).await?;
            let list = principals.list_principals(request).await.map_err(|status| of_instance(&status))?.into_inner();
            let row = |one: &pb::Principal| {
                let (roles, groups) = (roles(one).join(", "), one.groups.join(", "));
                [one.name.clone(), kind(one).to_owned(), roles, groups, time(one.create_time)]
            };
            let rows = list.principals.iter().map(row).collect();
            Ok(Output::table(
                ["NAME", "KIND", "ROLES", "GROUPS", "SINCE"],
                rows,
                list.principals.iter().map(view).collect(),
            ))
        }
        User::Remove { name } => {
            let request = client.administer(pb::DeletePrincipalRequest { name: name.clone() }).await?;
            principals.delete_principal(request).await.map_err(|status| of_instance(&status))?;
            Ok(Output::new(format!("removed {name} and all tokens"), json!({ "removed": name })))
        }
        User::RevokeAccess { name } => {
            let request = client.administer(pb::RevokeSubjectRequest { name: name.clone() }).await?;
            let mut tokens = TokenServiceClient::new(client.instance());
            tokens.revoke_subject(request).await.map_err(|status| of_instance(&status))?;
            Ok(Output::new(format!("revoked every access token of {name}"), json!({ "revoked": name })))
        }
        User::Token(command) => token(client, &mut principals, command).await,
    }
}

async fn token(
    client: &Client,
    principals: &mut PrincipalServiceClient<tonic::transport::Channel>,
    command: UserToken,
) -> Result<Output, Problem> {
    match command {
        UserToken::Add { name, purpose, label, network, expires_in_days, out, proof } => {
            if let Some(path) = &out {
                secret::must_be_free(path)?;
            }
            let purpose = match purpose {
                Purpose::Inference => pb::CredentialPurpose::Inference,
                Purpose::Administration => pb::CredentialPurpose::Administration,
            };
            let end = |days: u32| {
                let seconds = SystemClock.now() + u64::from(days) * 24 * 3600;
                prost_types::Timestamp { seconds: i64::try_from(seconds).unwrap_or(i64::MAX), nanos: 0 }
            };
            let message = pb::CreateCredentialRequest {
                principal: name,
                purpose: purpose as i32,
                label,
                expire_time: expires_in_days.map(end),
                networks: network.iter().map(ToString::to_string).collect(),
                proof: super::proof(proof)?,
            };
            let request = client.administer(message).await?;
            let made = principals.create_credential(request).await.map_err(|status| of_instance(&status))?.into_inner();
            let credential = made.credential.unwrap_or_default();
            let mut json = credential_view(&credential);
            match out {
                _ if made.secret.is_empty() => {
                    Ok(Output::new(format!("added {}: {}", credential.id, proved_by(&credential)), json))
                }
                Some(path) => {
                    secret::write_new(&path, &made.secret)?;
                    Ok(Output::new(format!("the token {} is in {}", credential.id, path.display()), json))
                }
                None => {
                    json["secret"] = made.secret.as_str().into();
                    Ok(Output::new(made.secret, json))
                }
            }
        }
        UserToken::List { name } => {
            let request = client.administer(pb::ListCredentialsRequest { principal: name }).await?;
            let list = principals.list_credentials(request).await.map_err(|status| of_instance(&status))?.into_inner();
            let row = |one: &pb::Credential| {
                let state = if one.revoke_time.is_some() { "revoked" } else { "live" };
                let used = time(one.last_use_time);
                let (label, ends) = (one.label.clone(), time(one.expire_time));
                [one.id.clone(), purpose(one).to_owned(), proved_by(one), label, ends, used, state.to_owned()]
            };
            let rows = list.credentials.iter().map(row).collect();
            let json = list.credentials.iter().map(credential_view).collect();
            Ok(Output::table(["ID", "PURPOSE", "PROVED BY", "LABEL", "ENDS", "LAST USED", "STATE"], rows, json))
        }
        UserToken::Revoke { id } => {
            let request = client.administer(pb::RevokeCredentialRequest { id: id.clone() }).await?;
            principals.revoke_credential(request).await.map_err(|status| of_instance(&status))?;
            let text = format!("revoked {id}, and the access tokens that were minted for it");
            Ok(Output::new(text, json!({ "revoked": id })))
        }
    }
}

fn wire(roles: &[Role]) -> Vec<i32> {
    let wire = |role: &Role| match role {
        Role::Admin => pb::Role::Admin as i32,
        Role::ModelManager => pb::Role::ModelManager as i32,
        Role::Auditor => pb::Role::Auditor as i32,
    };
    roles.iter().map(wire).collect()
}

/// How a credential is proved, in a few words.
fn proved_by(credential: &pb::Credential) -> String {
    match credential.proof.as_ref().and_then(|proof| proof.proof.as_ref()) {
        None => "secret".to_owned(),
        Some(Proof::PublicKey(_)) => "key".to_owned(),
        Some(Proof::Certificate(certificate)) => format!("certificate {}", certificate.name),
        Some(Proof::Federated(federated)) => {
            let mut claims: Vec<_> = federated.claims.iter().map(|(claim, text)| format!("{claim}={text}")).collect();
            claims.sort();
            format!("{} {}", federated.issuer, claims.join(" "))
        }
    }
}

fn kind(principal: &pb::Principal) -> &'static str {
    match principal.kind() {
        pb::PrincipalKind::Service => "service",
        pb::PrincipalKind::User | pb::PrincipalKind::Unspecified => "user",
    }
}

fn roles(principal: &pb::Principal) -> Vec<&'static str> {
    let name = |role: pb::Role| match role {
        pb::Role::Admin => "admin",
        pb::Role::ModelManager => "model-manager",
        pb::Role::Auditor => "auditor",
        pb::Role::Unspecified => "unknown",
    };
    principal.roles().map(name).collect()
}

fn purpose(credential: &pb::Credential) -> &'static str {
    match credential.purpose() {
        pb::CredentialPurpose::Administration => "administration",
        pb::CredentialPurpose::Inference | pb::CredentialPurpose::Unspecified => "inference",
    }
}

fn view(principal: &pb::Principal) -> Value {
    json!({
        "id": principal.id, "name": principal.name, "kind": kind(principal), "roles": roles(principal),
        "groups": principal.groups,
        "created_at": time(principal.create_time),
    })
}

fn credential_view(credential: &pb::Credential) -> Value {
    json!({
        "id": credential.id, "purpose": purpose(credential), "label": credential.label,
        "created_at": time(credential.create_time), "expires_at": time(credential.expire_time),
        "revoked_at": time(credential.revoke_time), "last_used_at": time(credential.last_use_time),
        "networks": credential.networks, "proved_by": proved_by(credential),
    })
}
