//! The policy file: TOML schema, resolution and validation into a [`Policy`].
