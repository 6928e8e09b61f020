//! Spaces, operators, strategies and the machinery to run them: everything of the project that knows no data format, no
//! task loss and no head. See `ARCHITECTURE.md` for the code map.

pub mod arch;
pub mod device;
pub mod nn;
pub mod space;
