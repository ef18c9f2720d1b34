//! The rules of the house that no compiler holds: who may use whom, and that the named packages are used directly.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use cargo_metadata::{DependencyKind, MetadataCommand};

fn ours() -> BTreeMap<String, BTreeSet<String>> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let metadata = MetadataCommand::new().manifest_path(manifest).no_deps().exec().unwrap();
    let members: BTreeSet<_> = metadata.workspace_packages().iter().map(|package| package.name.to_string()).collect();
    metadata
        .workspace_packages()
        .iter()
        .map(|package| {
            let used = package.dependencies.iter().filter(|used| used.kind == DependencyKind::Normal);
            (package.name.to_string(), used.map(|used| used.name.clone()).collect())
        })
        .map(|(name, used): (String, BTreeSet<String>)| (name, used))
        .inspect(|(name, _)| assert!(members.contains(name)))
        .collect()
}

/// What each crate may use of ours. A crate that is not here fails the test.
const MAY_USE: &[(&str, &[&str])] = &[
    ("postern-proto", &[]),
    ("postern-token", &[]),
    ("postern-egress", &[]),
    ("postern-prompt", &["postern-proto"]),
    ("postern-runtime", &["postern-proto", "postern-token", "postern-egress"]),
    ("postern-cli", &["postern-proto", "postern-token", "postern-runtime", "postern-prompt"]),
    ("instance-svc", &["postern-proto", "postern-token", "postern-runtime", "postern-egress", "postern-prompt"]),
    ("model-adapter", &["postern-proto", "postern-token", "postern-runtime", "postern-egress"]),
    // The one exception: its composition root may host the adapter.
    (
        "gateway-svc",
        &["postern-proto", "postern-token", "postern-runtime", "postern-egress", "postern-prompt", "model-adapter"],
    ),
    (
        "postern-tests",
        &[
            "postern-proto",
            "postern-token",
            "postern-egress",
            "postern-runtime",
            "instance-svc",
            "gateway-svc",
            "model-adapter",
        ],
    ),
];

#[test]
fn imports_go_one_way() {
    let ours = ours();
    let allowed: BTreeMap<_, _> = MAY_USE.iter().copied().collect();
    assert_eq!(ours.keys().map(String::as_str).collect::<Vec<_>>(), allowed.keys().copied().collect::<Vec<_>>());
    for (name, used) in &ours {
        for one in used.iter().filter(|one| ours.contains_key(*one)) {
            assert!(allowed[name.as_str()].contains(&one.as_str()), "{name} must not use {one}");
        }
    }
}

fn sources(dir: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn only_the_gateways_composition_root_knows_that_an_adapter_can_run_inside() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../gateway-svc/src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let knowing: Vec<_> = files
        .iter()
        .filter(|path| std::fs::read_to_string(path).unwrap().contains("model_adapter"))
        .map(|path| path.strip_prefix(&root).unwrap().display().to_string())
        .collect();
    assert_eq!(knowing, ["app.rs"]);
}

#[test]
fn domain_modules_name_no_transport_and_no_database() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    // Where tonic, axum and sqlx belong: doors, composition roots, the store, and the ways out.
    let domain = [
        "instance-svc/src/credentials.rs",
        "instance-svc/src/directory.rs",
        "instance-svc/src/exchange.rs",
        "instance-svc/src/issuer.rs",
        "instance-svc/src/keys.rs",
        "instance-svc/src/registry.rs",
        "instance-svc/src/seal.rs",
        "instance-svc/src/fleet.rs",
        "instance-svc/src/changes.rs",
        "gateway-svc/src/ask.rs",
        "gateway-svc/src/collect.rs",
        "gateway-svc/src/pipeline.rs",
        "gateway-svc/src/pipeline/admit.rs",
        "gateway-svc/src/pipeline/authorise.rs",
        "gateway-svc/src/pipeline/identify.rs",
        "gateway-svc/src/pipeline/relay.rs",
        "gateway-svc/src/pipeline/route.rs",
        "gateway-svc/src/pipeline/session.rs",
        "gateway-svc/src/prompt.rs",
        "gateway-svc/src/prompt/fim.rs",
    ];
    for file in domain {
        let text = std::fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        for foreign in ["tonic::", "axum::", "sqlx::"] {
            assert!(!text.contains(foreign), "{file} names {foreign}");
        }
    }
}

#[test]
fn the_packages_that_were_asked_for_are_used_directly() {
    let ours = ours();
    for package in ["tonic", "prost", "tokio", "tower", "rsa", "jsonwebtoken", "tracing-subscriber", "tonic-health"] {
        let users: Vec<_> = ours.iter().filter(|(_, used)| used.contains(package)).map(|(name, _)| name).collect();
        assert!(!users.is_empty(), "{package} is used by nobody");
    }
}

#[test]
fn only_the_instance_can_sign_access_tokens() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    for dir in [
        "proto/src",
        "crates/token/src",
        "crates/egress/src",
        "crates/runtime/src",
        "crates/cli/src",
        "gateway-svc/src",
        "model-adapter/src",
    ] {
        sources(&root.join(dir), &mut files);
    }
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        // It signs for Google's token server with the key of a service account of Google's.
        if path.ends_with("model-adapter/src/google.rs") {
            continue;
        }
        for signing in ["RsaKeyPair", "EncodingKey", "RsaPrivateKey"] {
            assert!(!text.contains(signing), "{} names {signing}", path.display());
        }
    }
}

#[test]
fn the_sample_configurations_are_sound() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config");
    let load = |name: &str| dir.join(format!("{name}.toml"));
    let instance: instance_svc::config::InstanceConfig = postern_runtime::config::load(&load("instance-svc")).unwrap();
    instance.check().unwrap();
    let gateway: gateway_svc::config::GatewayConfig = postern_runtime::config::load(&load("gateway-svc")).unwrap();
    gateway.check().unwrap();
    let adapter: model_adapter::config::AdapterConfig = postern_runtime::config::load(&load("model-adapter")).unwrap();
    adapter.check().unwrap();
    let gateway: gateway_svc::config::GatewayConfig =
        postern_runtime::config::load(&load("gateway-svc-issuers")).unwrap();
    gateway.check().unwrap();
    assert_eq!(gateway.issuers.len(), 3);
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 4, "a sample that is not tested");
}

/// A claim of the security model that names a test names one that there is.
#[test]
fn the_tests_that_the_security_model_names_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let model = std::fs::read_to_string(root.join("docs/security-model.md")).unwrap();
    let mut files = Vec::new();
    for dir in ["crates", "proto", "instance-svc", "gateway-svc", "model-adapter", "tests"] {
        sources(&root.join(dir), &mut files);
    }
    files.extend(["test_chaos.py", "test_packets.py"].map(|file| root.join("tests/chaos").join(file)));
    let code: String = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let (_, defences) = model.split_once("## Defences").unwrap();
    let named: Vec<_> = defences.split('`').skip(1).step_by(2).filter(|name| name.matches('_').count() >= 3).collect();
    assert!(named.len() > 40, "{}", named.len());
    for name in named {
        let defined = [format!("fn {name}("), format!("def {name}(")].iter().any(|text| code.contains(text));
        assert!(defined, "the security model names {name}, which is not a test");
    }
}
