//! What a backup has: a line for each tenant, between a header and an end by which a manifest that was cut is known.
//!
//! It is NDJSON, written and read as a stream: a million tenants need no more memory than ten.

use std::{
    fs::File,
    io::{BufRead, BufReader, BufWriter, Seek, Write},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    catalog::model::State,
    clock::{Millis, wire},
    error::{Error, ErrorKind, Result},
    tenants::id::TenantId,
};

const FORMAT: u32 = 1;
const KIND: &str = "backup";

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    format: u32,
    kind: String,
    /// Whose backup it is.
    pub installation: String,
    /// The backup's name.
    pub name: String,
    /// The version of the program that made it.
    pub version: String,
    /// When it was begun.
    #[serde(with = "wire")]
    pub started: Millis,
    /// The catalog, which is newer than what the tenants' lines name.
    pub catalog: Object,
}

impl Header {
    /// That of a backup that was begun at this time.
    pub fn new(installation: String, name: String, started: Millis, catalog: Object) -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self { format: FORMAT, kind: KIND.to_owned(), installation, name, version, started, catalog }
    }
}

/// A copy of a file at the destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Its path.
    pub path: String,
    /// Of the file.
    #[serde(with = "digest")]
    pub sha256: [u8; 32],
    /// The length of the file.
    pub bytes: u64,
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The id.
    pub id: TenantId,
    /// Its state in the catalog of this backup.
    pub state: State,
    /// The copy of its file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy: Option<Object>,
    /// By which a later backup knows the file again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// Why there is no copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
}

/// What the last line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Tenants with a copy.
    pub tenants: u64,
    /// Tenants without.
    pub missing: u64,
    /// The length of all copies together, without the catalog.
    pub bytes: u64,
    /// When the backup was complete.
    #[serde(with = "wire")]
    pub finished: Millis,
    /// Of all lines before, and of this one with zeros here.
    #[serde(with = "digest")]
    sha256: [u8; 32],
}

#[derive(Serialize, Deserialize)]
struct Last {
    end: End,
}

impl End {
    /// Itself with the digest of it behind these lines.
    fn behind(self, mut lines: Sha256) -> Result<Self> {
        lines.update(text_of(&Last { end: Self { sha256: [0; 32], ..self } })?);
        Ok(Self { sha256: lines.finalize().into(), ..self })
    }
}

/// Writes a manifest.
pub struct Writer {
    out: BufWriter<File>,
    hash: Sha256,
    end: End,
}

impl Writer {
    /// Into a new file.
    pub fn new(file: File, header: &Header) -> Result<Self> {
        let end = End { tenants: 0, missing: 0, bytes: 0, finished: 0, sha256: [0; 32] };
        let mut writer = Self { out: BufWriter::new(file), hash: Sha256::new(), end };
        writer.write(header)?;
        Ok(writer)
    }

    /// Adds a tenant.
    pub fn add(&mut self, line: &Line) -> Result<()> {
        match &line.copy {
            Some(copy) => {
                self.end.tenants += 1;
                self.end.bytes += copy.bytes;
            }
            None => self.end.missing += 1,
        }
        self.write(line)
    }

    /// Writes the end, and gives the file at its beginning, and its SHA-256.
    pub fn finish(mut self, finished: Millis) -> Result<(File, [u8; 32], End)> {
        let end = End { finished, ..self.end }.behind(self.hash.clone())?;
        self.write(&Last { end })?;
        let mut file = self.out.into_inner().map_err(|error| failed(error.into_error()))?;
        file.rewind().map_err(failed)?;
        Ok((file, self.hash.finalize().into(), end))
    }

    fn write(&mut self, line: &impl Serialize) -> Result<()> {
        let text = text_of(line)?;
        self.hash.update(&text);
        self.out.write_all(&text).map_err(failed)
    }
}

/// A line with its end.
fn text_of(line: &impl Serialize) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec(line).map_err(|e| Error::internal("a manifest").with_source(e))?;
    text.push(b'\n');
    Ok(text)
}

/// A manifest that was found to be whole.
#[derive(Debug)]
pub struct Manifest {
    /// Its first line.
    pub header: Header,
    /// Its last one.
    pub end: End,
    file: File,
}

impl Manifest {
    /// Reads all of a file, of the backup of this name. May block.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] if it is cut or damaged.
    pub fn read(mut file: File, name: &str) -> Result<Self> {
        let bad = |why: &str| damaged(name, why);
        file.rewind().map_err(failed)?;
        let mut reader = BufReader::new(&file);
        let (mut hash, mut line, mut before) = (Sha256::new(), Vec::new(), Vec::new());
        let (mut header, mut counted) = (None, (0_u64, 0_u64, 0_u64));
        loop {
            line.clear();
            if reader.read_until(b'\n', &mut line).map_err(failed)? == 0 {
                break;
            }
            if !before.is_empty() {
                hash.update(&before);
                match &header {
                    None => header = Some(parse_header(&before, name)?),
                    Some(_) => count(&mut counted, &before).ok_or_else(|| bad("a line cannot be read"))?,
                }
            }
            std::mem::swap(&mut before, &mut line);
        }
        drop(reader);
        let header: Header = header.ok_or_else(|| bad("it has no lines"))?;
        let last: Option<Last> = before.ends_with(b"\n").then(|| serde_json::from_slice(&before).ok()).flatten();
        let end = last.ok_or_else(|| bad("it is cut short"))?.end;
        if end != end.behind(hash)? || (end.tenants, end.missing, end.bytes) != counted {
            return Err(bad("its lines are not those that its end speaks of"));
        }
        if header.name != name {
            return Err(bad(&format!("it says that it is that of {}", header.name)));
        }
        Ok(Self { header, end, file })
    }

