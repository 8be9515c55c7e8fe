//! `recast` with one more mixer: `recast-retention convert retention.toml`, `recast-retention chat MODEL`, ...

use recast_models::mixers::{Registration, register};
use retention::Retention;

fn main() -> std::process::ExitCode {
    register(Registration::of::<Retention>());
    recast::main()
}
