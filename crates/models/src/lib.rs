//! recast-models: the models that are trained, served and evaluated.

pub mod weights;
