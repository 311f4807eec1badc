//! A segment's blocks ahead of its writer: zeros that are there before the records, so that a small
//! record's sync has nothing to say about the file itself.
//!
//! No zeros may ever land on a record: whoever writes either holds the lock or stays where zeros have
//! been.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::disk::{DiskFile, is_full, write_whole};

/// How many zeros are written, and synced, at once: little, so that the writer's own syncs do
/// not queue behind a long one.
pub(crate) const CHUNK_BYTES: u64 = 1024 * 1024;
/// What a writer that found no zeros ahead of it writes by itself.
const STEP_BYTES: u64 = 256 * 1024;
/// Written piece by piece: pieces this small go through the page cache, where small records are
/// to find them, and a full disk tells how far they came.
static ZEROS: [u8; 128 * 1024] = [0; 128 * 1024];

/// A segment file whose blocks are being written ahead.
pub(crate) struct Ahead {
    pub(crate) file: Arc<dyn DiskFile>,
    /// Zeros are written from here on, never before it. Changed only under the lock below.
    zeroed: AtomicU64,
    /// Held while zeros are written; true once no more may be.
    stopped: Mutex<bool>,
}

impl Ahead {
    /// For a file of which the first `zeroed` bytes exist. The handle must be nobody else's: a
    /// failed sync is told to each handle once, and the writer's must be told too.
    pub(crate) fn new(file: Arc<dyn DiskFile>, zeroed: u64) -> Ahead {
        Ahead {
            file,
            zeroed: AtomicU64::new(zeroed),
            stopped: Mutex::new(false),
        }
    }

    /// How far the file's blocks exist, or are the writer's to write.
    pub(crate) fn zeroed(&self) -> u64 {
        self.zeroed.load(Ordering::Acquire)
    }

    /// For the writer: makes sure that the first `length` bytes exist, within `segment_bytes` a
    /// few more. It syncs nothing, since the append that follows does.
    pub(crate) fn ensure(&self, length: u64, segment_bytes: u64) -> io::Result<()> {
        if self.zeroed() >= length {
            return Ok(());
        }
        let _writing = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = (length + STEP_BYTES).min(segment_bytes).max(length);
        while self.zeroed() < wanted {
            match self.zero(wanted) {
                // A nearly full disk may have room for this record and no more.
                Err(error) if is_full(&error) && self.zeroed() >= length => break,
                result => result?,
            }
        }
        Ok(())
    }

    /// For the writer, before it writes a large record that ends at `end`: no zeros are written
    /// before that from now on, and none anywhere in the file while the claim is held. Zeros are
    /// written under the same lock, and from `zeroed` on, so a chunk that was begun has landed
    /// before the record is written, and none can begin that would land on it. Nor may a write
    /// through the page cache fall together with one past it: a page that holds both could not be
    /// dropped after the latter, which Linux tells as a failure of the file.
    pub(crate) fn claim(&self, end: u64) -> Claim<'_> {
        let no_zeros = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        Claim {
            before: self.zeroed.fetch_max(end, Ordering::AcqRel),
            zeroed: &self.zeroed,
            _no_zeros: no_zeros,
        }
    }

    /// Writes one chunk of zeros towards `target` and syncs it; false when there is nothing to do.
    pub(crate) fn advance(&self, target: u64) -> io::Result<bool> {
        let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        if *stopped || self.zeroed() >= target {
            return Ok(false);
        }
        self.zero(target)?;
        drop(stopped);
        // A sync that failed for want of room has failed like any other: it must not pass for a
        // disk that is merely full.
        let failed = |error| io::Error::other(format!("a sync failed: {error}"));
        self.file.sync_data().map_err(failed)?;
        Ok(true)
    }

    fn zero(&self, target: u64) -> io::Result<()> {
        let mut from = self.zeroed();
        let end = target.min(from + CHUNK_BYTES);
        while from < end {
            let length = usize::try_from(end - from).unwrap_or(usize::MAX);
            let zeros = &ZEROS[..length.min(ZEROS.len())];
            let result = write_whole(&*self.file, zeros, from);
            from += match &result {
                Ok(()) => zeros.len() as u64,
                Err((written, _)) => *written as u64,
            };
            self.zeroed.store(from, Ordering::Release);
            result.map_err(|(_, error)| error)?;
        }
        Ok(())
    }

    /// No zeros are written from now on.
    pub(crate) fn stop(&self) {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }
}

/// Blocks that the writer writes itself.
pub(crate) struct Claim<'a> {
    zeroed: &'a AtomicU64,
    /// Where it stood.
    before: u64,
    _no_zeros: MutexGuard<'a, bool>,
}

impl Claim<'_> {
    /// For the writer that could not write its record, when nothing of it counts any more: zeros
    /// go on from where they had stood.
    pub(crate) fn give_back(self) {
        self.zeroed.store(self.before, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    use super::*;
    use crate::simulated::Random;
    use crate::upkeep::WINDOW_BYTES;

    #[expect(clippy::disallowed_methods, reason = "a slow disk is what is wanted")]
    fn linger(micros: u64) {
        std::thread::sleep(Duration::from_micros(micros));
    }

    /// A file that only watches where zeros land, and takes its time over each write.
    #[derive(Default)]
    struct Watched {
        /// The end of the record that is being written, or was.
        record: AtomicU64,
        chunks: AtomicU64,
        overwritten: AtomicBool,
    }

    impl DiskFile for Watched {
        fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
            Ok(0)
        }

        fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
            linger(300);
            if position < self.record.load(Ordering::SeqCst) {
                self.overwritten.store(true, Ordering::SeqCst);
            }
            self.chunks.fetch_add(1, Ordering::SeqCst);
            Ok(bytes.len())
        }

        fn sync_data(&self) -> io::Result<()> {
            Ok(())
        }

        fn truncate(&self, _: u64) -> io::Result<()> {
            Ok(())
        }

        fn length(&self) -> io::Result<u64> {
            Ok(0)
        }
    }

    #[test]
    fn no_zeros_land_on_claimed_blocks_and_none_anywhere_while_the_claim_is_held() {
        let file = Arc::new(Watched::default());
        let ahead = Ahead::new(Arc::clone(&file) as Arc<_>, 0);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    let end = file.record.load(Ordering::SeqCst);
                    ahead.advance(end + WINDOW_BYTES).unwrap();
                }
            });
            let mut random = Random(1);
            for _ in 0..300 {
                let end = file.record.load(Ordering::SeqCst) + random.below(2 * WINDOW_BYTES);
                let claim = ahead.claim(end);
                file.record.store(end, Ordering::SeqCst);
                let chunks = file.chunks.load(Ordering::SeqCst);
                linger(random.below(400));
                assert_eq!(file.chunks.load(Ordering::SeqCst), chunks);
                drop(claim);
                linger(random.below(400));
            }
            done.store(true, Ordering::SeqCst);
        });
        assert!(
            file.chunks.load(Ordering::SeqCst) > 100,
            "zeros were written meanwhile"
        );
        assert!(!file.overwritten.load(Ordering::SeqCst));
    }

    #[test]
    fn blocks_that_are_claimed_already_stay_so() {
        let ahead = Ahead::new(Arc::new(Watched::default()), 0);
        drop(ahead.claim(5000));
        drop(ahead.claim(4000));
        assert_eq!(ahead.zeroed(), 5000);
        ahead.claim(9000).give_back();
        assert_eq!(ahead.zeroed(), 5000);
    }
}
