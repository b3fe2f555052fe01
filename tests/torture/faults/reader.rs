//! A read that does not end, under writes: the write-ahead log stays under its bound, and the reader
//! is told why it was stopped.

use std::time::{Duration, Instant};

use cubby::{
    ErrorKind, Store, StoreOptions,
    sqlite::{PAGE_SIZE, combine::Limits},
    tenants::disk::path::wal_of,
};

use super::{Report, Setup, folder};

/// Pages.
const BOUND: u32 = 1000;

pub fn run(setup: &Setup) -> Report {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let report = runtime.block_on(torture(setup));
    // The last reader is still at it.
    runtime.shutdown_timeout(Duration::from_secs(1));
    report
}

async fn torture(setup: &Setup) -> Report {
    let mut report = Report::default();
    let (_folder, data) = folder();
    let mut options = StoreOptions::new(&data);
    // The control has no bound.
    let bound = if setup.control { u32::MAX } else { BOUND };
    options.limits = Limits { checkpoint_pages: 200, wal_pages: bound, ..Limits::default() };
    let store = Store::open(options).unwrap();
    let (tenant, _) = store.lease_or_create(&"ada".parse().unwrap()).await.unwrap();
    let wal = wal_of(&store.layout().tenant(tenant.id()));
    let until = Instant::now() + Duration::from_secs(setup.seconds.unwrap_or(if setup.control { 5 } else { 10 }));
    let (mut longest, mut busy, mut cuts) = (0, 0u64, 0u64);
    let mut slowest = Duration::ZERO;
    let mut reading = tokio::spawn(endless(tenant.clone()));
    while Instant::now() < until {
        if reading.is_finished() {
            let error = (&mut reading).await.unwrap();
            report
                .expect(error.kind() == ErrorKind::Timeout && error.message().contains("kept writes waiting"), || {
                    format!("MESSAGE: {error}")
                });
            cuts += 1;
            reading = tokio::spawn(endless(tenant.clone()));
        }
        let text = "z".repeat(6000);
        let began = Instant::now();
        let write = tenant
            .write(move |tx| Ok(tx.execute("INSERT INTO notes VALUES (hex(randomblob(16)), ?1, 0, 0)", [&text])?));
        match write.await {
            Ok(_) => report.acknowledged += 1,
            Err(error) if error.kind() == ErrorKind::Busy => busy += 1,
            Err(error) => report.wrong(format!("WRITE: {error}")),
        }
        slowest = slowest.max(began.elapsed());
        longest = longest.max(std::fs::metadata(&wal).unwrap().len());
        if longest > u64::from(BOUND) * PAGE_SIZE * 2 {
            break;
        }
    }
    reading.abort();
    let most = u64::from(BOUND) * (PAGE_SIZE + 24) * 5 / 4;
    report.expect(longest <= most, || format!("WAL: {longest} bytes, with a bound of {most}"));
    report.faults = cuts;
    report.expect(setup.control || cuts > 0, || "no reader was cut".into());
    let count: u64 = tenant
        .read(|conn| Ok(conn.query_row("SELECT count(*) FROM notes", [], |row| row.get::<_, i64>(0))? as u64))
        .await
        .unwrap();
    let acknowledged = report.acknowledged;
    report.expect(count == acknowledged, || format!("{count} notes, {acknowledged} acknowledged"));
    report.note(format!("readers cut {cuts}, writes refused {busy}, slowest write {slowest:?}, longest log {longest}"));
    report
}

async fn endless(tenant: cubby::Tenant) -> cubby::Error {
    let read = tenant.read_long(Duration::from_secs(600), |conn| {
        let tx = conn.unchecked_transaction()?;
        tx.query_row("SELECT count(*) FROM notes", [], |_| Ok(()))?;
        let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n";
        Ok(tx.query_row(endless, [], |_| Ok(()))?)
    });
    read.await.err().unwrap_or_else(|| cubby::Error::internal("it ended"))
}
