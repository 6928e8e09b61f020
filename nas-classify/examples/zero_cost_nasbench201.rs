//! Rank correlation of zero-cost proxies with accuracy on NAS-Bench-201: real networks, untrained, one batch of CIFAR-10.
//!
//!     NAS_DATA=../shared/data cargo run --release -p nas-classify --example zero_cost_nasbench201 \
//!         -- [N] [BATCH] [SEED] [PROXY ..]
//!
//! Prints Spearman's rho with the CIFAR-10 test accuracy after 200 epochs over N random architectures (200) beside
//! published figures over all 15,625: Abdelfattah et al. 2021, table 1, and, for synflow, logsynflow, naswot and params, the
//! cache of FreeREA (Cavagnero et al. 2023). Each network's scores go to stderr as they come.
//!
//! Measured with the defaults on 64 images of CIFAR-10-JPEG-10k (in brackets the bootstrap's standard error): synflow .766
//! (.031), logsynflow .807 (.027), naswot .804 (.030), snip .665 (.045), grad_norm .664 (.044), jacob_cov .702 (.046), params
//! .731 (.037). All proxies take about 4.5 s of one core per architecture, 1.8 s of it grasp.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nas_classify::model::{ModelConfig, NasBench201Model};
use nas_classify::nasbench201::{NasBench201, NetworkConfig};
use nas_classify::task::Classification;
use nas_core::estimator::zero_cost::{Proxy, ZeroCostError, score};
use nas_core::nn::Shape;
use nas_core::search::table::Table;
use nas_core::space::Architecture;
use nas_core::stats::spearman;
use nas_core::task::zero_cost::Candidate;
use nas_datasets::rng;
use tch::{Kind, Tensor};

const PUBLISHED: [(Proxy, f64); 15] = [
    (Proxy::Synflow, 0.769),
    (Proxy::Logsynflow, 0.826),
    (Proxy::Naswot, 0.785),
    (Proxy::Snip, 0.58),
    (Proxy::GradNorm, 0.58),
    (Proxy::JacobCov, 0.73),
    (Proxy::Params, 0.753),
    (Proxy::Grasp, 0.48),
    (Proxy::Fisher, 0.36),
    (Proxy::Zen, f64::NAN),
    (Proxy::Zico, 0.80),
    (Proxy::AzExpressivity, f64::NAN),
    (Proxy::AzProgressivity, f64::NAN),
    (Proxy::L2, f64::NAN),
    (Proxy::Macs, f64::NAN),
];

fn main() -> Result<()> {
    tch::set_num_threads(1);
    let mut args = std::env::args().skip(1);
    let mut number = |default: u64| args.next().map_or(Ok(default), |text| text.parse().context(text));
    let (count, batch, seed) = (number(200)? as usize, number(64)? as i64, number(0)?);
    let data = PathBuf::from(std::env::var("NAS_DATA").context("NAS_DATA: expected the folder of the data sets")?);
    let sample = Sample::draw(&data, count, batch, seed)?;
    let named = args.map(|name| Ok(name.parse()?)).collect::<Result<Vec<Proxy>>>()?;
    let is_wanted = |(proxy, _): &(Proxy, f64)| named.is_empty() || named.contains(proxy);
    let wanted: Vec<(Proxy, f64)> = PUBLISHED.into_iter().filter(is_wanted).collect();
    let proxies: Vec<Proxy> = wanted.iter().map(|(proxy, _)| *proxy).collect();
    let report = sample.correlations(&proxies, |line| eprintln!("{line}"));
    println!("{:10}  {:>8}  {:>9}  {:>6}  {:>12}", "proxy", "spearman", "published", "finite", "secs per net");
    for (proxy, published) in wanted {
        let Correlation { spearman, finite, secs } = &report[proxy.name()];
        let published = if published.is_nan() { "-".to_string() } else { format!("{published:.3}") };
        println!("{:10}  {spearman:8.3}  {published:>9}  {finite:6}  {:12.3}", proxy.name(), secs / count as f64);
    }
    Ok(())
}

/// Architectures of the table with their accuracies, and a batch.
struct Sample {
    rows: Vec<(Architecture, f64)>,
    images: Tensor,
    labels: Tensor,
    seed: u64,
}

struct Correlation {
    spearman: f64,
    finite: usize,
    secs: f64,
}

