//! Builds the binaries once per test process, with the profile of the tests.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Folder with `evoring`, `evoring-coordinator`, `evoring-worker` and `evoring-executor`.
///
/// # Panics
/// If they cannot be built.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(build)
}

/// The repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .expect("the repository exists")
}

fn build() -> PathBuf {
    // `target/PROFILE/deps/TEST-HASH` is running.
    let test = std::env::current_exe().expect("a test has a path");
    let folder = test
        .ancestors()
        .nth(2)
        .expect("target/PROFILE/deps/TEST")
        .to_owned();
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(repository())
        .args(["build", "--locked", "--offline", "--quiet", "--bins"]);
    cargo.args([
        "-p",
        "evoring",
        "-p",
        "evoring-coordinator",
        "-p",
        "evoring-worker",
    ]);
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.status().expect("cargo starts");
    assert!(
        status.success(),
        "the binaries under test do not build: {status}"
    );
    folder
}

/// Path of one binary.
pub fn binary(name: &str) -> PathBuf {
    folder().join(name)
}
