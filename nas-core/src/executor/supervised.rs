//! A program that takes all it has started with it, whoever ends first.
//!
//! Between this process and the program stands a supervisor: a fork that never runs another program and allocates nothing. Orphans
//! of the program become its children (`PR_SET_CHILD_SUBREAPER`), so that sessions and daemons stay in reach. When the program
//! ends, when a signal comes, or when this process dies, however it dies (`PR_SET_PDEATHSIG`), the supervisor kills what is left
//! until nothing is. Outside Linux the program leads a process group, which is killed instead.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::run::interrupt::{self, Interrupted};
use crate::run::words;

/// Bytes of each end of what a program prints that are kept.
pub const KEPT_BYTES: usize = 8 << 10;

/// Longest last line of a program that is taken.
const LAST_BYTES: usize = 1 << 20;

/// A running program with everything that it has started.
#[derive(Debug)]
pub struct Supervised {
    child: Child,
}

impl Supervised {
    /// Starts the program. The calling thread must not end before the program does.
    ///
    /// # Errors
    /// If there is no such program, or it may not be run.
    pub fn spawn(mut command: Command) -> io::Result<Self> {
        command.process_group(0);
        #[cfg(target_os = "linux")]
        {
            // SAFETY: getpid has no preconditions.
            let parent = unsafe { libc::getpid() };
            // SAFETY: `linux::supervise` calls only functions that are safe between fork and exec.
            unsafe { command.pre_exec(move || linux::supervise(parent)) };
        }
        Ok(Self { child: command.spawn()? })
    }

    /// Id of the process that stands for the program.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The program's pipes and its exit status.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// How the program ended, if it has. Nothing that it had started runs then.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Resident memory of all that the program consists of, in bytes; 0 where the system does not tell.
    pub fn resident_bytes(&self) -> u64 {
        resident_bytes(self.id())
    }

    /// Kills the program and what it has started, and waits until all of it is gone.
    pub fn kill(&mut self) {
        const PATIENCE: Duration = Duration::from_secs(2);
        let id = self.id() as libc::pid_t;
        let started = Instant::now();
        // SAFETY: kill(2) on a child that has not been collected, as `try_wait` says.
        while matches!(self.try_wait(), Ok(None)) && started.elapsed() < PATIENCE {
            unsafe { libc::kill(id, if cfg!(target_os = "linux") { libc::SIGTERM } else { libc::SIGKILL }) };
            thread::sleep(Duration::from_millis(5));
        }
        if matches!(self.try_wait(), Ok(None)) {
            // SAFETY: as above; the group is the one that the child leads.
            unsafe { libc::kill(-id, libc::SIGKILL) };
        }
        // Fails only when the child has been collected already.
        let _ = self.child.wait();
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a program left behind.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// The last line on stdout that is not empty, none if it is longer than a megabyte.
    pub last_line: String,
    /// Both ends of what it printed on stdout.
    pub stdout: String,
    /// Both ends of what it printed on stderr, which was passed on too.
    pub stderr: String,
}

/// Runs a program to its end. What it prints is kept up to [`KEPT_BYTES`] of each end, and the last line of stdout whole. The
/// same of its stderr goes to the file `log`, or this process's stderr, the beginning at once.
///
/// # Errors
/// If the program cannot be started ([`CannotStart`]), or a signal to this process ends it ([`Interrupted`]).
pub fn output(mut command: Command, log: Option<File>) -> Result<Output> {
    const POLL: Duration = Duration::from_millis(5);
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut program = Supervised::spawn(command).map_err(|source| CannotStart { name: name.clone(), source })?;
    let (stdout, stderr) = (program.child().stdout.take(), program.child().stderr.take());
    let (stdout, stderr) = (
        collect(stdout.context("a piped stdout")?, None),
        collect(stderr.context("a piped stderr")?, Some(sink(&log)?)),
    );
    let status = loop {
        if interrupt::requested() {
            program.kill();
            return Err(Interrupted.into());
        }
        match program.try_wait()? {
            Some(status) => break status,
            None => thread::sleep(POLL),
        }
    };
    let (stdout, stderr) = (ended(stdout), ended(stderr));
    if stderr.length > KEPT_BYTES {
        // A log that cannot be written is missing, and no reason to fail a trial.
        let _ = writeln!(sink(&log)?, "{}", words::text(&stderr.rest()));
    }
    Ok(Output { status, last_line: stdout.last_line(), stdout: stdout.text(), stderr: stderr.text() })
}

/// A program that could not be started: no trial with it can succeed.
#[derive(Debug, thiserror::Error)]
#[error("cannot start {name}")]
pub struct CannotStart {
    /// The program.
    pub name: String,
    /// The system's reason.
    source: io::Error,
}

/// Both ends of a stream.
#[derive(Debug, Default)]
struct Ends {
    head: Vec<u8>,
    tail: Vec<u8>,
    length: usize,
}

impl Ends {
    fn push(&mut self, bytes: &[u8]) {
        let room = KEPT_BYTES.saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..room]);
        self.tail.extend_from_slice(bytes);
        if self.tail.len() > 2 * LAST_BYTES {
            self.tail.drain(..self.tail.len() - LAST_BYTES);
        }
        self.length += bytes.len();
    }

    fn text(&self) -> String {
        format!("{}{}", String::from_utf8_lossy(&self.head), self.rest())
    }

    /// What comes behind the head: the tail, and how much is missing before it.
    fn rest(&self) -> String {
        let behind = (self.length - self.head.len()).min(self.tail.len());
        let end = String::from_utf8_lossy(&self.tail[self.tail.len() - behind.min(KEPT_BYTES)..]);
        match self.length - self.head.len() - behind.min(KEPT_BYTES) {
            0 => end.into_owned(),
            missing => format!(" [... {missing} bytes ...] {end}"),
        }
    }

    fn last_line(&self) -> String {
        let is_blank = |line: &&[u8]| line.iter().all(u8::is_ascii_whitespace);
        let mut lines = self.tail.rsplit(|byte| *byte == b'\n').skip_while(is_blank);
        let last = lines.next().unwrap_or_default();
        let whole = last.len() < LAST_BYTES && (lines.next().is_some() || self.length == self.tail.len());
        if whole { String::from_utf8_lossy(last).trim().to_owned() } else { String::new() }
    }
}

