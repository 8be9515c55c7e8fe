//! recast-eval
