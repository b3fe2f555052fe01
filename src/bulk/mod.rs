//! Suspends, resumes, migrates or deletes many tenants: those that an operator has named, or all that a filter matches.
//!
//! # Invariants
//! 1. **No more than was confirmed.** A run handles at most as many tenants as the operator has confirmed; if more match, it
//!    stops. Tenants that were made after the count are left alone. With the digest of a preview it starts only while the same
//!    tenants match, up to 10,000 of them, and once.
//! 2. **Those that match when reached.** Whether a tenant matches, by state and text, is looked at again before it is changed. More
//!    than 10,000 are walked page by page, so that memory does not grow with them.
//! 3. **Each change is one.** It takes the tenant's lock and is in the audit trail as if it were made alone, by whoever started
//!    the run; but for migrations, which are in the trail as a whole.
//! 4. **A run does not go on by itself.** One that its server did not survive is told as interrupted.
//! 5. **An end is told, recorded or not.** One that the catalog did not take is kept, and written when somebody asks.

mod digest;
mod ended;
mod find;
pub mod report;
pub mod run;
mod under_way;
