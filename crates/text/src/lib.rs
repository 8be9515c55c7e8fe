//! recast-text
