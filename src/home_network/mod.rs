//! home_network
