//! Files and directories whose names survive a power cut.
//!
//! A file's sync makes its content durable, not its name: a name is an entry of the directory above
//! and is durable once that directory is synced. A name that exists need not be durable: the
//! process that created it may have been killed, or have failed, before the sync. So all functions
//! here sync the names of what they find as well as of what they create.
//!
//! All new files and directories are accessible only to their owner, whatever the process's umask.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::file_lock::is_at;
use crate::{SystemClock, SystemRandom, UniqueId};

/// The extension of unfinished files.
const UNFINISHED: &str = "unfinished";

/// Creates a directory and its missing parents. When this returns, the names of all of them are
/// durable, and so are those of existing parents on the same file system, except in directories
/// that this process may not read and write, where it cannot have created them ([`sync_name`]).
///
/// # Errors
///
/// If a directory cannot be created or synced. A later call creates and syncs the rest.
pub fn create_directory(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(|error| in_the_way(path, error))?;
    let path = path.canonicalize()?;
    path.ancestors().take_while(|above| same_file_system(above, &path)).try_for_each(sync_name)
}

/// The error of a directory that cannot be created, naming the file that has its name or that of
/// one of its parents.
fn in_the_way(path: &Path, error: io::Error) -> io::Error {
    if !matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory) {
        return error;
    }
    // From the root down, so that the first file that is not a directory is the cause.
    let mut above: Vec<_> =
        path.ancestors().filter(|above| !above.as_os_str().is_empty()).collect();
    above.reverse();
    let other = above.into_iter().find(|above| above.symlink_metadata().is_ok() && !above.is_dir());
    let Some(other) = other else { return error };
    let what = if other.is_symlink() { "a link to no directory" } else { "no directory" };
    let what = format!("{} exists and is {what}", other.display());
    io::Error::new(error.kind(), what)
}

/// Makes the name of an existing file or directory durable. Does nothing if this process may not
/// read and write the parent directory, since it then did not create the name. The root has no
/// name.
///
/// # Errors
///
/// If the directory cannot be synced.
pub fn sync_name(path: &Path) -> io::Result<()> {
    if path.parent().is_none() {
        return Ok(());
    }
    let directory = directory_of(path);
    if is_writable(directory) { sync_directory(directory) } else { Ok(()) }
}

/// Creates a file with this content, unless there is one. Returns whether it was created. When this
/// returns, the content and the name of the file are durable, whoever created it.
///
/// Of several processes that create the same file, exactly one succeeds. A crash leaves no file or
/// the whole file, and may leave an unfinished one beside it, `<name>.<unique>.unfinished`, which
/// nobody reads ([`remove_unfinished`]).
///
/// # Errors
///
/// If the file cannot be created or synced.
pub fn create(path: &Path, content: &[u8]) -> io::Result<bool> {
    let (file, unfinished) = create_unfinished(|| unfinished(path))?;
    let written = write(&file, content).and_then(|()| fs::hard_link(&unfinished, path));
    let _ = fs::remove_file(&unfinished);
    let created = match written {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(error),
    };
    sync_directory(directory_of(path))?;
    Ok(created)
}

/// Creates a file with this content, or replaces one. When this returns, the content and the name
/// are durable. Readers find the old file or the new one, even after a crash, which may also leave
/// an unfinished file as [`create`] does.
///
/// # Errors
///
/// If the file cannot be written or synced. The path then has the old file or the new one.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let (file, unfinished) = create_unfinished(|| unfinished(path))?;
    let written = write(&file, content).and_then(|()| fs::rename(&unfinished, path));
    if written.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    written?;
    sync_directory(directory_of(path))
}

