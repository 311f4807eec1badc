//! What the store needs of a disk, and the real one.
//!
//! One directory of named files, written and read at positions, and synced on demand. The segment
//! store speaks to nothing else, so that the very code that runs in production also runs on
//! [`crate::SimulatedDisk`], which fails as it is told. A disk decides nothing and repeats nothing.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FlockOperation, IFlags, Mode, OFlags, flock, ioctl_getflags, ioctl_setflags};

/// What a write past the page cache keeps to, in memory and in the file: no file system asks for
/// more.
const BLOCK_BYTES: usize = 4096;
/// A write of so many whole blocks goes past the page cache: copying it there, and writing it
/// back from there, costs more than waiting for the disk.
pub(crate) const DIRECT_BYTES_MIN: usize = 256 * 1024;
/// Whatever is so long goes past the page cache, wherever it begins, if its address and its
/// position agree (see [`address_padding`]).
pub(crate) const LARGE_BYTES_MIN: usize = DIRECT_BYTES_MIN + BLOCK_BYTES;

/// A directory of files.
pub trait Disk: Send + std::marker::Sync {
    /// Where it is, for messages.
    fn place(&self) -> String;

    /// The names of its files, in no order.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Creates an empty file; one of that name is emptied.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file. Each call gives a handle of its own, and each handle is told of a failed
    /// sync once: who must hear of it needs one of his own.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Gives a file another name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file; open handles go on reading it.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes created, renamed and removed names durable.
    fn sync_directory(&self) -> io::Result<()>;

    /// Locks the directory by its file `name` until the guard is dropped; `None` when somebody
    /// else has it. The file then holds this process's id.
    fn lock(&self, name: &str) -> io::Result<Option<Box<dyn Send>>>;

    /// How much room there is.
    fn space(&self) -> io::Result<Space>;
}

/// The room on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What can still be allocated.
    pub free_bytes: u64,
    /// All of it.
    pub total_bytes: u64,
}

/// An open file.
pub trait DiskFile: Send + std::marker::Sync {
    /// Reads at `position` until `buffer` is full or the file ends; how many bytes it was.
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize>;

    /// Writes at `position`, perhaps only the beginning of `bytes`; how many bytes it was.
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize>;

    /// Makes what was written, and the length, durable.
    fn sync_data(&self) -> io::Result<()>;

    /// Cuts the file to `length`.
    fn truncate(&self, length: u64) -> io::Result<()>;

    /// How long the file is.
    fn length(&self) -> io::Result<u64>;
}

/// Writes all of `bytes`; an error comes with how many were written before it.
pub(crate) fn write_whole(
    file: &dyn DiskFile,
    bytes: &[u8],
    position: u64,
) -> Result<(), (usize, io::Error)> {
    let mut written = 0;
    while written < bytes.len() {
        match file.write_at(&bytes[written..], position + written as u64) {
            Ok(0) => return Err((written, io::ErrorKind::WriteZero.into())),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err((written, error)),
        }
    }
    Ok(())
}

/// How many of the bytes at `position` lie before the first block boundary after it; at least one.
pub(crate) fn until_next_block(position: u64) -> usize {
    // The remainder is less than a block.
    BLOCK_BYTES - (position % BLOCK_BYTES as u64) as usize
}

/// Makes `buffer` ready for `length` bytes that will be written at `position`, and fills it up to
/// where they are to begin: there, memory is as far from a block boundary as the file is.
pub(crate) fn address_padding(buffer: &mut Vec<u8>, length: usize, position: u64) {
    buffer.clear();
    buffer.reserve(length + BLOCK_BYTES);
    let address = buffer.as_ptr().addr() as u64;
    let padding = position.wrapping_sub(address) % BLOCK_BYTES as u64;
    buffer.resize(padding as usize, 0);
}

/// Whether an error says that there is no room, which is refused and not fatal.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// A directory of the machine's file system. Directories it creates are for their owner alone
/// (0700), and so are its files (0600).
#[derive(Debug)]
pub struct RealDisk {
    path: PathBuf,
}

