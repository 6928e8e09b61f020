//! Trials by jobs that stay: each takes one trial after another (pilot jobs), so that a trial waits neither for the cluster's queue
//! nor for this program to start.
//!
//! All of it is files below one folder, on a file system that all nodes share. The search puts a trial into `queue`; the first
//! worker that moves it to `claimed`, under its own name, has it, and leaves `record.json` in the trial's folder. What a worker had
//! whose job waits again, because it was preempted or its node was lost, goes back into `queue`: another goes on with it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use super::jobs::{GRACE, Named, POLL, Queue};
use super::{Executor, begin, failed, left_record, poll, read_trial, trial_folder};
use crate::run::cli::Compute;
use crate::run::interrupt::{self, Interrupted};
use crate::run::run_dir::write_atomic;
use crate::space::trial::{Record, Trial};

/// For how long a worker holds its card without a trial.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between a worker's looks at the queue.
const LOOK: Duration = Duration::from_millis(50);
/// Jobs in a row that may end without having taken a trial.
const IN_VAIN: usize = 3;
/// The file that a worker leaves that has nothing more to do.
const ENDED: &str = "ended";

/// Where workers find trials.
#[derive(Debug)]
struct Desk {
    /// Holds the folders of the workers, and of this.
    root: PathBuf,
}

/// Who has a trial.
#[derive(Clone, Copy, Debug)]
struct Claim {
    trial: u64,
    worker: u64,
    /// Tells one run of a worker's job from the next.
    run: u128,
}

impl Desk {
    fn queued(&self, trial: u64) -> PathBuf {
        self.root.join("queue").join(format!("{trial:05}"))
    }

    fn claimed(&self, Claim { trial, worker, run }: Claim) -> PathBuf {
        self.root.join("claimed").join(format!("{trial:05}-{worker:05}-{run}"))
    }

    /// The names of files in a folder, in their order.
    fn names(&self, folder: &str) -> Result<Vec<String>> {
        let folder = self.root.join(folder);
        let read = || -> io::Result<Vec<String>> {
            fs::read_dir(&folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
        };
        let mut names = read().with_context(|| format!("{}: cannot read", folder.display()))?;
        names.sort();
        Ok(names)
    }

    fn claims(&self) -> Result<Vec<Claim>> {
        let claim = |name: &String| {
            let mut parts = name.split('-');
            let (trial, worker, run) = (parts.next()?, parts.next()?, parts.next()?);
            Some(Claim { trial: trial.parse().ok()?, worker: worker.parse().ok()?, run: run.parse().ok()? })
        };
        Ok(self.names("claimed")?.iter().filter_map(claim).collect())
    }

    /// The first of the trials that wait, if the run of a worker gets any.
    fn take(&self, worker: u64, run: u128) -> Result<Option<Claim>> {
        for trial in self.names("queue")?.iter().filter_map(|name| name.parse().ok()) {
            let claim = Claim { trial, worker, run };
            // Another may be first.
            if moved(&self.queued(trial), &self.claimed(claim))? {
                return Ok(Some(claim));
            }
        }
        Ok(None)
    }

    /// Lets others have a trial, if it is still claimed.
    fn put_back(&self, claim: Claim) -> Result<()> {
        moved(&self.claimed(claim), &self.queued(claim.trial)).map(drop)
    }

    fn give_up(&self, claim: Claim) -> Result<()> {
        remove(&self.claimed(claim))
    }

    /// Exists where no more trials come.
    fn closed(&self) -> PathBuf {
        self.root.join("closed")
    }
}

/// Removes a file that may be gone already.
fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{}: cannot remove", path.display()))
        }
        _ => Ok(()),
    }
}

/// Moves a file; whether it was there.
fn moved(from: &Path, to: &Path) -> Result<bool> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        renamed => renamed.map(|()| true).with_context(|| format!("{}: cannot move", from.display())),
    }
}

/// What a worker does in its `folder`: calls `run` with the folder of one trial after another, until the search has ended or there
/// has been none for a minute.
///
/// # Errors
/// What `run` fails with; [`Interrupted`].
pub fn serve(folder: &Path, mut run: impl FnMut(&Path) -> Result<()>) -> Result<()> {
    let folder = fs::canonicalize(folder).with_context(|| format!("{}: cannot resolve", folder.display()))?;
    let number = folder.file_name().and_then(|name| name.to_str()?.parse().ok());
    let (root, worker) = folder.parent().zip(number).with_context(|| {
        format!("{}: no worker's folder; expected one that a search by pilot jobs has made", folder.display())
    })?;
    let desk = Desk { root: root.to_path_buf() };
    let trials = root.with_file_name("trials");
    // A job that has ended may begin again where its node was lost.
    remove(&folder.join(ENDED))?;
    for claim in desk.claims()?.into_iter().filter(|claim| claim.worker == worker) {
        desk.put_back(claim)?;
    }
    let this_run = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let mut last = Instant::now();
    loop {
        if interrupt::requested() {
            return Err(Interrupted.into());
        }
        match desk.take(worker, this_run)? {
            Some(claim) => {
                let folder = trial_folder(&trials, claim.trial);
                if left_record(&folder, &read_trial(&folder)?).is_none() {
                    run(&folder)?;
                }
                desk.give_up(claim)?;
                last = Instant::now();
            }
            None if desk.closed().exists() || last.elapsed() > PATIENCE => break,
            None => std::thread::sleep(LOOK),
        }
    }
    write_atomic(&folder.join(ENDED), b"")
}

