//! nas-core
