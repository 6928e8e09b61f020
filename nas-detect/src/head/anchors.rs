//! Anchors of RetinaNet, as torchvision lays them.

use tch::{Device, Kind, Tensor};

/// Anchors around the origin, `[x0, y0, x1, y1]`, for a level of `stride`: ratios outside, octave scales inside, corners
/// rounded to whole pixels (halves to even).
pub fn cell_anchors(stride: i64, base: f64, octaves: usize, ratios: &[f64]) -> Vec<[f32; 4]> {
    let size = base * stride as f64;
    // sizes are cut to whole pixels before the ratio applies
    let sizes: Vec<f64> = (0..octaves).map(|i| (size * 2f64.powf(i as f64 / octaves as f64)).floor()).collect();
    let anchor = |ratio: f64, size: f64| {
        let h_ratio = (ratio as f32).sqrt();
        let (w, h) = ((1.0 / h_ratio) * size as f32, h_ratio * size as f32);
        [-w, -h, w, h].map(|corner| (corner / 2.0).round_ties_even())
    };
    ratios.iter().flat_map(|ratio| sizes.iter().map(|size| anchor(*ratio, *size))).collect()
}

/// Anchors of a cell as `[1, A, 4]`. Made before they are used: a trace sees no numbers that come from Rust while it runs.
pub fn cell_tensor(anchors: &[[f32; 4]]) -> Tensor {
    Tensor::from_slice(anchors.as_flattened()).view([1, -1, 4])
}

/// Anchors `[N, 4]` of an image of `size` (height, width): for each level its cell's anchors `[1, A, 4]` at every pixel of its
/// map of `grids`, rows first. Cells start at the image's corner and have `size / grid` pixels.
pub fn anchors(cells: &[Tensor], grids: &[(i64, i64)], (h, w): (i64, i64), device: Device) -> Tensor {
    let levels = cells.iter().zip(grids).map(|(cell, (rows, columns))| {
        let axis = |n: i64, side: i64| Tensor::arange(n, (Kind::Float, device)) * (side / n) as f64;
        let grid = Tensor::meshgrid_indexing(&[axis(*rows, h), axis(*columns, w)], "ij");
        let (y, x) = (grid[0].reshape([-1]), grid[1].reshape([-1]));
        let shifts = Tensor::stack(&[&x, &y, &x, &y], 1).unsqueeze(1);
        (shifts + cell.to_device(device)).reshape([-1, 4])
    });
    Tensor::cat(&levels.collect::<Vec<_>>(), 0)
}
