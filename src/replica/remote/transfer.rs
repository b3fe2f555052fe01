//! Files to object storage and back, without holding one in memory.

use std::{fs::File, os::unix::fs::FileExt, sync::Arc};

use bytes::Bytes;
use futures_util::{
    StreamExt,
    stream::{self, FuturesUnordered},
};
use object_store::{
    GetOptions, GetResult, GetResultPayload, MultipartUpload, ObjectStore, PutMultipartOptions, PutOptions, path::Path,
};

use super::explain::{explain, is_missing};
use crate::error::{Error, ErrorKind, Result};

/// The length of the parts of a large file. Each is one request, so that its time limit is not one of the whole file.
const PART: u64 = 8 << 20;

/// The most parts of an object: S3 takes 10,000.
const PARTS: u64 = 9_000;

/// What is written to a file at once.
const PIECE: u64 = 1 << 20;

/// Parts under way at once.
const AHEAD: usize = 2;

/// Writes the whole file as an object.
pub async fn put_file(store: &dyn ObjectStore, path: &Path, file: File) -> Result<()> {
    let size = file.metadata().map_err(|e| Error::io("the file to be copied", e))?.len();
    let file = Arc::new(file);
    if size <= PART {
        let bytes = read(&file, 0, size).await?;
        store.put_opts(path, bytes.into(), PutOptions::default()).await.map_err(explain)?;
        return Ok(());
    }
    let mut upload = store.put_multipart_opts(path, PutMultipartOptions::default()).await.map_err(explain)?;
    let sent = send(&mut *upload, &file, size).await;
    if sent.is_err()
        && let Err(error) = upload.abort().await
    {
        tracing::debug!(%error, "the parts of an unfinished object could not be removed");
    }
    sent
}

async fn send(upload: &mut dyn MultipartUpload, file: &Arc<File>, size: u64) -> Result<()> {
    let length = PART.max(size.div_ceil(PARTS));
    let mut running = FuturesUnordered::new();
    let mut at = 0;
    while at < size {
        let bytes = read(file, at, length.min(size - at)).await?;
        at += bytes.len() as u64;
        running.push(upload.put_part(bytes.into()));
        if running.len() >= AHEAD
            && let Some(done) = running.next().await
        {
            done.map_err(explain)?;
        }
    }
    while let Some(done) = running.next().await {
        done.map_err(explain)?;
    }
    upload.complete().await.map_err(explain)?;
    Ok(())
}

/// Writes an object into a file from its begin, and gives its length; none if there is no such object.
pub async fn get_file(store: &dyn ObjectStore, path: &Path, into: &File) -> Result<Option<u64>> {
    let file = Arc::new(into.try_clone().map_err(|e| Error::io("the file to be filled", e))?);
    let first = match store.get_opts(path, GetOptions::default()).await {
        Ok(first) => first,
        Err(error) if is_missing(&error) => return Ok(None),
        Err(error) => return Err(explain(error)),
    };
    let (size, tag) = (first.meta.size, first.meta.e_tag.clone());
    // A large object is asked for in parts. What has come of the first answer is used.
    let mut at = fill(first, &file, 0, size.min(PART)).await?;
    let starts: Vec<u64> = std::iter::successors(Some(at), |at| Some(at + PART)).take_while(|at| *at < size).collect();
    let parts = starts.into_iter().map(|at| {
        let options = GetOptions::new().with_range(Some(at..size.min(at + PART))).with_if_match(tag.clone());
        async move { (at, store.get_opts(path, options).await) }
    });
    let mut parts = stream::iter(parts).buffered(AHEAD);
    while let Some((from, part)) = parts.next().await {
        at = fill(part.map_err(explain)?, &file, from, size.min(from + PART)).await?;
    }
    match at == size {
        true => Ok(Some(size)),
        false => Err(torn()),
    }
}

