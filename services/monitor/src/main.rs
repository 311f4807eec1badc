//! The monitor's process: configuration, logging, listener, signals, run.

use clap::Parser as _;
use kit::{Clock, Threads, run_main};
use monitor::config::Flags;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    let flags = Flags::parse();
    run_main("multiagents-monitor", Threads::PerCore, async {
        let loaded = flags.load(&std::env::current_dir()?, std::env::vars().collect())?;
        let _logging = kit::logging::init("monitor", &loaded.value.logging)?;
        loaded.warn();
        let shutdown = kit::shutdown::on_signals()?;
        let listener = kit::listen(&loaded.value.listen, &loaded.value.exposure).await?;
        monitor::run(loaded.value, listener, Clock::system(0), shutdown).await
    })
}
