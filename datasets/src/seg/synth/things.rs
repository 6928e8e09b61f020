//! What stands on a street. Lengths are in depths of the ground (see [`View::pixels`]); a person is 0.5 high.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::scene::{View, class, vary};
use crate::canvas::{Area, Canvas, Color, shade};

const TYRE: Color = [28.0, 28.0, 30.0];
const GLASS: Color = [62.0, 74.0, 86.0];
const METAL: Color = [118.0, 120.0, 122.0];
const SKIN: Color = [198.0, 158.0, 132.0];

/// A box of `width` by `height` depths that stands on the ground at `near`.
fn standing(view: &View, across: f32, near: f32, width: f32, height: f32) -> Area {
    let (width, height) = (view.pixels(width, near), view.pixels(height, near));
    Area::standing(view.across(across, near), view.ground(near), width, height)
}

fn any_color(rng: &mut ChaCha8Rng) -> Color {
    [0; 3].map(|_| rng.random_range(25.0..215.0))
}

/// A car from behind or in front.
pub fn car(canvas: &mut Canvas, view: &View, across: f32, near: f32, rng: &mut ChaCha8Rng) {
    let body = standing(view, across, near, rng.random_range(0.5..0.65), 0.42);
    let paint = any_color(rng);
    let lights = if across > 0.0 { [200.0, 30.0, 30.0] } else { [240.0, 240.0, 215.0] };
    for side in [[0.06, 0.24], [0.76, 0.94]] {
        canvas.rect(body.part(side, [0.75, 1.0]), class::CAR, TYRE);
    }
    canvas.ellipse(body.part([0.08, 0.92], [0.0, 0.9]), class::CAR, paint);
    canvas.rect(body.part([0.0, 1.0], [0.42, 0.88]), class::CAR, paint);
    canvas.rect(body.part([0.2, 0.8], [0.14, 0.4]), class::CAR, GLASS);
    for side in [[0.03, 0.2], [0.8, 0.97]] {
        canvas.rect(body.part(side, [0.5, 0.62]), class::CAR, lights);
    }
}

/// A lorry: a plain box over dark wheels.
pub fn truck(canvas: &mut Canvas, view: &View, across: f32, near: f32, rng: &mut ChaCha8Rng) {
    let body = standing(view, across, near, 0.75, rng.random_range(0.85..1.05));
    let paint = vary([188.0, 186.0, 180.0], 0.2, rng);
    canvas.rect(body.part([0.1, 0.9], [0.85, 1.0]), class::TRUCK, TYRE);
    canvas.rect(body.part([0.0, 1.0], [0.0, 0.85]), class::TRUCK, paint);
    canvas.rect(body.part([0.49, 0.51], [0.05, 0.8]), class::TRUCK, shade(paint, 0.5));
    canvas.rect(body.part([0.0, 1.0], [0.8, 0.86]), class::TRUCK, [150.0, 40.0, 40.0]);
}

/// A bus: a coloured box with a wide window.
pub fn bus(canvas: &mut Canvas, view: &View, across: f32, near: f32, rng: &mut ChaCha8Rng) {
    let body = standing(view, across, near, 0.75, rng.random_range(0.8..1.0));
    let paint = vary(if rng.random_bool(0.5) { [205.0, 170.0, 45.0] } else { [180.0, 52.0, 48.0] }, 0.15, rng);
    canvas.rect(body.part([0.06, 0.94], [0.9, 1.0]), class::BUS, TYRE);
    canvas.rect(body.part([0.0, 1.0], [0.0, 0.92]), class::BUS, paint);
    canvas.rect(body.part([0.06, 0.94], [0.14, 0.55]), class::BUS, GLASS);
    canvas.rect(body.part([0.25, 0.75], [0.03, 0.1]), class::BUS, [235.0, 205.0, 120.0]);
}

/// Somebody on foot.
pub fn person(canvas: &mut Canvas, view: &View, across: f32, near: f32, rng: &mut ChaCha8Rng) {
    let body = standing(view, across, near, 0.18, rng.random_range(0.44..0.56));
    figure(canvas, &body, class::PERSON, rng);
}

/// Head, upper body and legs inside a box.
fn figure(canvas: &mut Canvas, body: &Area, class: u8, rng: &mut ChaCha8Rng) {
    let (coat, trousers) = (any_color(rng), shade(any_color(rng), 0.6));
    canvas.rect(body.part([0.2, 0.47], [0.5, 1.0]), class, trousers);
    canvas.rect(body.part([0.53, 0.8], [0.5, 1.0]), class, trousers);
    canvas.ellipse(body.part([0.0, 1.0], [0.13, 0.62]), class, coat);
    canvas.ellipse(body.part([0.28, 0.72], [0.0, 0.17]), class, SKIN);
}

