//! The frame of the project's binaries: common options, output, exit codes.

use std::any::Any;
use std::fmt::Display;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::builder::RangedU64ValueParser;
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::nn::ranks;
use crate::run::config::Growth;
use crate::run::device::{self, DeviceChoice, Numerics};
use crate::run::interrupt::{self, Interrupted};
use crate::run::launch;
use crate::run::run_dir::RunDir;
use crate::run::{watch, words};

/// Options of every command that works on a run.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Experiment file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Replace a key of the experiment file; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
    /// Run folder [default: runs/CONFIG-sSEED]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Go on with the run in the folder, where there is one; a training also with more epochs, a search with more trials
    #[arg(long)]
    pub resume: bool,
    /// While it runs, also write event files for TensorBoard, into the folder tensorboard of the run
    #[arg(long)]
    pub tensorboard: bool,
    /// Where and how to compute
    #[command(flatten)]
    pub compute: ComputeArgs,
}

/// Where and how a command computes.
#[derive(Clone, Debug, Args)]
pub struct ComputeArgs {
    /// auto, cpu, cuda or cuda:INDEX
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    pub device: DeviceChoice,
    /// Threads of libtorch and of data loading [default: all cores]
    #[arg(long, value_name = "N", value_parser = count(1, 4096))]
    pub threads: Option<usize>,
    /// Mixed precision (CUDA only)
    #[arg(long)]
    pub amp: bool,
    /// Mixed precision in bfloat16 (CUDA only)
    #[arg(long)]
    pub bf16: bool,
    /// Round the operands of products to TF32 (CUDA only)
    #[arg(long)]
    pub tf32: bool,
    /// Equal runs give equal bits on a card too, more slowly
    #[arg(long)]
    pub deterministic: bool,
}

/// A resolved [`ComputeArgs`].
#[derive(Clone, Copy, Debug)]
pub struct Compute {
    /// Where tensors live.
    pub device: tch::Device,
    /// Threads of libtorch and of data loading.
    pub threads: usize,
    /// Mixed precision.
    pub amp: bool,
}

impl Compute {
    /// The options that let worker number `slot` of this process compute likewise, with threads of its own: on the CPU, or on
    /// one of the cards, of which the first is this process' own.
    pub fn arguments(&self, slot: usize) -> Vec<String> {
        let device = self.device_of(slot);
        ["--device".to_string(), device].into_iter().chain(self.flags()).collect()
    }

    /// The options that say how to compute, wherever it is.
    pub fn flags(&self) -> Vec<String> {
        let flags = Numerics::chosen().flags().into_iter().chain(self.amp.then_some("--amp"));
        flags.map(String::from).collect()
    }

    /// `float32`, or how products are rounded.
    pub fn precision(&self) -> &'static str {
        let Numerics { tf32, bf16, .. } = Numerics::chosen();
        match (self.amp, bf16, tf32) {
            (true, true, _) => "mixed precision (bfloat16)",
            (true, false, _) => "mixed precision (float16)",
            (false, _, true) => "float32 (TF32 products)",
            (false, _, false) => "float32",
        }
    }

    /// Name of the device of worker number `slot`: on the CPU, or one of the cards, of which the first is this process' own.
    pub fn device_of(&self, slot: usize) -> String {
        match self.device {
            tch::Device::Cuda(own) => format!("cuda:{}", (own + slot) % tch::Cuda::device_count().max(1) as usize),
            _ => "cpu".to_string(),
        }
    }
}

impl ComputeArgs {
    /// The CPU with all its cores.
    pub fn cpu() -> Self {
        Self { device: DeviceChoice::Cpu, threads: None, amp: false, bf16: false, tf32: false, deterministic: false }
    }

    /// Finds the device and sets libtorch's threads.
    pub fn resolve(&self) -> Result<Compute> {
        // Of processes that share a run each has a card of its own and its part of the cores.
        let (local_rank, local_world) = launch::local();
        let device = match self.device.resolve()? {
            tch::Device::Cuda(own) => tch::Device::Cuda((own + local_rank) % tch::Cuda::device_count().max(1) as usize),
            device => device,
        };
        let Self { amp, bf16, tf32, deterministic, .. } = *self;
        for (flag, given) in [("--amp", amp), ("--bf16", bf16), ("--tf32", tf32)] {
            anyhow::ensure!(!given || device.is_cuda(), "{flag} needs a CUDA device; this run is on the CPU");
        }
        Numerics { tf32, bf16, deterministic }.apply();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = self.threads.unwrap_or((cores / local_world).max(1));
        if threads > 1 {
            patient_threads();
        }
        tch::set_num_threads(threads as i32);
        tch::set_num_interop_threads(1);
        Ok(Compute { device, threads, amp: amp || bf16 })
    }
}

