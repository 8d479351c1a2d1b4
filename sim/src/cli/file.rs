//! Files that are written: each is there whole, or not at all.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// A file that has another name until it is complete; it goes when nobody wanted it in the end.
#[derive(Debug)]
pub(super) struct Draft {
    part: PathBuf,
    path: PathBuf,
}

impl Draft {
    /// Writes a text next to where it belongs.
    pub(super) fn new(path: &Path, text: &str) -> io::Result<Self> {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}.part", std::process::id()));
        let part = PathBuf::from(name);
        // Not through a link that somebody has put there.
        let mut file = fs::File::create_new(&part)?;
        let path = path.to_owned();
        let draft = Self { part, path };
        file.write_all(text.as_bytes())?;
        Ok(draft)
    }

    /// Gives the file its name.
    pub(super) fn keep(self) -> io::Result<()> {
        fs::rename(&self.part, &self.path)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // It has its name, or never came to be.
        let _ = fs::remove_file(&self.part);
    }
}

/// Writes a file. A device or a pipe stays what it is, and gets the text.
pub(super) fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let found = fs::metadata(path);
    if found.as_ref().is_ok_and(fs::Metadata::is_dir) {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if found.is_ok_and(|found| !found.is_file()) {
        let mut file = fs::OpenOptions::new().write(true).open(path)?;
        return file.write_all(text.as_bytes());
    }
    Draft::new(path, text)?.keep()
}
