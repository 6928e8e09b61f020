//! Environments of Python below `target`: one with what tests read files of ours with, one with what makes a wheel.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// TensorBoard needs `pkg_resources`, which newer setuptools do not have. The last ones are for the tests below `python/`.
const PACKAGES: [&str; 12] = [
    "onnx==1.23.2",
    "onnxruntime==1.32.0",
    "safetensors",
    "numpy",
    "tensorboard==2.21.0",
    "optuna==5.0.0",
    "setuptools<81",
    "jsonschema==4.26.0",
    "pytest",
    "pandas",
    "pillow",
    "tomli; python_version < '3.11'",
];

/// The interpreter: what `NAS_PYTHON` names, or that of an environment below `target`, which is made where it is missing.
/// Without one the tests compare by this program alone.
pub fn interpreter(root: &Path) -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("NAS_PYTHON") {
        return Some(named.into());
    }
    match environment(&root.join("target/python"), &PACKAGES) {
        Ok(python) => Some(python),
        Err(error) => {
            eprintln!("what other programs read is not tested: {error:#}");
            None
        }
    }
}

/// The interpreter of the environment in `folder`, which is made where it is missing or holds other `packages` (arguments of
/// `pip install`).
pub fn environment(folder: &Path, packages: &[&str]) -> Result<PathBuf> {
    const LIST: &str = "packages.txt";
    let list = packages.join("\n");
    if fs::read_to_string(folder.join(LIST)).is_ok_and(|found| found == list) {
        return Ok(folder.join("bin/python"));
    }
    // Its list is written last: an interrupted one is never taken for a whole.
    call("python3", ["-m".as_ref(), "venv".as_ref(), "--clear".as_ref(), folder.as_os_str()])?;
    let python = folder.join("bin/python");
    call(&python, ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"].iter().chain(packages))?;
    fs::write(folder.join(LIST), list).with_context(|| format!("{}: cannot write", folder.display()))?;
    Ok(python)
}

fn call<A: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: impl IntoIterator<Item = A>) -> Result<()> {
    let mut command = Command::new(program);
    command.args(args).stdout(Stdio::null());
    let shown = format!("{command:?}");
    let status = command.status().with_context(|| format!("cannot start {shown}"))?;
    ensure!(status.success(), "{shown} failed ({status})");
    Ok(())
}
