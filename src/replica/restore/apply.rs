//! Making a file of a base and of the pages after it.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

use bytes::Bytes;

use super::{
    plan::{Plan, Start},
    source::{Source, after},
};
use crate::{
    error::{Error, ErrorKind, Result},
    replica::{
        entry::{Body, Stored},
        format::Place,
        object,
        seal::Seal,
    },
    tenants::copy::digest,
};

/// Payloads that are held until they are written, in bytes.
const HELD: u64 = 16 << 20;

/// Why a plan cannot be carried out.
pub(super) enum Unusable {
    /// An entry is missing or damaged.
    Entry(u64, Error),
    /// The object that an entry names is.
    Base(u64, Error),
    /// The plan is not at fault.
    Not(Error),
}

impl From<Error> for Unusable {
    fn from(error: Error) -> Self {
        Self::Not(error)
    }
}

impl Unusable {
    /// An error of an entry, if it is one of what the bucket has.
    fn entry(seq: u64, error: Error) -> Self {
        match error.kind() {
            ErrorKind::Damaged | ErrorKind::NotFound => Self::Entry(seq, error),
            _ => Self::Not(error),
        }
    }
}

/// Carries a plan out from the best of its starts; gives the file's length and its SHA-256.
pub(super) async fn build(
    source: &Source,
    tenant: &str,
    plan: &Plan,
    into: &Path,
) -> Result<(u64, [u8; 32]), Unusable> {
    let start = *plan.starts.first().ok_or_else(|| Error::internal("a plan without a start"))?;
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(into);
    let mut file = opened.map_err(|e| Error::io(into.display(), e))?;
    if start.is_base {
        fetch_base(source, tenant, plan, start, &mut file).await?;
    }
    let mut built = Building { last: None, size: None };
    let (mut next, mut held, mut bytes) = ((plan.epoch, start.first), Vec::new(), 0);
    let to = (plan.epoch, plan.target);
    while next <= to {
        let piece = source.entries(tenant, next, to).await?;
        for (epoch, seq, value) in &piece {
            let (epoch, seq) = (*epoch, *seq);
            if (epoch, seq) != next {
                break;
            }
            next = after(next);
            let place = Place { tenant, epoch, seq };
            let stored = Stored::parse(&place, value).map_err(|error| Unusable::entry(seq, error))?;
            built.follow(seq, &stored)?;
            let big = match &stored.big {
                Some(path) => Some(source.remote().get(path).await?.ok_or_else(|| gone(seq, path))?),
                None => None,
            };
            bytes += stored.bytes();
            held.push((seq, stored, big));
            if bytes > HELD {
                bytes = 0;
                built.write(&file, source.seal(), std::mem::take(&mut held)).await?;
            }
        }
        if piece.last().map(|(epoch, seq, _)| after((*epoch, *seq))) != Some(next) {
            return Err(Unusable::Entry(next.1, Error::new(ErrorKind::NotFound, "it is not there")));
        }
        built.write(&file, source.seal(), std::mem::take(&mut held)).await?;
    }
    if built.last != Some(plan.hash) {
        let why = "the entry has changed while the chain was read: ask again";
        return Err(Error::new(ErrorKind::Unavailable, why).into());
    }
    let (size, name) = (built.size, into.display().to_string());
    Ok(blocking(move || {
        let done = size.map_or(Ok(()), |size| file.set_len(size)).and_then(|()| digest(&mut file));
        done.map_err(|e| Error::io(name, e))
    })
    .await?)
}

/// Writes the object of a base into the file.
async fn fetch_base(source: &Source, tenant: &str, plan: &Plan, start: Start, file: &mut File) -> Result<(), Unusable> {
    let (epoch, seq) = (plan.epoch, start.seq);
    let found = source.entries(tenant, (epoch, seq), (epoch, seq)).await?;
    let Some((_, _, value)) = found.first() else {
        return Err(Unusable::Base(seq, Error::new(ErrorKind::NotFound, "its entry is not there")));
    };
    let base = Stored::parse(&Place { tenant, epoch, seq }, value).and_then(|stored| stored.open(None, source.seal()));
    let base = match base.map_err(|error| Unusable::entry(seq, error))?.body {
        Body::Base(base) => base,
        Body::Pages(_) | Body::Whole(_) | Body::End(_) => {
            return Err(Error::internal("a base that is none").into());
        }
    };
    let done = object::download(source.remote(), source.seal(), &base.object, base.sha256, file).await;
    let bytes = done.map_err(|error| match error.kind() {
        ErrorKind::Damaged | ErrorKind::NotFound => Unusable::Base(seq, error),
        _ => Unusable::Not(error),
    })?;
    if bytes != base.bytes {
        return Err(Unusable::Base(seq, Error::new(ErrorKind::Damaged, "it has another length than its entry says")));
    }
    Ok(())
}

fn gone(seq: u64, path: &str) -> Unusable {
    Unusable::Entry(seq, Error::new(ErrorKind::NotFound, format!("{path} is not there")))
}

/// How far a file is.
struct Building {
    /// The hash of the last entry.
    last: Option<[u8; 32]>,
    /// The length of the file after the pages so far; none if there were none.
    size: Option<u64>,
}

impl Building {
    /// Checks that an entry follows the one before.
    fn follow(&mut self, seq: u64, stored: &Stored) -> Result<(), Unusable> {
        if self.last.is_some_and(|last| last != stored.previous) {
            let why = "it does not follow the entry before";
            return Err(Unusable::Entry(seq, Error::new(ErrorKind::Damaged, why)));
        }
        self.last = Some(stored.hash);
        Ok(())
    }

    /// Writes the pages of entries that follow one another.
    async fn write(&mut self, file: &File, seal: &Seal, held: Vec<Held>) -> Result<(), Unusable> {
        if held.is_empty() {
            return Ok(());
        }
        let file = file.try_clone().map_err(|e| Error::io("a file that is restored", e))?;
        let seal = seal.clone();
        let written = tokio::task::spawn_blocking(move || write(&file, &seal, held)).await;
        let size = written.map_err(|e| Error::internal("pages were not written").with_source(e))??;
        self.size = size.or(self.size);
        Ok(())
    }
}

/// An entry, and its payload if that is an object of its own.
type Held = (u64, Stored, Option<Bytes>);

/// Writes the pages of entries; gives the length of the file after them, if they have any. Pages beyond that are cut off in
/// the end, and none that is within it is old: whoever makes the database longer writes them.
fn write(file: &File, seal: &Seal, held: Vec<Held>) -> Result<Option<u64>, Unusable> {
    let mut size = None;
    for (seq, stored, big) in held {
        let entry = stored.open(big, seal).map_err(|error| Unusable::entry(seq, error))?;
        let pages = match entry.body {
            Body::Pages(pages) | Body::Whole(pages) => pages,
            Body::Base(_) | Body::End(_) => continue,
        };
        let page_size = u64::from(entry.page_size);
        for (number, image) in &pages.0 {
            let at = u64::from(number.saturating_sub(1)) * page_size;
            file.write_all_at(image, at).map_err(|e| Error::io("a file that is restored", e))?;
        }
        size = Some(u64::from(entry.size_pages) * page_size);
    }
    Ok(size)
}

/// Runs what may block on a thread for that.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| Error::internal("work on a restored file did not end").with_source(e))?
}
