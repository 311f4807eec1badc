//! What the store needs of a disk, and the real one.
//!
//! One directory of named files, written and read at positions, and synced on demand. The segment
//! store speaks to nothing else, so that the very code that runs in production also runs on
//! [`crate::SimulatedDisk`], which fails as it is told. A disk decides nothing and repeats nothing.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};

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
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(RealFile(
            self.handle(name, &mut OpenOptions::new())?,
        )))
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
        file.set_len(0)?;
        file.write_all_at(std::process::id().to_string().as_bytes(), 0)?;
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

/// Opens a file of the file system for reading alone.
pub fn read_only(path: &Path) -> io::Result<Arc<dyn DiskFile>> {
    Ok(Arc::new(RealFile(File::open(path)?)))
}

struct RealFile(File);

impl DiskFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let mut read = 0;
        while read < buffer.len() {
            match self.0.read_at(&mut buffer[read..], position + read as u64) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        self.0.write_at(bytes, position)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}
