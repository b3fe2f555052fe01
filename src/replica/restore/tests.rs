//! Restores from a bucket in memory.

use std::{
    io::{Seek, Write},
    sync::Arc,
    time::Duration,
};

use object_store::memory::InMemory;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::{folder::restore_folder, *};
use crate::{
    Store, StoreOptions,
    catalog::audit::Author,
    clock::rfc3339,
    replica::{
        entry::{BaseRef, Entry, Pages},
        format::{FORMAT_PATH, Format, head_key, shard_of},
        object,
        remote::Remote,
        shard::Shard,
    },
};

const PAGE: u32 = 512;

/// A bucket that is written to by hand.
struct Bucket {
    remote: Remote,
    seal: Seal,
}

/// A tenant's chain, and its files.
struct Writer<'b> {
    bucket: &'b Bucket,
    tenant: &'static str,
    head: Head,
}

impl Bucket {
    async fn new(seal: Seal) -> Self {
        let remote = Remote::over(Arc::new(InMemory::new()), "memory");
        remote.put(FORMAT_PATH, Format::begin(0).unwrap().encode().unwrap().into()).await.unwrap();
        Self { remote, seal }
    }

    async fn source(&self) -> Source {
        Source::open(self.remote.clone(), Arc::new(self.seal.clone())).await.unwrap()
    }

    async fn write(&self, tenant: &str, batch: Vec<(String, Option<Bytes>)>) {
        let shard = Shard::open(&self.remote, shard_of(tenant), 0).await.unwrap();
        shard.write(batch).await.unwrap();
        shard.close().await;
    }

    fn chain(&self, tenant: &'static str) -> Writer<'_> {
        Writer { bucket: self, tenant, head: Head { epoch: 1 << 16, ..Head::default() } }
    }
}

impl Writer<'_> {
    fn place(&self, seq: u64) -> Place<'_> {
        Place { tenant: self.tenant, epoch: self.head.epoch, seq }
    }

    async fn add(&mut self, time: Millis, size_pages: u32, body: Body) {
        let seq = self.head.seq + 1;
        let is_base = matches!(body, Body::Base(_) | Body::Whole(_));
        let entry = Entry { previous: self.head.hash, time, page_size: PAGE, size_pages, body };
        let encoded = entry.encode(&self.place(seq), &self.bucket.seal).unwrap();
        let base_seq = if is_base { seq } else { self.head.base_seq };
        let head = Head { seq, hash: encoded.hash, time, size_pages, base_seq, ..self.head.clone() };
        let batch =
            vec![(self.place(seq).key(), Some(encoded.value)), (head_key(self.tenant), Some(head.encode().into()))];
        self.bucket.write(self.tenant, batch).await;
        self.head = head;
    }

    /// Puts a base into the bucket, and gives its path.
    async fn add_base(&mut self, time: Millis, after: u64, content: &[u8]) -> String {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file.rewind().unwrap();
        let sha256 = Sha256::digest(content).into();
        let path = self.place(after).base_path(&sha256, self.bucket.seal.is_on());
        object::upload(&self.bucket.remote, &self.bucket.seal, &path, file, sha256).await.unwrap();
        let bytes = content.len() as u64;
        let pages = u32::try_from(bytes / u64::from(PAGE)).unwrap();
        self.add(time, pages, Body::Base(BaseRef { object: path.clone(), bytes, sha256, after })).await;
        path
    }
}

fn pages(images: &[(u32, u8)]) -> Pages {
    Pages(images.iter().map(|(number, byte)| (*number, Bytes::from(vec![*byte; PAGE as usize]))).collect())
}

fn content(images: &[u8]) -> Vec<u8> {
    images.iter().flat_map(|byte| vec![*byte; PAGE as usize]).collect()
}

/// A chain with a base, and the file after each of its moments.
async fn example(bucket: &Bucket) -> (Writer<'_>, String, Vec<(Millis, Vec<u8>)>) {
    let mut ada = bucket.chain("ada");
    ada.add(100, 3, Body::Whole(pages(&[(1, 1), (2, 1), (3, 1)]))).await;
    ada.add(200, 3, Body::Pages(pages(&[(2, 2)]))).await;
    ada.add(300, 4, Body::Pages(pages(&[(4, 3)]))).await;
    let base = ada.add_base(400, 2, &content(&[1, 2, 1, 3])).await;
    ada.add(500, 2, Body::Pages(pages(&[(1, 5)]))).await;
    ada.add(600, 2, Body::End("deleted".to_owned())).await;
    let states: [(Millis, &[u8]); 6] = [
        (100, &[1, 1, 1]),
        (200, &[1, 2, 1]),
        (300, &[1, 2, 1, 3]),
        (400, &[1, 2, 1, 3]),
        (500, &[5, 2]),
        (600, &[5, 2]),
    ];
    (ada, base, states.into_iter().map(|(at, images)| (at, content(images))).collect())
}