impl Sample {
    /// `count` different rows of the table and the first `batch` training images under the folder `data`.
    fn draw(data: &Path, count: usize, batch: i64, seed: u64) -> Result<Self> {
        let table = table(&data.join("nasbench201/nasbench201.csv.gz"))?;
        ensure!((2..=table.len()).contains(&count), "{count} architectures: expected 2 to {}", table.len());
        let mut rng = rng::stream(seed, "zero_cost", 0);
        let rows = rand::seq::index::sample(&mut rng, table.len(), count).iter().map(|i| table[i].clone()).collect();
        let (images, labels) = cifar(&data.join("cifar10/cifar-10-batches-bin/data_batch_1.bin"), batch)?;
        Ok(Self { rows, images, labels, seed })
    }

    fn correlations(&self, proxies: &[Proxy], progress: impl Fn(&str)) -> BTreeMap<&'static str, Correlation> {
        let mut found: BTreeMap<_, _> =
            proxies.iter().map(|proxy| (proxy.name(), (Vec::new(), Vec::new(), 0.0))).collect();
        for (i, (arch, accuracy)) in self.rows.iter().enumerate() {
            tch::manual_seed(rng::torch_seed(self.seed, "init", i as u64));
            let NetworkConfig { channels, cells, num_classes } = NetworkConfig::default();
            let model =
                ModelConfig::Nasbench201(NasBench201Model { arch: arch.clone(), channels, cells, stages: Vec::new() });
            let candidate = Candidate::<Classification>::new(&model, num_classes as usize, Shape::new(3, 32, 32))
                .expect("a row of the table");
            let mut line = format!("{} {} {accuracy}", i + 1, arch);
            for proxy in proxies {
                let (estimates, truth, secs) = found.get_mut(proxy.name()).expect("one entry per proxy");
                let start = Instant::now();
                let value = score(*proxy, &candidate, &self.images, &self.labels);
                *secs += start.elapsed().as_secs_f64();
                line += &format!(" {proxy}={:.6e}", value.as_ref().copied().unwrap_or(f64::NAN));
                match value {
                    Ok(value) => {
                        estimates.push(value);
                        truth.push(*accuracy)
                    }
                    Err(ZeroCostError::NotFinite { .. }) => {}
                    Err(error) => panic!("{arch}: {error}"),
                }
            }
            progress(&line);
        }
        let correlation = |(name, (estimates, truth, secs)): (_, (Vec<f64>, Vec<f64>, f64))| {
            (name, Correlation { spearman: spearman(&estimates, &truth), finite: truth.len(), secs })
        };
        found.into_iter().map(correlation).collect()
    }
}

/// Every architecture, in the benchmark's order, with its CIFAR-10 test accuracy after 200 epochs.
fn table(path: &Path) -> Result<Vec<(Architecture, f64)>> {
    let table = Table::read(&[path], &|text| Ok(NasBench201::parse(text)?))?;
    let (index, accuracy) = (table.column("index")?, table.column("cifar10_test_200")?);
    let mut archs: Vec<Architecture> = table.archs().to_vec();
    archs.sort_by_key(|arch| table.get(arch, index).expect("a complete column") as usize);
    Ok(archs.into_iter().filter_map(|arch| Some((arch.clone(), table.get(&arch, accuracy)?))).collect())
}

/// The first `batch` images `[B, 3, 32, 32]`, normalised as the benchmark does, with their labels.
fn cifar(path: &Path, batch: i64) -> Result<(Tensor, Tensor)> {
    const RECORD: i64 = 1 + 3 * 32 * 32;
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    let records = bytes.len() as i64 / RECORD;
    ensure!((1..=records).contains(&batch), "a batch of {batch}: expected 1 to {records}");
    let records = Tensor::from_slice(&bytes[..(batch * RECORD) as usize]).reshape([batch, RECORD]);
    let channel = |values: [f32; 3]| Tensor::from_slice(&values).reshape([1, 3, 1, 1]);
    let pixels = records.narrow(1, 1, RECORD - 1).to_kind(Kind::Float).reshape([batch, 3, 32, 32]);
    let images = (pixels - channel([125.3, 123.0, 113.9])) / channel([63.0, 62.1, 66.7]);
    Ok((images, records.select(1, 0).to_kind(Kind::Int64)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_rank_real_networks() {
        let Ok(data) = std::env::var("NAS_DATA") else {
            println!("skipped: NAS_DATA not set");
            return;
        };
        tch::set_num_threads(1);
        // Tests run in the crate's folder; the variable is relative to the repository.
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(data);
        let sample = Sample::draw(&data, 24, 8, 1).unwrap();
        let report = sample.correlations(&[Proxy::Synflow, Proxy::Naswot, Proxy::Params], |_| ());
        for (name, Correlation { spearman, finite, .. }) in report {
            assert!(finite >= 22 && spearman > 0.5, "{name}: {spearman} over {finite}");
        }
    }
}
