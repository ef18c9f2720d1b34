//! postern-cli
