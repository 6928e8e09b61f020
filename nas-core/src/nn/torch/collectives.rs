//! Sums and broadcasts between processes. `collectives.cpp` holds the other side.

use std::ffi::{CString, c_char, c_int};
use std::time::Duration;

use anyhow::Result;
use tch::{Device, Tensor};
use torch_sys::C_tensor;

use super::check;

#[link(name = "nas_torch_shim", kind = "static")]
unsafe extern "C" {
    fn nas_group_join(
        host: *const c_char,
        port: c_int,
        rank: c_int,
        world: c_int,
        interface: *const c_char,
        millis: i64,
    ) -> *mut c_char;
    fn nas_group_leave();
    fn nas_group_sum(tensor: *const C_tensor) -> *mut c_char;
    fn nas_group_broadcast(tensor: *const C_tensor, root: c_int) -> *mut c_char;
    fn nas_group_summed(tensor: *const C_tensor, out: *const C_tensor) -> *mut c_char;
}

/// Where the processes of a group meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Meeting {
    /// Host of process 0.
    pub host: String,
    /// Port that process 0 listens on.
    pub port: u16,
    /// Network interface that data go through; chosen by the host's name where it is empty.
    pub interface: String,
}

/// Makes this process number `rank` of a group of `world`. Called once; `patience` bounds every wait for another process.
pub(crate) fn join(at: &Meeting, rank: usize, world: usize, patience: Duration) -> Result<()> {
    let (host, interface) = (CString::new(at.host.as_str())?, CString::new(at.interface.as_str())?);
    let (rank, world, millis) = (rank.try_into()?, world.try_into()?, patience.as_millis().try_into()?);
    // SAFETY: strings that end in NUL and outlive the call.
    check(unsafe { nas_group_join(host.as_ptr(), at.port.into(), rank, world, interface.as_ptr(), millis) })
}

/// Leaves the group.
pub(crate) fn leave() {
    // SAFETY: no other call of this module runs, which all belong to the thread that joined.
    unsafe { nas_group_leave() }
}

/// Adds up `tensor`, in the host's memory and contiguous, over all processes, in place. This process is in a group.
pub(crate) fn sum(tensor: &Tensor) -> Result<()> {
    debug_assert_eq!(tensor.device(), Device::Cpu);
    // SAFETY: a live tensor.
    check(unsafe { nas_group_sum(tensor.as_ptr()) })
}

/// Overwrites `tensor`, in the host's memory and contiguous, by that of process `root`. This process is in a group.
pub(crate) fn broadcast(tensor: &Tensor, root: usize) -> Result<()> {
    debug_assert_eq!(tensor.device(), Device::Cpu);
    // SAFETY: a live tensor.
    check(unsafe { nas_group_broadcast(tensor.as_ptr(), root.try_into()?) })
}

/// The sum of `tensor` over all processes, through which gradients pass. This process is in a group.
pub(crate) fn summed(tensor: &Tensor) -> Result<Tensor> {
    let sum = Tensor::new();
    // SAFETY: a live tensor; the result replaces an undefined one that nothing else refers to.
    check(unsafe { nas_group_summed(tensor.as_ptr(), sum.as_ptr()) })?;
    Ok(sum)
}
