//! Harness of the tests that need the binaries: builds them once, runs them, shows what they printed when a test fails; damaged files of
//! every format; the reference of experiment files.

pub mod formats;
pub mod mutation;
pub mod reference;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use tch::Tensor;

/// A binary of the workspace, built in the profile of the running test.
#[derive(Clone, Copy, Debug)]
pub struct Tool(&'static str);

/// `nas-segment`.
pub const SEGMENT: Tool = Tool("nas-segment");
/// `nas-classify`.
pub const CLASSIFY: Tool = Tool("nas-classify");
/// `nas-detect`.
pub const DETECT: Tool = Tool("nas-detect");

impl Tool {
    fn path(self) -> PathBuf {
        static BUILT: OnceLock<()> = OnceLock::new();
        let exe = std::env::current_exe().expect("a test has an executable");
        let profile_dir = exe.parent().and_then(Path::parent).expect("tests run from TARGET/PROFILE/deps");
        BUILT.get_or_init(|| {
            // All at once: a package of its own would resolve features, and so compile its dependencies, another way.
            let mut build = Command::new(env!("CARGO"));
            build.args(["build", "--quiet", "--workspace", "--exclude", "nas-regress", "--bins", "--target-dir"]);
            build.arg(profile_dir.parent().expect("a profile lies in a target folder")).current_dir(root());
            build.args(profile_dir.ends_with("release").then_some("--release"));
            assert!(build.status().expect("cargo runs").success(), "the programs do not build");
        });
        profile_dir.join(self.0)
    }

    /// Runs a line of a shell in `folder`, in which the tool is called by its name.
    pub fn shell(self, folder: &Path, line: &str) -> Output {
        let tools = self.path();
        let tools = tools.parent().expect("a binary lies in a folder").display().to_string();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("bash");
        command.args(["-c", line]).current_dir(folder).env("PATH", format!("{tools}:{path}")).env("REPO", root());
        command.env_remove("LD_LIBRARY_PATH").output().expect("bash runs")
    }

    /// A command, run in the workspace's folder.
    pub fn command(self, args: &[&str]) -> Command {
        let mut command = Command::new(self.path());
        command.args(args).current_dir(root()).env_remove("LD_LIBRARY_PATH");
        command
    }

    /// Runs the tool and returns its stdout; fails the test when it fails.
    pub fn succeed(self, args: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.command(args).output().expect("the tool runs");
        assert!(status.success(), "{} {args:?}: {status}\n{}", self.0, String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).expect("reports are UTF-8")
    }

    /// Runs the tool into its `--out`, killing it by SIGKILL a little later each time, until one process reaches the end. There are
    /// two kills or more, and one finds work in the folder that the next process goes on with.
    pub fn run_with_kills(self, args: &[&str]) {
        run_with_kills(|| self.command(args), self, args)
    }

    /// The program's name.
    pub fn name(self) -> &'static str {
        self.0
    }

    /// Runs the tool and kills it by SIGKILL after a while, if it is still at work then.
    pub fn kill_once(self, args: &[&str], after: Duration) {
        let mut child = self.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the tool runs");
        sleep(after);
        child.kill().and_then(|()| child.wait()).expect("the child is ours");
    }

    /// Runs the tool and kills it by SIGKILL once `when` holds.
    pub fn kill_when(self, args: &[&str], when: impl Fn() -> bool) {
        let mut child = self.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the tool runs");
        while !when() {
            assert!(child.try_wait().expect("the child is ours").is_none(), "{} {args:?} ended before", self.0);
            sleep(Duration::from_millis(5));
        }
        child.kill().and_then(|()| child.wait()).expect("the child is ours");
    }

    /// Runs the tool, which must fail with exit code 1; returns its stderr.
    pub fn fail(self, args: &[&str]) -> String {
        let Output { status, stderr, .. } = self.command(args).output().expect("the tool runs");
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        assert_eq!(status.code(), Some(1), "{} {args:?}\n{stderr}", self.0);
        stderr
    }
}

fn run_with_kills(command: impl Fn() -> Command, tool: Tool, args: &[&str]) {
    let out = args.iter().position(|arg| *arg == "--out").map(|at| Path::new(args[at + 1])).expect("a run folder");
    let has_work = |run: &Path| {
        ["checkpoints/last.safetensors", "trials.jsonl"]
            .iter()
            .any(|file| fs::metadata(run.join(file)).is_ok_and(|file| file.len() > 0))
    };
    let at_work = || {
        // A comparison's trainings.
        let mut inner = fs::read_dir(out.join("runs")).into_iter().flatten().flatten();
        has_work(out) || inner.any(|entry| has_work(&entry.path()))
    };
    // Machines differ: where the job was over before, it begins anew with half the pauses.
    for pause in [400, 200, 100, 50] {
        let (mut met, mut kills) = (false, 0);
        loop {
            let mut child = command().stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the tool runs");
            let deadline = Instant::now() + Duration::from_millis(pause + pause * 3 / 4 * kills);
            let mut ended = None;
            while ended.is_none() && Instant::now() < deadline {
                sleep(Duration::from_millis(5));
                ended = child.try_wait().expect("the child is ours");
            }
            if let Some(status) = ended {
                assert!(status.success(), "{} {args:?} failed after {kills} kills", tool.0);
                break;
            }
            child.kill().and_then(|()| child.wait()).expect("the child is ours");
            met |= at_work();
            kills += 1;
        }
        if met && kills >= 2 {
            return;
        }
        fs::remove_dir_all(out).expect("the run folder");
    }
    panic!("{} {args:?} is too short to be killed", tool.0);
}

