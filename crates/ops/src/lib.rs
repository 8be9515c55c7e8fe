//! recast-ops
