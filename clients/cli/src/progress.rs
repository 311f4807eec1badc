//! Progress of long work, on a terminal's standard error only.
//!
//! Where no terminal watches, nothing moves and the caller's own lines tell how it went.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

const TICK: Duration = Duration::from_millis(120);

/// A bar for work of a known size.
pub(crate) fn bar(length: u64, what: &str) -> ProgressBar {
    let bar = ProgressBar::new(length);
    if let Ok(style) =
        ProgressStyle::with_template("{msg} [{bar:30}] {pos}/{len} {elapsed_precise:.dim}")
    {
        bar.set_style(style.progress_chars("█▌ "));
    }
    bar.set_message(what.to_owned());
    bar.enable_steady_tick(TICK);
    bar
}

/// A bar for so many bytes.
pub(crate) fn byte_bar(length: u64, what: &str) -> ProgressBar {
    let bar = bar(length, what);
    if let Ok(style) = ProgressStyle::with_template(
        "{msg} [{bar:30}] {bytes}/{total_bytes} {elapsed_precise:.dim}",
    ) {
        bar.set_style(style.progress_chars("█▌ "));
    }
    bar
}

/// A sign of life for work of an unknown size.
pub(crate) fn spinner(what: &str) -> ProgressBar {
    let spinner = ProgressBar::new_spinner();
    spinner.set_message(what.to_owned());
    spinner.enable_steady_tick(TICK);
    spinner
}
