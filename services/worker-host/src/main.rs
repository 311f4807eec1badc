//! The worker host's process: configuration, logging, listener, signals, and then [`worker_host::run`].

use std::process::ExitCode;

use clap::Parser as _;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let flags = worker_host::config::Flags::parse();
    // One thread: the handlers that compute have threads of their own, and the rest only waits.
    kit::run_main("multiagents-worker-host", kit::Threads::Current, async {
        let loaded = flags.load(worker_host::config::environment())?;
        let _logging = kit::logging::init("worker-host", &loaded.value.logging)?;
        loaded.warn();
        let listener = kit::listen(&loaded.value.listen, &loaded.value.exposure).await?;
        worker_host::run(loaded.value, listener, kit::shutdown::on_signals()?).await
    })
}
