//! `nas-classify bench`: search strategies on a table of trained networks.

use std::fmt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use nas_core::run::cli::{Format, print};
use nas_core::run::config;
use nas_core::run::interrupt::{self, Interrupted};
use nas_core::run::plot::{self, Series};
use nas_core::run::progress::Progress;
use nas_core::search::Searcher;
use nas_core::search::goals::Goals;
use nas_core::space::trial::{Budget, Outcome, Record, Values};
use nas_core::stats::mean_and_deviation;
use nas_core::strategy::StrategyConfig;
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use serde::Serialize;

use crate::nasbench201::{NasBench201, Table};

/// Run search strategies on a table of trained networks, many seeds each
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  nas-classify bench --table nasbench201.csv.gz --valid cifar10_valid_200 --test cifar10_test_200 \\
      --strategy regularized_evolution --set strategy.population_size=10 --num-trials 500 --seeds 100
  nas-classify bench --table nasbench201.csv.gz --valid cifar100_valid_200 --test cifar100_test_200 --strategy all \\
      --low-fidelity cifar100_test_12 --plot strategies.svg")]
pub struct BenchArgs {
    /// CSV file (.gz or plain) with a column `arch` in NAS-Bench-201's notation
    #[arg(long, value_name = "FILE")]
    table: PathBuf,
    /// Column, in percent, that the strategies search on
    #[arg(long, value_name = "COLUMN")]
    valid: String,
    /// Column that is reported for the best by `--valid`
    #[arg(long, value_name = "COLUMN")]
    test: String,
    /// Kinds separated by commas, or `all`
    #[arg(long, value_name = "KIND", value_delimiter = ',', required = true)]
    strategy: Vec<String>,
    /// Replace a parameter, such as strategy.population_size=10; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Full evaluations of each search
    #[arg(long, default_value_t = 500, value_name = "N")]
    num_trials: u64,
    /// Searches of each strategy
    #[arg(long, default_value_t = 100, value_name = "S")]
    seeds: u64,
    /// Column after --low-epochs epochs, for strategies that choose the epochs of their trials
    #[arg(long, value_name = "COLUMN")]
    low_fidelity: Option<String>,
    /// Epochs behind --low-fidelity
    #[arg(long, default_value_t = 12, value_name = "EPOCHS")]
    low_epochs: u32,
    /// Epochs behind --valid and --test
    #[arg(long, default_value_t = 200, value_name = "EPOCHS")]
    full_epochs: u32,
    /// Draw the mean curves of all strategies
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// How to print the table
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Test value of the best by validation after some evaluations, over the seeds.
#[derive(Clone, Debug, Serialize)]
struct Row {
    strategy: String,
    num_trials: u64,
    seeds: u64,
    mean: f64,
    std: f64,
    /// By seed.
    values: Vec<f64>,
    /// Largest test value of the table.
    optimum: f64,
    /// Seconds of all seeds of the strategy, on all cores.
    secs: f64,
}

#[derive(Serialize)]
#[serde(transparent)]
struct Report {
    rows: Vec<Row>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Some(first) = self.rows.first() else { return Ok(()) };
        writeln!(f, "test value of the best by validation, mean and deviation over {} seeds", first.seeds)?;
        for of_one in self.rows.chunk_by(|a, b| a.strategy == b.strategy) {
            write!(f, "{:<22}", of_one[0].strategy)?;
            of_one.iter().try_for_each(|row| write!(f, "  {:>5}: {:.3} ± {:.3}", row.num_trials, row.mean, row.std))?;
            writeln!(f, "  {:6.1} s", of_one[0].secs)?;
        }
        write!(f, "{:<22}  {:.3}", "optimum of the table", first.optimum)
    }
}

/// Columns of the table that a search reads.
struct Columns {
    table: Table,
    valid: usize,
    test: usize,
    low: Option<usize>,
}

/// Runs the command.
pub fn run(args: &BenchArgs) -> Result<()> {
    ensure!(args.num_trials > 0 && args.seeds > 0, "--num-trials and --seeds must be at least 1");
    ensure!(
        args.low_epochs > 0 && args.low_epochs < args.full_epochs,
        "--low-epochs {} must be at least 1 and less than --full-epochs {}",
        args.low_epochs,
        args.full_epochs
    );
    let strategies = strategies(args)?;
    let table = Table::read(&args.table)?;
    let in_table = |name: &String| -> Result<usize> {
        let column = table.column(name)?;
        table.require_percent(column)?;
        Ok(column)
    };
    let (valid, test) = (in_table(&args.valid)?, in_table(&args.test)?);
    let low = args.low_fidelity.as_ref().map(in_table).transpose()?;
    let columns = Columns { table, valid, test, low };
    tch::set_num_threads(1);
    let mut rows = Vec::new();
    let mut curves = Vec::new();
    let total = strategies.len() * args.seeds as usize;
    let progress = Mutex::new(Progress::new("bench", total, 0, None)?);
    for (name, strategy) in &strategies {
        let started = Instant::now();
        let search = |seed| {
            let curve = search(args, &columns, strategy, seed);
            progress.lock().expect("no search panics while it holds the lock").step(|| name.clone());
            curve
        };
        let searches: Vec<Vec<f64>> = (0..args.seeds).into_par_iter().map(search).collect::<Result<_>>()?;
        let secs = started.elapsed().as_secs_f64();
        let at = |n: u64| -> Vec<f64> { searches.iter().map(|curve| curve[n as usize - 1]).collect() };
        let mut checkpoints = vec![args.num_trials.div_ceil(5), (2 * args.num_trials).div_ceil(5), args.num_trials];
        checkpoints.dedup();
        rows.extend(checkpoints.into_iter().map(|num_trials| {
            let values = at(num_trials);
            let (mean, std) = mean_and_deviation(&values);
            let optimum = columns.table.get(&columns.table.best(columns.test), columns.test);
            Row { strategy: name.clone(), num_trials, seeds: args.seeds, mean, std, values, optimum, secs }
        }));
        let points = (1..=args.num_trials).map(|n| (n as f64, mean_and_deviation(&at(n)).0)).skip(9).collect();
        curves.push(Series { name: name.clone(), points });
    }
    if let Some(path) = &args.plot {
        let title = format!("{} of the best by {}, mean of {} seeds", args.test, args.valid, args.seeds);
        plot::lines(path, &title, "full evaluations", &args.test, &curves)?;
    }
    print(&Report { rows }, args.format)
}

