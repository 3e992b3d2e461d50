//! kernel_state
