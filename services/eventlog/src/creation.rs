//! How a log comes to be written: created, or repaired and taken over, and given its next file.
//!
//! The order of the steps is what matters here. HEAD is there before the first segment, so that
//! segments without one are always damage; a segment has its name only when its header is durable;
//! the new epoch is durable before anything is served.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use crate::OpenError;
use crate::ahead::Ahead;
use crate::disk::Disk;
use crate::head::{Head, Mark};
use crate::record::genesis;
use crate::recovery::{Survey, repair};
use crate::segment::{FIRST_RECORD, Opening, Segment, file_name};
use crate::segments::{LOCK_NAME, Options, Sync};
use crate::upkeep::NEXT_NAME;

/// A new log: HEAD first, so that segments without one are always damage.
pub(crate) fn create(
    disk: &dyn Disk,
    options: &Options,
) -> Result<(Survey, Head, Ahead), OpenError> {
    let log_id = options
        .log_id
        .unwrap_or_else(|| uuid::Uuid::now_v7().into_bytes());
    let hash = genesis(&log_id);
    let mut mark = Mark::new(log_id, hash);
    mark.epoch = 1;
    mark.lazily = options.sync == Sync::Lazily;
    let head = Head::create(disk, mark)?;
    let ahead = Ahead::new(disk.create(NEXT_NAME)?, 0);
    ahead.ensure(FIRST_RECORD, options.segment_bytes)?;
    let opening = Opening {
        log_id,
        first: 0,
        epoch: mark.epoch,
        time_us: 0,
        salt: random_salt(),
        previous_first: None,
        previous_hash: hash,
    };
    let segment = place_segment(disk, opening)
        .map_err(|(Placing::Refused(error) | Placing::Unknown(error))| error)?;
    let segments = VecDeque::from([Arc::new(segment)]);
    Ok((Survey::empty(mark, segments), head, ahead))
}

/// A log that was there: repaired, and under a new epoch before anything is served.
pub(crate) fn reopen(
    disk: &dyn Disk,
    mut found: Survey,
    options: &Options,
) -> Result<(Survey, Head, Ahead), OpenError> {
    repair(disk, &found)?;
    found.epoch += 1;
    let head = Head::open(disk, found.mark)?;
    let oldest = found
        .segments
        .front()
        .map_or(0, |segment| segment.opening.first);
    head.write(|mark| {
        mark.epoch = found.epoch;
        mark.next = found.next;
        mark.hash = found.hash;
        mark.oldest = oldest;
        mark.lazily = options.sync == Sync::Lazily;
    })?;
    head.sync()?;
    let last = found
        .segments
        .back()
        .map_or(0, |segment| segment.opening.first);
    let file = disk.open(&file_name(last))?;
    let length = file.length()?;
    Ok((found, head, Ahead::new(file, length)))
}

/// Why a prepared file did not become a segment.
pub(crate) enum Placing {
    /// It is not there.
    Refused(io::Error),
    /// It may be there.
    Unknown(io::Error),
}

/// Makes the prepared file a segment: header, sync, name, sync. A segment's name is never seen
/// before its header is durable.
pub(crate) fn place_segment(disk: &dyn Disk, opening: Opening) -> Result<Segment, Placing> {
    let file = disk.open(NEXT_NAME).map_err(Placing::Refused)?;
    opening.write(&*file).map_err(Placing::Refused)?;
    file.sync_data().map_err(Placing::Unknown)?;
    disk.rename(NEXT_NAME, &file_name(opening.first))
        .map_err(Placing::Refused)?;
    disk.sync_directory().map_err(Placing::Unknown)?;
    Ok(Segment::new(opening, file, FIRST_RECORD))
}

/// Nobody outside knows it, so nobody can put bytes into a payload that pass for a record.
pub(crate) fn random_salt() -> u32 {
    let random = uuid::Uuid::now_v7().into_bytes();
    u32::from_le_bytes([random[12], random[13], random[14], random[15]])
}

/// " (pid N)", where the lock's file says so.
pub(crate) fn holder(disk: &dyn Disk) -> String {
    let mut text = [0; 20];
    let read = disk
        .open(LOCK_NAME)
        .and_then(|file| file.read_at(&mut text, 0))
        .unwrap_or(0);
    match std::str::from_utf8(&text[..read]) {
        Ok(pid) if !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!(" (pid {pid})")
        }
        _ => String::new(),
    }
}