/// A rider on a bicycle, from behind.
pub fn cyclist(canvas: &mut Canvas, view: &View, across: f32, near: f32, rng: &mut ChaCha8Rng) {
    let whole = standing(view, across, near, 0.24, 0.55);
    canvas.ellipse(whole.part([0.42, 0.58], [0.5, 1.0]), class::BICYCLE, TYRE);
    canvas.rect(whole.part([0.1, 0.9], [0.5, 0.55]), class::BICYCLE, METAL);
    figure(canvas, &whole.part([0.15, 0.85], [0.0, 0.75]), class::RIDER, rng);
    canvas.ellipse(whole.part([0.4, 0.6], [0.62, 1.0]), class::BICYCLE, TYRE);
}

/// A street lamp.
pub fn lamp(canvas: &mut Canvas, view: &View, across: f32, near: f32) {
    pole(canvas, view, across, near, 1.5);
    let whole = standing(view, across, near, 0.4, 1.5);
    canvas.rect(whole.part([0.0, 0.5], [0.0, 0.03]), class::POLE, METAL);
}

fn pole(canvas: &mut Canvas, view: &View, across: f32, near: f32, height: f32) {
    let mut area = standing(view, across, near, 0.05, height);
    if area.right - area.left < 1.0 {
        area.right = area.left + 1.0; // far poles stay one pixel wide
    }
    canvas.rect(area, class::POLE, METAL);
}

/// A pole with three lights, one of them on.
pub fn traffic_light(canvas: &mut Canvas, view: &View, across: f32, near: f32, rng: &mut ChaCha8Rng) {
    let height = rng.random_range(0.95..1.2);
    pole(canvas, view, across, near, height);
    let head = standing(view, across, near, 0.16, height).part([0.0, 1.0], [0.0, 0.34]);
    canvas.rect(head, class::TRAFFIC_LIGHT, [34.0, 36.0, 34.0]);
    let on = rng.random_range(0..3);
    for (i, color) in [[235.0, 45.0, 35.0], [240.0, 190.0, 50.0], [60.0, 215.0, 110.0]].into_iter().enumerate() {
        let top = 0.05 + 0.31 * i as f32;
        let lamp = head.part([0.22, 0.78], [top, top + 0.26]);
        canvas.ellipse(lamp, class::TRAFFIC_LIGHT, shade(color, if i == on { 1.0 } else { 0.3 }));
    }
}

/// A pole with a round, square or warning sign.
pub fn traffic_sign(canvas: &mut Canvas, view: &View, across: f32, near: f32, rng: &mut ChaCha8Rng) {
    let height = rng.random_range(0.75..1.0);
    pole(canvas, view, across, near, height);
    let side = 0.24;
    let plate = standing(view, across, near, side, height).part([0.0, 1.0], [0.0, side / height]);
    let (rim, field) = match rng.random_range(0..3) {
        0 => ([200.0, 35.0, 40.0], [236.0, 236.0, 232.0]),
        1 => ([235.0, 235.0, 235.0], [40.0, 85.0, 175.0]),
        _ => ([40.0, 40.0, 40.0], [235.0, 190.0, 40.0]),
    };
    let inner = plate.part([0.2, 0.8], [0.2, 0.8]);
    if rng.random_bool(0.5) {
        canvas.ellipse(plate, class::TRAFFIC_SIGN, rim);
        canvas.ellipse(inner, class::TRAFFIC_SIGN, field);
    } else {
        canvas.rect(plate, class::TRAFFIC_SIGN, rim);
        canvas.rect(inner, class::TRAFFIC_SIGN, field);
    }
}

/// A tree: trunk and a crown of overlapping tufts.
pub fn tree(canvas: &mut Canvas, view: &View, across: f32, near: f32, rng: &mut ChaCha8Rng) {
    let height = rng.random_range(0.9..1.7);
    let whole = standing(view, across, near, height * rng.random_range(0.6..0.9), height);
    let leaves = vary([82.0, 112.0, 58.0], 0.25, rng);
    canvas.rect(whole.part([0.45, 0.55], [0.5, 1.0]), class::VEGETATION, [82.0, 66.0, 52.0]);
    for _ in 0..14 {
        let (x, y) = (rng.random_range(0.0..0.6), rng.random_range(0.0..0.4));
        let tuft = whole.part([x, x + 0.4], [y, y + 0.3]);
        canvas.ellipse(tuft, class::VEGETATION, vary(leaves, 0.2, rng));
    }
}
