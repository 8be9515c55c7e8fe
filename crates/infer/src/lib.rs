//! recast-infer