/// Writes an answer to where it belongs in the file, up to `end`.
async fn fill(part: GetResult, file: &Arc<File>, mut at: u64, end: u64) -> Result<u64> {
    let mut stream = match part.payload {
        GetResultPayload::Stream(stream) => stream,
        GetResultPayload::File(source, _) => {
            let into = Arc::clone(file);
            blocking(move || copy(&source, &into, at, end)).await?;
            return Ok(end);
        }
    };
    // Written in larger pieces than the network has, since each write is on another thread.
    let (mut pieces, mut waiting) = (Vec::new(), 0);
    while at + waiting < end {
        let Some(bytes) = stream.next().await else { return Err(torn()) };
        let mut bytes = bytes.map_err(explain)?;
        bytes.truncate(usize::try_from(end - at - waiting).unwrap_or(usize::MAX));
        waiting += bytes.len() as u64;
        pieces.push(bytes);
        if waiting >= PIECE || at + waiting == end {
            write(file, at, std::mem::take(&mut pieces)).await?;
            at += std::mem::take(&mut waiting);
        }
    }
    Ok(at)
}

fn copy(from: &File, into: &File, mut at: u64, end: u64) -> Result<()> {
    let failed = |e| Error::io("the file to be filled", e);
    let mut buffer = vec![0; usize::try_from((end - at).min(PIECE)).map_err(|_| torn())?];
    while at < end {
        let length = usize::try_from((end - at).min(PIECE)).map_err(|_| torn())?;
        from.read_exact_at(&mut buffer[..length], at).map_err(|e| torn().with_source(e))?;
        into.write_all_at(&buffer[..length], at).map_err(failed)?;
        at += length as u64;
    }
    Ok(())
}

fn torn() -> Error {
    Error::new(ErrorKind::Unavailable, "an answer of the store ended before the object did: ask again")
}

async fn read(file: &Arc<File>, at: u64, length: u64) -> Result<Bytes> {
    let file = Arc::clone(file);
    let length = usize::try_from(length).map_err(|_| Error::internal("a part is longer than memory"))?;
    blocking(move || {
        let mut buffer = vec![0; length];
        file.read_exact_at(&mut buffer, at).map_err(|e| Error::io("the file to be copied", e))?;
        Ok(buffer.into())
    })
    .await
}

async fn write(file: &Arc<File>, mut at: u64, pieces: Vec<Bytes>) -> Result<()> {
    let file = Arc::clone(file);
    blocking(move || {
        for bytes in pieces {
            file.write_all_at(&bytes, at).map_err(|e| Error::io("the file to be filled", e))?;
            at += bytes.len() as u64;
        }
        Ok(())
    })
    .await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| Error::internal("work on a file did not end").with_source(e))?
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};

    use object_store::{local::LocalFileSystem, memory::InMemory};

    use super::*;

    fn file(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file
    }

    #[tokio::test]
    async fn a_file_comes_back_as_it_went() {
        let part = usize::try_from(PART).unwrap();
        for length in [0, 1, part, part + 1, 3 * part, 3 * part + 7] {
            let mut content = vec![0_u8; length];
            for (chunk, n) in content.chunks_mut(4_099).zip((0..251).cycle()) {
                chunk.fill(n);
            }
            let folder = tempfile::tempdir().unwrap();
            let local = LocalFileSystem::new_with_prefix(folder.path()).unwrap();
            let stores: [Box<dyn ObjectStore>; 2] = [Box::new(InMemory::new()), Box::new(local)];
            for store in &stores {
                let path = Path::from("base/x");
                put_file(&**store, &path, file(&content)).await.unwrap();
                let mut back = file(b"");
                assert_eq!(get_file(&**store, &path, &back).await.unwrap(), Some(length as u64));
                let mut read = Vec::new();
                back.rewind().unwrap();
                back.read_to_end(&mut read).unwrap();
                assert!(read == content, "{length} bytes over {store}");
            }
        }
    }

    #[tokio::test]
    async fn what_is_not_there_is_none() {
        assert_eq!(get_file(&InMemory::new(), &Path::from("x"), &file(b"")).await.unwrap(), None);
    }
}