impl RealDisk {
    /// The directory at `path`, created with its parents where it is missing.
    pub fn new(path: &Path) -> io::Result<RealDisk> {
        if !path.is_dir() {
            DirBuilder::new().recursive(true).mode(0o700).create(path)?;
            // A directory that a power cut takes away would take everything in it along.
            if let Some(parent) = path.canonicalize()?.parent() {
                File::open(parent)?.sync_all()?;
            }
        }
        write_in_place(&File::open(path)?);
        Ok(RealDisk {
            path: path.to_owned(),
        })
    }

    fn handle(&self, name: &str, options: &mut OpenOptions) -> io::Result<File> {
        options
            .read(true)
            .write(true)
            .mode(0o600)
            .open(self.path.join(name))
    }
}

impl Disk for RealDisk {
    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in self.path.read_dir()? {
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.handle(name, OpenOptions::new().create(true).truncate(true))?;
        Ok(Arc::new(RealFile::new(file)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.handle(name, &mut OpenOptions::new())?;
        Ok(Arc::new(RealFile::new(file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn lock(&self, name: &str) -> io::Result<Option<Box<dyn Send>>> {
        let file = self.handle(name, OpenOptions::new().create(true).truncate(false))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        // The id is for people; a full disk has no room for it.
        let id = std::process::id().to_string();
        let _ = file.set_len(0);
        let _ = file.write_all_at(id.as_bytes(), 0);
        Ok(Some(Box::new(file)))
    }

    fn space(&self) -> io::Result<Space> {
        let found = rustix::fs::statvfs(&self.path)?;
        Ok(Space {
            free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
            total_bytes: found.f_blocks.saturating_mul(found.f_frsize),
        })
    }
}

/// Asks for the files that a directory will get to be written where they lie. A file system that copies
/// on write (btrfs) would need room for each write, also where zeros were written ahead, and say at a
/// sync that there is none. Others refuse what they don't know.
fn write_in_place(directory: &File) {
    if let Ok(flags) = ioctl_getflags(directory) {
        let _ = ioctl_setflags(directory, flags | IFlags::NOCOW);
    }
}

/// Opens a file of the file system for reading alone.
pub fn read_only(path: &Path) -> io::Result<Arc<dyn DiskFile>> {
    Ok(Arc::new(RealFile::new(File::open(path)?)))
}

/// A file of the file system. Long writes go past the page cache where that is possible; a sync
/// of the handle makes durable what was written either way.
struct RealFile {
    file: File,
    /// The file system does not take writes past the page cache.
    cached_only: AtomicBool,
}

impl RealFile {
    fn new(file: File) -> RealFile {
        RealFile {
            file,
            cached_only: AtomicBool::new(false),
        }
    }

    /// Writes whole blocks past the page cache, or through it for good where the file system does
    /// not do that. The handle lives no longer than the write, so that a log of many segments does
    /// not keep two for each. It is opened by the file's number, since its name may be another by
    /// now.
    fn write_direct(&self, blocks: &[u8], position: u64) -> io::Result<usize> {
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let flags = OFlags::WRONLY | OFlags::DIRECT | OFlags::CLOEXEC;
        if let Ok(direct) = rustix::fs::open(path, flags, Mode::empty()) {
            match File::from(direct).write_at(blocks, position) {
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
                result => return result,
            }
        }
        self.cached_only.store(true, Ordering::Relaxed);
        self.file.write_at(blocks, position)
    }
}

impl DiskFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let mut read = 0;
        while read < buffer.len() {
            match self
                .file
                .read_at(&mut buffer[read..], position + read as u64)
            {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        let head = until_next_block(position) % BLOCK_BYTES;
        let (blocks, _) = bytes.get(head..).unwrap_or_default().as_chunks();
        let blocks = <[[u8; BLOCK_BYTES]]>::as_flattened(blocks);
        let long = blocks.len() >= DIRECT_BYTES_MIN;
        let agrees = blocks.as_ptr().addr().is_multiple_of(BLOCK_BYTES);
        if !long || !agrees || self.cached_only.load(Ordering::Relaxed) {
            return self.file.write_at(bytes, position);
        }
        // Each block is written one way alone: what comes before the first whole one goes first,
        // and whoever writes the rest comes back.
        if head > 0 {
            return self.file.write_at(&bytes[..head], position);
        }
        self.write_direct(blocks, position)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::simulated::Random;

    fn noise(length: usize, seed: u64) -> Vec<u8> {
        let mut random = Random(seed);
        (0..length).map(|_| random.next() as u8).collect()
    }

    /// `bytes` behind an address padding for `position` that is `off` by so much.
    fn placed(bytes: &[u8], position: u64, off: u64) -> (Vec<u8>, usize) {
        let mut buffer = Vec::new();
        address_padding(&mut buffer, bytes.len(), position + off);
        let start = buffer.len();
        buffer.extend_from_slice(bytes);
        (buffer, start)
    }

    #[test]
    fn behind_its_padding_memory_agrees_with_the_file() {
        let mut buffer = Vec::new();
        for position in [0, 8, 512, 4088, 4096, 4104, 5_000_000_008] {
            address_padding(&mut buffer, 100_000, position);
            let (start, before) = (buffer.len(), buffer.as_ptr());
            buffer.resize(start + 100_000, 1);
            assert_eq!(buffer.as_ptr(), before, "what follows moves nothing");
            let address = buffer[start..].as_ptr().addr() as u64;
            assert_eq!(address % 4096, position % 4096);
        }
    }

    #[test]
    fn what_is_written_reads_back_at_any_length_position_and_address() {
        let directory = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(directory.path()).unwrap();
        let file = disk.create("file").unwrap();
        let mut expected = noise(700_000, 1);
        write_whole(&*file, &expected, 0).unwrap();
        disk.rename("file", "renamed").unwrap();
        let mut seed = 1;
        for length in [
            4096,
            DIRECT_BYTES_MIN - 1,
            DIRECT_BYTES_MIN,
            LARGE_BYTES_MIN,
            1_300_001,
        ] {
            for position in [0, 1, 8, 511, 4095, 4096, 4097, 600_000, 2_000_000] {
                for off in [0, 1, 8] {
                    seed += 1;
                    let bytes = noise(length, seed);
                    let (buffer, start) = placed(&bytes, position, off);
                    write_whole(&*file, &buffer[start..], position).unwrap();
                    let end = position as usize + length;
                    expected.resize(expected.len().max(end), 0);
                    expected[position as usize..end].copy_from_slice(&bytes);
                    let mut found = vec![0; expected.len() + 1];
                    assert_eq!(file.read_at(&mut found, 0).unwrap(), expected.len());
                    assert!(
                        found[..expected.len()] == expected,
                        "{length} at {position}, {off} off"
                    );
                }
            }
        }
        file.sync_data().unwrap();
        assert!(std::fs::read(directory.path().join("renamed")).unwrap() == expected);
    }

    #[test]
    fn a_long_write_stops_at_the_first_block_boundary_and_goes_on_there() {
        let directory = tempfile::tempdir().unwrap();
        let file = RealDisk::new(directory.path())
            .unwrap()
            .create("file")
            .unwrap();
        let write = |length, position, off| {
            let (buffer, start) = placed(&noise(length, 3), position, off);
            file.write_at(&buffer[start..], position).unwrap()
        };
        assert_eq!(write(LARGE_BYTES_MIN, 4000, 0), 96);
        assert_eq!(
            write(LARGE_BYTES_MIN, 4000, 8),
            LARGE_BYTES_MIN,
            "not by this address"
        );
        assert_eq!(
            write(DIRECT_BYTES_MIN, 4000, 0),
            DIRECT_BYTES_MIN,
            "not so little"
        );
        let whole = [DIRECT_BYTES_MIN, DIRECT_BYTES_MIN + 10];
        assert!(
            whole.contains(&write(DIRECT_BYTES_MIN + 10, 8192, 0)),
            "as the file system has it"
        );
    }

    #[test]
    fn a_file_system_that_refuses_a_write_past_the_page_cache_gets_it_the_other_way() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let file = RealFile::new(File::create_new(&path).unwrap());
        // By an odd address and of an odd length it is refused wherever that is heeded at all.
        let (buffer, start) = placed(&noise(DIRECT_BYTES_MIN + 5, 4), 0, 1);
        let bytes = &buffer[start..];
        assert_eq!(file.write_direct(bytes, 0).unwrap(), bytes.len());
        assert!(std::fs::read(&path).unwrap() == bytes);
    }
}
