//! Images per second of the training loader, without any network behind it.
//!
//! ```text
//! cargo run --release -p nas-datasets --example loader_bench -- ../shared/data/camvid 1
//! ```
//!
//! Arguments: root of a CamVid set and number of threads. Without a root, synthetic scenes of the same size are used.

use std::time::Instant;

use nas_datasets::{DataConfig, LoaderConfig, Size, Split, TrainLoader, TrainTransform};

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let data = match args.next() {
        Some(root) => DataConfig::Camvid { root: root.into() },
        None => DataConfig::Synth { num_images: 200, num_val: 1, height: 360, width: 480, seed: 0 },
    };
    let threads = args.next().map_or(Ok(1), |threads| threads.parse())?;
    let config = LoaderConfig { batch_size: 8, threads, prefetch: 2, cache_mb: 1024 };
    for (name, color_jitter) in [("scale, crop, flip", 0.0), ("and colour jitter", 0.2)] {
        let transform = TrainTransform { crop: Size::new(180, 240), color_jitter, ..Default::default() };
        let loader = TrainLoader::new(data.open(Split::Train)?, None, transform, config.clone(), 0, "bench")?;
        for (epoch, state) in ["cold", "warm", "warm"].into_iter().enumerate() {
            let start = Instant::now();
            let mut images = 0;
            for batch in loader.epoch(epoch, 0) {
                images += batch?.indices.len();
            }
            let secs = start.elapsed().as_secs_f64();
            println!(
                "{name}, {threads} threads, {state}: {images} images in {secs:.2} s, {:.0}/s",
                images as f64 / secs
            );
        }
    }
    Ok(())
}
