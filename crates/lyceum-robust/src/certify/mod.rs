//! What no attack can do: radii within which a model's answer is proved not to change.
//!
//! * [`linear`]: exact for linear models, in both norms, bounds included.
//! * [`interval`]: a proof by intervals for chains of layers (L∞); safe and often far below the truth.
//! * [`smooth`]: a proof with a stated probability for the smoothed classifier of any model (L2).

pub mod interval;
pub mod linear;
pub mod smooth;