async fn restored_at(bucket: &Bucket, at: Option<Millis>) -> Result<Vec<u8>> {
    let folder = TempDir::new().unwrap();
    let into = folder.path().join("fresh.db");
    let restored = fetch(&bucket.source().await, "ada", at, &into).await?;
    let found = std::fs::read(into).unwrap();
    assert_eq!((restored.bytes, &restored.sha256[..]), (found.len() as u64, &Sha256::digest(&found)[..]));
    assert_eq!(restored.head.unwrap().ended, restored.seq != 6);
    Ok(found)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moment_is_restored_as_it_was_also_without_the_newest_base() {
    for seal in [Seal::none(), Seal::from_key_file(&"ab".repeat(32)).unwrap()] {
        let bucket = Bucket::new(seal).await;
        let (_, base, states) = example(&bucket).await;
        for turn in 0..3 {
            match turn {
                0 => {}
                1 => bucket.remote.put(&base, Bytes::from_static(b"damaged")).await.unwrap(),
                _ => bucket.remote.delete(&base).await.unwrap(),
            }
            for (at, expected) in &states {
                for at in [*at, *at + 50] {
                    assert_eq!(&restored_at(&bucket, Some(at)).await.unwrap(), expected, "{turn} {at}");
                }
            }
            assert_eq!(restored_at(&bucket, None).await.unwrap(), states[5].1, "{turn}");
            let refused = restored_at(&bucket, Some(99)).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Invalid);
            assert!(refused.message().contains(&rfc3339(100).to_string()), "{refused}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_chain_is_refused_with_the_last_good_moment() {
    let bucket = Bucket::new(Seal::none()).await;
    let (ada, base, states) = example(&bucket).await;
    // An entry that says that it is another one.
    let other = bucket.source().await.entries("ada", (1 << 16, 3), (1 << 16, 3)).await.unwrap().remove(0).2;
    bucket.write("ada", vec![(ada.place(2).key(), Some(other))]).await;
    for at in [150, 250, 350] {
        let refused = restored_at(&bucket, Some(at)).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Damaged, "{at}");
        assert!(refused.message().contains(&rfc3339(100).to_string()), "{refused}");
    }
    assert_eq!(restored_at(&bucket, Some(100)).await.unwrap(), states[0].1);
    // The base makes up for it.
    assert_eq!(restored_at(&bucket, Some(450)).await.unwrap(), states[3].1);
    assert_eq!(restored_at(&bucket, None).await.unwrap(), states[5].1);
    bucket.remote.delete(&base).await.unwrap();
    let refused = restored_at(&bucket, None).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Damaged);
    assert!(refused.message().contains(&rfc3339(100).to_string()), "{refused}");
    let refused = fetch(&bucket.source().await, "nobody", None, &base_path()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotFound);
}

/// A path that nothing is written to.
fn base_path() -> std::path::PathBuf {
    std::env::temp_dir().join("cubby-not-made.db")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_restored_whole_and_a_restore_that_was_cut_short_goes_on() {
    let folder = TempDir::new().unwrap();
    let old = Store::open(StoreOptions::new(folder.path().join("old"))).unwrap();
    let ids: [TenantId; 3] = ["ada", "carl", "dora"].map(|id| id.parse().unwrap());
    for id in &ids {
        drop(old.lease_or_create(id).await.unwrap());
    }
    old.delete(&ids[1], &Author::program("test")).await.unwrap();
    old.close(tokio::time::Instant::now() + Duration::from_secs(60)).await;
    let layout = old.layout().clone();
    drop(old);
    // Of one of them the bucket has nothing.
    let bucket = Bucket::new(Seal::none()).await;
    for (tenant, file) in
        [(CATALOG, layout.catalog()), ("ada", layout.tenant(&ids[0])), ("carl", layout.trashed(&ids[1]))]
    {
        bucket.chain(tenant).add_base(100, 0, &std::fs::read(file).unwrap()).await;
    }

    let (source, new) = (bucket.source().await, folder.path().join("new"));
    let cut = |_: &str, _: &Head| Err(Error::new(ErrorKind::Unavailable, "cut short"));
    let failed = Box::pin(restore_folder(&source, &new, None, |_| {}, cut)).await.unwrap_err();
    assert!(failed.message().contains("again"), "{failed}");
    assert!(!new.join("catalog.db").exists());

    let (mut told, mut newest) = (Vec::new(), folder::Progress::default());
    let tell = |tenant: &str, head: &Head| {
        assert!(head.seq == 1 && !head.ended);
        told.push(tenant.to_owned());
        Ok(())
    };
    let summary = Box::pin(restore_folder(&source, &new, None, |progress| newest = progress, tell)).await.unwrap();
    assert_eq!((summary.restored, summary.at, (newest.done, newest.tenants)), (2, Some(100), (3, 3)));
    let names: Vec<&TenantId> = summary.failed.iter().map(|(id, _)| id).collect();
    assert_eq!(names, [&ids[2]]);
    told.sort();
    assert_eq!(told, [CATALOG, "ada", "carl"]);

    let store = Store::open(StoreOptions::new(&new)).unwrap();
    drop(store.lease(&ids[0]).await.unwrap());
    store.restore(&ids[1], &Author::program("test")).await.unwrap();
    drop(store.lease(&ids[1]).await.unwrap());
    assert!(std::fs::read_dir(store.layout().tmp()).unwrap().next().is_none());
    let refused = restore_folder(&source, &new, None, |_| {}, |_, _| Ok(())).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
}