fn sink(log: &Option<File>) -> io::Result<Box<dyn Write + Send>> {
    Ok(match log {
        Some(file) => Box::new(file.try_clone()?),
        None => Box::new(io::stderr()),
    })
}

/// Reads a pipe on a thread of its own, so that the program never waits for a reader. Its head is passed on to `echo`.
fn collect(mut pipe: impl Read + Send + 'static, mut echo: Option<Box<dyn Write + Send>>) -> Receiver<Ends> {
    let (sender, receiver) = channel();
    // It ends with the pipe, or when nobody wants what it reads.
    thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        let mut ends = Ends::default();
        while let Ok(length @ 1..) = pipe.read(&mut buffer) {
            if let Some(echo) = &mut echo {
                let head = &buffer[..length.min(KEPT_BYTES.saturating_sub(ends.length))];
                let _ = write!(echo, "{}", words::text(&String::from_utf8_lossy(head)));
            }
            ends.push(&buffer[..length]);
        }
        let _ = sender.send(ends);
    });
    receiver
}

fn ended(receiver: Receiver<Ends>) -> Ends {
    /// What is in a pipe whose writers are gone is read at once; a writer that is out of reach is not waited for.
    const PATIENCE: Duration = Duration::from_secs(2);
    receiver.recv_timeout(PATIENCE).unwrap_or_default()
}

