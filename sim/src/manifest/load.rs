//! Finds the files that `-f` names, and reads their text: files, directories (with everything below
//! them, in the order of names), and `-` for the standard input.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::limits;
use crate::problem::{Problem, ProblemCode, Spot};
use crate::source::Source;

/// Endings of the files that are read in a directory. A file that is named itself may end as it likes.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

/// Reads everything that is named.
pub fn load(names: &[impl AsRef<str>]) -> (Vec<Source>, Vec<Problem>) {
    let mut loader = Loader::default();
    for name in names {
        match name.as_ref() {
            "-" => loader.standard_input(),
            path => loader.named(Path::new(path)),
        }
    }
    (loader.sources, loader.problems)
}

#[derive(Default)]
struct Loader {
    sources: Vec<Source>,
    problems: Vec<Problem>,
    /// Real paths of files that were read: one that is named twice is read once.
    seen: BTreeSet<PathBuf>,
    /// Real paths of directories that were read.
    directories: BTreeSet<PathBuf>,
    /// Bytes that were read.
    read: u64,
}

impl Loader {
    fn standard_input(&mut self) {
        self.read("<stdin>", &mut std::io::stdin().lock());
    }

    fn named(&mut self, path: &Path) {
        if !path.is_dir() {
            self.file(path);
            return;
        }
        let real = path.canonicalize();
        if real.is_ok_and(|real| self.directories.contains(&real)) {
            return;
        }
        let before = self.sources.len() + self.problems.len();
        self.directory(path, &mut Vec::new());
        if self.sources.len() + self.problems.len() == before {
            let why = "no file below it ends in .yaml, .yml or .json";
            self.problem(ProblemCode::FileEmpty, &path.to_string_lossy(), why);
        }
    }

    /// Reads a directory; `above` are the real paths of the directories it is in.
    fn directory(&mut self, path: &Path, above: &mut Vec<PathBuf>) {
        let name = path.to_string_lossy();
        let real = match path.canonicalize() {
            Ok(real) => real,
            Err(error) => {
                return self.problem(ProblemCode::FileUnreadable, &name, &error.to_string());
            }
        };
        if above.contains(&real) {
            let why = format!("a link leads back to {}", real.display());
            return self.problem(ProblemCode::FileLoop, &name, &why);
        }
        // Links may lead to one place in more ways than can be counted.
        if !self.directories.insert(real.clone()) {
            return;
        }
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) => {
                return self.problem(ProblemCode::FileUnreadable, &name, &error.to_string());
            }
        };
        let paths: std::io::Result<Vec<PathBuf>> = entries.map(|entry| Ok(entry?.path())).collect();
        let mut paths = match paths {
            Ok(paths) => paths,
            Err(error) => {
                return self.problem(ProblemCode::FileUnreadable, &name, &error.to_string());
            }
        };
        paths.sort();
        above.push(real);
        for path in paths {
            let ending = path
                .extension()
                .and_then(|ending| ending.to_str())
                .unwrap_or_default();
            if path.is_dir() {
                self.directory(&path, above);
            } else if ENDINGS.contains(&ending) {
                self.file(&path);
            }
        }
        above.pop();
    }

    fn file(&mut self, path: &Path) {
        let name = path.to_string_lossy();
        if let Ok(real) = path.canonicalize()
            && !self.seen.insert(real)
        {
            return;
        }
        if let Some(why) = waits_for_ever(path) {
            return self.problem(ProblemCode::FileUnreadable, &name, why);
        }
        match fs::File::open(path) {
            Ok(mut file) => self.read(&name, &mut file),
            Err(error) => self.problem(ProblemCode::FileUnreadable, &name, &error.to_string()),
        }
    }

    /// Reads as much as is permitted.
    fn read(&mut self, name: &str, from: &mut dyn Read) {
        let left = limits::INPUT_BYTES.saturating_sub(self.read);
        let most = limits::FILE_BYTES.min(left);
        let mut bytes = Vec::new();
        match from.take(most + 1).read_to_end(&mut bytes) {
            Ok(len) if len as u64 > most => {
                let mib = |bytes: u64| bytes >> 20;
                let why = if most < limits::FILE_BYTES {
                    format!(
                        "all files together are larger than {} MiB",
                        mib(limits::INPUT_BYTES)
                    )
                } else {
                    format!(
                        "it is larger than {} MiB: split it",
                        mib(limits::FILE_BYTES)
                    )
                };
                self.problem(ProblemCode::FileTooLarge, name, &why);
            }
            Ok(len) => {
                self.read += len as u64;
                self.bytes(name, bytes);
            }
            Err(error) => self.problem(ProblemCode::FileUnreadable, name, &error.to_string()),
        }
    }

    fn bytes(&mut self, name: &str, bytes: Vec<u8>) {
        match String::from_utf8(bytes) {
            Ok(text) if text.contains('\0') => {
                self.problem(ProblemCode::FileBinary, name, "there is a zero byte in it");
            }
            // Some editors begin a text with a byte order mark.
            Ok(text) => {
                let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
                self.sources.push(Source::new(name, text));
            }
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                let why = format!("byte {at} is not part of a UTF-8 text");
                self.problem(ProblemCode::FileBinary, name, &why);
            }
        }
    }

    fn problem(&mut self, code: ProblemCode, name: &str, why: &str) {
        let title = if code == ProblemCode::FileBinary {
            format!("`{name}` is not a text file")
        } else if code == ProblemCode::FileEmpty {
            format!("there is nothing to read in `{name}`")
        } else if code == ProblemCode::FileLoop {
            format!("`{name}` contains itself")
        } else if code == ProblemCode::FileTooLarge {
            format!("`{name}` is too large")
        } else {
            format!("`{name}` cannot be read")
        };
        self.problems
            .push(Problem::error(code, title).at(Spot::new(name, 0..0), why));
    }
}

/// Whether nobody may ever write what is to be read: a pipe or a socket with a name. Those of a shell (`<(…)`) lie in
/// no directory, and their writer is there.
#[cfg(unix)]
fn waits_for_ever(path: &Path) -> Option<&'static str> {
    use std::os::unix::fs::FileTypeExt as _;
    let kind = fs::metadata(path.canonicalize().ok()?).ok()?.file_type();
    (kind.is_fifo() || kind.is_socket())
        .then_some("it is a pipe or a socket: give its content to `-f -`")
}

/// Elsewhere no file is a pipe.
#[cfg(not(unix))]
const fn waits_for_ever(_: &Path) -> Option<&'static str> {
    None
}
