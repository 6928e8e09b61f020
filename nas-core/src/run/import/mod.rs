//! Weights from elsewhere: files of `torch.save` read without Python, and the start of a training from any weights.

mod init;
pub mod pickle;
mod torch_file;

pub use init::{InitReport, init_from, weights_of};
pub(crate) use torch_file::read_trace;
pub use torch_file::{StateDict, is_torch_file, read_state_dict};

#[cfg(test)]
mod tests;
