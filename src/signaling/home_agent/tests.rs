//! Every transition of the binding cache.
