//! The state machine of open tenants under a scheduler that tries orders of steps at random.
//!
//! `src/tenants/open/slots.rs` is compiled here once more, over locks and counters whose every step the
//! scheduler (shuttle) may interrupt. A wake-up that is lost shows as a deadlock, which shuttle
//! reports. Variants that are broken on purpose must be caught, or the model proves nothing: two crude
//! ones, and two that fail only in one order of steps.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use shuttle::{
    Runner,
    future::{block_on, spawn, yield_now},
    scheduler::RandomScheduler,
};

pub mod primitives {
    use std::{
        cell::Cell,
        pin::Pin,
        sync::Arc,
        task::{Context, Poll},
    };

    pub use cubby::tenants::id::TenantId;
    pub use shuttle::sync::atomic::AtomicU64;
    use shuttle::sync::atomic::Ordering;
    use tokio::sync::futures::OwnedNotified as Inner;

    /// What is broken on purpose.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub enum Broken {
        Nothing,
        /// Whoever looks at a lease count finds none.
        LeaseCount,
        /// Nobody who waits is woken.
        WakeUps,
        /// Two who take a lease at once are counted as one.
        TornCount,
        /// Who is to wait is noted when it begins to, and not while the lock is still held.
        LateToWait,
    }

    thread_local! {
        pub static BROKEN: Cell<Broken> = const { Cell::new(Broken::Nothing) };
    }

    #[derive(Debug, Default)]
    pub struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub fn lock(&self) -> shuttle::sync::MutexGuard<'_, T> {
            self.0.lock().unwrap()
        }
    }

    #[derive(Debug)]
    pub struct AtomicUsize(shuttle::sync::atomic::AtomicUsize);

    impl AtomicUsize {
        pub fn new(value: usize) -> Self {
            Self(shuttle::sync::atomic::AtomicUsize::new(value))
        }

        pub fn load(&self, order: Ordering) -> usize {
            let value = self.0.load(order);
            if BROKEN.get() == Broken::LeaseCount { 0 } else { value }
        }

        pub fn fetch_add(&self, value: usize, order: Ordering) -> usize {
            if BROKEN.get() == Broken::TornCount {
                let before = self.0.load(Ordering::SeqCst);
                self.0.store(before + value, Ordering::SeqCst);
                return before;
            }
            self.0.fetch_add(value, order)
        }

        pub fn fetch_sub(&self, value: usize, order: Ordering) -> usize {
            self.0.fetch_sub(value, order)
        }
    }

    pub struct OwnedNotified {
        notify: Arc<tokio::sync::Notify>,
        noted: Option<Pin<Box<Inner>>>,
    }

    impl Future for OwnedNotified {
        type Output = ();

        fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
            let notify = self.notify.clone();
            if self.noted.is_none() {
                shuttle::thread::yield_now();
            }
            self.noted.get_or_insert_with(|| Box::pin(notify.notified_owned())).as_mut().poll(context)
        }
    }

    #[derive(Debug, Default)]
    pub struct Notify(Arc<tokio::sync::Notify>);

    impl Notify {
        pub fn new() -> Self {
            Self::default()
        }

        pub fn notified(&self) -> tokio::sync::futures::Notified<'_> {
            self.0.notified()
        }

        pub fn notified_owned(self: Arc<Self>) -> OwnedNotified {
            let noted = (BROKEN.get() != Broken::LateToWait).then(|| Box::pin(self.0.clone().notified_owned()));
            OwnedNotified { notify: self.0.clone(), noted }
        }

        pub fn notify_waiters(&self) {
            if BROKEN.get() != Broken::WakeUps {
                self.0.notify_waiters();
            }
        }
    }
}

#[path = "../../src/tenants/open/entry.rs"]
#[allow(dead_code)]
mod entry;
#[path = "../../src/tenants/open/slots.rs"]
#[allow(dead_code)]
mod slots;

use primitives::{BROKEN, Broken};
use slots::{Acquired, Lease, Slots};

