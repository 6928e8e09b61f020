//! Harness of the tests that need a binary: builds it once, runs it, shows what it printed when a test fails.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// The `nas-segment` binary, built in the profile of the running test.
pub fn nas_segment() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let exe = std::env::current_exe().expect("a test has an executable");
        let profile_dir = exe.parent().and_then(Path::parent).expect("tests run from TARGET/PROFILE/deps");
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", "nas-segment", "--bin", "nas-segment", "--target-dir"]);
        build.arg(profile_dir.parent().expect("a profile lies in a target folder")).current_dir(root());
        build.args(profile_dir.ends_with("release").then_some("--release"));
        assert!(build.status().expect("cargo runs").success(), "nas-segment does not build");
        profile_dir.join("nas-segment")
    })
}

/// The workspace's folder.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace")
}

/// A command of `nas-segment`, run in the workspace's folder on one CPU thread's worth of OpenMP spinning.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(nas_segment());
    command.args(args).current_dir(root()).env("OMP_WAIT_POLICY", "passive").env_remove("LD_LIBRARY_PATH");
    command
}

/// Runs `nas-segment` and returns its stdout; fails the test when it fails.
pub fn succeed(args: &[&str]) -> String {
    let Output { status, stdout, stderr } = command(args).output().expect("nas-segment runs");
    assert!(status.success(), "nas-segment {args:?}: {status}\n{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).expect("reports are UTF-8")
}

/// Runs `nas-segment`, which must fail with exit code 1; returns its stderr.
pub fn fail(args: &[&str]) -> String {
    let Output { status, stderr, .. } = command(args).output().expect("nas-segment runs");
    let stderr = String::from_utf8_lossy(&stderr).into_owned();
    assert_eq!(status.code(), Some(1), "nas-segment {args:?}\n{stderr}");
    stderr
}
