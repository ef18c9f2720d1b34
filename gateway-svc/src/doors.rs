//! The doors: gRPC, and HTTP in the shapes of other people's APIs, over one pipeline.

pub mod anthropic;
pub mod explain;
pub mod grpc;
pub mod http;
pub mod openai;
mod sse;
mod wire;
