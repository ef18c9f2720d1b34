//! The registry of prompts: templates by feature, family and version (`<feature>/<family|base>/<version>.toml`), shipped in the binary and
//! overlaid by the instance and from a directory. Rendering is a sandbox: no files, no time, bounded work and output.

mod registry;
mod template;

pub use registry::{Files, Origin, Registry, Unusable, read_named, read_overlay};
pub use template::{Rendered, Sampling, Template, TemplateProblem, Variable, Wrong, fenced, tagged};
