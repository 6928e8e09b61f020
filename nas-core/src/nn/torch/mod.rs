//! What tch lacks of libtorch: operators over lists of tensors, mixed precision by device, numeric switches, the figures of
//! a device's allocator. The `.cpp` files hold the other side. Failures are libtorch's and panic, as tch's operators do.

pub(crate) mod collectives;

use std::ffi::{CStr, c_char};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};
use tch::Tensor;
use torch_sys::C_tensor;

use super::{Activation, MixedNorms};

type List = *const *const C_tensor;

#[link(name = "nas_torch_shim", kind = "static")]
unsafe extern "C" {
    fn nas_sgd_step(
        parameters: List,
        grads: List,
        velocities: List,
        len: usize,
        lr: f64,
        momentum: f64,
        weight_decay: f64,
        nesterov: bool,
        overflow: *const C_tensor,
    ) -> *mut c_char;
    fn nas_adam_step(
        parameters: List,
        grads: List,
        firsts: List,
        seconds: List,
        steps: List,
        len: usize,
        lr: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        eps: f64,
        decoupled: bool,
        overflow: *const C_tensor,
    ) -> *mut c_char;
    fn nas_torch_version() -> *const c_char;
    fn nas_scale(tensors: List, len: usize, factor: *const C_tensor) -> *mut c_char;
    fn nas_average(averages: List, values: List, len: usize, decay: f64) -> *mut c_char;
    fn nas_norms(tensors: List, len: usize, norms: *const C_tensor) -> *mut c_char;
    fn nas_unscale(tensors: List, len: usize, overflow: *const C_tensor, inverse_scale: *const C_tensor)
    -> *mut c_char;
    fn nas_autocast_enter(bfloat16: bool, before: *mut bool) -> *mut c_char;
    fn nas_autocast_exit(before: bool) -> *mut c_char;
    fn nas_set_tf32(on: bool) -> *mut c_char;
    fn nas_set_deterministic() -> *mut c_char;
    fn nas_norm_act(
        xs: *const C_tensor,
        weight: *const C_tensor,
        bias: *const C_tensor,
        running_mean: *const C_tensor,
        running_var: *const C_tensor,
        train: bool,
        momentum: f64,
        eps: f64,
        act: i64,
        out: *const C_tensor,
    ) -> *mut c_char;
    fn nas_mixture(
        maps: List,
        len: usize,
        shared: usize,
        xs: *const C_tensor,
        weights: *const C_tensor,
        scale: *const C_tensor,
        sum: *const C_tensor,
        mean: *const C_tensor,
        var: *const C_tensor,
        sources: i64,
        eps: f64,
        out: *const C_tensor,
    ) -> *mut c_char;
    fn nas_conv(
        xs: *const C_tensor,
        weight: *const C_tensor,
        padding: *const i64,
        dilation: *const i64,
        out: *const C_tensor,
    ) -> *mut c_char;
    fn nas_grouped(xs: *const C_tensor, weight: *const C_tensor, groups: i64, out: *const C_tensor) -> *mut c_char;
    fn nas_device_memory(index: i8, now: *mut i64, peak: *mut i64) -> *mut c_char;
}

fn check(message: *mut c_char) -> Result<()> {
    if message.is_null() {
        return Ok(());
    }
    // SAFETY: the shim gives null or a string from strdup, which is ours to free.
    let text = unsafe {
        let text = CStr::from_ptr(message).to_string_lossy().into_owned();
        libc::free(message.cast());
        text
    };
    bail!("libtorch: {text}")
}

fn expect(message: *mut c_char) {
    check(message).unwrap_or_else(|error| panic!("{error}"));
}

/// Version of the libtorch that this program was built with.
pub fn version() -> &'static str {
    // SAFETY: a literal of the shim, which lives as long as the program.
    unsafe { CStr::from_ptr(nas_torch_version()) }.to_str().unwrap_or("unknown")
}

/// Tensors as the shim takes them; it never frees one.
fn handles(tensors: &[&Tensor]) -> Vec<*const C_tensor> {
    tensors.iter().map(|tensor| tensor.as_ptr()).collect()
}

fn handle(tensor: Option<&Tensor>) -> *const C_tensor {
    tensor.map_or(std::ptr::null(), Tensor::as_ptr)
}

/// Constants of [`sgd_step`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct SgdStep {
    pub lr: f64,
    pub momentum: f64,
    pub weight_decay: f64,
    pub nesterov: bool,
}

/// `v <- momentum * v + g + weight_decay * p`, `p <- p - lr * v` of all parameters at once; of none where `overflow`, a tensor
/// of one number, is 1.
pub(crate) fn sgd_step(
    parameters: &[&Tensor],
    grads: &[&Tensor],
    velocities: &[&Tensor],
    step: SgdStep,
    overflow: Option<&Tensor>,
) {
    if parameters.is_empty() {
        return;
    }
    let SgdStep { lr, momentum, weight_decay, nesterov } = step;
    let [of, grads, velocities] = [handles(parameters), handles(grads), handles(velocities)];
    // SAFETY: lists of live tensors, of equal length.
    let done = unsafe {
        let (of, grads, velocities, len) = (of.as_ptr(), grads.as_ptr(), velocities.as_ptr(), of.len());
        nas_sgd_step(of, grads, velocities, len, lr, momentum, weight_decay, nesterov, handle(overflow))
    };
    expect(done);
}

