//! Mixed precision (Micikevicius et al. 2018): on a CUDA device, products and convolutions of a forward pass run in half
//! precision, sums and norms in single.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::nn::torch::AutocastGuard;

static BFLOAT16: AtomicBool = AtomicBool::new(false);

/// Chooses bfloat16, which has single precision's range, in the place of float16 for the rest of the process.
pub fn choose_bfloat16(chosen: bool) {
    BFLOAT16.store(chosen, Ordering::Relaxed);
}

/// Runs `forward`, in mixed precision where `amp` is set. Without it nothing of libtorch is called.
pub fn autocast<T>(amp: bool, forward: impl FnOnce() -> T) -> T {
    let _guard = amp.then(|| AutocastGuard::enter(BFLOAT16.load(Ordering::Relaxed)));
    forward()
}
