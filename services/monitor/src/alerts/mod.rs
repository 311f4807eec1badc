//! Alerts: rules over the folds. Which fire is a pure function of a view; when they fired, for how
//! long, and who was told is for what comes on top.

pub mod rule;
