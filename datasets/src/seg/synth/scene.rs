//! Composition of one street: sky and ground, then both sides of the road from far to near, then what stands on it.
//!
//! Depth is measured by `near`, 0 at the horizon and 1 at the lower edge of the image: a thing whose foot is at `near`
//! appears `near` times as large as it would at the lower edge.

use image::{GrayImage, RgbImage};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::things;
use crate::canvas::{Area, Canvas, Color, blend, shade};
use crate::seg::IGNORE;
use crate::size::Size;

/// Train ids of Cityscapes.
pub mod class {
    pub const ROAD: u8 = 0;
    pub const SIDEWALK: u8 = 1;
    pub const BUILDING: u8 = 2;
    pub const WALL: u8 = 3;
    pub const FENCE: u8 = 4;
    pub const POLE: u8 = 5;
    pub const TRAFFIC_LIGHT: u8 = 6;
    pub const TRAFFIC_SIGN: u8 = 7;
    pub const VEGETATION: u8 = 8;
    pub const TERRAIN: u8 = 9;
    pub const SKY: u8 = 10;
    pub const PERSON: u8 = 11;
    pub const RIDER: u8 = 12;
    pub const CAR: u8 = 13;
    pub const TRUCK: u8 = 14;
    pub const BUS: u8 = 15;
    pub const BICYCLE: u8 = 18;
}

/// The camera and the road.
pub struct View {
    /// Where the road vanishes, in pixels.
    vanish: (f32, f32),
    /// Pixels between horizon and lower edge.
    depth: f32,
    /// Half the road's width at the lower edge, in pixels.
    road: f32,
    /// The same with the pavements.
    curb: f32,
}

impl View {
    fn draw(width: f32, height: f32, rng: &mut ChaCha8Rng) -> Self {
        let horizon = height * rng.random_range(0.36..0.48);
        let depth = height - horizon;
        let road = depth * rng.random_range(1.15..1.7);
        let curb = road * rng.random_range(1.25..1.5);
        Self { vanish: (width * rng.random_range(0.4..0.6), horizon), depth, road, curb }
    }

    /// Depth of the ground at a row.
    fn near(&self, y: f32) -> f32 {
        (y - self.vanish.1) / self.depth
    }

    /// Row of the ground at a depth.
    pub fn ground(&self, near: f32) -> f32 {
        self.vanish.1 + near * self.depth
    }

    /// Column of a point `across` road halves to the right of the middle.
    pub fn across(&self, across: f32, near: f32) -> f32 {
        self.vanish.0 + across * self.road * near
    }

    /// Pixels of a length that takes `length` times the depth of the ground at the lower edge.
    pub fn pixels(&self, length: f32, near: f32) -> f32 {
        length * self.depth * near
    }

    /// Where pavements end, in road halves.
    fn curb_across(&self) -> f32 {
        self.curb / self.road
    }
}

/// One scene: image and train ids.
pub fn draw(size: Size, rng: &mut ChaCha8Rng) -> (RgbImage, GrayImage) {
    let mut canvas = Canvas::new(size);
    let view = View::draw(canvas.width(), canvas.height(), rng);
    sky(&mut canvas, &view, rng);
    ground(&mut canvas, &view, rng);
    for side in [-1.0, 1.0] {
        roadside(&mut canvas, &view, side, rng);
    }
    traffic(&mut canvas, &view, rng);
    if rng.random_bool(0.5) {
        hood(&mut canvas, &view);
    }
    let brightness = rng.random_range(0.65..1.15);
    let warmth = rng.random_range(-0.08..0.08);
    let noise = rng.random_range(4.0..14.0);
    canvas.develop([brightness * (1.0 + warmth), brightness, brightness * (1.0 - warmth)], noise, rng)
}

/// A colour with some variation.
pub fn vary(color: Color, amount: f32, rng: &mut ChaCha8Rng) -> Color {
    let light = rng.random_range(1.0 - amount..1.0 + amount);
    color.map(|value| value * light * rng.random_range(1.0 - amount / 3.0..1.0 + amount / 3.0))
}

