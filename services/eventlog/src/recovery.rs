//! What is there when a log is opened: what is whole, what is a torn tail, what is rot.
//!
//! The survey only reads: a log that is refused stays as it was found. A bad record with nothing
//! valid behind it, past what HEAD says was synced, is a batch that nobody was told of, and the
//! repair cuts it off. Everything else that does not fit is refused by name; it must never be
//! taken for a shorter healthy log.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use crate::disk::{Disk, write_whole};
use crate::head::{self, Mark};
use crate::record::{ALIGNMENT, HEADER_BYTES, Header};
use crate::restore::RESTORING_NAME;
use crate::segment::{FIRST_RECORD, ScanError, Segment, file_name, first_of};
use crate::upkeep::NEXT_NAME;
use crate::{Hash, Offset, OpenError};

/// How much is compared or rewritten at once.
const BLOCK_BYTES: usize = 64 * 1024;

/// A log as it was found.
pub(crate) struct Survey {
    pub(crate) mark: Mark,
    /// The highest epoch seen.
    pub(crate) epoch: u64,
    pub(crate) segments: VecDeque<Arc<Segment>>,
    pub(crate) next: Offset,
    pub(crate) hash: Hash,
    /// Where the last segment's records end.
    pub(crate) position: u64,
    /// The time of the first record in the last segment.
    pub(crate) first_time_us: Option<i64>,
    /// From here on no sync is known to have succeeded.
    doubtful: u64,
    /// Segments that were trimmed, but whose files are still there.
    trimmed: Vec<String>,
}

impl Survey {
    /// What a log that was just created would show.
    pub(crate) fn empty(mark: Mark, segments: VecDeque<Arc<Segment>>) -> Survey {
        Survey {
            mark,
            epoch: mark.epoch,
            segments,
            next: mark.next,
            hash: mark.hash,
            position: FIRST_RECORD,
            first_time_us: None,
            doubtful: FIRST_RECORD,
            trimmed: Vec::new(),
        }
    }
}

/// Looks at the log in `disk` without changing anything; `None` where there is none yet.
pub(crate) fn survey(disk: &dyn Disk) -> Result<Option<Survey>, OpenError> {
    let names = disk.list()?;
    if names.iter().any(|name| name == RESTORING_NAME) {
        return Err(OpenError::Damaged(format!(
            "{} holds a restore that did not come to its end; restore into it once more",
            disk.place()
        )));
    }
    let mark = head::read(disk, &names)?;
    let mut firsts: Vec<Offset> = names.iter().filter_map(|name| first_of(name)).collect();
    firsts.sort_unstable();
    let place = disk.place();
    let Some(mark) = mark else {
        return match firsts.first() {
            None => Ok(None),
            Some(_) => Err(OpenError::Damaged(format!(
                "{place} has segments but no {}; restore it from a backup",
                head::NAME
            ))),
        };
    };

    // A trim says in HEAD what it removes before it removes it.
    let kept_from = firsts
        .partition_point(|first| *first <= mark.oldest)
        .saturating_sub(1);
    let trimmed = firsts.drain(..kept_from).map(file_name).collect();
    if firsts.is_empty() && mark.next == 0 {
        return Ok(None);
    }
    if firsts.first().is_none_or(|first| *first > mark.oldest) {
        return Err(OpenError::Damaged(format!(
            "{place} lacks the segment that holds offset {}; restore it from a backup",
            mark.oldest
        )));
    }

    let mut segments = VecDeque::new();
    for first in firsts {
        let segment = Segment::open(disk, first)?;
        fits(&place, &mark, segments.back(), &segment)?;
        segments.push_back(Arc::new(segment));
    }
    scan(&place, mark, segments, trimmed).map(Some)
}

