//! Command line.

pub mod policy;
