//! A training or a one-shot search on several processes, the ranks of [`crate::nn::ranks`]: started by `--procs N`, which starts
//! this program N times, or by `torchrun`, `srun` or `mpirun`, whose environment says which rank a process is.
//!
//! The first rank alone has the run folder, speaks and writes. The others get a copy of the folder as it is at the start, in a
//! temporary folder of their own, so that they begin where the first does, and drop it at the end.

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tch::Device;
use tempfile::TempDir;

use crate::nn::ranks::{self, Meeting};
use crate::run::interrupt::{self, Interrupted};
use crate::run::run_dir::RunDir;
use crate::run::{watch, words};

/// What the environment says of this process.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Start {
    rank: usize,
    world: usize,
    /// Number among the ranks of its machine.
    local_rank: usize,
    /// Ranks of its machine, where it is known.
    local_world: usize,
    at: Meeting,
}

static START: OnceLock<Start> = OnceLock::new();
static SCRATCH: Mutex<Option<TempDir>> = Mutex::new(None);

/// Port where ranks meet, if nothing names one.
const PORT: u16 = 29511;

/// Variables of rank, world, local rank and local world: of torchrun and `--procs`, Open MPI, MPICH, and a step of Slurm.
const VARIABLES: [[&str; 4]; 4] = [
    ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"],
    ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"],
    ["PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"],
    ["SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", ""],
];

impl Start {
    /// As the variables say that `get` reads; none where they tell of no other process.
    fn read(get: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let number = |name: &str| {
            let text = get(name).filter(|_| !name.is_empty());
            let parse = |text: String| text.parse().with_context(|| format!("{name}={text}: expected a number"));
            text.map(parse).transpose()
        };
        for [rank_name, world_name, local_name, local_world_name] in VARIABLES {
            let (Some(rank), Some(world)) = (number(rank_name)?, number(world_name)?) else { continue };
            ensure!(rank < world, "{rank_name}={rank}, {world_name}={world}: expected a smaller rank");
            if world == 1 {
                continue;
            }
            let host = match get("MASTER_ADDR") {
                Some(host) => host,
                None => first_node(get)?.unwrap_or_else(|| "127.0.0.1".into()),
            };
            let own_port = || {
                let job = get("SLURM_JOB_ID").and_then(|id| id.parse::<u64>().ok());
                PORT + job.map_or(0, |id| (id % 1000) as u16)
            };
            let given = get("MASTER_PORT");
            let parse = |text: String| text.parse().with_context(|| format!("MASTER_PORT={text}: expected a port"));
            let port: u16 = given.map(parse).transpose()?.unwrap_or_else(own_port);
            // The port itself is taken by torchrun's own store.
            let port = if get("TORCHELASTIC_RUN_ID").is_some() { port.saturating_add(1) } else { port };
            let interface = get("GLOO_SOCKET_IFNAME").unwrap_or_default();
            return Ok(Some(Self {
                rank,
                world,
                local_rank: number(local_name)?.unwrap_or(0),
                local_world: number(local_world_name)?.unwrap_or(1).max(1),
                at: Meeting { host, port, interface },
            }));
        }
        Ok(None)
    }
}

/// The first machine of a Slurm step of several.
fn first_node(get: &dyn Fn(&str) -> Option<String>) -> Result<Option<String>> {
    let is_several = get("SLURM_STEP_NUM_NODES").is_some_and(|nodes| nodes != "1");
    let Some(list) = get("SLURM_STEP_NODELIST").filter(|_| is_several) else { return Ok(None) };
    let output = Command::new("scontrol").args(["show", "hostnames", &list]).output();
    let output = output.context("scontrol, which names the machines of this step: set MASTER_ADDR instead")?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned))
}