/// Resident memory of the descendants of a process, and its own where it is no supervisor.
fn resident_bytes(root: u32) -> u64 {
    /// Parent, whether it is a supervisor.
    type Process = (u32, bool);
    let stat = |entry: fs::DirEntry| -> Option<(u32, Process)> {
        let id = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let (name, rest) = stat.rsplit_once(')')?;
        let parent = rest.split_whitespace().nth(1)?.parse().ok()?;
        Some((id, (parent, name.ends_with(SUPERVISOR_NAME))))
    };
    let processes: HashMap<u32, Process> =
        fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(stat).collect();
    let descends = |mut id: u32| {
        for _ in 0..processes.len() {
            match processes.get(&id) {
                _ if id == root => return true,
                Some((parent, _)) => id = *parent,
                None => return false,
            }
        }
        false
    };
    let counted = processes.iter().filter(|(id, (_, is_supervisor))| !is_supervisor && descends(**id));
    let pages = counted.filter_map(|(id, _)| {
        let statm = fs::read_to_string(format!("/proc/{id}/statm")).ok()?;
        statm.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    // SAFETY: sysconf has no preconditions.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64;
    pages.sum::<u64>() * page
}

/// What supervisors are called in the list of processes.
const SUPERVISOR_NAME: &str = "nas-supervisor";

#[cfg(target_os = "linux")]
mod linux {
    use std::io;
    use std::ptr;

    use libc::{c_int, pid_t};

    /// Called between fork and exec: forks once more. The second process returns and becomes the program; the first never returns.
    pub fn supervise(parent: pid_t) -> io::Result<()> {
        // SAFETY: only system calls on values of this stack; none of them allocates or takes a lock.
        unsafe {
            libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM, 0, 0, 0);
            let mut signals: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut signals);
            for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGCHLD] {
                libc::sigaddset(&mut signals, signal);
            }
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigprocmask(libc::SIG_BLOCK, &signals, &mut before);
            // The death of the parent may have come before the request to hear of it.
            if libc::getppid() != parent {
                libc::_exit(1);
            }
            let supervisor = libc::getpid();
            match libc::fork() {
                -1 => Err(io::Error::last_os_error()),
                0 => {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
                    libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0);
                    libc::sigprocmask(libc::SIG_SETMASK, &before, ptr::null_mut());
                    if libc::getppid() != supervisor {
                        libc::_exit(1);
                    }
                    Ok(())
                }
                program => watch(program, &signals),
            }
        }
    }

    /// Waits for the program or a signal, kills what is left, and ends as the program did.
    unsafe fn watch(program: pid_t, signals: &libc::sigset_t) -> ! {
        unsafe {
            // Files of the parent, the pipe among them by which it waits for exec.
            libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0);
            libc::prctl(libc::PR_SET_NAME, c"nas-supervisor".as_ptr(), 0, 0, 0);
            let mut status = None;
            while status.is_none() {
                status = collect(program, libc::WNOHANG);
                if status.is_some() {
                    break;
                }
                let signal = libc::sigwaitinfo(signals, ptr::null_mut());
                if signal > 0 && signal != libc::SIGCHLD {
                    break;
                }
            }
            while kill_children() {
                status = status.or(collect(program, 0));
            }
            end_like(status.unwrap_or(libc::SIGKILL))
        }
    }

    /// Collects children that have ended; the status of `program` if it is one of them. With 0 for `options` waits for one.
    unsafe fn collect(program: pid_t, options: c_int) -> Option<c_int> {
        unsafe {
            let mut status = 0;
            let mut of_program = None;
            let mut ended = libc::waitpid(-1, &mut status, options);
            while ended > 0 {
                if ended == program {
                    of_program = Some(status);
                }
                ended = libc::waitpid(-1, &mut status, libc::WNOHANG);
            }
            of_program
        }
    }

    /// Kills all children; whether there are any, running or not collected.
    unsafe fn kill_children() -> bool {
        unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let waited = libc::waitid(libc::P_ALL, 0, &mut info, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT);
            if waited != 0 {
                return false;
            }
            let file = libc::open(c"/proc/thread-self/children".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
            if file < 0 {
                // A kernel without that list: the group is what can be reached.
                libc::signal(libc::SIGTERM, libc::SIG_IGN);
                libc::kill(0, libc::SIGKILL);
            }
            let (mut id, mut buffer) = (0 as pid_t, [0u8; 4096]);
            loop {
                let length = libc::read(file, buffer.as_mut_ptr().cast(), buffer.len());
                if length <= 0 {
                    break;
                }
                for byte in &buffer[..length as usize] {
                    if byte.is_ascii_digit() {
                        id = id.wrapping_mul(10).wrapping_add((byte - b'0').into());
                    } else if id > 0 {
                        libc::kill(id, libc::SIGKILL);
                        id = 0;
                    }
                }
            }
            libc::close(file);
            true
        }
    }

    /// Ends with the exit code, or by the signal, of a wait status.
    unsafe fn end_like(status: c_int) -> ! {
        unsafe {
            if libc::WIFEXITED(status) {
                libc::_exit(libc::WEXITSTATUS(status));
            }
            let signal = libc::WTERMSIG(status);
            // The program has written its core, if any.
            let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            libc::setrlimit(libc::RLIMIT_CORE, &none);
            libc::signal(signal, libc::SIG_DFL);
            let mut all: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut all);
            libc::sigprocmask(libc::SIG_SETMASK, &all, ptr::null_mut());
            libc::kill(libc::getpid(), signal);
            libc::_exit(128 + signal)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn is_running(id: i32) -> bool {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    }

    fn soon(condition: impl Fn() -> bool) -> bool {
        let started = Instant::now();
        while !condition() && started.elapsed() < Duration::from_secs(10) {
            thread::sleep(Duration::from_millis(10));
        }
        condition()
    }

    #[test]
    fn exit_codes_signals_and_the_last_line_come_through() {
        let ended = output(sh("echo first; echo '{\"a\": 1}'; echo; exit 3"), None).unwrap();
        assert_eq!((ended.status.code(), &*ended.last_line), (Some(3), "{\"a\": 1}"));
        let ended = output(sh("kill -9 $$"), None).unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended.status), Some(9));
        let error = output(Command::new("/no/such/program"), None).unwrap_err();
        assert!(error.downcast_ref::<CannotStart>().is_some(), "{error:#}");
        assert!(format!("{error:#}").contains("cannot start /no/such/program: No such file"), "{error:#}");
    }

    #[test]
    fn what_is_left_of_a_program_ends_with_it_and_holds_nobody_up() {
        let started = Instant::now();
        let ended =
            output(sh("setsid sh -c 'echo $$; exec sleep 1001' & sleep 0.2; echo '{\"v\": 0.5}'"), None).unwrap();
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        assert_eq!(ended.last_line, "{\"v\": 0.5}");
        let id = ended.stdout.lines().next().unwrap().parse().unwrap();
        assert!(soon(|| !is_running(id)), "process {id} still runs");
    }

    #[test]
    fn a_kill_reaches_sessions_and_daemons() {
        let dir = tempfile::tempdir().unwrap();
        let ids = dir.path().join("ids");
        let script = format!(
            "cd {}; setsid sh -c 'echo $$ >> ids; exec sleep 1002' & (sh -c 'echo $$ >> ids; exec sleep 1003' &); \
                              echo $$ >> ids; sleep 1004",
            dir.path().display()
        );
        let mut program = Supervised::spawn(sh(&script)).unwrap();
        let written = || {
            fs::read_to_string(&ids).unwrap_or_default().lines().filter_map(|id| id.parse().ok()).collect::<Vec<i32>>()
        };
        assert!(soon(|| written().len() == 3), "{:?}", written());
        assert!(program.resident_bytes() > 0 && program.resident_bytes() < 64 << 20, "{}", program.resident_bytes());
        program.kill();
        assert!(written().iter().all(|id| !is_running(*id)), "{:?}", written());
    }

    #[test]
    fn what_a_program_prints_is_kept_at_both_ends() {
        let ended =
            output(sh("yes abcdefg | head -c 30000000; echo; echo end; yes err | head -c 100000 >&2"), None).unwrap();
        assert_eq!(ended.last_line, "end");
        assert!(ended.stdout.len() < 3 * KEPT_BYTES && ended.stderr.len() < 3 * KEPT_BYTES);
        assert!(ended.stdout.contains("bytes ...]") && ended.stdout.trim_end().ends_with("end"));
        let ended = output(sh("head -c 60000000 /dev/zero | tr '\\0' a"), None).unwrap();
        assert_eq!(ended.last_line, "");
    }
}