/// Whether a segment belongs to this log and follows the one before it.
fn fits(
    place: &str,
    mark: &Mark,
    previous: Option<&Arc<Segment>>,
    segment: &Segment,
) -> Result<(), OpenError> {
    let name = &segment.name;
    if segment.opening.log_id != mark.log_id {
        return Err(OpenError::Damaged(format!(
            "{place}/{name} belongs to another log; take it out and restore the right one"
        )));
    }
    if let Some(previous) = previous
        && segment.opening.previous_first != Some(previous.opening.first)
    {
        return Err(OpenError::Damaged(format!(
            "{place} lacks a segment between {} and {name}; restore it from a backup",
            previous.name
        )));
    }
    Ok(())
}

/// Reads from the segment that holds the end HEAD knows to the last record.
fn scan(
    place: &str,
    mark: Mark,
    segments: VecDeque<Arc<Segment>>,
    trimmed: Vec<String>,
) -> Result<Survey, OpenError> {
    let start = segments
        .partition_point(|segment| segment.opening.first <= mark.next)
        .saturating_sub(1);
    let mut found = Survey {
        mark,
        epoch: mark.epoch,
        next: segments[start].opening.first,
        hash: segments[start].opening.previous_hash,
        position: FIRST_RECORD,
        first_time_us: None,
        doubtful: FIRST_RECORD,
        trimmed,
        segments: VecDeque::new(),
    };
    for index in start..segments.len() {
        let segment = &segments[index];
        let end = segments.get(index + 1).map(|after| after.opening.first);
        if segment.opening.first != found.next || segment.opening.previous_hash != found.hash {
            return Err(damaged(
                place,
                segment,
                0,
                "it does not follow the segment before it",
            ));
        }
        found.epoch = found.epoch.max(segment.opening.epoch);
        found.first_time_us = None;
        found.doubtful = FIRST_RECORD;
        agrees(place, segment, &found, FIRST_RECORD)?;
        let mut cursor = segment.cursor();
        while end.is_none_or(|end| cursor.offset < end) {
            let record = match cursor.next() {
                Ok(record) => record,
                Err(ScanError::Io(error)) => return Err(error.into()),
                Err(ScanError::Flaw { position, what }) => {
                    if end.is_some() {
                        return Err(damaged(place, segment, position, &what));
                    }
                    judge_tail(place, segment, &found, position, &what)?;
                    break;
                }
            };
            let chain = record.header.chained(&found.hash, &record.bytes);
            if chain != record.header.hash {
                let what = "the chain of hashes breaks here";
                return Err(damaged(place, segment, record.position, what));
            }
            found.hash = chain;
            found.next = cursor.offset;
            found.epoch = found.epoch.max(record.header.epoch);
            found.first_time_us.get_or_insert(record.header.time_us);
            agrees(place, segment, &found, record.position)?;
            if found.next == found.mark.next {
                found.doubtful = cursor.position;
            }
        }
        found.position = cursor.position;
        if end.is_some_and(|end| found.next != end) {
            return Err(damaged(
                place,
                segment,
                found.position,
                "its last record is too long",
            ));
        }
    }
    if let Some(last) = segments.back() {
        last.set_end(found.position);
    }
    found.segments = segments;
    Ok(found)
}

/// Whether the chain at HEAD's offset is the one that HEAD says.
fn agrees(place: &str, segment: &Segment, found: &Survey, at: u64) -> Result<(), OpenError> {
    if found.next == found.mark.next && found.hash != found.mark.hash {
        let what = "HEAD says another hash for this place: the files are not of one log or not of \
                    one time";
        return Err(damaged(place, segment, at, what));
    }
    Ok(())
}

/// Whether what follows the last good record may be cut off.
fn judge_tail(
    place: &str,
    segment: &Segment,
    found: &Survey,
    position: u64,
    what: &str,
) -> Result<(), OpenError> {
    if found.next < found.mark.next {
        return Err(OpenError::Damaged(format!(
            "{place}/{} ends at offset {} (byte {position}: {what}), but HEAD says that the log \
             reached {}; restore it from a backup",
            segment.name, found.next, found.mark.next
        )));
    }
    // Where nothing was synced after HEAD, sectors may have reached the disk in any order.
    if found.mark.lazily {
        return Ok(());
    }
    match valid_behind(segment, position, found.next)? {
        None => Ok(()),
        Some(behind) => {
            let what = format!("{what}, and a whole record stands behind it at byte {behind}");
            Err(damaged(place, segment, position, &what))
        }
    }
}