/// The strategies by name, with the options of the command line.
fn strategies(args: &BenchArgs) -> Result<Vec<(String, StrategyConfig)>> {
    let all = StrategyConfig::all();
    let kinds: Vec<&str> = all.iter().map(|strategy| strategy.info().kind).collect();
    let named = |name: &String| -> Result<(String, StrategyConfig)> {
        let known = all.iter().find(|strategy| strategy.info().kind == name);
        let known =
            known.with_context(|| format!("--strategy {name}: unknown; expected all or {}", kinds.join(", ")))?;
        let mut section = toml::Table::from_iter([("kind".to_string(), name.clone().into())]);
        if known.info().multi_fidelity {
            ensure!(
                args.low_fidelity.is_some(),
                "--strategy {name} chooses the epochs of its trials; it needs --low-fidelity COLUMN"
            );
            // The table knows two numbers of epochs: the rungs are these.
            section.insert("min_epochs".into(), i64::from(args.low_epochs).into());
            section.insert("max_epochs".into(), i64::from(args.full_epochs).into());
            section.insert("eta".into(), (f64::from(args.full_epochs) / f64::from(args.low_epochs)).into());
        }
        let mut table = toml::Table::from_iter([("strategy".to_string(), section.into())]);
        config::apply_all(&mut table, &args.sets)?;
        let Sections { strategy } = config::from_table(table, &format!("--strategy {name}"))?;
        strategy.check()?;
        Ok((name.clone(), strategy))
    };
    let is_all = args.strategy.iter().any(|name| name == "all");
    let served = |strategy: &&StrategyConfig| args.low_fidelity.is_some() || !strategy.info().multi_fidelity;
    match is_all {
        true => all.iter().filter(served).map(|strategy| named(&strategy.info().kind.to_string())).collect(),
        false => args.strategy.iter().map(named).collect(),
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Sections {
    strategy: StrategyConfig,
}

/// One search: after each full evaluation's worth of epochs, the test value of the best by validation so far.
fn search(args: &BenchArgs, columns: &Columns, strategy: &StrategyConfig, seed: u64) -> Result<Vec<f64>> {
    const METRIC: &str = "valid";
    let Columns { table, valid, test, low } = columns;
    let mut searcher = Searcher::new(&NasBench201, strategy, Goals::maximize(METRIC), Budget::default(), seed);
    let mut best: Option<(bool, f64, f64)> = None;
    let mut curve: Vec<f64> = Vec::new();
    let mut epochs = 0u64;
    let full = u64::from(args.full_epochs);
    while curve.len() < args.num_trials as usize {
        if interrupt::requested() {
            return Err(Interrupted.into());
        }
        let Some(trial) = searcher.ask() else {
            // Nothing is left to evaluate.
            let last = *curve.last().context("the strategy proposed nothing")?;
            curve.resize(args.num_trials as usize, last);
            break;
        };
        let (is_full, column) = match trial.budget.epochs {
            None => (true, *valid),
            Some(n) if n == args.full_epochs => (true, *valid),
            Some(n) if n == args.low_epochs => (false, low.expect("checked when the strategy was read")),
            Some(n) => bail!("the table knows {} and {} epochs, not {n}", args.low_epochs, args.full_epochs),
        };
        let value = table.get(&trial.arch, column);
        let parent_epochs = if trial.parent.is_some() { args.low_epochs } else { 0 };
        epochs += u64::from(trial.budget.epochs.unwrap_or(args.full_epochs) - parent_epochs);
        let found = (is_full, value, table.get(&trial.arch, *test));
        // Values of few epochs count until there is a full one.
        if best.is_none_or(|best| (found.0, found.1) > (best.0, best.1)) {
            best = Some(found);
        }
        let (_, _, test) = best.expect("has just been set");
        while curve.len() < ((epochs / full) as usize).min(args.num_trials as usize) {
            curve.push(test);
        }
        let outcome = Outcome::Metrics(Values::from([(METRIC.to_string(), value / 100.0)]));
        searcher.tell(&Record { trial, outcome });
    }
    Ok(curve)
}
