//! The lab's machines: stock kernels in QEMU, on the root file system of this machine.

pub(crate) mod accelerator;
pub(crate) mod choice;
mod cpio;
pub(crate) mod image;
pub(crate) mod joined;
pub(crate) mod last_words;
pub(crate) mod machine;
pub(crate) mod package;

pub(crate) use cpio::Archive;
