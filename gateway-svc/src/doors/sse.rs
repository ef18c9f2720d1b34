//! An answer as server-sent events (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use serde_json::Value;

use super::http::Writer;
use crate::pipeline::Completion;

/// Silence after which a heartbeat is sent: proxies on the way close what is silent for longer.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Frames to send.
#[derive(Default)]
pub(super) struct Frames(Vec<u8>);

impl Frames {
    /// A frame of data alone.
    pub fn data(&mut self, value: &Value) {
        self.0.extend_from_slice(b"data: ");
        // A JSON value in memory always has a text, and it holds no line end.
        let _ = serde_json::to_writer(&mut self.0, value);
        self.0.extend_from_slice(b"\n\n");
    }

    /// A frame with the name of its event.
    pub fn named(&mut self, name: &str, value: &Value) {
        self.0.extend_from_slice(b"event: ");
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(b'\n');
        self.data(value);
    }

    /// OpenAI's mark of a good end.
    pub fn done(&mut self) {
        self.0.extend_from_slice(b"data: [DONE]\n\n");
    }

    /// A frame that says nothing.
    pub fn comment(&mut self) {
        self.0.extend_from_slice(b": \n\n");
    }
}

struct Streaming {
    writer: Box<dyn Writer>,
    completion: Completion,
    over: bool,
}

/// The answer as its events come. Dropping the body stops the model.
pub(super) fn stream(writer: Box<dyn Writer>, completion: Completion) -> Response {
    let state = Streaming { writer, completion, over: false };
    let frames = stream::unfold(state, |mut state| async move {
        loop {
            let frames = state.next().await?;
            if !frames.0.is_empty() {
                return Some((Ok::<_, Infallible>(Bytes::from(frames.0)), state));
            }
        }
    });
    let headers = [(CONTENT_TYPE, "text/event-stream; charset=utf-8"), (CACHE_CONTROL, "no-cache")];
    (headers, Body::from_stream(frames)).into_response()
}

impl Streaming {
    async fn next(&mut self) -> Option<Frames> {
        if self.over {
            return None;
        }
        let mut frames = Frames::default();
        match tokio::time::timeout(HEARTBEAT, self.completion.next()).await {
            Err(_) => self.writer.heartbeat(&mut frames),
            Ok(Some(Ok(event))) => {
                if let Err(failure) = self.writer.event(event, &mut frames) {
                    self.over = true;
                    self.writer.failed(&failure, &mut frames);
                }
            }
            Ok(Some(Err(failure))) => {
                self.over = true;
                // The flow's own record has logged it.
                self.writer.failed(&failure, &mut frames);
            }
            Ok(None) => {
                self.over = true;
                self.writer.ended(&mut frames);
            }
        }
        Some(frames)
    }
}
