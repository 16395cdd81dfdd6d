//! `src/pb.rs` is what the generator makes of `tern.proto` today.
//!
//! After a change of the schema: `TERN_REGENERATE=1 cargo test -p tern-protocol --test generated`.

use std::path::Path;

#[test]
fn pb_rs_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let descriptors = protox::compile([root.join("tern.proto")], [root]).expect("tern.proto compiles");
    let out = tempfile::tempdir().expect("a temporary directory");
    prost_build::Config::new()
        .out_dir(out.path())
        .bytes(["."])
        .compile_fds(descriptors)
        .expect("prost generates code");
    let fresh = std::fs::read_to_string(out.path().join("tern.v1.rs")).expect("one module was generated");
    let path = root.join("src/pb.rs");
    if std::env::var_os("TERN_REGENERATE").is_some() {
        std::fs::write(&path, &fresh).expect("src/pb.rs is writable");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == fresh,
        "src/pb.rs is not what tern.proto generates: run TERN_REGENERATE=1 cargo test -p tern-protocol --test generated"
    );
}
