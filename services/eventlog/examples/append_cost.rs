//! What a synced append costs beside a bare write with its sync: `cargo run --release --example
//! append_cost [DIRECTORY]`. Both are measured by turns, in the same run.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use eventlog::{Batch, EventLog, Options};

const ROUNDS: u64 = 3000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let place = std::env::args()
        .nth(1)
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let directory = place.join(format!("append-cost-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let started = Instant::now();
    let mut log = eventlog::open(&directory.join("log"), Options::default())?;
    println!("open of a fresh log: {:?}", started.elapsed());
    let bare = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .open(directory.join("bare"))?;
    bare.write_all_at(&vec![0; 64 << 20], 0)?;
    bare.sync_all()?;

    for bytes in [200, 4096 - 80, 64 * 1024] {
        let events = vec![7; bytes];
        let (mut bare_times, mut log_times) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let began = Instant::now();
            bare.write_all_at(&events, (round * bytes as u64) % (60 << 20))?;
            bare.sync_data()?;
            bare_times.push(began.elapsed());
            let next = log.reader().bounds().next;
            let batch = Batch {
                count: 10,
                time_us: 0,
                events: &events,
                payloads: b"",
            };
            let began = Instant::now();
            log.append(next, &batch)?;
            log_times.push(began.elapsed());
        }
        println!(
            "{bytes} bytes: bare write and sync p50 {:?} p99 {:?}, append p50 {:?} p99 {:?} max {:?}",
            quantile(&mut bare_times, 0.5),
            quantile(&mut bare_times, 0.99),
            quantile(&mut log_times, 0.5),
            quantile(&mut log_times, 0.99),
            quantile(&mut log_times, 1.0),
        );
    }
    let reader = log.reader();
    let bounds = reader.bounds();
    let began = Instant::now();
    let mut at = bounds.oldest;
    while let Some(last) = reader.read(at, 1 << 20, true)?.last() {
        at = last.end();
    }
    println!("read of {} bytes: {:?}", bounds.size_bytes, began.elapsed());
    let began = Instant::now();
    reader.verify(&mut |_| ())?;
    println!("verify: {:?}", began.elapsed());
    drop(log);
    let began = Instant::now();
    drop(eventlog::open(&directory.join("log"), Options::default())?);
    println!("open after a crash: {:?}", began.elapsed());
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}

fn quantile(times: &mut [Duration], share: f64) -> Duration {
    times.sort_unstable();
    times[((times.len() - 1) as f64 * share) as usize]
}