/// Says that this process shares its work where its environment tells so, for `join` to do. With `procs` of more than 1, and no
/// such environment, it starts that many processes of the same command line and waits for their end: then there is nothing left to
/// do, and the answer is true.
pub fn begin(procs: Option<usize>) -> Result<bool> {
    let start = Start::read(&|name| std::env::var(name).ok().filter(|text| !text.is_empty()))?;
    if let (Some(start), Some(procs)) = (&start, procs) {
        ensure!(start.world == procs, "--procs {procs}: this is one of {} processes already", start.world);
    }
    match (start, procs) {
        (Some(start), _) => {
            START.get_or_init(|| start);
            Ok(false)
        }
        (None, Some(procs)) if procs > 1 => start_all(procs).map(|()| true),
        _ => Ok(false),
    }
}

/// Number of this process and of all on this machine; 0 of 1 where it is alone.
pub(super) fn local() -> (usize, usize) {
    START.get().map_or((0, 1), |start| (start.local_rank, start.local_world))
}

/// What an error of this process begins with: its rank, where others tell theirs too.
pub(super) fn who() -> String {
    START.get().filter(|start| start.rank > 0).map_or_else(String::new, |start| format!("rank {}: ", start.rank))
}

fn start_all(procs: usize) -> Result<()> {
    // Free a moment ago.
    let port =
        TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).context("a free port")?.port();
    let mut children: Vec<Child> = Vec::new();
    for rank in 0..procs {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(std::env::args_os().skip(1)).stdin(Stdio::null());
        let numbers = [("RANK", rank), ("WORLD_SIZE", procs), ("LOCAL_RANK", rank), ("LOCAL_WORLD_SIZE", procs)];
        command.envs(numbers.map(|(name, number)| (name, number.to_string())));
        command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
        if rank > 0 {
            command.stdout(Stdio::null());
        }
        // A signal of the terminal reaches this process alone, which passes it on once.
        command.process_group(0);
        crate::executor::die_with_parent(&mut command);
        children.push(command.spawn().with_context(|| format!("cannot start process {rank} of {procs}"))?);
    }
    wait_for(&mut children)
}

/// Waits for all. Where one fails the others see it and end; those that do not are ended.
fn wait_for(children: &mut [Child]) -> Result<()> {
    const GRACE: Duration = Duration::from_secs(20);
    let mut ended: Vec<Option<ExitStatus>> = vec![None; children.len()];
    let (mut failed, mut asked, mut interrupted) = (None::<(usize, Instant)>, false, false);
    while ended.contains(&None) {
        sleep(Duration::from_millis(50));
        for (rank, child) in children.iter_mut().enumerate() {
            if ended[rank].is_none() {
                ended[rank] = child.try_wait()?;
                let is_first_failure = failed.is_none() && ended[rank].is_some_and(|status| !status.success());
                failed = if is_first_failure { Some((rank, Instant::now())) } else { failed };
            }
        }
        let late = |times: u32| failed.is_some_and(|(_, at)| at.elapsed() > GRACE * times);
        let signal = if late(2) {
            Some(libc::SIGKILL)
        } else {
            let due = (interrupt::requested() && !interrupted) || (late(1) && !asked);
            due.then_some(libc::SIGTERM)
        };
        if let Some(signal) = signal {
            (asked, interrupted) = (true, interrupt::requested());
            for (child, _) in children.iter().zip(&ended).filter(|(_, ended)| ended.is_none()) {
                // SAFETY: kill(2) with the id of a child that has not been waited for.
                unsafe { libc::kill(child.id() as libc::pid_t, signal) };
            }
        }
    }
    match failed {
        _ if interrupted => Err(Interrupted.into()),
        Some((rank, _)) => bail!(
            "process {rank} of {} failed ({}), and the run with it; what was computed up to the last checkpoint is kept",
            children.len(),
            ended[rank].expect("it has ended")
        ),
        None => Ok(()),
    }
}