/// Constants of [`adam_step`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdamStep {
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub weight_decay: f64,
    pub eps: f64,
    /// Weight decay is no part of the gradient.
    pub decoupled: bool,
}

/// One step of Adam of all parameters at once, with the moments and the numbers of steps given for each; of none where
/// `overflow` is 1.
pub(crate) fn adam_step(
    parameters: &[&Tensor],
    grads: &[&Tensor],
    [firsts, seconds, steps]: [&[&Tensor]; 3],
    step: AdamStep,
    overflow: Option<&Tensor>,
) {
    if parameters.is_empty() {
        return;
    }
    let AdamStep { lr, beta1, beta2, weight_decay, eps, decoupled } = step;
    let [of, grads] = [handles(parameters), handles(grads)];
    let [firsts, seconds, steps] = [handles(firsts), handles(seconds), handles(steps)];
    // SAFETY: lists of live tensors, of equal length.
    let done = unsafe {
        let (of, grads, len) = (of.as_ptr(), grads.as_ptr(), of.len());
        let (firsts, seconds, steps) = (firsts.as_ptr(), seconds.as_ptr(), steps.as_ptr());
        let overflow = handle(overflow);
        nas_adam_step(of, grads, firsts, seconds, steps, len, lr, beta1, beta2, weight_decay, eps, decoupled, overflow)
    };
    expect(done);
}

/// Multiplies each tensor by `factor`, a tensor of one number of their kind, in place.
pub(crate) fn scale(tensors: &[&Tensor], factor: &Tensor) {
    if !tensors.is_empty() {
        // SAFETY: a list of live tensors.
        expect(unsafe { nas_scale(handles(tensors).as_ptr(), tensors.len(), factor.as_ptr()) });
    }
}

/// `averages <- decay * averages + (1 - decay) * values`, in place.
pub(crate) fn average(averages: &[&Tensor], values: &[&Tensor], decay: f64) {
    if !averages.is_empty() {
        // SAFETY: lists of live tensors, of equal length.
        expect(unsafe { nas_average(handles(averages).as_ptr(), handles(values).as_ptr(), averages.len(), decay) });
    }
}

/// Euclidean norms of the tensors, of which there is at least one.
pub(crate) fn norms(tensors: &[&Tensor]) -> Tensor {
    let norms = Tensor::new();
    // SAFETY: a list of live tensors; the result replaces an undefined tensor that nothing else refers to.
    expect(unsafe { nas_norms(handles(tensors).as_ptr(), tensors.len(), norms.as_ptr()) });
    norms
}

static IS_PLAIN: AtomicBool = AtomicBool::new(false);

/// From now on batch norms of this process are libtorch's on the CPU too. Where a rectifier's input is zero but for rounding, two
/// forms of the same sums are two gradients: what compares devices compares the same operators.
pub(crate) fn plain_norms() {
    IS_PLAIN.store(true, Ordering::Relaxed);
}

/// What [`norm_act`] normalises by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NormStep<'a> {
    pub weight: Option<&'a Tensor>,
    pub bias: Option<&'a Tensor>,
    /// Running mean and variance: moved towards those of the batch in training, else what maps are normalised by.
    pub running: Option<(&'a Tensor, &'a Tensor)>,
    pub train: bool,
    pub momentum: f64,
    pub eps: f64,
}

/// Whether the CPU is left to the operators that a card has: by [`plain_norms`], or by the variable `NAS_PLAIN_NORM`.
fn is_plain() -> bool {
    static ASKED: LazyLock<bool> = LazyLock::new(|| std::env::var_os("NAS_PLAIN_NORM").is_some());
    *ASKED || IS_PLAIN.load(Ordering::Relaxed)
}

/// What an operator of the shim writes; none where it does not serve, and where [`is_plain`].
fn served(write: impl FnOnce(*const C_tensor) -> *mut c_char) -> Option<Tensor> {
    if is_plain() {
        return None;
    }
    let out = Tensor::new();
    expect(write(out.as_ptr()));
    out.defined().then_some(out)
}

