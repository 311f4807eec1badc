//! How often a story that breaks things is told: a few times among the other tests, and hundreds of
//! times by `make chaos`, which sets `CHAOS_ROUNDS`.

/// The `CHAOS_ROUNDS` that the many are meant for.
const CHAOS_ROUNDS: u32 = 300;

/// `few` rounds; or `many`, in proportion, where `CHAOS_ROUNDS` asks for them.
pub fn rounds(few: u32, many: u32) -> u32 {
    let asked = std::env::var("CHAOS_ROUNDS").ok();
    match asked.and_then(|text| text.parse::<u32>().ok()) {
        Some(asked) => (many * asked).div_ceil(CHAOS_ROUNDS),
        None => few,
    }
}

/// Says how far it is, where that takes long enough for somebody to wonder.
pub fn progress(what: &str, done: u32, rounds: u32) {
    if rounds >= 40 && done.is_multiple_of(10) {
        eprintln!("{what}: {done} of {rounds}");
    }
}
