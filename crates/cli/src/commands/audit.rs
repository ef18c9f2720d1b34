//! `audit`.

use postern_proto::instance::v1 as pb;
use postern_proto::instance::v1::audit_service_client::AuditServiceClient;
use serde_json::{Value, json};

use super::time;
use crate::args::Audit;
use crate::client::{Client, of_instance};
use crate::output::{Output, Problem};

/// The most that the instance lists at once.
const PAGE: u32 = 1000;

/// Runs a command of the family.
pub async fn run(client: &Client, command: Audit) -> Result<Output, Problem> {
    let mut audit = AuditServiceClient::new(client.instance());
    match command {
        Audit::List { limit } => {
            let (mut events, mut page_token) = (Vec::new(), String::new());
            loop {
                let left = limit.saturating_sub(u32::try_from(events.len()).unwrap_or(u32::MAX));
                let message = pb::ListAuditEventsRequest { before: None, limit: left.clamp(1, PAGE), page_token };
                let request = client.administer(message).await?;
                let page = audit.list_audit_events(request).await.map_err(|status| of_instance(&status))?.into_inner();
                events.extend(page.events);
                page_token = page.next_page_token;
                if page_token.is_empty() || left <= PAGE {
                    break;
                }
            }
            let row = |event: &pb::AuditEvent| {
                let (actor, target) = (event.actor.clone(), event.target.clone());
                [time(event.time), event.action.clone(), actor, target, event.address.clone(), event.outcome.clone()]
            };
            let head = ["TIME", "ACTION", "ACTOR", "TARGET", "ADDRESS", "OUTCOME"];
            let json = events.iter().map(view).collect();
            Ok(Output::table(head, events.iter().map(row).collect(), json))
        }
        Audit::Verify => {
            let request = client.administer(pb::VerifyAuditLogRequest {}).await?;
            let answer = audit.verify_audit_log(request).await.map_err(|status| of_instance(&status))?;
            let (mut chains, mut verdicts) = (answer.into_inner(), Vec::new());
            while let Some(verdict) = chains.message().await.map_err(|status| of_instance(&status))? {
                verdicts.push(verdict);
            }
            Ok(verified(&verdicts))
        }
    }
}

fn verified(verdicts: &[pb::VerifyAuditLogResponse]) -> Output {
    let good = verdicts.iter().all(|verdict| verdict.fault.is_empty());
    let row = |verdict: &pb::VerifyAuditLogResponse| {
        let state = if verdict.fault.is_empty() { "sound" } else { verdict.fault.as_str() };
        [verdict.chain.clone(), verdict.events.to_string(), state.to_owned()]
    };
    let view = |verdict: &pb::VerifyAuditLogResponse| json!({ "chain": verdict.chain, "events": verdict.events, "fault": verdict.fault });
    let json = json!({ "ok": good, "chains": verdicts.iter().map(view).collect::<Value>() });
    Output::table(["CHAIN", "EVENTS", "STATE"], verdicts.iter().map(row).collect(), json).bad_unless(good)
}

fn view(event: &pb::AuditEvent) -> Value {
    json!({
        "chain": event.chain, "number": event.number, "time": time(event.time), "action": event.action,
        "actor": event.actor, "target": event.target, "address": event.address, "outcome": event.outcome,
        "request_id": event.request_id, "hash": event.hash,
    })
}