/// Removes the unfinished files that killed writers left in a directory, and returns their number.
/// `is_unfinished` says whether a path is that of an unfinished file.
///
/// # Errors
///
/// If the directory cannot be read.
pub fn remove_unfinished(
    directory: &Path,
    is_unfinished: impl Fn(&Path) -> bool,
) -> io::Result<u64> {
    let mut removed = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        // Meanwhile the file's writer may finish, or another process may remove the file: skip it
        // then.
        let is_file = || entry.file_type().is_ok_and(|kind| kind.is_file());
        let is_one = is_unfinished(&path) && is_file();
        let Some(file) = is_one.then(|| File::open(&path).ok()).flatten() else { continue };
        // The lock is held during the removal, so that no writer starts writing to the file.
        if file.try_lock().is_ok() && fs::remove_file(&path).is_ok() {
            removed += 1;
        }
    }
    Ok(removed)
}

/// Whether a file is one that [`create`] and [`replace`] leave when they are killed.
pub fn is_unfinished(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == UNFINISHED)
}

/// The number of files created until one keeps its name; the last one is used in any case. On a
/// file system that reports two inode numbers for one file, none seems to keep its name.
const TRIES: u32 = 100;

/// Creates a file under a new name and locks it. The lock, which lasts until the file is closed,
/// shows that the file has a writer. Returns the file and its path.
///
/// Another process may [remove](remove_unfinished) the file before it is locked. A file with
/// another name is then created.
///
/// # Errors
///
/// If no file can be created.
pub fn create_unfinished(mut name: impl FnMut() -> PathBuf) -> io::Result<(File, PathBuf)> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut left = TRIES;
    loop {
        let path = name();
        let file = options.open(&path)?;
        let is_kept = match file.try_lock() {
            Ok(()) => is_at(&file, &path)?,
            // Another process has locked the file to remove it: create another file.
            Err(TryLockError::WouldBlock) => false,
            // Without locks nobody can tell that a writer is dead, so nothing is ever removed.
            Err(TryLockError::Error(_)) => true,
        };
        left -= 1;
        if is_kept || left == 0 {
            return Ok((file, path));
        }
        let _ = fs::remove_file(&path);
    }
}

/// Makes the names in a directory durable. Does nothing on operating systems that are not Unix.
///
/// # Errors
///
/// If the directory cannot be opened or synced.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    #[cfg(feature = "test-util")]
    crate::testing::synced_directories().insert(path.canonicalize()?);
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A name that no other writer has, in this process or another.
fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.{UNFINISHED}", UniqueId::generate(&SystemClock, &SystemRandom)));
    name.into()
}

fn write(mut file: &File, content: &[u8]) -> io::Result<()> {
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(unix)]
fn same_file_system(one: &Path, other: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let device = |path: &Path| path.metadata().map(|metadata| metadata.dev());
    matches!((device(one), device(other)), (Ok(one), Ok(other)) if one == other)
}

#[cfg(unix)]
fn is_writable(directory: &Path) -> bool {
    use rustix::fs::{Access, access};
    access(directory, Access::READ_OK | Access::WRITE_OK).is_ok()
}

#[cfg(not(unix))]
fn same_file_system(_: &Path, _: &Path) -> bool {
    true
}

