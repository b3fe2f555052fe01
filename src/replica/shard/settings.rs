//! How SlateDB is set up for a shard.

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use slatedb::{
    BlockCachePolicy, CacheTarget, SstBlockSize,
    config::{
        CompactionWorkerOptions, CompactorOptions, DbReaderOptions, DurabilityLevel, GarbageCollectorDirectoryOptions,
        GarbageCollectorOptions, ReadOptions, ScanOptions, Settings,
    },
    db_cache::{
        DbCache, SplitCache,
        moka::{MokaCache, MokaCacheOptions},
    },
};

/// With larger blocks, indexes are shorter, and only these are kept in memory. An entry has some kilobytes.
pub(super) const BLOCK: SstBlockSize = SstBlockSize::Block32Kib;

/// What is read ahead of a scan: with little, each few entries cost a request.
const READ_AHEAD: usize = 4 << 20;

/// How much is kept in memory of what the tables have beside their content, of all shards together.
const KEPT: u64 = 4 << 20;

/// How often a compaction that has ended is looked for, at least, while one runs.
const COMMIT: Duration = Duration::from_secs(1);

/// No list of tables is collected before this age: longer than from seeing it in a listing to reading it.
const SETTLED: Duration = Duration::from_secs(60);

/// How often a reader looks for what is new. What is compacted meanwhile is kept longer than this.
const FOLLOW: Duration = Duration::from_secs(30);

/// How often a reader's request is tried again, before the error is told.
const READER_RETRIES: u32 = 6;

/// What decides how long the bytes of something deleted stay in the bucket.
#[derive(Debug, Clone, Copy)]
pub struct Tuning {
    /// How often it is looked whether another server has opened the shard, or a compaction has ended. A write finds the
    /// former by itself.
    pub look_every: Duration,
    /// How often it is looked for something to compact.
    pub compact_every: Duration,
    /// How often it is looked for objects that nothing needs any more.
    pub collect_every: Duration,
    /// How old these have to be: longer than a stopped server may sleep and wake up in the middle of a write, and than a
    /// restore reads one scan.
    pub collect_after: Duration,
    /// How long what was compacted is kept for those who are reading it.
    pub compacted_for: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            look_every: Duration::from_secs(5),
            compact_every: Duration::from_secs(5),
            collect_every: Duration::from_secs(600),
            collect_after: Duration::from_secs(3600),
            compacted_for: Duration::from_secs(900),
        }
    }
}

/// For the server that writes. `is_local`: the objects are files, which cannot be overwritten on a condition.
pub(super) fn writer(tuning: &Tuning, is_local: bool) -> Settings {
    let older_than = |min_age| {
        let interval = Some(tuning.collect_every);
        Some(GarbageCollectorDirectoryOptions { interval, min_age, ..GarbageCollectorDirectoryOptions::default() })
    };
    let (content, lists) = (older_than(tuning.collect_after), older_than(tuning.collect_after.max(SETTLED)));
    Settings {
        // Whoever writes flushes at once; this is for what nobody waits for.
        flush_interval: Some(Duration::from_secs(1)),
        manifest_poll_interval: tuning.look_every,
        l0_sst_size_bytes: 8 << 20,
        // So many that a replay never waits for a compaction.
        l0_max_ssts: 64,
        l0_max_ssts_per_key: 64,
        l0_flush_parallelism: 2,
        max_unflushed_bytes: 64 << 20,
        // One at a time with little memory, since there are many shards.
        compactor_options: Some(CompactorOptions {
            poll_interval: tuning.compact_every,
            commit_compacted_interval: tuning.compact_every.min(COMMIT),
            checkpoint_lifetime: tuning.compacted_for,
            // It would leave what was deleted where it is.
            enable_trivial_move: false,
            max_concurrent_compactions: 1,
            worker: Some(CompactionWorkerOptions {
                compactions_poll_interval: tuning.compact_every,
                max_concurrent_compactions: 1,
                max_subcompactions: 1,
                max_sst_size: 64 << 20,
                max_fetch_tasks: 1,
                bytes_to_fetch: 1 << 20,
                ..CompactionWorkerOptions::default()
            }),
            ..CompactorOptions::default()
        }),
        garbage_collector_options: Some(GarbageCollectorOptions {
            manifest_options: lists,
            wal_options: content,
            // Without its fence, a server that wakes up writes where nobody reads, and is told that it is durable.
            wal_fence_options: None,
            compacted_options: content,
            compactions_options: lists,
            detach_options: None,
            boundary_files_enabled: !is_local,
            ..GarbageCollectorOptions::default()
        }),
        ..Settings::default()
    }
}

/// For reading a shard that another server may write.
pub(super) fn reader() -> DbReaderOptions {
    DbReaderOptions {
        manifest_poll_interval: FOLLOW,
        object_store_max_retries: Some(READER_RETRIES),
        ..DbReaderOptions::default()
    }
}

/// What keeps indexes and filters in memory, for all shards, and the number under which one shard that was opened has
/// its own there. Never the same: a shard that is opened again may have other objects under the same names.
pub(super) fn cache() -> (Arc<dyn DbCache>, u64) {
    static CACHE: LazyLock<Arc<SplitCache>> = LazyLock::new(|| {
        let options = MokaCacheOptions { max_capacity: KEPT, ..MokaCacheOptions::default() };
        let indexes: Arc<dyn DbCache> = Arc::new(MokaCache::new_with_opts(options));
        Arc::new(SplitCache::new().with_meta_cache(Some(indexes)))
    });
    static OPENED: AtomicU64 = AtomicU64::new(0);
    let cache: Arc<dyn DbCache> = CACHE.clone();
    (cache, OPENED.fetch_add(1, Ordering::Relaxed))
}

/// What of a table that is written is kept in memory.
pub(super) fn cached() -> BlockCachePolicy {
    BlockCachePolicy::default().with_flush_targets(&[CacheTarget::Index, CacheTarget::Filters])
}

/// Only what is durable.
pub(super) fn read() -> ReadOptions {
    ReadOptions::new().with_durability_filter(DurabilityLevel::Remote).with_cache_blocks(false)
}

/// Only what is durable, in the order of the keys.
pub(super) fn scan() -> ScanOptions {
    ScanOptions::new().with_durability_filter(DurabilityLevel::Remote).with_read_ahead_bytes(READ_AHEAD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slatedb_takes_the_settings() {
        for is_local in [false, true] {
            let settings = writer(&Tuning::default(), is_local);
            settings.validate().unwrap();
            let collector = settings.garbage_collector_options.unwrap();
            assert_eq!(collector.boundary_files_enabled, !is_local);
            assert!(collector.wal_fence_options.is_none());
        }
    }
}
