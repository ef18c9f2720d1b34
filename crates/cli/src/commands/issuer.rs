//! `issuer`.

use postern_proto::instance::v1 as pb;
use postern_proto::instance::v1::federated_issuer::{Discovery, Keys};
use postern_proto::instance::v1::principal_service_client::PrincipalServiceClient;
use serde_json::{Value, json};

use super::time;
use crate::args::Issuer;
use crate::client::{Client, of_instance};
use crate::output::{Output, Problem};

/// Runs a command of the family.
pub async fn run(client: &Client, command: Issuer) -> Result<Output, Problem> {
    let mut principals = PrincipalServiceClient::new(client.instance());
    match command {
        Issuer::Add { issuer, audience, jwks_url, jwks_file, key_network, max_lifetime } => {
            let keys = match (jwks_url, jwks_file) {
                (Some(url), _) => Keys::JwksUrl(url),
                (None, Some(path)) => Keys::JwksJson(
                    std::fs::read_to_string(&path)
                        .map_err(|error| Problem::new(format!("{}: {error}", path.display())))?,
                ),
                (None, None) => Keys::Discovery(Discovery {}),
            };
            let issuer = pb::FederatedIssuer {
                issuer,
                audience,
                keys: Some(keys),
                key_networks: key_network.iter().map(ToString::to_string).collect(),
                max_lifetime: max_lifetime.map(|seconds| prost_types::Duration { seconds: seconds.into(), nanos: 0 }),
                ..Default::default()
            };
            let request = client.administer(pb::CreateFederatedIssuerRequest { issuer: Some(issuer) }).await?;
            let made = principals.create_federated_issuer(request).await.map_err(|status| of_instance(&status))?;
            let made = made.into_inner().issuer.unwrap_or_default();
            Ok(Output::new(
                format!("added {}; `postern issuer list` shows when its keys are here", made.issuer),
                view(&made),
            ))
        }
        Issuer::List => {
            let request = client.administer(pb::ListFederatedIssuersRequest {}).await?;
            let list = principals.list_federated_issuers(request).await.map_err(|status| of_instance(&status))?;
            let list = list.into_inner().issuers;
            let row = |one: &pb::FederatedIssuer| {
                [one.issuer.clone(), one.audience.clone(), place(one), one.known_keys.to_string()]
            };
            let rows = list.iter().map(row).collect();
            Ok(Output::table(["ISSUER", "AUDIENCE", "KEYS FROM", "KEYS"], rows, list.iter().map(view).collect()))
        }
        Issuer::Remove { issuer } => {
            let request = client.administer(pb::DeleteFederatedIssuerRequest { issuer: issuer.clone() }).await?;
            principals.delete_federated_issuer(request).await.map_err(|status| of_instance(&status))?;
            Ok(Output::new(format!("removed {issuer}"), json!({ "removed": issuer })))
        }
    }
}

fn place(issuer: &pb::FederatedIssuer) -> String {
    match &issuer.keys {
        Some(Keys::JwksUrl(url)) => url.clone(),
        Some(Keys::JwksJson(_)) => "here".to_owned(),
        Some(Keys::Discovery(_)) | None => "discovery".to_owned(),
    }
}

fn view(issuer: &pb::FederatedIssuer) -> Value {
    json!({
        "issuer": issuer.issuer, "audience": issuer.audience, "keys_from": place(issuer),
        "known_keys": issuer.known_keys, "key_networks": issuer.key_networks,
        "max_lifetime_seconds": issuer.max_lifetime.map(|life| life.seconds), "created_at": time(issuer.create_time),
    })
}
