//! Placeholder until the model test.