#[cfg(not(unix))]
fn is_writable(_: &Path) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::synced_directories;

    fn mode(path: &Path) -> u32 {
        use std::os::unix::fs::PermissionsExt as _;
        path.metadata().unwrap().permissions().mode() & 0o777
    }

    fn was_synced(path: &Path) -> bool {
        synced_directories().remove(&path.canonicalize().unwrap())
    }

    #[test]
    fn names_are_synced_whoever_created_them() {
        let root = tempfile::tempdir().unwrap();
        let (a, b) = (root.path().join("a"), root.path().join("a/b"));
        // As found after a kill between the two directories, after a kill before the sync, and
        // complete.
        fs::create_dir(&a).unwrap();
        for _ in 0..3 {
            create_directory(&b).unwrap();
            assert!(was_synced(&a) && was_synced(root.path()));
        }
        assert_eq!(mode(&b), 0o700);
        sync_name(Path::new("/")).unwrap();
        assert!(!was_synced(Path::new(".")), "a directory that has none of the names");

        // The file is new, then as found after a kill before the sync.
        let file = b.join("key");
        for created in [true, false] {
            assert_eq!(create(&file, b"one").unwrap(), created);
            assert!(was_synced(&b));
        }
        assert_eq!((fs::read(&file).unwrap(), mode(&file)), (b"one".to_vec(), 0o600));
        replace(&file, b"two").unwrap();
        assert!(was_synced(&b));
        assert_eq!(fs::read(&file).unwrap(), b"two");
        assert_eq!(fs::read_dir(&b).unwrap().count(), 1);
    }

    #[test]
    fn only_unfinished_files_of_dead_writers_are_removed() {
        let root = tempfile::tempdir().unwrap();
        let [file, dead, live, named] =
            ["file", "file.1.unfinished", "file.2.unfinished", "unfinished"]
                .map(|name| root.path().join(name));
        create(&file, b"one").unwrap();
        for path in [&dead, &named] {
            fs::write(path, "part of").unwrap();
        }
        fs::create_dir(root.path().join("directory.unfinished")).unwrap();
        let (writer, _) = create_unfinished(|| live.clone()).unwrap();
        for removed in [1, 0] {
            assert_eq!(remove_unfinished(root.path(), is_unfinished).unwrap(), removed);
            assert!(!dead.exists() && live.exists() && named.exists() && file.exists());
        }
        drop(writer);
        assert_eq!(remove_unfinished(root.path(), is_unfinished).unwrap(), 1);
        assert!(is_unfinished(&unfinished(&file)));
    }

    #[test]
    fn writers_keep_their_files_while_others_clean() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        let is_over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                        remove_unfinished(root.path(), is_unfinished).unwrap();
                    }
                });
            }
            let kept = (0..2_000).map(|_| {
                let (_writer, path) = create_unfinished(|| unfinished(&file))?;
                fs::remove_file(path)
            });
            let kept = kept.collect::<io::Result<()>>();
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
            kept.unwrap();
        });
    }

    #[test]
    fn a_failure_leaves_the_old_file_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let taken = root.path().join("taken");
        fs::create_dir_all(taken.join("x")).unwrap();
        assert!(replace(&taken, b"two").is_err());
        assert!(!create(&taken, b"two").unwrap());
        assert!(create_directory(&root.path().join("taken/x")).is_ok());
        fs::write(root.path().join("file"), "").unwrap();
        assert!(create_directory(&root.path().join("file/x")).is_err());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 2);
    }

    #[cfg(unix)]
    #[test]
    fn what_has_the_name_of_a_directory_is_named() {
        use std::os::unix::fs::symlink;
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::write(at("file"), "").unwrap();
        fs::create_dir(at("directory")).unwrap();
        symlink("nowhere", at("dangling")).unwrap();
        symlink("loop", at("loop")).unwrap();
        symlink("file", at("link")).unwrap();
        for (path, named, what) in [
            ("file", "file", "no directory"),
            ("file/a/b", "file", "no directory"),
            ("directory/../file/a", "directory/../file", "no directory"),
            ("dangling", "dangling", "a link to no directory"),
            ("dangling/a", "dangling", "a link to no directory"),
            ("link/a", "link", "a link to no directory"),
            ("loop", "loop", "a link to no directory"),
        ] {
            let error = create_directory(&at(path)).unwrap_err().to_string();
            assert_eq!(error, format!("{} exists and is {what}", at(named).display()), "{path}");
        }
        symlink("directory", at("fine")).unwrap();
        create_directory(&at("fine/a")).unwrap();
    }

    #[test]
    fn exactly_one_of_several_creates_a_file() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        let created = std::thread::scope(|scope| {
            let one = |n: u8| {
                let file = file.clone();
                scope.spawn(move || create(&file, &[n; 1000]).unwrap())
            };
            let threads: Vec<_> = (0..8).map(one).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).filter(|won| *won).count()
        });
        assert_eq!(created, 1);
        let content = fs::read(&file).unwrap();
        assert!(content.len() == 1000 && content.windows(2).all(|pair| pair[0] == pair[1]));
    }
}