/// Joins the other ranks, if there are any and this process is not among them yet. This one computes on `device`.
pub(super) fn join(device: Device) -> Result<()> {
    let Some(Start { rank, world, at, .. }) = START.get().filter(|_| !ranks::are_several()) else { return Ok(()) };
    let place = || format!("rank {rank} of {world}, which meet at {}:{}", at.host, at.port);
    ranks::join(at, *rank, *world).with_context(place)?;
    let way = match ranks::join_cards(device).with_context(place)? {
        Ok(version) => {
            watch::begin(&at.host).with_context(place)?;
            format!("NCCL {version}")
        }
        Err(why) => format!("the host's memory ({why})"),
    };
    if device.is_cuda() && *rank == 0 {
        words::tell(format_args!("gradients of {world} processes meet by {way}"));
    }
    Ok(())
}

/// Says how the first rank's folder begins, or that it could not be opened; others call [`copy_of_first`].
pub(super) fn share(opened: &Result<RunDir>) -> Result<()> {
    let bytes = opened.as_ref().map_or(Ok(Vec::new()), |dir| pack(dir.root()))?;
    ranks::bytes_of_first(&bytes);
    Ok(())
}

/// A folder of this rank's own that begins as the first rank's does. Where that could not be opened, which it says itself, the
/// process ends.
pub(super) fn copy_of_first() -> Result<PathBuf> {
    let bytes = ranks::bytes_of_first(&[]);
    if bytes.is_empty() {
        std::process::exit(1);
    }
    sweep(&std::env::temp_dir());
    let prefix = format!("{PREFIX}{}-", std::process::id());
    let scratch = tempfile::Builder::new().prefix(&prefix).tempdir().context("a temporary folder")?;
    unpack(&bytes, scratch.path())?;
    let path = scratch.path().to_path_buf();
    *SCRATCH.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(scratch);
    Ok(path)
}

/// Begins the names of temporary folders, in front of the number of their process.
const PREFIX: &str = "nas-rank-";

