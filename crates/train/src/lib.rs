//! recast-train
