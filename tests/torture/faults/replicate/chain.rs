//! A user's chain in the bucket, taken apart behind the server's back.

use std::{collections::BTreeSet, fs::File, os::unix::fs::FileExt, path::Path};

use cubby::replica::{
    entry::{Body, Entry, Head, Stored},
    format::{Place, head_key, shard_of},
    object,
    remote::Remote,
    seal::Seal,
    shard::Shard,
    shards::newest_generations,
};
use tokio::runtime::{Builder, Runtime};

use crate::replica::Bucket;

/// What is done to a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// An entry is deleted: the ones after it do not follow any more.
    Gap,
    /// The ones after it are made to follow the one before it, with hashes that are right, as a shipper leaves them
    /// that has skipped a record.
    Forged,
}

/// The newest epoch of a chain.
struct Chain {
    shard: Shard,
    head: Head,
    /// Each with its number.
    entries: Vec<(u64, Entry)>,
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn remote(bucket: &Bucket) -> Remote {
    Remote::open(&bucket.url, &bucket.s3.environment()).unwrap()
}

/// Takes an entry out of a chain without which the newest state is another. False if it has none.
pub fn cut(bucket: &Bucket, tenant: &str, how: Cut) -> bool {
    runtime().block_on(async {
        let remote = remote(bucket);
        let Some(Chain { shard, mut head, entries }) = open(&remote, tenant).await else { return false };
        let epoch = head.epoch;
        let place = |seq: u64| Place { tenant, epoch, seq };
        let Some(at) = needed(&entries) else {
            shard.close().await;
            return false;
        };
        let mut batch = Vec::new();
        if how == Cut::Gap {
            batch.push((place(entries[at].0).key(), None));
        } else {
            let mut previous = entries[at].1.previous;
            for (seq, entry) in &entries[at + 1..] {
                let moved = Entry { previous, ..entry.clone() };
                let encoded = moved.encode(&place(seq - 1), &Seal::none()).unwrap();
                if let Some((path, content)) = encoded.big {
                    remote.put(&path, content).await.unwrap();
                }
                previous = encoded.hash;
                batch.push((place(seq - 1).key(), Some(encoded.value)));
            }
            batch.push((place(head.seq).key(), None));
            head.seq -= 1;
            head.hash = previous;
            batch.push((head_key(tenant), Some(head.encode().into())));
        }
        assert!(shard.write(batch).await.is_ok(), "the chain of {tenant} cannot be changed");
        shard.close().await;
        true
    })
}

/// Restores a user as somebody does who looks at no hash and misses nothing: what is there is applied.
pub fn restore_without_looking(bucket: &Bucket, tenant: &str, into: &Path) {
    runtime().block_on(async {
        let remote = remote(bucket);
        let Chain { shard, entries, .. } = open(&remote, tenant).await.unwrap();
        let copy = newest_copy(&entries).unwrap();
        let mut file = File::options().read(true).write(true).create(true).truncate(true).open(into).unwrap();
        let after = match &entries[copy].1.body {
            Body::Base(base) => {
                let fetched = object::download(&remote, &Seal::none(), &base.object, base.sha256, &mut file).await;
                fetched.unwrap();
                base.after
            }
            _ => entries[copy].0 - 1,
        };
        for (_, entry) in entries.iter().filter(|(seq, _)| *seq > after) {
            let (Body::Pages(pages) | Body::Whole(pages)) = &entry.body else { continue };
            let size = u64::from(entry.page_size);
            for (number, image) in &pages.0 {
                file.write_all_at(image, u64::from(number - 1) * size).unwrap();
            }
            file.set_len(u64::from(entry.size_pages) * size).unwrap();
        }
        shard.close().await;
    });
}

/// None if the bucket has no chain of the tenant that goes on.
async fn open(remote: &Remote, tenant: &str) -> Option<Chain> {
    let number = shard_of(tenant);
    let generation = newest_generations(remote).await.unwrap()[usize::from(number)];
    let opened = Shard::open(remote, number, generation).await;
    let shard = opened.unwrap_or_else(|_| panic!("shard {number} cannot be opened"));
    let source = shard.source();
    let head = source.head(tenant).await.unwrap_or_else(|_| panic!("the head of {tenant} cannot be read"));
    let Some(head) = head.filter(|head| !head.ended) else {
        shard.close().await;
        return None;
    };
    let (from, to) = ((head.epoch, 0), (head.epoch, head.seq));
    let read = source.entries(tenant, Some(from), Some(to)).await;
    let mut values = read.unwrap_or_else(|_| panic!("the chain of {tenant} cannot be read"));
    let mut entries = Vec::new();
    while let Some((epoch, seq, value)) = values.next().await.ok().flatten() {
        let stored = Stored::parse(&Place { tenant, epoch, seq }, &value).unwrap();
        let big = match &stored.big {
            Some(path) => remote.get(path).await.unwrap(),
            None => None,
        };
        entries.push((seq, stored.open(big, &Seal::none()).unwrap()));
    }
    Some(Chain { shard, head, entries })
}

fn newest_copy(entries: &[(u64, Entry)]) -> Option<usize> {
    entries.iter().rposition(|(_, entry)| matches!(entry.body, Body::Whole(_) | Body::Base(_)))
}

/// The first entry after the newest copy with a page that none after it has.
fn needed(entries: &[(u64, Entry)]) -> Option<usize> {
    let copy = newest_copy(entries)?;
    let size = entries.iter().rev().find(|(_, entry)| matches!(entry.body, Body::Pages(_)))?.1.size_pages;
    let (mut later, mut found) = (BTreeSet::new(), None);
    for (at, (_, entry)) in entries.iter().enumerate().skip(copy + 1).rev() {
        let Body::Pages(pages) = &entry.body else { continue };
        if pages.0.keys().any(|page| *page <= size && !later.contains(page)) {
            found = Some(at);
        }
        later.extend(pages.0.keys().copied());
    }
    found
}