const SCHEDULES: usize = 2_000;

/// A tenant's file as the world outside sees it: how often it is open.
#[derive(Default)]
struct File {
    opens: AtomicUsize,
}

/// An open database.
struct Database {
    file: Arc<File>,
    closed: AtomicBool,
    users: AtomicUsize,
}

impl Database {
    fn open(file: &Arc<File>) -> Self {
        assert_eq!(file.opens.fetch_add(1, SeqCst), 0, "one file is open twice");
        Self { file: file.clone(), closed: AtomicBool::new(false), users: AtomicUsize::new(0) }
    }

    fn close(&self) {
        assert_eq!(self.users.load(SeqCst), 0, "closed while it is in use");
        assert!(!self.closed.swap(true, SeqCst), "closed twice");
        self.file.opens.fetch_sub(1, SeqCst);
    }
}

fn tenant(name: &str) -> primitives::TenantId {
    name.parse().unwrap()
}

/// Leases, opening if it is absent; what the store does, without its I/O.
async fn lease(slots: &Arc<Slots<Database>>, id: &primitives::TenantId, file: &Arc<File>) -> Lease<Database> {
    loop {
        match slots.acquire(id, 1) {
            Acquired::Leased(lease) => return lease,
            Acquired::Wait(changed) => changed.await,
            Acquired::Absent(ticket) => {
                let database = Database::open(file);
                yield_now().await;
                return ticket.complete(database, 1);
            }
        }
    }
}

async fn make_use(lease: &Lease<Database>) {
    lease.users.fetch_add(1, SeqCst);
    assert!(!lease.closed.load(SeqCst), "leased after it was closed");
    yield_now().await;
    assert!(!lease.closed.load(SeqCst), "closed while it is leased");
    lease.users.fetch_sub(1, SeqCst);
}

/// Users, an evictor and a deletion, all of one tenant.
fn one_tenant_is_used_evicted_and_deleted() {
    let (slots, file, id) = (Slots::<Database>::new(), Arc::new(File::default()), tenant("a"));
    let mut tasks = Vec::new();
    for _ in 0..3 {
        let (slots, file, id) = (slots.clone(), file.clone(), id.clone());
        tasks.push(spawn(async move {
            for _ in 0..2 {
                let first = lease(&slots, &id, &file).await;
                make_use(&first).await;
                let second = first.clone();
                drop(first);
                make_use(&second).await;
            }
        }));
    }
    tasks.push(spawn({
        let slots = slots.clone();
        async move {
            for _ in 0..2 {
                if let Some(eviction) = slots.evict(2, u64::MAX) {
                    eviction.open().expect("something to close").close();
                    yield_now().await;
                }
                yield_now().await;
            }
        }
    }));
    tasks.push(spawn({
        let (slots, id, file) = (slots.clone(), id.clone(), file.clone());
        async move {
            let hold = slots.lock(&id).await;
            if let Some(database) = hold.open() {
                database.close();
            }
            assert_eq!(file.opens.load(SeqCst), 0, "held while it is open");
            yield_now().await;
            assert_eq!(file.opens.load(SeqCst), 0, "opened while it is held");
        }
    }));
    block_on(async move {
        for task in tasks {
            task.await.unwrap();
        }
    });
}

