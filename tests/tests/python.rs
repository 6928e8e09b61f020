//! The Python package: its tests, and the example, with the programs as they are built here. Both need the Python that
//! `NAS_PYTHON` names (`cargo xtask test` makes one); the module of the example needs PyTorch in it, and the example says that it
//! skipped it where there is none.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Output};

use nas_tests::{SEGMENT, root};

/// The command `python ARGS...` that finds the package and the programs of this checkout; none without a Python that has `package`.
fn python(package: &str, args: &[&str]) -> Option<Command> {
    let found = std::env::var_os("NAS_PYTHON").filter(|python| has(python, package));
    let Some(python) = found else {
        eprintln!("skipped: NAS_PYTHON names no Python with {package} (`cargo xtask test` makes one)");
        return None;
    };
    let mut command = Command::new(python);
    let programs = Path::new(SEGMENT.command(&[]).get_program()).to_path_buf();
    command.args(args).current_dir(root()).env("PYTHONPATH", root().join("python")).env("PYTHONDONTWRITEBYTECODE", "1");
    command.env("NAS_BIN", programs.parent().expect("a program lies in a folder"));
    command.env("LIBTORCH", root().join(".libtorch/torch")).env_remove("LD_LIBRARY_PATH");
    Some(command)
}

fn has(python: &OsString, package: &str) -> bool {
    let import = Command::new(python).args(["-c", &format!("import {package}")]).output();
    import.is_ok_and(|import| import.status.success())
}

fn succeed(mut command: Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("Python starts");
    let text = String::from_utf8_lossy(&stdout).into_owned();
    assert!(status.success(), "{text}\n{}", String::from_utf8_lossy(&stderr));
    text
}

#[test]
fn reader_and_launcher_pass_their_own_tests() {
    let Some(command) = python("pytest", &["-m", "pytest", "-q", "-p", "no:cacheprovider", "python"]) else { return };
    print!("{}", succeed(command));
}

#[test]
fn the_example_runs_and_its_networks_agree_with_the_program() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    let Some(command) = python("PIL", &["examples/search_and_load.py", out]) else { return };
    let text = succeed(command);
    print!("{text}");
    assert!(text.contains("onnxruntime and nas-segment agree on") || text.contains("skipped: onnxruntime"), "{text}");
    assert!(text.contains("torch and nas-segment agree on") || text.contains("skipped: the module"), "{text}");
}