/// Runs trials by jobs of a queue that take one after another.
#[derive(Debug)]
pub struct Pilots<Q: Queue> {
    jobs: Named<Q>,
    desk: Desk,
    /// The folder of all trials.
    trials: PathBuf,
    /// Jobs that wait or run at a time.
    workers: usize,
    /// Jobs by the number of their worker.
    hired: BTreeMap<u64, Worker>,
    /// The number of the next one.
    next: u64,
    /// Jobs in a row that ended without having taken a trial.
    in_vain: usize,
    running: Vec<Trial>,
    left: Vec<Record>,
}

#[derive(Debug)]
struct Worker {
    /// The queue's number of its job.
    id: String,
    /// Since when the queue does not know it any more.
    gone: Option<Instant>,
}

impl<Q: Queue> Pilots<Q> {
    /// At most `workers` jobs at a time for the trials whose folders are `folder/trials`. Jobs of an earlier process of this
    /// search go on. Fails where the queue cannot be asked.
    pub fn new(queue: Q, folder: &Path, workers: usize, compute: Compute) -> Result<Self> {
        let jobs = Named::new(queue, &folder.join("workers"), compute)?;
        let (desk, trials) = (Desk { root: jobs.root.clone() }, jobs.root.with_file_name("trials"));
        for name in ["queue", "claimed"] {
            let path = desk.root.join(name);
            fs::create_dir_all(&path).with_context(|| format!("{}: cannot create", path.display()))?;
        }
        remove(&desk.closed())?;
        // They are submitted anew; what is claimed is not.
        desk.names("queue")?.iter().try_for_each(|name| remove(&desk.root.join("queue").join(name)))?;
        let numbers = desk.names("")?.iter().filter_map(|name| name.parse().ok()).collect::<Vec<u64>>();
        let hired = numbers.iter().filter_map(|n| Some((*n, Worker { id: jobs.alive(*n)?.id.clone(), gone: None })));
        let (hired, next) = (hired.collect(), numbers.last().map_or(0, |last| last + 1));
        Ok(Self { jobs, desk, trials, workers, hired, next, in_vain: 0, running: Vec::new(), left: Vec::new() })
    }

    /// Submits jobs where fewer wait or run than trials do.
    fn hire(&mut self) -> Result<()> {
        while self.hired.len() < self.workers.min(self.running.len()) {
            let folder = trial_folder(&self.jobs.root, self.next);
            fs::create_dir_all(&folder).with_context(|| format!("{}: cannot create", folder.display()))?;
            let id = self.jobs.submit(self.next, " --worker", ENDED).context("a worker")?;
            self.hired.insert(self.next, Worker { id, gone: None });
            self.next += 1;
        }
        Ok(())
    }

    /// Takes back what workers have whose jobs wait again, and parts with those whose jobs are gone; returns the trial that one of
    /// them had, if it can leave no record any more. The `claims` are from before the queue was asked.
    fn part(&mut self, claims: &[Claim]) -> Result<Option<Record>> {
        let waits = |worker: u64| self.jobs.alive(worker).is_some_and(|job| job.waits);
        claims.iter().filter(|claim| waits(claim.worker)).try_for_each(|claim| self.desk.put_back(*claim))?;
        for (number, worker) in &mut self.hired {
            let alive = self.jobs.alive(*number).is_some();
            worker.gone = if alive { None } else { worker.gone.or(Some(Instant::now())) };
        }
        let has_ended = |number: &u64| trial_folder(&self.jobs.root, *number).join(ENDED).exists();
        self.hired.retain(|number, worker| worker.gone.is_none() || !has_ended(number));
        let lost = |(_, worker): &(&u64, &Worker)| worker.gone.is_some_and(|since| since.elapsed() > GRACE);
        let Some((number, id)) = self.hired.iter().find(lost).map(|(number, worker)| (*number, worker.id.clone()))
        else {
            return Ok(None);
        };
        self.hired.remove(&number);
        let reason = self.jobs.end_of(number, &id);
        if let Some(claim) = claims.iter().find(|claim| claim.worker == number) {
            self.desk.give_up(*claim)?;
            let mut lost = self.running.extract_if(.., |trial| trial.id == claim.trial);
            return Ok(lost.next().map(|trial| Record { trial, outcome: failed(&reason) }));
        }
        self.in_vain += 1;
        if self.in_vain >= IN_VAIN {
            bail!("{IN_VAIN} jobs in a row ended without having taken a trial, the last of them {reason}");
        }
        Ok(None)
    }

