//! The open tenants that are used most, or are largest.

use std::time::Duration;

use crate::{
    error::Result,
    tenants::{
        id::TenantId,
        open::{database::Database, slots::LeaseWatch},
        store::Store,
    },
};

/// An open tenant.
#[derive(Debug, Clone)]
pub struct OpenTenant {
    /// Whose it is.
    pub id: TenantId,
    /// How often a second it was leased lately.
    pub rate: f64,
    /// The leases that there are now.
    pub leases: usize,
    /// How long ago it was last leased.
    pub unused: Duration,
    /// The size of its file, without the WAL.
    pub bytes: u64,
    /// The version of its schema.
    pub schema_version: i32,
}

/// Which open tenants come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Those that are used most.
    Rate,
    /// Those with the largest files. Looks at the file of each.
    Bytes,
}

impl Store {
    /// Up to `limit` of the open tenants, by what `order` says. To look is no use of them.
    pub async fn top(&self, order: Order, limit: usize) -> Result<Vec<OpenTenant>> {
        self.blocking(move |store| Ok(store.find_top(order, limit))).await
    }

    fn find_top(&self, order: Order, limit: usize) -> Vec<OpenTenant> {
        let (slots, now) = (&self.inner.slots, self.tick());
        let key = |database: &Database| match order {
            // Thousandths of a lease a second: rates of users who are hardly there differ, too.
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a rate is small and not negative"
            )]
            Order::Rate => (database.activity().rate(now) * 1000.0) as u64,
            Order::Bytes => database.bytes(),
        };
        let mut found: Vec<(u64, LeaseWatch<Database>)> = Vec::new();
        slots.visit(|open| found.push((key(open.look().0), open)));
        found.sort_unstable_by(|(a, a_open), (b, b_open)| b.cmp(a).then_with(|| a_open.id().cmp(b_open.id())));
        found.truncate(limit);
        let shown = found.into_iter().map(|(_, open)| {
            let (database, leases, last_used) = open.look();
            OpenTenant {
                id: open.id().clone(),
                rate: database.activity().rate(now),
                leases,
                unused: Duration::from_nanos(now.saturating_sub(last_used)),
                bytes: database.bytes(),
                schema_version: database.schema_version(),
            }
        });
        shown.collect()
    }
}
