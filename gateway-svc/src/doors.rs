//! The doors: gRPC and OpenAI-compatible HTTP over one pipeline.

pub mod grpc;
pub mod openai;