fn damaged(place: &str, segment: &Segment, position: u64, what: &str) -> OpenError {
    OpenError::Damaged(format!(
        "{place}/{} is damaged at byte {position}: {what}; restore it from a backup",
        segment.name
    ))
}

/// The place of a whole record after `position` with at least that offset, if there is any.
fn valid_behind(segment: &Segment, position: u64, offset: Offset) -> io::Result<Option<u64>> {
    let length = segment.file.length()?;
    let mut found = None;
    each_block_with_content(
        segment,
        position + ALIGNMENT as u64,
        length,
        |start, block| {
            for at in (0..block.len()).step_by(ALIGNMENT) {
                // A cheap look first: nearly all places are none.
                if found.is_none() && block[at] == b'M' && block[at..].starts_with(b"MA") {
                    let place = start + at as u64;
                    if is_record(segment, place, length, offset)? {
                        found = Some(place);
                    }
                }
            }
            Ok(())
        },
    )?;
    Ok(found)
}

fn is_record(segment: &Segment, place: u64, length: u64, offset: Offset) -> io::Result<bool> {
    let mut start = [0; HEADER_BYTES];
    let read = segment.file.read_at(&mut start, place)?;
    let Some(header) = Header::parse(&start[..read]) else {
        return Ok(false);
    };
    if header.first < offset || header.stored_len() as u64 > length - place {
        return Ok(false);
    }
    let mut record = vec![0; header.stored_len()];
    let read = segment.file.read_at(&mut record, place)?;
    let salt = segment.opening.salt;
    Ok(read == record.len()
        && header.events_hold(salt, &record)
        && header.payloads_hold(salt, &record))
}

/// Calls `visit` with each block between `from` and `to` that is not all zeros.
fn each_block_with_content(
    segment: &Segment,
    from: u64,
    to: u64,
    mut visit: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let zeros = vec![0; BLOCK_BYTES];
    let mut block = vec![0; BLOCK_BYTES];
    let mut at = from;
    while at < to {
        let wanted = usize::try_from(to - at)
            .unwrap_or(usize::MAX)
            .min(BLOCK_BYTES);
        let read = segment.file.read_at(&mut block[..wanted], at)?;
        if read == 0 {
            break;
        }
        if block[..read] != zeros[..read] {
            visit(at, &block[..read])?;
        }
        at += read as u64;
    }
    Ok(())
}

/// Makes a surveyed log ready to be written: what a trim left is removed, the torn tail becomes
/// zeros, and all that HEAD does not vouch for is written and synced afresh. A sync that failed
/// before a crash may have left pages that memory shows and the disk never got.
pub(crate) fn repair(disk: &dyn Disk, survey: &Survey) -> io::Result<()> {
    for name in &survey.trimmed {
        disk.remove(name)?;
    }
    if disk.list()?.iter().any(|name| name == NEXT_NAME) {
        disk.remove(NEXT_NAME)?;
    }
    let Some(last) = survey.segments.back() else {
        return Ok(());
    };
    let write =
        |block: &[u8], at: u64| write_whole(&*last.file, block, at).map_err(|(_, error)| error);
    each_block_with_content(last, survey.doubtful, survey.position, |at, block| {
        write(block, at)
    })?;
    let length = last.file.length()?;
    let zeros = vec![0; BLOCK_BYTES];
    let mut cut_bytes = 0;
    each_block_with_content(last, survey.position, length, |at, block| {
        cut_bytes += block.len();
        write(&zeros[..block.len()], at)
    })?;
    if cut_bytes > 0 {
        tracing::warn!(
            file = last.name,
            position = survey.position,
            offset = survey.next,
            "cut off the torn tail of a batch that was never acknowledged"
        );
    }
    last.file.sync_data()?;
    disk.sync_directory()
}
