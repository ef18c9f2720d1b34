//! Sans-I/O decoders: bytes in, events out, however the bytes are cut.

pub mod event_stream;
pub mod lines;
pub mod sse;
