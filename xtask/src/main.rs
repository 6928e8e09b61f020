//! Developer commands: `cargo xtask setup | demo | test | gpu-check`. Depends on no libtorch, so that it can fetch it.

mod libtorch;
mod onnx;

use std::path::Path;
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
    /// Set up and prove the GPU path, where there is a GPU
    GpuCheck,
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
    libtorch::set_up(root)?;
    match task {
        TaskCommand::Setup => Ok(()),
        TaskCommand::Demo => demo(root),
        TaskCommand::Test { args } => test(root, &args),
        TaskCommand::GpuCheck => {
            build(root)?;
            nas_segment(root, &["gpu-check"])
        }
    }
}

fn test(root: &Path, args: &[String]) -> Result<()> {
    let mut command = cargo_command(&["test", "--workspace", "--release"], args);
    command.envs(onnx::python(root).map(|python| ("NAS_PYTHON", python)));
    call(root, command)
}

fn build(root: &Path) -> Result<()> {
    cargo(root, &["build", "--release", "--package", "nas-segment"], &[])
}

/// The main job, small: a search, then the architecture it found against DeepLabv3+ by one recipe.
fn demo(root: &Path) -> Result<()> {
    build(root)?;
    let job = |job, config, out, threads: &[&str]| {
        nas_segment(root, &[&[job, "--config", config, "--out", out, "--resume"], threads].concat())
    };
    // Two trials side by side: a second thread makes steps on such small maps slower (docs/results/search_step.md).
    job("search", "configs/segment/demo_search.toml", "runs/demo/search", &["--workers", "2", "--threads", "1"])?;
    job("compare", "configs/segment/demo_compare.toml", "runs/demo/compare", &[])
}

fn nas_segment(root: &Path, args: &[&str]) -> Result<()> {
    let mut command = Command::new(root.join("target/release/nas-segment"));
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