fn sky(canvas: &mut Canvas, view: &View, rng: &mut ChaCha8Rng) {
    let zenith = blend([95.0, 140.0, 205.0], [170.0, 172.0, 178.0], rng.random());
    let haze = vary([215.0, 220.0, 225.0], 0.08, rng);
    let (width, bottom) = (canvas.width(), view.vanish.1 + 1.0);
    let area = Area { left: 0.0, top: 0.0, right: width, bottom };
    canvas.paint(area, class::SKY, |_, y| Some(blend(zenith, haze, (y / bottom).min(1.0))));
    for _ in 0..rng.random_range(0..4) {
        let (x, y) = (rng.random_range(0.0..width), rng.random_range(0.0..bottom));
        let cloud = Area::standing(x, y, bottom * rng.random_range(0.5..1.2), bottom * rng.random_range(0.1..0.25));
        canvas.ellipse(cloud, class::SKY, [228.0, 230.0, 233.0]);
    }
}

/// Terrain, pavements, road with markings.
fn ground(canvas: &mut Canvas, view: &View, rng: &mut ChaCha8Rng) {
    let area = Area { left: 0.0, top: view.vanish.1, right: canvas.width(), bottom: canvas.height() };
    let grass = vary([105.0, 128.0, 72.0], 0.2, rng);
    canvas.rect(area, class::TERRAIN, grass);
    let paving = vary([152.0, 145.0, 142.0], 0.12, rng);
    let curb = view.curb_across();
    canvas.paint(area, class::SIDEWALK, |x, y| {
        let (across, near) = (across(view, x, y), view.near(y));
        let slab = (30.0 / (near + 0.05)) as u32 % 2;
        (across.abs() <= curb).then(|| shade(paving, 1.0 - 0.05 * slab as f32))
    });
    let asphalt = vary([98.0, 98.0, 102.0], 0.2, rng);
    let dashed = rng.random_bool(0.8);
    canvas.paint(area, class::ROAD, |x, y| {
        let (across, near) = (across(view, x, y), view.near(y));
        let dash = ((4.0 / (near + 0.02)) as u32).is_multiple_of(2);
        let marked = across.abs() < 0.03 && dash && dashed || (across.abs() - 0.93).abs() < 0.02;
        (across.abs() <= 1.0).then_some(if marked { [205.0; 3] } else { asphalt })
    });
}

/// Horizontal place of a ground pixel in road halves.
fn across(view: &View, x: f32, y: f32) -> f32 {
    (x - view.vanish.0) / (view.road * view.near(y).max(1e-3))
}

/// House fronts, walls, fences and trees along one side, from far to near.
fn roadside(canvas: &mut Canvas, view: &View, side: f32, rng: &mut ChaCha8Rng) {
    let setback = view.curb_across() * rng.random_range(1.0..1.35);
    let mut far = 0.05;
    while far < 2.5 {
        let near = far * rng.random_range(1.25..1.9);
        let block = Block { side, setback, far, near };
        match rng.random_range(0..10) {
            0..=5 => house(canvas, view, &block, rng),
            6 => barrier(canvas, view, &block, class::WALL, rng),
            7 => barrier(canvas, view, &block, class::FENCE, rng),
            _ => {}
        }
        if rng.random_bool(0.45) {
            let near = rng.random_range(far..near);
            let across = side * setback * rng.random_range(0.85..1.15);
            things::tree(canvas, view, across, near, rng);
        }
        far = near;
    }
}

/// A stretch of one side of the road, parallel to it.
struct Block {
    side: f32,
    setback: f32,
    far: f32,
    near: f32,
}

