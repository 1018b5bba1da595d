//! Which files are named, and reading one of them whole.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::yaml::MAX_BYTES;

/// Most files taken from one directory.
const MAX_FILES: usize = 10_000;

/// Why a file says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It is not there.
    #[error("is not there")]
    Missing,
    /// It has no content.
    #[error("is empty; what it said before stays in force until it is written or removed")]
    Empty,
    /// It is being written.
    #[error("changed while it was read; it is read again when it is closed")]
    Changing,
    /// It is over the bound.
    #[error("has {0} bytes; at most {MAX_BYTES} are read")]
    TooLarge(u64),
    /// It is not text.
    #[error("is not UTF-8 text; write YAML or JSON")]
    NotText,
    /// It is a device, a socket or something else that has no end.
    #[error("is not a file or directory of files")]
    NotAFile,
    /// The system refuses it.
    #[error("cannot be read: {0}")]
    System(String),
}

impl From<std::io::Error> for Unreadable {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::NotFound => Self::Missing,
            _ => Self::System(error.to_string()),
        }
    }
}

/// The files that `source` stands for: itself, or what a directory holds, by name.
pub fn list(source: &Path) -> Result<Vec<PathBuf>, Unreadable> {
    if !source.metadata()?.is_dir() {
        return Ok(vec![source.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in source.read_dir()? {
        let path = entry?.path();
        if is_config(&path) && path.metadata().is_ok_and(|metadata| metadata.is_file()) {
            files.push(path);
        }
        if files.len() > MAX_FILES {
            return Err(Unreadable::System(format!("more than {MAX_FILES} files")));
        }
    }
    files.sort();
    Ok(files)
}

/// Whether a directory's entry is read: `*.yaml`, `*.yml`, `*.json`, not hidden.
pub fn is_config(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    let extension = path.extension().and_then(|extension| extension.to_str());
    !hidden && matches!(extension, Some("yaml" | "yml" | "json"))
}

/// Reads the file, whole or not at all.
pub fn read(path: &Path) -> Result<String, Unreadable> {
    // Before it is opened: opening a pipe waits for a writer.
    if !path.metadata()?.is_file() {
        return Err(Unreadable::NotAFile);
    }
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    if size > MAX_BYTES as u64 {
        return Err(Unreadable::TooLarge(size));
    }
    let mut bytes = Vec::new();
    (&mut file).take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != size || file.metadata()?.len() != size {
        return Err(Unreadable::Changing);
    }
    text_of(bytes)
}

/// Whether `source` stands for standard input, as `-` does.
pub fn is_standard_input(source: &Path) -> bool {
    source.as_os_str() == "-"
}

/// Reads what has a beginning and an end and no name, whole or not at all.
pub fn read_to_end(from: impl std::io::Read) -> Result<String, Unreadable> {
    let mut bytes = Vec::new();
    from.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_BYTES {
        return Err(Unreadable::TooLarge(bytes.len() as u64));
    }
    text_of(bytes)
}

fn text_of(bytes: Vec<u8>) -> Result<String, Unreadable> {
    let text = String::from_utf8(bytes).map_err(|_| Unreadable::NotText)?;
    if text.trim().is_empty() { Err(Unreadable::Empty) } else { Ok(text) }
}

/// What a file that cannot be [`read`] begins with, if that can be seen.
pub fn peek(path: &Path) -> Option<Vec<u8>> {
    path.metadata().ok().filter(std::fs::Metadata::is_file)?;
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_BYTES as u64).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_stands_for_its_files_by_name() {
        let directory = tempfile::tempdir().expect("a directory");
        for name in ["b.yaml", "a.yml", "c.json", ".hidden.yaml", "notes.txt", "d.yaml~"] {
            std::fs::write(directory.path().join(name), "a: 1").expect("written");
        }
        std::fs::create_dir(directory.path().join("e.yaml")).expect("created");
        let files = list(directory.path()).expect("listed");
        let names: Vec<_> = files.iter().filter_map(|path| path.file_name()?.to_str()).collect();
        assert_eq!(names, ["a.yml", "b.yaml", "c.json"]);
    }

    #[test]
    fn a_file_is_read_whole_or_not_at_all() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.yaml");
        assert_eq!(read(&path), Err(Unreadable::Missing));
        assert_eq!(read(directory.path()), Err(Unreadable::NotAFile));
        assert_eq!(read(Path::new("/dev/zero")), Err(Unreadable::NotAFile));
        for (content, expected) in [
            (&b""[..], Err(Unreadable::Empty)),
            (b" \n\t\n", Err(Unreadable::Empty)),
            (b"\xff\xfe", Err(Unreadable::NotText)),
            (b"a: 1\n", Ok("a: 1\n".to_owned())),
        ] {
            std::fs::write(&path, content).expect("written");
            assert_eq!(read(&path), expected, "{content:?}");
        }
        let large = File::create(&path).expect("created");
        large.set_len(MAX_BYTES as u64 + 1).expect("grown");
        assert_eq!(read(&path), Err(Unreadable::TooLarge(MAX_BYTES as u64 + 1)));
    }

    #[test]
    fn standard_input_is_read_to_its_end_and_no_further_than_a_file() {
        assert!(is_standard_input(Path::new("-")) && !is_standard_input(Path::new("./-")));
        assert_eq!(read_to_end(&b"a: 1\n"[..]), Ok("a: 1\n".to_owned()));
        assert_eq!(read_to_end(&b" \n"[..]), Err(Unreadable::Empty));
        assert_eq!(read_to_end(&b"\xff"[..]), Err(Unreadable::NotText));
        assert_eq!(read_to_end(std::io::repeat(b'a')), Err(Unreadable::TooLarge(MAX_BYTES as u64 + 1)));
    }
}
