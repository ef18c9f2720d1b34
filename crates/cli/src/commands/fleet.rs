//! `fleet`.

use postern_proto::instance::v1 as pb;
use postern_proto::instance::v1::create_fleet_member_request::Kind as NewKind;
use postern_proto::instance::v1::fleet_member::{Adapter, Gateway, Instance, Kind};
use postern_proto::instance::v1::fleet_service_client::FleetServiceClient;
use serde_json::{Value, json};

use super::time;
use crate::args::{Fleet, FleetAdd};
use crate::client::{Client, of_instance};
use crate::output::{Output, Problem};
use crate::secret;

/// Runs a command of the family.
pub async fn run(client: &Client, command: Fleet) -> Result<Output, Problem> {
    let mut fleet = FleetServiceClient::new(client.instance());
    match command {
        Fleet::Add(command) => {
            let (name, kind, file, proof) = match *command {
                FleetAdd::Gateway { name, address, audience, managed, credential_file, proof } => {
                    let (audience, address) = (audience.unwrap_or_default(), address.unwrap_or_default());
                    (name, NewKind::Gateway(Gateway { audience, address, managed }), credential_file, proof)
                }
                FleetAdd::Instance {
                    name,
                    issuer_url,
                    instance_id,
                    scope,
                    group,
                    client_network,
                    jwks_file,
                    credential_file,
                    proof,
                } => {
                    let read = |path: &std::path::PathBuf| {
                        std::fs::read_to_string(path)
                            .map_err(|error| Problem::new(format!("{}: {error}", path.display())))
                    };
                    let instance = Instance {
                        issuer: issuer_url,
                        instance_id,
                        scopes: scope,
                        groups: group,
                        client_networks: client_network.iter().map(ToString::to_string).collect(),
                        jwks_json: jwks_file.as_ref().map(read).transpose()?.unwrap_or_default(),
                        ..Default::default()
                    };
                    (name, NewKind::Instance(instance), credential_file, proof)
                }
                FleetAdd::Adapter { name, group, credential_file, proof } => {
                    (name, NewKind::Adapter(Adapter { group: group.unwrap_or_default() }), credential_file, proof)
                }
            };
            let proof = super::proof(proof)?;
            if proof.is_some() && file.is_some() {
                return Err(Problem::new(
                    "there is no secret to write: give either --credential-file or another proof",
                ));
            }
            file.as_deref().map(secret::must_be_free).transpose()?;
            let message = pb::CreateFleetMemberRequest { name, kind: Some(kind), proof };
            let request = client.administer(message).await?;
            let made = fleet.create_fleet_member(request).await.map_err(|status| of_instance(&status))?.into_inner();
            let member = made.member.unwrap_or_default();
            let mut json = view(&member);
            json["trust_root"] = made.trust_root.as_str().into();
            match file {
                Some(file) => {
                    // The second line pins the trust root, by which a gateway believes its own notes.
                    secret::write_new(&file, &format!("{}\n{}", made.credential, made.trust_root))?;
                    let text = format!("added {}; its credential is in {}", describe(&member), file.display());
                    Ok(Output::new(text, json))
                }
                None if matches!(&member.kind, Some(Kind::Gateway(gateway)) if gateway.managed) => {
                    Ok(Output::new(format!("added {}", describe(&member)), json))
                }
                None => {
                    let root = made.trust_root;
                    let text = format!("added {}; for [instance]: trust_root = \"{root}\"", describe(&member));
                    Ok(Output::new(text, json))
                }
            }
        }
        Fleet::List => {
            let request = client.administer(pb::ListFleetMembersRequest {}).await?;
            let list = fleet.list_fleet_members(request).await.map_err(|status| of_instance(&status))?.into_inner();
            let row = |one: &pb::FleetMember| {
                let (kind, detail) = parts(one);
                [one.name.clone(), kind.to_owned(), detail, one.connected_replicas.to_string()]
            };
            let rows = list.members.iter().map(row).collect();
            Ok(Output::table(["NAME", "KIND", "SERVES", "CONNECTED"], rows, list.members.iter().map(view).collect()))
        }
        Fleet::Remove { name } => {
            let request = client.administer(pb::DeleteFleetMemberRequest { name: name.clone() }).await?;
            fleet.delete_fleet_member(request).await.map_err(|status| of_instance(&status))?;
            Ok(Output::new(format!("removed {name}"), json!({ "removed": name })))
        }
    }
}

fn parts(member: &pb::FleetMember) -> (&'static str, String) {
    match &member.kind {
        Some(Kind::Gateway(gateway)) if gateway.managed => ("managed gateway", gateway.audience.clone()),
        Some(Kind::Gateway(gateway)) => ("gateway", gateway.audience.clone()),
        Some(Kind::Adapter(adapter)) => ("adapter", format!("group {}", adapter.group)),
        Some(Kind::Instance(instance)) => ("instance", format!("{} {}", instance.issuer, instance.scopes.join(" "))),
        None => ("unknown", String::new()),
    }
}

fn describe(member: &pb::FleetMember) -> String {
    let (kind, detail) = parts(member);
    format!("the {kind} {} ({detail})", member.name)
}

fn view(member: &pb::FleetMember) -> Value {
    let mut value = json!({
        "id": member.id, "name": member.name, "connected_replicas": member.connected_replicas,
        "created_at": time(member.create_time),
    });
    match &member.kind {
        Some(Kind::Gateway(gateway)) => {
            value["gateway"] = json!({ "audience": gateway.audience, "address": gateway.address });
        }
        Some(Kind::Adapter(adapter)) => value["adapter"] = json!({ "group": adapter.group }),
        Some(Kind::Instance(instance)) => {
            value["instance"] = json!({
                "issuer": instance.issuer, "instance_id": instance.instance_id, "scopes": instance.scopes,
                "groups": instance.groups, "client_networks": instance.client_networks, "known_keys": instance.known_keys,
            });
        }
        None => {}
    }
    value
}