    /// Its tenants, in the order of ids.
    pub fn into_lines(self) -> Result<Lines> {
        let mut file = self.file;
        file.rewind().map_err(failed)?;
        let mut reader = BufReader::new(file);
        reader.read_until(b'\n', &mut Vec::new()).map_err(failed)?;
        Ok(Lines { reader, left: self.end.tenants + self.end.missing, name: self.header.name })
    }
}

/// The lines of a manifest between its header and its end.
pub struct Lines {
    reader: BufReader<File>,
    left: u64,
    name: String,
}

impl Lines {
    /// The next tenants, so many at most; none at the end. May block.
    pub fn page(&mut self, most: usize) -> Result<Vec<Line>> {
        let (mut lines, mut text) = (Vec::new(), Vec::new());
        while lines.len() < most && self.left > 0 {
            text.clear();
            self.reader.read_until(b'\n', &mut text).map_err(failed)?;
            let line = serde_json::from_slice(&text);
            lines.push(line.map_err(|e| damaged(&self.name, "a line cannot be read").with_source(e))?);
            self.left -= 1;
        }
        Ok(lines)
    }
}

fn parse_header(text: &[u8], name: &str) -> Result<Header> {
    /// What one of any version has.
    #[derive(Deserialize)]
    struct Any {
        format: u32,
        kind: String,
    }
    let bad = |e: serde_json::Error| damaged(name, "its first line cannot be read").with_source(e);
    let any: Any = serde_json::from_slice(text).map_err(bad)?;
    if any.kind != KIND || any.format != FORMAT {
        return Err(Error::config(format!(
            "the backup {name} is of kind {:?} and format {}, and this version of cubby knows only {KIND:?} and {FORMAT}: \
             use the version that wrote it",
            any.kind, any.format
        )));
    }
    serde_json::from_slice(text).map_err(bad)
}

fn count(counted: &mut (u64, u64, u64), text: &[u8]) -> Option<()> {
    let line: Line = serde_json::from_slice(text).ok()?;
    match line.copy {
        Some(copy) => {
            counted.0 += 1;
            counted.2 = counted.2.checked_add(copy.bytes)?;
        }
        None => counted.1 += 1,
    }
    Some(())
}

fn damaged(name: &str, why: &str) -> Error {
    let why = format!(
        "the manifest of the backup {name} is not whole ({why}), and nothing of it is used: choose another one, which \
         `cubby backup list` shows"
    );
    Error::new(ErrorKind::Damaged, why)
}

fn failed(error: std::io::Error) -> Error {
    Error::io("a manifest in the temporary folder", error)
}

/// A digest in hexadecimal digits.
mod digest {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(digest: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(digest))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut digest = [0; 32];
        hex::decode_to_slice(&text, &mut digest).map_err(|_| D::Error::custom("no SHA-256"))?;
        Ok(digest)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn object(n: u8) -> Object {
        Object { path: format!("base/{n}"), sha256: [n; 32], bytes: u64::from(n) }
    }

    fn written() -> Vec<u8> {
        let header = Header::new("0".repeat(32), "today".into(), 1_700_000_000_000, object(9));
        let mut writer = Writer::new(tempfile::tempfile().unwrap(), &header).unwrap();
        for (id, copy, missing) in [("ada", Some(object(1)), None), ("bob", None, Some("quarantined".to_owned()))] {
            let fingerprint = copy.as_ref().map(|_| "1-2-3-4".to_owned());
            let line = Line { id: id.parse().unwrap(), state: State::Active, copy, fingerprint, missing };
            writer.add(&line).unwrap();
        }
        let (mut file, sha256, end) = writer.finish(1_700_000_001_000).unwrap();
        assert_eq!((end.tenants, end.missing, end.bytes), (1, 1, 1));
        let mut text = Vec::new();
        file.read_to_end(&mut text).unwrap();
        assert_eq!(sha256, <[u8; 32]>::from(Sha256::digest(&text)));
        text
    }

    fn read(text: &[u8]) -> Result<Manifest> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text).unwrap();
        Manifest::read(file, "today")
    }

    #[test]
    fn a_manifest_is_read_as_it_was_written() {
        let manifest = read(&written()).unwrap();
        assert_eq!((manifest.header.catalog.clone(), manifest.end.finished), (object(9), 1_700_000_001_000));
        let mut lines = manifest.into_lines().unwrap();
        let first = lines.page(1).unwrap();
        assert_eq!((first[0].id.as_str(), &first[0].copy), ("ada", &Some(object(1))));
        assert_eq!(lines.page(9).unwrap()[0].missing.as_deref(), Some("quarantined"));
        assert_eq!(lines.page(9).unwrap(), []);
    }

    #[test]
    fn one_that_is_cut_anywhere_or_changed_is_refused() {
        let text = written();
        for length in 0..text.len() {
            assert!(read(&text[..length]).is_err(), "{length} of {}", text.len());
        }
        for at in (0..text.len()).step_by(7) {
            let mut text = text.clone();
            text[at] ^= 1;
            assert!(read(&text).is_err(), "byte {at}");
        }
        let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
        assert_eq!(lines.len(), 4);
        assert!(read(&[lines[0], lines[2], lines[3]].concat()).is_err(), "without a line");
        assert!(read(&[&text[..], lines[1]].concat()).is_err(), "with one behind the end");
        assert_eq!(Manifest::read(tempfile::tempfile().unwrap(), "today").unwrap_err().kind(), ErrorKind::Damaged);
    }
}
