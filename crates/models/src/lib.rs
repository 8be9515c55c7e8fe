//! recast-models
