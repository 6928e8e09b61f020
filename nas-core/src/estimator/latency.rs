//! Measured latency of a network. Unlike parameters and multiply-adds it belongs to a machine and a moment.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::stats::{median, quantile};

/// Milliseconds of one call of `forward`: the median of `runs` calls after three that warm up. On a GPU `forward` must wait
/// for its result.
pub fn latency_millis(runs: usize, mut forward: impl FnMut()) -> f64 {
    (0..3).for_each(|_| forward());
    median(&(0..runs.max(1)).map(|_| timed(&mut forward).0).collect::<Vec<_>>())
}

/// Milliseconds of `work`, and what it gives.
fn timed<R>(work: impl FnOnce() -> R) -> (f64, R) {
    let start = Instant::now();
    let result = work();
    (start.elapsed().as_secs_f64() * 1e3, result)
}

/// How a latency is measured: docs/latency.md.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Protocol {
    /// Seconds of calls that are not counted.
    pub warm_up_secs: f64,
    /// Groups of calls, between which the device rests.
    pub rounds: usize,
    /// Calls of a round, each timed.
    pub runs_per_round: usize,
    /// Seconds without a call before every round.
    pub pause_secs: f64,
}

/// What a measurement by a [`Protocol`] gives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// Calls that were not counted.
    pub warm_up_runs: usize,
    /// Milliseconds of every call, by round.
    pub millis: Vec<Vec<f64>>,
}

impl Protocol {
    /// Calls of the warm-up, however slow they are.
    pub const LEAST_WARM_UP_RUNS: usize = 3;

    /// Times `forward`, which must wait for its result, by the process' monotonic clock.
    ///
    /// # Errors
    /// The first of `forward`.
    pub fn measure(&self, mut forward: impl FnMut() -> Result<()>) -> Result<Times> {
        let started = Instant::now();
        let mut warm_up_runs = 0;
        while warm_up_runs < Self::LEAST_WARM_UP_RUNS || started.elapsed().as_secs_f64() < self.warm_up_secs {
            forward()?;
            warm_up_runs += 1;
        }
        let mut one = |_| {
            let (millis, outcome) = timed(&mut forward);
            outcome.map(|()| millis)
        };
        let round = |_| {
            sleep(Duration::from_secs_f64(self.pause_secs));
            (0..self.runs_per_round).map(&mut one).collect::<Result<Vec<f64>>>()
        };
        Ok(Times { warm_up_runs, millis: (0..self.rounds).map(round).collect::<Result<_>>()? })
    }
}

/// The statistics of [`Times`], in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Median of all timed calls.
    pub latency_millis: f64,
    /// First and third quartile of all timed calls.
    pub quartiles_millis: [f64; 2],
    /// The fastest and the slowest call.
    pub range_millis: [f64; 2],
    /// Median of every round.
    pub rounds_millis: Vec<f64>,
    /// Calls that were timed.
    pub runs: usize,
    /// Calls that were not counted.
    pub warm_up_runs: usize,
}

impl Latency {
    /// Of times of at least one call.
    pub fn of(times: &Times) -> Self {
        let all = times.millis.concat();
        Self {
            latency_millis: median(&all),
            quartiles_millis: [0.25, 0.75].map(|part| quantile(&all, part)),
            range_millis: [0.0, 1.0].map(|part| quantile(&all, part)),
            rounds_millis: times.millis.iter().map(|round| median(round)).collect(),
            runs: all.len(),
            warm_up_runs: times.warm_up_runs,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_median_after_the_warm_up() {
        let mut calls = 0;
        let millis = latency_millis(5, || {
            calls += 1;
            // The warm-up and one of five runs are slow.
            std::thread::sleep(std::time::Duration::from_millis(if calls <= 4 { 200 } else { 1 }));
        });
        assert_eq!(calls, 8);
        assert!((1.0..200.0).contains(&millis), "{millis}");
    }

    #[test]
    fn a_protocol_warms_up_rests_and_times_every_call() {
        let protocol = Protocol { warm_up_secs: 0.05, rounds: 3, runs_per_round: 4, pause_secs: 0.1 };
        let mut calls = 0;
        let started = Instant::now();
        let times = protocol.measure(|| {
            calls += 1;
            sleep(Duration::from_millis(5));
            Ok(())
        });
        let times = times.unwrap();
        assert_eq!(calls, times.warm_up_runs + 12);
        assert!((3..=10).contains(&times.warm_up_runs), "50 ms of calls of 5 ms: {}", times.warm_up_runs);
        assert!(started.elapsed() >= Duration::from_millis(50 + 3 * 100 + 12 * 5));
        assert!(times.millis.iter().flatten().all(|millis| *millis >= 5.0), "a pause is in no time: {times:?}");
        assert!(protocol.measure(|| anyhow::bail!("no")).is_err());
    }

    #[test]
    fn statistics_are_of_all_calls_and_of_every_round() {
        let times = Times { warm_up_runs: 3, millis: vec![vec![1.0, 2.0, 9.0], vec![4.0, 3.0]] };
        let latency = Latency::of(&times);
        assert_eq!((latency.latency_millis, latency.quartiles_millis), (3.0, [2.0, 4.0]));
        assert_eq!((latency.range_millis, latency.rounds_millis), ([1.0, 9.0], vec![2.0, 3.5]));
        assert_eq!((latency.runs, latency.warm_up_runs), (5, 3));
    }
}
