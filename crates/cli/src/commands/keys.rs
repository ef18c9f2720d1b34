//! `keys`.

use postern_proto::instance::v1 as pb;
use postern_proto::instance::v1::key_service_client::KeyServiceClient;
use serde_json::{Value, json};

use super::time;
use crate::args::Keys;
use crate::client::{Client, of_instance};
use crate::output::{Output, Problem};

/// Runs a command of the family.
pub async fn run(client: &Client, command: Keys) -> Result<Output, Problem> {
    let mut keys = KeyServiceClient::new(client.instance());
    match command {
        Keys::List => {
            let request = client.administer(pb::ListKeysRequest {}).await?;
            let list = keys.list_keys(request).await.map_err(|status| of_instance(&status))?.into_inner();
            Ok(listed(&list))
        }
        Keys::Rotate => {
            let request = client.administer(pb::RotateKeysRequest {}).await?;
            let done = keys.rotate_keys(request).await.map_err(|status| of_instance(&status))?.into_inner();
            let text = format!("{} signs from now on; the one before it verifies what it signed", done.active_kid);
            Ok(Output::new(text, json!({ "active": done.active_kid })))
        }
        Keys::Rewrap => {
            let request = client.administer(pb::RewrapSecretsRequest {}).await?;
            let done = keys.rewrap_secrets(request).await.map_err(|status| of_instance(&status))?.into_inner();
            let pb::RewrapSecretsResponse { rewrapped, current, unopened } = done;
            let text = match unopened {
                0 => format!("sealed {rewrapped} records anew, {current} were; former key files can go"),
                _ => format!(
                    "sealed {rewrapped} records anew, {current} were; {unopened} open under no key that is configured: the \
                     instance's log names them"
                ),
            };
            let json = json!({ "rewrapped": rewrapped, "current": current, "unopened": unopened });
            Ok(Output::new(text, json).bad_unless(unopened == 0))
        }
        Keys::Revoke { kid } => {
            let request = client.administer(pb::RevokeKeyRequest { kid: kid.clone() }).await?;
            let done = keys.revoke_key(request).await.map_err(|status| of_instance(&status))?.into_inner();
            let text = format!("revoked {kid}; {} signs from now on", done.active_kid);
            Ok(Output::new(text, json!({ "revoked": kid, "active": done.active_kid })))
        }
    }
}

fn listed(list: &pb::ListKeysResponse) -> Output {
    let row = |key: &pb::SigningKey| {
        [key.kid.clone(), key.algorithm.clone(), state(key).to_owned(), time(key.publish_time), time(key.remove_time)]
    };
    let view = |key: &pb::SigningKey| {
        json!({
            "kid": key.kid, "algorithm": key.algorithm, "state": state(key), "published_at": time(key.publish_time),
            "activated_at": time(key.activate_time), "retired_at": time(key.retire_time),
            "removed_at": time(key.remove_time),
        })
    };
    let follower = |one: &pb::TrustSubscriber| {
        json!({
            "member": one.member, "replica": one.replica_id, "acknowledged": one.acknowledged_sequence,
            "lease_ends_at": time(one.lease_end_time),
        })
    };
    let json = json!({
        "sequence": list.sequence,
        "keys": list.keys.iter().map(view).collect::<Value>(),
        "subscribers": list.subscribers.iter().map(follower).collect::<Value>(),
    });
    Output::table(["ID", "ALGORITHM", "STATE", "PUBLISHED", "ENDS"], list.keys.iter().map(row).collect(), json)
}

fn state(key: &pb::SigningKey) -> &'static str {
    match key.state() {
        pb::KeyState::Pending => "pending",
        pb::KeyState::Active => "active",
        pb::KeyState::Retired => "retired",
        pb::KeyState::Unspecified => "unknown",
    }
}
