//! Sans-I/O decoders: bytes in, events out, however the bytes are cut.

pub mod lines;
pub mod sse;
