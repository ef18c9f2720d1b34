//! The generated code is checked in. This test compiles the .proto files again and compares; `make generate` sets
//! POSTERN_GENERATE=1, which writes instead.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use prost::Message as _;

/// Messages that carry a secret; their Debug is written by hand in src/redacted.rs.
const SECRET_MESSAGES: &[&str] = &[
    ".postern.instance.v1.ApiKey",
    ".postern.instance.v1.AwsAccessKey",
    ".postern.instance.v1.ClientCertificate",
    ".postern.instance.v1.GoogleServiceAccount",
    ".postern.instance.v1.ExchangeTokenRequest",
    ".postern.instance.v1.ExchangeTokenResponse",
    ".postern.instance.v1.CreateCredentialResponse",
    ".postern.instance.v1.CreateFleetMemberResponse",
    ".postern.instance.v1.IntrospectTokenRequest",
    ".postern.instance.v1.RevokeTokenRequest",
];

fn proto_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            proto_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "proto") {
            found.push(path);
        }
    }
}

fn generate(out: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    proto_files(&root.join("postern"), &mut files);
    proto_files(&root.join("grpc"), &mut files);
    files.sort();
    let mut compiler = protox::Compiler::new([root]).unwrap();
    compiler.include_source_info(true).include_imports(true);
    compiler.open_files(files).unwrap();
    let described = compiler.file_descriptor_set();
    tonic_prost_build::configure()
        .out_dir(out)
        .build_transport(true)
        .extern_path(".grpc.health.v1.HealthCheckRequest", "::tonic_health::pb::HealthCheckRequest")
        .extern_path(".grpc.health.v1.HealthCheckResponse", "::tonic_health::pb::HealthCheckResponse")
        .skip_debug(SECRET_MESSAGES)
        .compile_fds(described.clone())
        .unwrap();
    // Comments are for readers of the .proto files; a server that reflects needs none.
    let mut stripped = described;
    for file in &mut stripped.file {
        file.source_code_info = None;
    }
    std::fs::write(out.join("descriptor.bin"), stripped.encode_to_vec()).unwrap();
}

fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap())
        })
        .collect()
}

#[test]
fn the_generated_code_is_what_the_proto_files_say() {
    let checked_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gen");
    if std::env::var_os("POSTERN_GENERATE").is_some() {
        for name in contents(&checked_in).keys() {
            std::fs::remove_file(checked_in.join(name)).unwrap();
        }
        generate(&checked_in);
        return;
    }
    let fresh = tempfile::tempdir().unwrap();
    generate(fresh.path());
    let (fresh, kept) = (contents(fresh.path()), contents(&checked_in));
    assert_eq!(fresh.keys().collect::<Vec<_>>(), kept.keys().collect::<Vec<_>>(), "other files; run `make generate`");
    for (name, bytes) in fresh {
        assert!(kept[&name] == bytes, "src/gen/{name} is out of date; run `make generate`");
    }
}