impl Block {
    /// Paints a vertical plane of a height (in depths): `paint` gets the place along the street (grows towards the
    /// horizon, evenly in the world) and above the ground (0..=1).
    fn plane(
        &self,
        canvas: &mut Canvas,
        view: &View,
        height: f32,
        class: u8,
        paint: impl Fn(f32, f32) -> Option<Color>,
    ) {
        let x = |near| view.across(self.side * self.setback, near);
        let (left, right) = (x(self.far).min(x(self.near)), x(self.far).max(x(self.near)));
        let top = view.ground(self.near) - view.pixels(height, self.near);
        canvas.paint(Area { left, top, right, bottom: canvas.height() }, class, |x, y| {
            let near = (x - view.vanish.0) / (self.side * self.setback * view.road);
            let up = (view.ground(near) - y) / view.pixels(height, near);
            if (0.0..=1.0).contains(&up) { paint(1.0 / near, up) } else { None }
        });
    }
}

fn house(canvas: &mut Canvas, view: &View, block: &Block, rng: &mut ChaCha8Rng) {
    let palette = [[176.0, 150.0, 122.0], [148.0, 98.0, 82.0], [188.0, 180.0, 164.0], [122.0, 120.0, 118.0]];
    let front = vary(palette[rng.random_range(0..palette.len())], 0.2, rng);
    let haze = 0.35 * (1.0 - block.near.min(1.0));
    let front = blend(front, [200.0, 205.0, 210.0], haze);
    let glass = shade(front, if rng.random_bool(0.8) { 0.45 } else { 1.25 });
    let floors = rng.random_range(2..6) as f32;
    let rate = rng.random_range(2.5..5.0);
    block.plane(canvas, view, 0.42 * floors, class::BUILDING, |along, up| {
        let (column, row) = ((along * rate).fract(), (up * floors).fract());
        let window = (0.25..0.75).contains(&column) && (0.3..0.8).contains(&row);
        Some(if window { glass } else { front })
    });
}

/// A wall or a fence: as low as each other, told apart by the gaps.
fn barrier(canvas: &mut Canvas, view: &View, block: &Block, class: u8, rng: &mut ChaCha8Rng) {
    let color = vary([142.0, 136.0, 130.0], 0.25, rng);
    let rate = rng.random_range(8.0..12.0);
    block.plane(canvas, view, rng.random_range(0.3..0.5), class, |along, up| {
        let gap = class == class::FENCE && (along * rate).fract() < 0.5 && up < 0.85;
        Some(shade(color, if gap { 0.5 } else { 1.0 }))
    });
}

/// Things on pavements and road, from far to near.
fn traffic(canvas: &mut Canvas, view: &View, rng: &mut ChaCha8Rng) {
    let count = rng.random_range(10..18);
    let mut depths: Vec<f32> = (0..count).map(|_| 0.1 + 0.75 * rng.random::<f32>() * rng.random::<f32>()).collect();
    depths.sort_by(f32::total_cmp);
    for near in depths {
        let side = if rng.random_bool(0.5) { 1.0 } else { -1.0 };
        let pavement = side * rng.random_range(1.08..view.curb_across());
        let lane = side * rng.random_range(0.35..0.8);
        match rng.random_range(0..20) {
            0..=6 => things::car(canvas, view, lane, near, rng),
            7 => things::truck(canvas, view, lane, near, rng),
            8 => things::bus(canvas, view, lane, near, rng),
            9..=12 => things::person(canvas, view, pavement, near, rng),
            13 | 14 => things::cyclist(canvas, view, side * 0.85, near, rng),
            15 | 16 => things::traffic_light(canvas, view, side * 1.1, near, rng),
            17 | 18 => things::traffic_sign(canvas, view, side * 1.1, near, rng),
            _ => things::lamp(canvas, view, side * 1.15, near),
        }
    }
}

/// The bonnet of the car that carries the camera: unlabelled, as in Cityscapes.
fn hood(canvas: &mut Canvas, view: &View) {
    let (x, bottom) = (canvas.width() / 2.0, canvas.height() + 0.1 * view.depth);
    let area = Area::standing(x, bottom, 0.75 * canvas.width(), 0.25 * view.depth);
    canvas.ellipse(area, IGNORE, [52.0, 54.0, 60.0]);
}