    /// A trial that has left its record, or cannot any more.
    fn look(&mut self) -> Result<Option<Record>> {
        for i in 0..self.running.len() {
            let trial = &self.running[i];
            if let Some(record) = left_record(&trial_folder(&self.trials, trial.id), trial) {
                self.running.remove(i);
                self.in_vain = 0;
                return Ok(Some(record));
            }
        }
        if self.jobs.is_due() {
            let claims = self.desk.claims()?;
            if self.jobs.look()
                && let Some(record) = self.part(&claims)?
            {
                return Ok(Some(record));
            }
        }
        self.hire().map(|()| None)
    }
}

impl<Q: Queue> Executor for Pilots<Q> {
    fn capacity(&self) -> usize {
        self.workers
    }

    fn submit(&mut self, trial: Trial) -> Result<()> {
        let folder = trial_folder(&self.trials, trial.id);
        if let Some(record) = begin(&folder, &trial)? {
            self.left.push(record);
            return Ok(());
        }
        // A worker may have it from an earlier process of this search.
        let claims = self.desk.claims()?.into_iter().filter(|claim| claim.trial == trial.id);
        let (kept, lost): (Vec<Claim>, Vec<Claim>) = claims.partition(|claim| self.hired.contains_key(&claim.worker));
        lost.into_iter().try_for_each(|claim| self.desk.give_up(claim))?;
        if kept.is_empty() {
            write_atomic(&self.desk.queued(trial.id), b"")?;
        }
        self.running.push(trial);
        self.hire()
    }

    fn wait(&mut self) -> Result<Record> {
        match self.left.pop() {
            Some(record) => Ok(record),
            None => poll(POLL, || self.look()),
        }
    }
}

/// Workers of a search that is stopped go on with their trials; those of one that has ended are told so, or need not begin.
impl<Q: Queue> Drop for Pilots<Q> {
    fn drop(&mut self) {
        if !interrupt::requested() {
            // They end a minute later without it.
            let _ = fs::write(self.desk.closed(), "");
            self.hired.keys().for_each(|worker| self.jobs.withdraw(*worker));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::executor::{write_record, write_trial};
    use crate::space::Architecture;
    use crate::space::trial::{Outcome, Values};

    /// A search's folder with trials that wait.
    fn desk(folder: &Path, trials: &[u64]) -> Desk {
        let desk = Desk { root: folder.join("workers") };
        for name in ["queue", "claimed", "00000", "00001"] {
            fs::create_dir_all(desk.root.join(name)).unwrap();
        }
        for id in trials {
            let trial = Trial { id: *id, arch: Architecture::new(vec![0]), budget: Default::default(), parent: None };
            write_trial(&trial_folder(&folder.join("trials"), *id), &trial).unwrap();
            fs::write(desk.queued(*id), "").unwrap();
        }
        desk
    }

    #[test]
    fn a_trial_has_one_worker_at_a_time() {
        let temp = tempfile::tempdir().unwrap();
        let desk = desk(temp.path(), &[3, 5]);
        let lost = desk.take(0, 1).unwrap().unwrap();
        assert_eq!((lost.trial, desk.take(1, 1).unwrap().unwrap().trial), (3, 5));
        assert!(desk.take(0, 1).unwrap().is_none());
        desk.put_back(lost).unwrap();
        let again = desk.take(0, 2).unwrap().unwrap();
        assert_eq!(again.trial, 3);
        // The same worker has it again: what was seen of its first run does not count.
        desk.put_back(lost).unwrap();
        assert!(desk.take(1, 1).unwrap().is_none());
        desk.give_up(again).unwrap();
        assert_eq!(desk.claims().unwrap().len(), 1);
    }

    #[test]
    fn workers_share_what_waits_and_end_with_the_search() {
        let temp = tempfile::tempdir().unwrap();
        let desk = desk(temp.path(), &[0, 1, 2, 3, 4, 5]);
        let outcome = || Outcome::Metrics(Values::from([("v".to_string(), 0.5)]));
        let record = |folder: &Path| {
            let trial = read_trial(folder)?;
            write_record(folder, &Record { trial, outcome: outcome() })
        };
        // One that its worker had ended when it was lost.
        record(&trial_folder(&temp.path().join("trials"), 2)).unwrap();
        let had = desk.take(1, 0).unwrap().unwrap();
        fs::write(desk.closed(), "").unwrap();
        let ran = Mutex::new(Vec::new());
        let run = |folder: &Path| {
            ran.lock().unwrap().push(read_trial(folder)?.id);
            record(folder)
        };
        std::thread::scope(|scope| {
            for worker in [0, 1] {
                let folder = trial_folder(&desk.root, worker);
                scope.spawn(move || serve(&folder, run).unwrap());
            }
        });
        let mut ran = ran.into_inner().unwrap();
        ran.sort();
        assert_eq!((had.trial, ran), (0, vec![0, 1, 3, 4, 5]));
        assert!(desk.claims().unwrap().is_empty() && desk.root.join("00001").join(ENDED).exists());
        let error = format!("{:#}", serve(temp.path(), |_| Ok(())).unwrap_err());
        assert!(error.contains("no worker's folder"), "{error}");
    }
}
