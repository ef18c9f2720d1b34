//! A model server that does as it is told, byte by byte, and remembers what it was asked. HTTP/1.1, one request a connection.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http::HeaderMap;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::soon;

/// What the server does with a connection, in order.
#[derive(Clone)]
pub enum Act {
    /// Sends bytes.
    Send(Vec<u8>),
    /// Waits until the test opens the gate, or the peer goes.
    Wait(Gate),
    /// Says nothing until the peer goes.
    Hang,
    /// Resets the connection.
    Reset,
}

/// A gate that the test opens.
#[derive(Clone)]
pub struct Gate(Arc<Semaphore>);

impl Default for Gate {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }
}

impl Gate {
    /// Lets one waiter through.
    pub fn open(&self) {
        self.0.add_permits(1);
    }
}

/// What the server was asked.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// The path.
    pub path: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The JSON body.
    pub body: Value,
    /// The body as it came.
    pub text: String,
}

#[derive(Default)]
struct State {
    scripts: Mutex<VecDeque<Vec<Act>>>,
    requests: Mutex<Vec<Recorded>>,
    asked: watch::Sender<usize>,
    abandoned: watch::Sender<usize>,
}

/// The server.
pub struct FakeModel {
    address: SocketAddr,
    state: Arc<State>,
    serving: JoinHandle<()>,
}

impl Drop for FakeModel {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl FakeModel {
    /// Plays one script a request, the last one again and again.
    ///
    /// # Panics
    /// Without a script.
    pub async fn playing(scripts: impl IntoIterator<Item = Vec<Act>>) -> Self {
        Self::playing_at(|_| scripts.into_iter().collect()).await
    }

    /// As [`FakeModel::playing`], with scripts that know the server's own URL, without a path.
    ///
    /// # Panics
    /// Without a script.
    pub async fn playing_at(scripts: impl FnOnce(&str) -> Vec<Vec<Act>>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let scripts: VecDeque<_> = scripts(&format!("http://{address}")).into();
        assert!(!scripts.is_empty(), "a fake model needs a script");
        let state = Arc::new(State { scripts: Mutex::new(scripts), ..State::default() });
        let shared = state.clone();
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, shared.clone()));
            }
        });
        Self { address, state, serving }
    }

    /// A server that streams these words as an answer, and gives them whole to who does not stream.
    pub async fn saying(words: &[&str]) -> Self {
        Self::playing([answer(words)]).await
    }

    /// The API's base URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// What it was asked so far.
    ///
    /// # Panics
    /// When another test thread panicked while it held the record.
    #[must_use]
    pub fn requests(&self) -> Vec<Recorded> {
        self.state.requests.lock().unwrap().clone()
    }

    /// Waits until it has been asked this many times.
    pub async fn asked(&self, times: usize) {
        let mut asked = self.state.asked.subscribe();
        let _ = soon("a request at the model server", asked.wait_for(|asked| *asked >= times)).await;
    }

    /// Waits until this many peers have gone before their script was over.
    pub async fn abandoned(&self, times: usize) {
        let mut abandoned = self.state.abandoned.subscribe();
        let _ = soon("an abandoned connection at the model server", abandoned.wait_for(|gone| *gone >= times)).await;
    }
}

async fn serve(mut stream: TcpStream, state: Arc<State>) {
    let _ = stream.set_nodelay(true);
    let Some(request) = read_request(&mut stream).await else { return };
    let script = {
        let mut scripts = state.scripts.lock().unwrap();
        if scripts.len() > 1 { scripts.pop_front().unwrap() } else { scripts[0].clone() }
    };
    state.requests.lock().unwrap().push(request);
    state.asked.send_modify(|asked| *asked += 1);
    for act in script {
        let went_on = match act {
            Act::Send(bytes) => stream.write_all(&bytes).await.is_ok(),
            Act::Wait(gate) => tokio::select! {
                permit = gate.0.acquire() => { permit.unwrap().forget(); true }
                () = gone(&mut stream) => false,
            },
            Act::Hang => {
                gone(&mut stream).await;
                false
            }
            Act::Reset => {
                // A linger of zero makes the close a RST.
                let _ = stream.set_zero_linger();
                return;
            }
        };
        if !went_on {
            state.abandoned.send_modify(|gone| *gone += 1);
            return;
        }
    }
    let _ = stream.shutdown().await;
}

/// Ends when the peer has closed.
async fn gone(stream: &mut TcpStream) {
    let mut byte = [0; 1];
    while matches!(stream.read(&mut byte).await, Ok(1)) {}
}

async fn read_request(stream: &mut TcpStream) -> Option<Recorded> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..head_end].to_vec()).unwrap();
    let mut lines = head.lines();
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    let headers: HeaderMap = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.parse().unwrap(), value.trim().parse().unwrap()))
        .collect::<Vec<(http::HeaderName, http::HeaderValue)>>()
        .into_iter()
        .collect();
    let length = headers.get("content-length").map_or(0, |value| value.to_str().unwrap().parse().unwrap());
    let mut body = bytes.split_off(head_end + 4);
    while body.len() < length {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    let text = String::from_utf8_lossy(&body).into_owned();
    Some(Recorded { path, headers, body: serde_json::from_slice(&body).unwrap_or(Value::Null), text })
}

/// A response's head, for a body that ends with the connection.
#[must_use]
pub fn head(status: u16, headers: &[(&str, &str)]) -> Act {
    let mut text = format!("HTTP/1.1 {status} Scripted\r\nconnection: close\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    Act::Send((text + "\r\n").into_bytes())
}

/// The head of a stream.
#[must_use]
pub fn sse_head() -> Act {
    head(200, &[("content-type", "text/event-stream")])
}

/// An event of a stream.
#[must_use]
pub fn event(value: &Value) -> Act {
    Act::Send(format!("data: {value}\n\n").into_bytes())
}

/// A piece of an answer, as chat and raw completions carry it both.
#[must_use]
pub fn chunk(text: &str) -> Act {
    event(&json!({ "choices": [{ "index": 0, "delta": { "content": text }, "finish_reason": null }] }))
}

/// The end of the choice.
#[must_use]
pub fn finish(reason: &str) -> Act {
    event(&json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": reason }] }))
}

/// What it cost.
#[must_use]
pub fn usage(input: u64, output: u64) -> Act {
    event(&json!({ "choices": [], "usage": { "prompt_tokens": input, "completion_tokens": output } }))
}

/// The end of the stream.
#[must_use]
pub fn done() -> Act {
    Act::Send(b"data: [DONE]\n\n".to_vec())
}

/// A whole streamed answer.
#[must_use]
pub fn answer(words: &[&str]) -> Vec<Act> {
    let pieces = words.iter().map(|word| chunk(word));
    [sse_head()].into_iter().chain(pieces).chain([finish("stop"), usage(7, words.len() as u64), done()]).collect()
}
