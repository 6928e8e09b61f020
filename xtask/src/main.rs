//! Developer commands: `cargo xtask setup | demo | test | dist | site | gpu-check | gpu-bundle`. Depends on no libtorch, so that it can fetch it.

mod dist;
mod libtorch;
mod notices;
mod python;
mod site;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};

/// Set-up and developer commands
#[derive(Debug, Parser)]
enum Task {
    #[command(flatten)]
    Task(TaskCommand),
}

#[derive(Debug, Subcommand)]
enum TaskCommand {
    /// Find libtorch, or fetch it with pip into .libtorch
    Setup,
    /// Set up, build, and search, train and compare on a synthetic street set (about 10 minutes on 2 cores)
    Demo,
    /// Set up and run all tests
    Test {
        /// Passed on to `cargo test`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Make target/dist: the programs for machines without Rust, as a tarball and as a Python wheel
    Dist,
    /// Make target/site: the documentation as a website, whose links are checked
    Site,
    /// Set up and prove the GPU path of the three programs, where there is a GPU
    GpuCheck,
    /// Make .gpu: the three programs for a machine with a card and torch 2.11, without Rust and network (15 minutes the first time)
    GpuBundle {
        /// Folder with camvid/ and cifar10/, of which a sample is packed
        data: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let Task::Task(task) = Task::parse();
    match run(task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(1)
        }
    }
}

fn run(task: TaskCommand) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace")?;
    if let TaskCommand::Site = task {
        return site::site(root);
    }
    libtorch::set_up(root)?;
    match task {
        TaskCommand::Site => unreachable!("needs no libtorch"),
        TaskCommand::Setup => Ok(()),
        TaskCommand::Demo => demo(root),
        TaskCommand::Test { args } => test(root, &args),
        TaskCommand::Dist => dist::dist(root),
        TaskCommand::GpuCheck => {
            PROGRAMS.iter().try_for_each(|program| build(root, program))?;
            PROGRAMS.iter().try_for_each(|program| tool(root, program, &["gpu-check"]))
        }
        TaskCommand::GpuBundle { data } => gpu_bundle(root, data.as_deref()),
    }
}

/// Tests that draw from libtorch's generator one at a time (.cargo/config.toml); those that run the programs on all cores.
fn test(root: &Path, args: &[String]) -> Result<()> {
    let run = |of: &[&str], threads: Option<usize>| {
        let mut command = cargo_command(&[&["test", "--release"], of].concat(), args);
        command.envs(python::interpreter(root).map(|python| ("NAS_PYTHON", python)));
        command.envs(threads.map(|threads| ("RUST_TEST_THREADS", threads.to_string())));
        call(root, command)
    };
    if !args.is_empty() {
        return run(&["--workspace"], None);
    }
    run(&["--workspace", "--exclude", "nas-tests"], None)?;
    run(&["--package", "nas-tests"], Some(std::thread::available_parallelism()?.get()))
}

const PROGRAMS: [&str; 3] = ["nas-segment", "nas-classify", "nas-detect"];

fn build(root: &Path, program: &str) -> Result<()> {
    cargo(root, &["build", "--release", "--package", program], &[])
}

fn gpu_bundle(root: &Path, data: Option<&Path>) -> Result<()> {
    let mut command = Command::new("bash");
    command.arg(root.join("xtask/gpu_bundle/make_bundle.sh")).arg(root).args(data);
    call(root, command)
}

/// The main job, small: a search, then the architecture it found against DeepLabv3+ by one recipe.
fn demo(root: &Path) -> Result<()> {
    build(root, "nas-segment")?;
    let job = |job, config, out, threads: &[&str]| {
        tool(root, "nas-segment", &[&[job, "--config", config, "--out", out, "--resume"], threads].concat())
    };
    // Two trials side by side: a second thread makes steps on such small maps slower (docs/results/search_step.md).
    job("search", "configs/segment/demo_search.toml", "runs/demo/search", &["--workers", "2", "--threads", "1"])?;
    job("compare", "configs/segment/demo_compare.toml", "runs/demo/compare", &[])
}

fn tool(root: &Path, program: &str, args: &[&str]) -> Result<()> {
    let mut command = Command::new(root.join("target/release").join(program));
    command.args(args);
    call(root, command)
}

fn cargo(root: &Path, args: &[&str], more: &[String]) -> Result<()> {
    call(root, cargo_command(args, more))
}

fn cargo_command(args: &[&str], more: &[String]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).args(more);
    command
}

fn call(root: &Path, mut command: Command) -> Result<()> {
    // OpenMP threads that spin while they wait take the cores from each other.
    command.current_dir(root).env("OMP_WAIT_POLICY", "passive");
    let shown = format!("{command:?}");
    eprintln!("$ {shown}");
    let status = command.status().with_context(|| format!("cannot start {shown}"))?;
    ensure!(status.success(), "{shown} failed ({status})");
    Ok(())
}
