//! Not in this tree yet.
/// Arguments.
#[derive(clap::Args)]
pub struct Args {}
/// Runs.
pub fn run(_: &Args, _: &crate::Global) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
