//! The orchestrator's binary.

use std::process::ExitCode;

use clap::Parser as _;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let flags = orchestrator::config::Flags::parse();
    // One thread for the runtime, one for the driver: more only wake each other.
    kit::run_main(
        "multiagents-orchestrator",
        kit::Threads::Current,
        orchestrator::from_flags(flags),
    )
}