/// Starts this program anew, in the same process, unless its environment says already how long OpenMP's threads spin before they
/// sleep. By default they spin for so long that two programs, or a program and its children, take the cores from each other;
/// sleeping at once (`OMP_WAIT_POLICY=passive` alone) doubles the time of a step of many small operations. libgomp reads these
/// variables before `main`.
fn patient_threads() {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::process::CommandExt;

        let passive = std::env::var("OMP_WAIT_POLICY").map_or(true, |policy| policy.eq_ignore_ascii_case("passive"));
        if !passive || std::env::var_os("GOMP_SPINCOUNT").is_some() {
            return;
        }
        let Ok(program) = std::env::current_exe() else { return };
        let mut args = std::env::args_os();
        let mut command = std::process::Command::new(program);
        command.arg0(args.next().unwrap_or_default()).args(args);
        // Comes back only if it fails; then the threads wait as they are told.
        let _ = command.envs([("OMP_WAIT_POLICY", "passive"), ("GOMP_SPINCOUNT", "5000")]).exec();
    }
}

/// What is worth knowing about a run besides its config.
#[derive(Serialize)]
struct Meta {
    /// Program and subcommand: what the folder is a run of.
    job: String,
    command: Vec<String>,
    version: &'static str,
    commit: Option<String>,
    device: String,
    threads: usize,
    amp: bool,
    started_unix_secs: u64,
}

impl Meta {
    fn new(compute: Compute) -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self {
            job: job(),
            command: std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect(),
            version: env!("CARGO_PKG_VERSION"),
            commit: commit(),
            device: device::describe(compute.device),
            threads: compute.threads,
            amp: compute.amp,
            started_unix_secs: since.map_or(0, |time| time.as_secs()),
        }
    }
}

/// The commit that this program was built from: what the file `commit` beside it says, which packages have; else what was checked out,
/// by the reflog of the checkout that it was compiled in, when it was made. The repository that it is run in has no say.
fn commit() -> Option<String> {
    let program = std::env::current_exe().ok()?;
    let text = std::fs::read_to_string(program.with_file_name("commit")).ok().or_else(|| {
        let made = program.metadata().ok()?.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
        let mut git = std::process::Command::new("git");
        git.args(["-C", env!("CARGO_MANIFEST_DIR"), "rev-parse"]).arg(format!("HEAD@{{@{}}}", made.as_secs()));
        let output = git.env_remove("GIT_DIR").output().ok().filter(|output| output.status.success())?;
        String::from_utf8(output.stdout).ok()
    });
    text.map(|text| text.trim().to_string()).filter(|text| !text.is_empty())
}

/// The program and its subcommand, such as `nas-segment train`.
pub fn job() -> String {
    let mut args = std::env::args_os();
    let program = args.next().map(PathBuf::from).unwrap_or_default();
    let program = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let command = args.next().unwrap_or_default();
    // Commands that work on a search's folder.
    let command = if command == "ask" || command == "tell" { "search".into() } else { command.to_string_lossy() };
    format!("{program} {command}")
}

/// Opens a command's run folder, does its `work` there unless the run is done, and prints its result. `grows` is the key of the
/// config that may be larger than it was when the run began.
pub fn run_in_folder<R: Display + Serialize + DeserializeOwned>(
    args: &RunArgs,
    compute: Compute,
    seed: Option<u64>,
    (config, grows): (&impl Serialize, Option<&str>),
    format: Format,
    work: impl FnOnce(&RunDir) -> Result<R>,
) -> Result<()> {
    launch::join(compute.device)?;
    let dir = match ranks::is_first() {
        true => {
            let dir = open_folder(args, compute, seed, (config, grows));
            launch::share(&dir)?;
            dir?
        }
        false => {
            let copy = Some(launch::copy_of_first()?);
            let args = RunArgs { out: copy, resume: true, tensorboard: false, ..args.clone() };
            open_folder(&args, compute, seed, (config, grows))?
        }
    };
    let result = dir.result()?.map_or_else(|| work(&dir), Ok)?;
    if ranks::is_first() { print(&result, format) } else { Ok(()) }
}

