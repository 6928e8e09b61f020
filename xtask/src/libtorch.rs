//! Finds libtorch or fetches it, and makes `.libtorch/torch` stand for it, where `.cargo/config.toml` looks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// The version that tch 0.26 is made for.
pub const VERSION: &str = "2.13.0";

/// What the CPU needs of torch's dependencies: the CPU library itself refers to CUDA's runtime and profiler.
const LIGHT: [&str; 2] = ["nvidia-cuda-runtime==13.0.*", "nvidia-cuda-cupti==13.0.*"];

/// After this, plain `cargo build` and `cargo test` work in the workspace at `root` without environment variables.
pub fn set_up(root: &Path) -> Result<()> {
    let own = root.join(".libtorch/torch");
    if let Some(given) = given()? {
        check(&given).with_context(|| format!("{} (LIBTORCH or LIBTORCH_USE_PYTORCH)", given.display()))?;
        return link(&given, &own);
    }
    if own.exists() {
        return check(&own).context("remove .libtorch to have it fetched again");
    }
    fetch(root)
}

/// The libtorch that the environment names. Cargo itself sets `LIBTORCH` for us to `.libtorch/torch`: that is no choice of
/// the user's.
fn given() -> Result<Option<PathBuf>> {
    if std::env::var("LIBTORCH_USE_PYTORCH").is_ok_and(|value| value == "1") {
        let print = "import os, torch; print(os.path.dirname(torch.__file__))";
        let output = Command::new("python3").args(["-c", print]).output().context("cannot start python3")?;
        ensure!(output.status.success(), "LIBTORCH_USE_PYTORCH=1, but python3 has no torch");
        return Ok(Some(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())));
    }
    let named = std::env::var_os("LIBTORCH").map(PathBuf::from);
    Ok(named.filter(|path| !path.ends_with(".libtorch/torch")))
}

fn link(given: &Path, own: &Path) -> Result<()> {
    if own.exists() {
        return Ok(());
    }
    fs::create_dir_all(own.parent().context(".libtorch/torch has a parent")?)?;
    // What is left of an older link that leads nowhere.
    let _ = fs::remove_file(own);
    std::os::unix::fs::symlink(given, own).with_context(|| format!("{}: cannot link", own.display()))
}

/// Says what is wrong with a libtorch: another version, or files that are missing or cut off.
fn check(torch: &Path) -> Result<()> {
    let version = version(torch)?;
    ensure!(version == VERSION, "{}: libtorch {version} found, {VERSION} expected", torch.display());
    for (library, least_mib) in [("libtorch_cpu.so", 100), ("libtorch.so", 0), ("libc10.so", 0)] {
        let path = torch.join("lib").join(library);
        let size = fs::metadata(&path).with_context(|| format!("{}: missing", path.display()))?.len();
        ensure!(size >> 20 >= least_mib, "{}: {size} bytes found, at least {least_mib} MiB expected", path.display());
    }
    Ok(())
}

/// The version without its build tag (`2.13.0+cu130`): from a Python package's `version.py`, or a C++ package's file.
fn version(torch: &Path) -> Result<String> {
    let file = |name: &str| fs::read_to_string(torch.join(name)).ok();
    let python = file("version.py").and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("__version__"))?.to_string();
        Some(line.trim_matches([' ', '=', '\'', '"']).to_string())
    });
    let found = python.or_else(|| file("build-version").map(|text| text.trim().to_string()));
    let found = found.with_context(|| format!("{}: no libtorch (version.py is missing)", torch.display()))?;
    Ok(found.split('+').next().unwrap_or_default().to_string())
}

/// Fetches into a folder beside `.libtorch`, checks it and renames it: an interrupted download is never taken for a whole.
fn fetch(root: &Path) -> Result<()> {
    let (part, own) = (root.join(".libtorch.part"), root.join(".libtorch"));
    for stale in [&part, &own] {
        if stale.exists() {
            fs::remove_dir_all(stale).with_context(|| format!("{}: cannot remove", stale.display()))?;
        }
    }
    let cuda = has_nvidia_driver();
    let set = if cuda { "with CUDA, about 5 GB" } else { "for the CPU, about 1.3 GB" };
    eprintln!("fetching libtorch {VERSION} ({set}) with pip into .libtorch");
    let mut pip = pip(root)?;
    pip.args(["install", "--quiet", "--disable-pip-version-check", "--target"]).arg(&part);
    pip.arg(format!("torch=={VERSION}"));
    if !cuda {
        pip.arg("--no-deps").args(LIGHT);
    }
    ensure!(pip.status().context("cannot start pip")?.success(), "pip could not fetch torch {VERSION}; see above");
    check(&part.join("torch"))?;
    fs::rename(&part, &own).with_context(|| format!("{}: cannot rename to {}", part.display(), own.display()))
}

/// `python3 -m pip`, or the pip of a fresh virtual environment where Python has none of its own.
fn pip(root: &Path) -> Result<Command> {
    let works = |python: &Path| {
        let quiet =
            Command::new(python).args(["-m", "pip", "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        quiet.is_ok_and(|status| status.success())
    };
    let mut python = PathBuf::from("python3");
    if !works(&python) {
        let venv = root.join("target/pip");
        let made = Command::new("python3").args(["-m", "venv"]).arg(&venv).status();
        python = venv.join("bin/python3");
        if !made.is_ok_and(|status| status.success()) || !works(&python) {
            bail!("pip is needed to fetch libtorch: install Python 3 with pip (Debian: apt install python3-pip)");
        }
    }
    let mut command = Command::new(python);
    command.args(["-m", "pip"]);
    Ok(command)
}

fn has_nvidia_driver() -> bool {
    Path::new("/proc/driver/nvidia/version").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fake(dir: &Path, version: &str, mib: u64) -> PathBuf {
        let torch = dir.join("torch");
        fs::create_dir_all(torch.join("lib")).unwrap();
        fs::write(torch.join("version.py"), format!("__version__ = '{version}'\ncuda = None\n")).unwrap();
        for library in ["libtorch_cpu.so", "libtorch.so", "libc10.so"] {
            let file = fs::File::create(torch.join("lib").join(library)).unwrap();
            file.set_len(mib << 20).unwrap();
        }
        torch
    }

    #[test]
    fn a_whole_libtorch_of_the_right_version_passes() {
        let dir = tempfile::tempdir().unwrap();
        check(&fake(dir.path(), "2.13.0+cu130", 120)).unwrap();
    }

    #[test]
    fn another_version_and_a_cut_download_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = check(&fake(dir.path(), "2.9.1", 120)).unwrap_err().to_string();
        assert!(error.contains("2.9.1 found, 2.13.0 expected"), "{error}");
        let error = check(&fake(dir.path(), "2.13.0", 1)).unwrap_err().to_string();
        assert!(error.contains("libtorch_cpu.so: 1048576 bytes found"), "{error}");
        assert!(check(dir.path()).unwrap_err().to_string().contains("no libtorch"));
    }

    #[test]
    fn a_given_libtorch_is_linked_once() {
        let dir = tempfile::tempdir().unwrap();
        let (given, own) = (fake(dir.path(), "2.13.0", 120), dir.path().join("x/.libtorch/torch"));
        link(&given, &own).unwrap();
        link(&given, &own).unwrap();
        assert_eq!(version(&own).unwrap(), "2.13.0");
    }
}
