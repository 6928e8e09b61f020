//! Sums and broadcasts between processes. `collectives.cpp` holds the other side.

use std::ffi::{CString, c_char, c_int};
use std::time::Duration;

use anyhow::Result;
use tch::Tensor;
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
    fn nas_nccl_version(version: *mut c_int) -> *mut c_char;
    fn nas_nccl_id(id: *mut u8) -> *mut c_char;
    fn nas_group_cards_join(id: *const u8, rank: c_int, world: c_int, device: c_int) -> *mut c_char;
    fn nas_group_cards_leave();
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

/// What the processes whose cards are to talk agree on; see NCCL's `ncclUniqueId`.
pub(crate) const CARDS_ID: usize = 128;

/// The version of NCCL that this process finds, such as 22707; the error says why it finds none.
pub(crate) fn nccl_version() -> Result<i32> {
    let mut version = 0;
    // SAFETY: it writes one number.
    check(unsafe { nas_nccl_version(&raw mut version) })?;
    Ok(version)
}

/// An agreement that nobody else has.
pub(crate) fn cards_id() -> Result<[u8; CARDS_ID]> {
    let mut id = [0; CARDS_ID];
    // SAFETY: it writes as many bytes.
    check(unsafe { nas_nccl_id(id.as_mut_ptr()) })?;
    Ok(id)
}

/// From now on tensors on card number `device` go to the other processes' cards by NCCL. All call it at the same time.
pub(crate) fn join_cards(id: &[u8; CARDS_ID], rank: usize, world: usize, device: usize) -> Result<()> {
    let (rank, world, device) = (rank.try_into()?, world.try_into()?, device.try_into()?);
    // SAFETY: it reads as many bytes.
    check(unsafe { nas_group_cards_join(id.as_ptr(), rank, world, device) })
}

/// Takes [`join_cards`] back.
pub(crate) fn leave_cards() {
    // SAFETY: no other call of this module runs, which all belong to the thread that joined.
    unsafe { nas_group_cards_leave() }
}

/// Adds up `tensor`, contiguous and in the host's memory or on a card that has joined, over all processes, in place. This process
/// is in a group.
pub(crate) fn sum(tensor: &Tensor) -> Result<()> {
    // SAFETY: a live tensor.
    check(unsafe { nas_group_sum(tensor.as_ptr()) })
}

/// Overwrites `tensor`, contiguous and in the host's memory or on a card that has joined, by that of process `root`. This process
/// is in a group.
pub(crate) fn broadcast(tensor: &Tensor, root: usize) -> Result<()> {
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
