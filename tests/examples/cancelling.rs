//! How long it takes from a caller's hanging up until the model's server sees its connection closed, in each of the windows of a request,
//! through all three services: `make bench` prints it.
#![expect(clippy::unwrap_used, reason = "an example fails by panicking")]

use std::time::Instant;

use postern_proto::gateway::v1 as pb;
use postern_tests::{Act, FakeModel, Stack, chunk, sse_head};
use tokio::sync::mpsc;

/// Requests for each window.
const ROUNDS: usize = 200;

#[tokio::main]
async fn main() {
    println!("from hanging up to the model's closed connection, {ROUNDS} requests each, one at a time:");
    for (window, script) in [
        ("before the head", vec![Act::Hang]),
        ("before the first content", vec![sse_head(), Act::Hang]),
        ("midway", vec![sse_head(), chunk("a"), chunk("b"), Act::Hang]),
    ] {
        let model = FakeModel::playing([script]).await;
        let stack = Stack::builder().model("demo", &model).start().await;
        let token = stack.token().await;
        let mut took = Vec::new();
        for round in 1..=ROUNDS {
            let mut client = stack.completions();
            let request = pb::StreamChatRequest { chat: Some(Stack::chat("hi")) };
            let request = Stack::request(request, &token);
            let (told, mut words) = mpsc::channel(8);
            let asking = tokio::spawn(async move {
                let mut events = client.stream_chat(request).await.unwrap().into_inner();
                while events.message().await.unwrap().is_some() {
                    let _ = told.send(()).await;
                }
            });
            model.asked(round).await;
            if window == "midway" {
                // The start and both words have come.
                for _ in 0..3 {
                    words.recv().await.unwrap();
                }
            }
            let begun = Instant::now();
            asking.abort();
            model.abandoned(round).await;
            took.push(begun.elapsed());
        }
        took.sort_unstable();
        let at = |part: f64| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "a rank"
            )]
            let rank = ((took.len() - 1) as f64 * part).round() as usize;
            took[rank].as_secs_f64() * 1000.0
        };
        println!("  {window:<26} p50 {:>6.2} ms   p99 {:>6.2} ms   max {:>6.2} ms", at(0.5), at(0.99), at(1.0));
    }
}
