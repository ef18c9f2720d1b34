//! model-adapter
