//! `watch`: a run in the terminal while it goes on.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Style};
use ratatui::symbols::Marker;
use ratatui::text::Line;
use ratatui::widgets::{Axis, Block, Chart, Dataset, Gauge, GraphType, Paragraph, Wrap};
use ratatui::{Frame, Terminal};

use super::report::Page;
use super::report::{Part, Run};
use crate::executor::{self, trial_folder};
use crate::run::times;
use crate::run::words;
use crate::search::goals::Goal;
use crate::task::Task;
use crate::train::read_metrics;

/// Show a run in the terminal while it goes on: the best so far, what runs, the time left
#[derive(Clone, Debug, Args)]
pub struct WatchArgs {
    /// Run folder of a search or a training
    #[arg(value_name = "DIR")]
    run: PathBuf,
    /// Print one picture and end; what happens where the output is no terminal
    #[arg(long)]
    once: bool,
}

/// Between looks at the folder.
const LOOK: Duration = Duration::from_secs(2);
/// Of a picture that is printed: columns and rows.
const PRINTED: (u16, u16) = (100, 30);

/// Runs the command; it ends with the run, or by q, Esc or Ctrl-C.
pub fn run<T: Task>(args: &WatchArgs) -> Result<()> {
    let view = View::read::<T>(&args.run)?;
    if args.once || !std::io::stdout().is_terminal() {
        print!("{}", printed(&view)?);
        return Ok(());
    }
    let mut terminal = ratatui::try_init().context("the terminal")?;
    let watched = show::<T>(&mut terminal, args, view);
    ratatui::restore();
    print!("{}", printed(&watched?)?);
    Ok(())
}

fn show<T: Task>(terminal: &mut ratatui::DefaultTerminal, args: &WatchArgs, mut view: View) -> Result<View> {
    while !view.done {
        terminal.draw(|frame| draw(frame, &view)).context("the terminal")?;
        let looked = Instant::now();
        while let Some(left) = LOOK.checked_sub(looked.elapsed()) {
            if !event::poll(left).context("the terminal")? {
                break;
            }
            if let Event::Key(key) = event::read().context("the terminal")? {
                let interrupt = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
                if interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
                    return Ok(view);
                }
            }
        }
        view = View::read::<T>(&args.run)?;
    }
    Ok(view)
}

/// A picture as lines of text, without colours.
fn printed(view: &View) -> Result<String> {
    let mut terminal = Terminal::new(TestBackend::new(PRINTED.0, PRINTED.1)).context("a picture")?;
    terminal.draw(|frame| draw(frame, view)).context("a picture")?;
    let buffer = terminal.backend().buffer();
    let row = |y: u16| (0..PRINTED.0).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    let rows: Vec<String> = (0..PRINTED.1).map(|y| row(y).trim_end().to_string() + "\n").collect();
    Ok(rows.concat())
}

/// What is shown.
#[derive(Debug)]
struct View {
    /// The folder, and what it is a run of.
    title: String,
    /// What is counted, how many have ended, of how many.
    unit: &'static str,
    ended: u64,
    total: u64,
    /// Seconds of work so far, and what the rest takes at this pace.
    secs: f64,
    secs_left: Option<f64>,
    done: bool,
    /// Name of the curve, and its points.
    curve: (String, Vec<(f64, f64)>),
    lines: Vec<String>,
}

impl View {
    fn read<T: Task>(folder: &Path) -> Result<Self> {
        let run = Page::read::<T>(&[folder.to_path_buf()])?.runs.swap_remove(0);
        let command = run.meta["job"].as_str().unwrap_or_default();
        let title = words::name(&format!("{} · {command}", run.path)).into_owned();
        let number = |key: &str| run.config.get(key).and_then(|value| value.parse().ok());
        let search = run.parts.iter().find(|part| part.name == "search");
        let marks = times::read(folder)?;
        let secs = times::last_secs(&marks);
        let mut view = Self {
            title,
            unit: "epochs",
            ended: run.epochs.len() as u64,
            total: ["train.epochs", "one_shot.epochs"].into_iter().find_map(number).unwrap_or_default(),
            secs,
            secs_left: None,
            done: run.done,
            curve: of_epochs(&run, T::METRICS[0]),
            lines: Vec::new(),
        };
        if let (Some(part), Some(total)) = (search, number("num_trials")) {
            (view.unit, view.ended, view.total) = ("trials", part.trials.len() as u64, total);
            view.curve = of_trials(part);
            view.lines = lines_of(part, folder)?;
        }
        let facts = run.facts.iter().map(|fact| fact.to_string());
        view.lines.extend(facts.chain(run.notes.iter().cloned()).map(|line| words::name(&line).into_owned()));
        if view.ended > 0 && view.total > view.ended && secs > 0.0 {
            view.secs_left = Some(secs / view.ended as f64 * (view.total - view.ended) as f64);
        }
        Ok(view)
    }
}

