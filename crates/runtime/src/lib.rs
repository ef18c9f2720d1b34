//! postern-runtime
