//! A Python with the programs that tests read their files with: onnxruntime, TensorBoard, Optuna.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// TensorBoard needs `pkg_resources`, which newer setuptools do not have.
const PACKAGES: [&str; 7] = [
    "onnx==1.23.2",
    "onnxruntime==1.32.0",
    "safetensors",
    "numpy",
    "tensorboard==2.21.0",
    "optuna==5.0.0",
    "setuptools<81",
];

/// The interpreter: what `NAS_PYTHON` names, or that of an environment below `target`, which is made where it is missing.
/// Without one the tests compare by this program alone.
pub fn interpreter(root: &Path) -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("NAS_PYTHON") {
        return Some(named.into());
    }
    let folder = root.join("target/python");
    if !folder.exists()
        && let Err(error) = make(&folder)
    {
        eprintln!("what other programs read is not tested: {error:#}");
        return None;
    }
    Some(folder.join("bin/python"))
}

/// Makes it beside its place: an interrupted one is never taken for a whole.
fn make(folder: &Path) -> Result<()> {
    let part = folder.with_extension("part");
    call("python3", ["-m".as_ref(), "venv".as_ref(), "--clear".as_ref(), part.as_os_str()])?;
    let install = ["-m", "pip", "install", "--quiet"].into_iter().chain(PACKAGES);
    call(part.join("bin/python"), install)?;
    std::fs::rename(&part, folder).with_context(|| format!("{}: cannot rename it", part.display()))
}

fn call<A: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: impl IntoIterator<Item = A>) -> Result<()> {
    let mut command = Command::new(program);
    command.args(args).stdout(Stdio::null());
    let shown = format!("{command:?}");
    let status = command.status().with_context(|| format!("cannot start {shown}"))?;
    ensure!(status.success(), "{shown} failed ({status})");
    Ok(())
}
