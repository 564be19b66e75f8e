//! What is measured and traced, as libraries see it: instruments by name, and trace context as text. Where it goes is
//! service-kit's `telemetry` to decide; without that, all of this does nothing.

pub mod metrics;
pub mod trace;