/// Opens a command's run folder, as [`run_in_folder`] does.
pub fn open_folder(
    args: &RunArgs,
    compute: Compute,
    seed: Option<u64>,
    (config, grows): (&impl Serialize, Option<&str>),
) -> Result<RunDir> {
    let out = args.folder(seed);
    let config = crate::run::config::to_toml(config);
    let dir = RunDir::open_growing(&out, &config, args.resume, &Meta::new(compute), grows)?;
    if let Some(Growth { key, from, to }) = dir.growth() {
        words::tell(format_args!("{}: goes on from {key} = {from} to {to}", out.display()));
    }
    Ok(dir.with_tensorboard(args.tensorboard))
}

impl RunArgs {
    /// The run folder of an experiment of `seed`.
    pub fn folder(&self, seed: Option<u64>) -> PathBuf {
        let stem = self.config.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let seed = seed.map(|seed| format!("-s{seed}")).unwrap_or_default();
        self.out.clone().unwrap_or_else(|| PathBuf::from("runs").join(format!("{stem}{seed}")))
    }
}

/// How a command prints what it found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Text,
    /// One JSON object on stdout
    Json,
}

/// Reads the command line. `examples` end the help of the commands that they name, in which `PROGRAM` stands for the program's
/// name. Ends the process where there is nothing to do: with 0 after `--help`, with 1 after a mistake.
pub fn parse<C: clap::Parser>(examples: &[(&str, &'static str)]) -> C {
    let read = command::<C>(examples).try_get_matches().and_then(|read| C::from_arg_matches(&read));
    read.unwrap_or_else(|error| {
        // Nobody can be told that the terminal is gone.
        let _ = error.print();
        std::process::exit(error.exit_code().min(1))
    })
}

/// The command line that [`parse`] reads.
pub fn command<C: clap::Parser>(examples: &[(&str, &'static str)]) -> clap::Command {
    let program = C::command();
    let name = program.get_name().to_string();
    let with_example = |command: clap::Command| {
        let example = examples.iter().find(|(of, _)| *of == command.get_name());
        example.map(|(_, text)| *text).into_iter().fold(command, clap::Command::after_help)
    };
    of_program(program.mut_subcommands(with_example), &name)
}

fn of_program(command: clap::Command, name: &str) -> clap::Command {
    let help = command.get_after_help().map(|help| help.to_string().replace("PROGRAM", name));
    help.into_iter().fold(command, clap::Command::after_help).mut_subcommands(|command| of_program(command, name))
}

/// Says on stderr what looks like a mistake.
pub fn warn(warning: impl Display) {
    if ranks::is_first() {
        words::tell(format_args!("warning: {}", words::text(&warning.to_string())));
    }
}

/// Prints a report on stdout.
pub fn print<R: Display + Serialize>(report: &R, format: Format) -> Result<()> {
    print_text(&match format {
        Format::Text => words::text(&report.to_string()).into_owned() + "\n",
        Format::Json => serde_json::to_string(report)? + "\n",
    })
}

/// Prints on stdout. A closed pipe (`| head`) is not an error.
pub fn print_text(text: &str) -> Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// An error when samples of a split are broken, which shows the first of them. `len` counts the samples of the split, `program`
/// is the command that lists all problems.
pub fn require_sound<P: Display>(problems: &[P], len: usize, split: &str, program: &str) -> Result<()> {
    const SHOWN: usize = 10;
    if problems.is_empty() {
        return Ok(());
    }
    let shown: Vec<String> = problems.iter().take(SHOWN).map(|problem| format!("\n  {problem}")).collect();
    let more = match problems.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!("\n  and {more} more (`{program} data check` lists all)"),
    };
    anyhow::bail!("{} of {len} samples of the {split} split are broken:{}{more}", problems.len(), shown.concat())
}

/// Reads a whole number of a range, for clap.
pub fn count(from: u64, to: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(from..=to)
}

/// Reads a number of 0 to 1, for clap.
pub fn fraction(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (0.0..=1.0).contains(number));
    number.ok_or_else(|| "expected a number of 0 to 1".into())
}

/// Reads `512x1024` as (height, width), for clap.
pub fn parse_size(text: &str) -> Result<(i64, i64), String> {
    /// Keeps counts far from overflow.
    const MAX_SIDE: i64 = 100_000;
    let size = text.split_once('x').and_then(|(h, w)| Some((h.parse().ok()?, w.parse().ok()?)));
    size.filter(|(h, w)| (1..=MAX_SIDE).contains(h) && (1..=MAX_SIDE).contains(w))
        .ok_or_else(|| format!("expected HEIGHTxWIDTH with sides of 1 to {MAX_SIDE}, such as 512x1024"))
}

/// What an error ends with after which nothing is lost.
const KEPT: &str = "what was computed up to the last checkpoint is kept";

/// What is said of a rank that cannot be reached.
pub(super) fn of_lost_rank(lost: &str) -> String {
    format!("rank {}: {lost}; {KEPT}, --resume goes on with it", ranks::rank())
}

/// Runs a command. Exit code 0: done; 1: the input or the environment is at fault, or a signal came; 2: a bug.
pub fn run(command: impl FnOnce() -> Result<()> + std::panic::UnwindSafe) -> ExitCode {
    keep_freed_memory();
    let outcome = std::panic::catch_unwind(|| {
        interrupt::install()?;
        command()
    });
    // All come to these ends together; the others of one that fails may wait for it.
    if matches!(&outcome, Ok(Ok(()))) || matches!(&outcome, Ok(Err(error)) if error.is::<Interrupted>()) {
        watch::end();
    }
    launch::clean();
    let (message, code) = match outcome {
        Ok(Ok(())) => return ExitCode::SUCCESS,
        // The first rank says it.
        Ok(Err(error)) if !ranks::is_first() && error.is::<Interrupted>() => return ExitCode::from(1),
        Ok(Err(error)) => (format!("{}{error:#}", launch::who()), 1),
        Err(panic) => match text_of(&*panic) {
            Some(text) if let Some(lost) = ranks::lost(text) => (of_lost_rank(lost), 1),
            Some(text) if is_lack_of_memory(text) => (
                format!("not enough memory (the message is above): a smaller model, batch or image needs less; {KEPT}"),
                1,
            ),
            _ => (format!("this is a bug (the message is above); {KEPT}"), 2),
        },
    };
    words::tell(format_args!("error: {}", words::text(&message)));
    ExitCode::from(code)
}

/// The message of a panic, where it is text.
pub(crate) fn text_of(panic: &(dyn Any + Send)) -> Option<&str> {
    panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied())
}

/// Whether a panic or an error passes on what libtorch says where it gets no memory.
pub(crate) fn is_lack_of_memory(text: &str) -> bool {
    const SAID: [&str; 4] = ["can't allocate memory", "bad_alloc", "out of memory", "not enough memory"];
    SAID.iter().any(|said| text.contains(said))
}

/// Keeps freed memory for the next step instead of giving it back to the kernel: a training step frees and allocates the same
/// large tensors again, and a third of its time would go into page faults. Most of what libtorch allocates is small, which
/// mimalloc does in half the time of glibc's malloc.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn keep_freed_memory() {
    #[cfg(feature = "mimalloc")]
    {
        /// mimalloc's `mi_option_purge_delay`, which its bindings leave out; below 0 is never.
        const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
        // SAFETY: it only sets an option, and no other thread runs yet.
        unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, -1) };
    }
    #[cfg(not(feature = "mimalloc"))]
    // SAFETY: mallopt only sets options, and no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_TOP_PAD, 64 << 20);
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn keep_freed_memory() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_the_command_line_have_ranges() {
        assert_eq!(fraction("0.5"), Ok(0.5));
        for text in ["-0.1", "1.1", "nan", "inf", "x"] {
            assert!(fraction(text).is_err(), "{text}");
        }
        for text in ["0x16", "16x0", "100001x1", "1x", "-1x4"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_lack_of_memory_is_no_bug() {
        let said = |work: fn()| is_lack_of_memory(text_of(&*std::panic::catch_unwind(work).unwrap_err()).unwrap());
        assert!(said(|| drop(tch::Tensor::zeros([1 << 60], (tch::Kind::Uint8, tch::Device::Cpu)))));
        assert!(!said(|| panic!("index out of bounds")));
    }
}