/// Removes the temporary folders of ranks that were killed on this machine.
fn sweep(temporary: &Path) {
    for entry in fs::read_dir(temporary).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')).map(|(owner, _)| owner);
        if owner.is_some_and(|owner| owner.parse::<u32>().is_ok() && !Path::new("/proc").join(owner).exists()) {
            // It would do no harm but take room; another user's cannot be removed.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Removes what this process has in a temporary folder.
pub(super) fn clean() {
    drop(SCRATCH.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take());
}

/// The shared work is done: the other ranks end, and the first goes on alone.
pub fn dismiss() {
    if !ranks::are_several() {
        return;
    }
    // All have come here.
    ranks::sum(&[0.0]);
    let is_first = ranks::is_first();
    watch::end();
    ranks::leave();
    if !is_first {
        clean();
        std::process::exit(0);
    }
}

/// Files that a run goes on from, each as the lengths of its name and contents, and these.
fn pack(root: &Path) -> Result<Vec<u8>> {
    /// Written by the first rank alone, and never read in a run.
    const LEFT_OUT: [&str; 4] = [".lock", "best.safetensors", "tensorboard", "pictures"];
    // Not empty, whatever the folder is.
    let (mut packed, mut folders) = (vec![1], vec![root.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("{}: cannot read the folder", folder.display()))? {
            let entry = entry?;
            let (path, kind) = (entry.path(), entry.file_type()?);
            if LEFT_OUT.iter().any(|name| entry.file_name() == *name) {
                continue;
            }
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                let name = path.strip_prefix(root)?.to_str().context("a file of a run has a name in UTF-8")?.to_owned();
                let bytes = fs::read(&path).with_context(|| format!("{}: cannot read", path.display()))?;
                for part in [name.as_bytes(), &bytes] {
                    packed.extend((part.len() as u64).to_le_bytes());
                    packed.extend(part);
                }
            }
        }
    }
    Ok(packed)
}

fn unpack(packed: &[u8], root: &Path) -> Result<()> {
    fn part<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
        let (len, after) = rest.split_first_chunk::<8>()?;
        let (part, after) = after.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
        *rest = after;
        Some(part)
    }
    let mut rest = packed.get(1..).unwrap_or_default();
    while !rest.is_empty() {
        let parts = part(&mut rest).zip(part(&mut rest));
        let (name, bytes) = parts.context("what the first rank has sent is cut off")?;
        let path = root.join(std::str::from_utf8(name)?);
        ensure!(path.starts_with(root), "{}: a file outside the run folder", path.display());
        fs::create_dir_all(path.parent().unwrap_or(root))?;
        fs::write(&path, bytes).with_context(|| format!("{}: cannot write", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Start>> {
        let get = |name: &str| variables.iter().find(|(of, _)| *of == name).map(|(_, value)| value.to_string());
        Start::read(&get)
    }

    #[test]
    fn launchers_say_who_a_process_is() {
        let torchrun = [
            ("RANK", "3"),
            ("WORLD_SIZE", "4"),
            ("LOCAL_RANK", "1"),
            ("LOCAL_WORLD_SIZE", "2"),
            ("MASTER_ADDR", "n1"),
            ("MASTER_PORT", "4000"),
            ("TORCHELASTIC_RUN_ID", "none"),
        ];
        let meeting = |host: &str, port| Meeting { host: host.into(), port, interface: String::new() };
        let expected = Start { rank: 3, world: 4, local_rank: 1, local_world: 2, at: meeting("n1", 4001) };
        assert_eq!(read(&torchrun).unwrap(), Some(expected));
        let mpi = [("OMPI_COMM_WORLD_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "2"), ("OMPI_COMM_WORLD_LOCAL_SIZE", "2")];
        let expected = Start { rank: 0, world: 2, local_rank: 0, local_world: 2, at: meeting("127.0.0.1", PORT) };
        assert_eq!(read(&mpi).unwrap(), Some(expected));
        let step =
            [("SLURM_PROCID", "1"), ("SLURM_STEP_NUM_TASKS", "2"), ("SLURM_LOCALID", "1"), ("SLURM_JOB_ID", "1007")];
        let expected = Start { rank: 1, world: 2, local_rank: 1, local_world: 1, at: meeting("127.0.0.1", PORT + 7) };
        assert_eq!(read(&step).unwrap(), Some(expected));
    }

    #[test]
    fn a_process_alone_stays_alone() {
        // The batch script of a job of four tasks is one process.
        for variables in
            [&[][..], &[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4")], &[("RANK", "0"), ("WORLD_SIZE", "1")]]
        {
            assert_eq!(read(variables).unwrap(), None);
        }
        for (wrong, named) in
            [([("RANK", "2"), ("WORLD_SIZE", "2")], "RANK=2"), ([("RANK", "x"), ("WORLD_SIZE", "2")], "RANK=x")]
        {
            let error = format!("{:#}", read(&wrong).unwrap_err());
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn folders_of_killed_ranks_are_swept() {
        let temp = tempfile::tempdir().unwrap();
        let own = format!("{PREFIX}{}-a", std::process::id());
        let names = [own.as_str(), "nas-rank-4294967295-b", "nas-rank-x-c", "other"];
        names.iter().for_each(|name| fs::create_dir(temp.path().join(name)).unwrap());
        sweep(temp.path());
        assert_eq!(names.map(|name| temp.path().join(name).exists()), [true, false, true, true]);
    }

    #[test]
    fn a_run_folder_travels() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let files =
            [("config.toml", "a = 1\n"), ("checkpoints/last.safetensors", "\0\u{1}"), ("pretrain/metrics.jsonl", "")];
        for (name, text) in
            files.into_iter().chain([("checkpoints/best.safetensors", "x"), ("tensorboard/events", "x")])
        {
            fs::create_dir_all(from.path().join(name).parent().unwrap()).unwrap();
            fs::write(from.path().join(name), text).unwrap();
        }
        let packed = pack(from.path()).unwrap();
        unpack(&packed, to.path()).unwrap();
        files.iter().for_each(|(name, text)| assert_eq!(fs::read_to_string(to.path().join(name)).unwrap(), *text));
        assert!(!to.path().join("checkpoints/best.safetensors").exists() && !to.path().join("tensorboard").exists());
        assert!(unpack(&packed[..packed.len() - 1], to.path()).is_err());
    }
}