/// Room for one, wanted for two, while a third takes it and cannot open its file: each must get its
/// turn.
fn two_tenants_share_room_for_one() {
    let slots = Slots::<Database>::new();
    let room = Arc::new(AtomicUsize::new(1));
    let take = |room: &AtomicUsize| room.fetch_update(SeqCst, SeqCst, |free| free.checked_sub(1)).is_ok();
    let mut tasks = Vec::new();
    for name in ["a", "b", "a"] {
        let (slots, room, id) = (slots.clone(), room.clone(), tenant(name));
        tasks.push(spawn(async move {
            let lease = loop {
                let ticket = match slots.acquire(&id, 1) {
                    Acquired::Leased(lease) => break lease,
                    Acquired::Wait(changed) => {
                        changed.await;
                        continue;
                    }
                    Acquired::Absent(ticket) => ticket,
                };
                let wait = slots.wait_for_capacity();
                let free = take(&room)
                    || slots.evict(2, u64::MAX).is_some_and(|eviction| {
                        eviction.open().expect("something to close").close();
                        true
                    });
                if free {
                    yield_now().await;
                    break ticket.complete(Database::open(&Arc::new(File::default())), 1);
                }
                ticket.cancel();
                wait.wait().await;
            };
            make_use(&lease).await;
        }));
    }
    tasks.push(spawn({
        let (slots, room) = (slots.clone(), room.clone());
        async move {
            if let Acquired::Absent(ticket) = slots.acquire(&tenant("damaged"), 1)
                && take(&room)
            {
                yield_now().await;
                room.fetch_add(1, SeqCst);
                drop(ticket);
            }
        }
    }));
    block_on(async move {
        for task in tasks {
            task.await.unwrap();
        }
    });
}

/// An opening that fails lets the next who waits try; a hold that is given up puts everything back.
fn what_is_given_up_leaves_nobody_waiting() {
    let (slots, file, id) = (Slots::<Database>::new(), Arc::new(File::default()), tenant("a"));
    let failing = spawn({
        let (slots, id) = (slots.clone(), id.clone());
        async move {
            if let Acquired::Absent(ticket) = slots.acquire(&id, 1) {
                yield_now().await;
                drop(ticket);
            }
        }
    });
    let impatient = spawn({
        let (slots, id) = (slots.clone(), id.clone());
        async move {
            let hold = slots.lock(&id);
            let patience = async {
                yield_now().await;
                yield_now().await;
            };
            futures_util::pin_mut!(hold, patience);
            if let futures_util::future::Either::Left((hold, _)) = futures_util::future::select(hold, patience).await
                && let Some(database) = hold.open()
            {
                database.close();
            }
        }
    });
    let patient = spawn(async move {
        let lease = lease(&slots, &id, &file).await;
        make_use(&lease).await;
    });
    block_on(async move {
        for task in [failing, impatient, patient] {
            task.await.unwrap();
        }
    });
}

fn caught(broken: Broken, scenario: fn()) -> bool {
    BROKEN.set(broken);
    // The same schedules each time: in a few others, a destructor panics while the first panic unwinds, which aborts.
    let scheduler = RandomScheduler::new_from_seed(1, SCHEDULES);
    let runner = Runner::new(scheduler, shuttle::Config::default());
    let result = catch_unwind(AssertUnwindSafe(|| runner.run(scenario)));
    BROKEN.set(Broken::Nothing);
    result.is_err()
}

#[test]
fn a_tenant_opens_once_and_is_never_closed_under_a_lease() {
    shuttle::check_random(one_tenant_is_used_evicted_and_deleted, SCHEDULES);
}

#[test]
fn who_waits_for_room_gets_it() {
    shuttle::check_random(two_tenants_share_room_for_one, SCHEDULES);
}

#[test]
fn a_failed_opening_and_an_abandoned_hold_wake_who_waits() {
    shuttle::check_random(what_is_given_up_leaves_nobody_waiting, SCHEDULES);
}

#[test]
fn the_model_catches_a_lease_count_that_is_not_looked_at() {
    assert!(caught(Broken::LeaseCount, one_tenant_is_used_evicted_and_deleted));
}

#[test]
fn the_model_catches_a_wake_up_that_is_lost() {
    assert!(caught(Broken::WakeUps, one_tenant_is_used_evicted_and_deleted));
    assert!(caught(Broken::WakeUps, two_tenants_share_room_for_one));
}

#[test]
fn the_model_catches_a_lease_that_is_not_counted() {
    assert!(caught(Broken::TornCount, one_tenant_is_used_evicted_and_deleted));
}

#[test]
fn the_model_catches_a_waiter_that_is_noted_too_late() {
    assert!(caught(Broken::LateToWait, one_tenant_is_used_evicted_and_deleted));
}