/// The main metric over the epochs that have it, else the loss.
fn of_epochs(run: &Run, (metric, heading): (&str, &str)) -> (String, Vec<(f64, f64)>) {
    let points = |key: &str| -> Vec<(f64, f64)> {
        let point = |line: &crate::train::Metrics| Some((line.get("epoch")?.as_f64()?, line.get(key)?.as_f64()?));
        run.epochs.iter().filter_map(point).collect()
    };
    match points(metric) {
        scored if scored.len() > 1 => (heading.to_string(), scored),
        _ => ("loss".to_string(), points("loss")),
    }
}

/// The best main objective so far over the trials.
fn of_trials(part: &Part) -> (String, Vec<(f64, f64)>) {
    let Some(objective) = part.objectives.first() else { return Default::default() };
    let larger = objective.goal == Goal::Maximize;
    let mut best = None;
    let points = part.trials.iter().enumerate().filter_map(|(i, trial)| {
        let value = trial.value.filter(|_| trial.feasible);
        best = match (best, value) {
            (Some(best), Some(value)) if larger => Some(f64::max(best, value)),
            (Some(best), Some(value)) => Some(f64::min(best, value)),
            (best, value) => best.or(value),
        };
        Some((i as f64 + 1.0, best?))
    });
    let points = points.collect();
    (format!("best {} so far", objective.metric), points)
}

/// The best trial, what failed, and what runs.
fn lines_of(part: &Part, folder: &Path) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let larger = part.objectives.first().is_some_and(|objective| objective.goal == Goal::Maximize);
    let sign = if larger { 1.0 } else { -1.0 };
    let sound =
        part.trials.iter().filter(|trial| trial.feasible).filter_map(|trial| Some((sign * trial.value?, trial)));
    // Of equal ones the first.
    let best = sound.reduce(|best, next| if next.0 > best.0 { next } else { best });
    if let Some((_, trial)) = best {
        let number = |value: f64| if value.fract() == 0.0 { value.to_string() } else { format!("{value:.4}") };
        let metrics: Vec<String> =
            trial.metrics.iter().map(|(name, value)| format!("{name} {}", number(*value))).collect();
        lines.push(format!("best: trial {}, {}", trial.id, metrics.join(", ")));
        lines.push(format!("  {}", trial.notation));
    }
    let failed: Vec<_> = part.trials.iter().filter_map(|trial| trial.failed.as_ref()).collect();
    failed.last().iter().for_each(|last| lines.push(format!("{} failed, the last: {last}", failed.len())));
    let root = folder.join("trials");
    for trial in executor::started(&root)? {
        if part.trials.iter().any(|ended| ended.id == trial.id) {
            continue;
        }
        let epochs = read_metrics(&trial_folder(&root, trial.id).join("train")).map_or(0, |lines| lines.len());
        let so_far = if epochs > 0 { format!(", {epochs} epochs so far") } else { String::new() };
        lines.push(format!("running: trial {} {}{so_far}", trial.id, trial.arch));
    }
    Ok(lines.iter().map(|line| words::name(line).into_owned()).collect())
}

fn draw(frame: &mut Frame, view: &View) {
    let rows =
        [Constraint::Length(3), Constraint::Min(8), Constraint::Length((view.lines.len() as u16 + 2).clamp(3, 14))];
    let [top, middle, bottom] = Layout::vertical(rows).areas(frame.area());
    let ratio = (view.ended as f64 / view.total.max(1) as f64).clamp(0.0, 1.0);
    let time = |secs: f64| humantime::format_duration(Duration::from_secs(secs as u64)).to_string();
    let left = view.secs_left.map(|secs| format!(", {} left", time(secs)));
    let state = if view.done { ", done".to_string() } else { left.unwrap_or_default() };
    let label = format!("{} of {} {} in {}{state}", view.ended, view.total, view.unit, time(view.secs));
    let bar = Gauge::default().block(Block::bordered().title(view.title.as_str())).ratio(ratio).label(label);
    frame.render_widget(bar.gauge_style(Style::new().fg(Color::Blue)), top);

    let (name, points) = &view.curve;
    let bounds = |of: fn(&(f64, f64)) -> f64| {
        let (low, high) = points
            .iter()
            .map(of)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        // A line that does not rise has a height all the same.
        if high > low { [low, high] } else { [low - 0.5, low + 0.5] }
    };
    let chart = Block::bordered().title(name.as_str());
    if points.is_empty() {
        frame.render_widget(Paragraph::new("nothing has ended yet").block(chart), middle);
    } else {
        let (x, y) = (bounds(|point| point.0), bounds(|point| point.1));
        let line = Dataset::default().marker(Marker::Braille).graph_type(GraphType::Line).data(points);
        let axis = |bounds: [f64; 2], digits: usize| {
            let labels = bounds.map(|value| Line::from(format!("{value:.digits$}")));
            Axis::default().bounds(bounds).labels(labels)
        };
        let chart = Chart::new(vec![line.style(Style::new().fg(Color::Green))]).block(chart);
        frame.render_widget(chart.x_axis(axis(x, 0)).y_axis(axis(y, 4)), middle);
    }
    let lines: Vec<Line> = view.lines.iter().map(|line| Line::from(line.as_str())).collect();
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }).block(Block::bordered()), bottom);
}