/// A folder of libtorch's libraries in which the CUDA one computes on the CPU (`tests/fake_cuda`).
#[derive(Debug)]
pub struct SimulatedCard(PathBuf);

impl SimulatedCard {
    /// Builds it, once; says that the test was skipped where there is no C++ compiler.
    pub fn find() -> Option<Self> {
        static BUILD: Mutex<()> = Mutex::new(());
        let _one_at_a_time = BUILD.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (source, folder) = (root().join("tests/fake_cuda"), root().join("target/fake_cuda"));
        let changed = |path: PathBuf| fs::metadata(path).and_then(|file| file.modified()).ok();
        let built = changed(folder.join("libcuda.so.1"));
        let sources = ["fake_cuda.cpp", "nccl.cpp", "driver.c", "build.sh"].map(|name| changed(source.join(name)));
        if sources.iter().all(|source| *source <= built) {
            return Some(Self(folder));
        }
        let compiler = Command::new("c++").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !compiler.is_ok_and(|status| status.success()) {
            eprintln!("skipped: there is no C++ compiler to build the simulated card");
            return None;
        }
        let libtorch = std::env::var_os("LIBTORCH").map_or(root().join(".libtorch/torch"), PathBuf::from);
        let done = Command::new(source.join("build.sh")).arg(libtorch).arg(&folder).output().expect("bash runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Some(Self(folder))
    }

    /// Where the libraries are.
    pub fn libraries(&self) -> &Path {
        &self.0
    }

    /// A command of `tool` that finds the card.
    pub fn command(&self, tool: Tool, args: &[&str]) -> Command {
        let mut command = tool.command(args);
        command.env("LD_LIBRARY_PATH", &self.0);
        command
    }

    /// As [`Tool::succeed`], and without a warning of libtorch.
    pub fn succeed(&self, tool: Tool, args: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.command(tool, args).output().expect("the tool runs");
        let stderr = String::from_utf8_lossy(&stderr);
        assert!(status.success(), "{} {args:?}: {status}\n{stderr}", tool.0);
        assert!(!stderr.contains("Warning"), "{} {args:?}:\n{stderr}", tool.0);
        String::from_utf8(stdout).expect("reports are UTF-8")
    }

    /// As [`Tool::run_with_kills`].
    pub fn run_with_kills(&self, tool: Tool, args: &[&str]) {
        run_with_kills(|| self.command(tool, args), tool, args)
    }
}

/// A file below `NAS_DATA`; says that the test was skipped where there is none.
pub fn data(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("NAS_DATA").map(|root| Path::new(&root).join(name)).filter(|path| path.exists());
    if path.is_none() {
        eprintln!("skipped: NAS_DATA has no {name}");
    }
    path
}

/// Asserts that `file` has the same bytes in two run folders; of weights, the same tensors: their metadata names the folder.
pub fn assert_same_file(a: &Path, b: &Path, file: &str) {
    if file.ends_with(".safetensors") {
        assert_same_tensors(a, b, file);
        return;
    }
    let read =
        |run: &Path| fs::read(run.join(file)).unwrap_or_else(|error| panic!("{}/{file}: {error}", run.display()));
    assert!(read(a) == read(b), "{file} differs");
}

/// Asserts that the last checkpoints of two run folders hold the same bits; returns the names of their tensors.
pub fn assert_same_weights(a: &Path, b: &Path) -> Vec<String> {
    assert_same_tensors(a, b, "checkpoints/last.safetensors")
}

fn assert_same_tensors(a: &Path, b: &Path, file: &str) -> Vec<String> {
    let read = |run: &Path| {
        let mut tensors = Tensor::read_safetensors(run.join(file)).expect("weights");
        // The loop's own state holds seconds, which no two runs share.
        tensors.retain(|(name, _)| name != "loop_state.json");
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        tensors
    };
    let (a, b) = (read(a), read(b));
    assert_eq!(a.len(), b.len(), "{file}");
    for ((name, a), (other, b)) in a.iter().zip(&b) {
        assert!(name == other && a.equal(b), "{name} of {file} differs");
    }
    a.into_iter().map(|(name, _)| name).collect()
}

/// The workspace's folder.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace")
}