/// Batch norm of maps `[B, C, H, W]` and the activation after it in one operator; none where it does not serve: elsewhere than on
/// the CPU, for other numbers than floats, for maps that are not channels-last, under a tracer, where gradients of a
/// network that is not trained are asked for, and where [`is_plain`].
pub(crate) fn norm_act(xs: &Tensor, step: NormStep, activation: Activation) -> Option<Tensor> {
    let NormStep { weight, bias, running, train, momentum, eps } = step;
    let act = match activation {
        Activation::Identity => 0,
        Activation::Relu => 1,
        Activation::Relu6 => 2,
        Activation::Hswish => 3,
    };
    let (mean, var) = running.unzip();
    // SAFETY: live tensors or null; the result replaces an undefined tensor that nothing else refers to.
    served(|out| unsafe {
        let [weight, bias, mean, var] = [weight, bias, mean, var].map(handle);
        nas_norm_act(xs.as_ptr(), weight, bias, mean, var, train, momentum, eps, act, out)
    })
}

/// The weighted sum of the norms of `maps`, as [`MixedNorms`] has it; `mean` and `var` become those of the batch. None where it does not
/// serve, as [`norm_act`].
pub(crate) fn mixed_norms(maps: &[&Tensor], of: &MixedNorms, [mean, var]: [&Tensor; 2], eps: f64) -> Option<Tensor> {
    let list = handles(maps);
    // SAFETY: live tensors or null; the result replaces an undefined tensor that nothing else refers to.
    served(|out| unsafe {
        let [xs, weights, scale, sum, mean, var] =
            [of.identity, Some(of.weights), Some(of.scale), of.before, Some(mean), Some(var)].map(handle);
        let (list, len) = (list.as_ptr(), list.len());
        nas_mixture(list, len, of.shared, xs, weights, scale, sum, mean, var, of.sources, eps, out)
    })
}

/// The dense convolution of `xs` `[B, C, H, W]`, to maps of its own size, whose weights' gradient is a product of matrices; none where
/// it does not serve, as [`norm_act`], and where there are more pixels than output channels.
pub(crate) fn conv(xs: &Tensor, weight: &Tensor, padding: [i64; 2], dilation: [i64; 2]) -> Option<Tensor> {
    // SAFETY: live tensors and two numbers each; the result replaces an undefined tensor that nothing else refers to.
    served(|out| unsafe { nas_conv(xs.as_ptr(), weight.as_ptr(), padding.as_ptr(), dilation.as_ptr(), out) })
}

/// The 1x1 convolution of `xs` in `groups`; none where it does not serve, as [`norm_act`], for more than 2048 pixels, and for channels
/// of a group that are not multiples of eight.
pub(crate) fn grouped(xs: &Tensor, weight: &Tensor, groups: i64) -> Option<Tensor> {
    // SAFETY: live tensors; the result replaces an undefined tensor that nothing else refers to.
    served(|out| unsafe { nas_grouped(xs.as_ptr(), weight.as_ptr(), groups, out) })
}

/// Multiplies each tensor by `inverse_scale` in place and sets `overflow` to 1 where a number is not finite. Both are tensors of
/// one single-precision number.
pub(crate) fn unscale(tensors: &[&Tensor], overflow: &Tensor, inverse_scale: &Tensor) {
    if !tensors.is_empty() {
        let list = handles(tensors);
        // SAFETY: a list of live tensors.
        expect(unsafe { nas_unscale(list.as_ptr(), list.len(), overflow.as_ptr(), inverse_scale.as_ptr()) });
    }
}

/// Mixed precision on CUDA devices for this thread while it lives.
#[derive(Debug)]
pub(crate) struct AutocastGuard {
    before: bool,
}

impl AutocastGuard {
    /// Half precision where it is safe: bfloat16 or float16.
    pub fn enter(bfloat16: bool) -> Self {
        let mut before = false;
        // SAFETY: writes one flag.
        expect(unsafe { nas_autocast_enter(bfloat16, &mut before) });
        Self { before }
    }
}

impl Drop for AutocastGuard {
    fn drop(&mut self) {
        // SAFETY: undoes the enter of this guard.
        let done = unsafe { nas_autocast_exit(self.before) };
        debug_assert!(check(done).is_ok(), "leaving mixed precision cannot fail");
    }
}

/// Whether products of single-precision matrices and convolutions may round their operands to TF32 on a card.
pub(crate) fn set_tf32(on: bool) {
    // SAFETY: sets options.
    expect(unsafe { nas_set_tf32(on) });
}

static DETERMINISTIC: AtomicBool = AtomicBool::new(false);

/// Whether [`set_deterministic`] was called.
pub(crate) fn is_deterministic() -> bool {
    DETERMINISTIC.load(Ordering::Relaxed)
}

/// Chooses deterministic forms of operators where libtorch has them; the others warn.
pub(crate) fn set_deterministic() {
    DETERMINISTIC.store(true, Ordering::Relaxed);
    // SAFETY: sets options.
    expect(unsafe { nas_set_deterministic() });
}

/// Bytes that tensors hold on a CUDA device: now, and the most so far.
pub(crate) fn device_memory(index: usize) -> Result<(u64, u64)> {
    let (mut now, mut peak) = (0, 0);
    // SAFETY: writes two numbers.
    check(unsafe { nas_device_memory(index.try_into()?, &mut now, &mut peak) })?;
    Ok((now.try_into()?, peak.try_into()?))
}
