//! Requests by route: how many, and how long they took.
//!
//! A route is the pattern that the server was built with, never the path of a request, so that there are as many series
//! as routes.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    fmt::{self, Write},
    time::Duration,
};

use parking_lot::Mutex;

use super::measures::{Counter, Counts, Histogram, head};

const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other"];
const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

/// What no route answers.
const NO_ROUTE: &str = "none";

/// The requests of one method to one route.
pub struct Route {
    times: Histogram,
    statuses: [Counter; CLASSES.len()],
}

impl Route {
    const fn new() -> Self {
        Self { times: Histogram::times(), statuses: [const { Counter::zero() }; CLASSES.len()] }
    }

    /// Counts a request that was answered.
    pub fn record(&self, status: u16, took: Duration) {
        self.times.record_time(took);
        // An answer of 1xx is not one that ends a request.
        let class = usize::from(status / 100).saturating_sub(2).min(CLASSES.len() - 1);
        self.statuses[class].increment();
    }
}

/// All routes that were asked. They live as long as the process, so that a thread may keep where they are.
static ROUTES: Mutex<BTreeMap<(String, usize), &'static Route>> = Mutex::new(BTreeMap::new());

thread_local! {
    /// Those that this thread has met.
    static MET: RefCell<HashMap<Box<str>, [Option<&'static Route>; METHODS.len()]>> = RefCell::default();
}

/// Where the requests of this method to this route are counted; none of a path that no route has. `route` must be one of
/// the server's patterns.
pub fn route(method: &str, route: Option<&str>) -> &'static Route {
    let route = route.unwrap_or(NO_ROUTE);
    let method = METHODS.iter().position(|name| *name == method).unwrap_or(METHODS.len() - 1);
    MET.with_borrow_mut(|met| {
        if let Some(Some(found)) = met.get(route).map(|methods| methods[method]) {
            return found;
        }
        let found =
            *ROUTES.lock().entry((route.to_owned(), method)).or_insert_with(|| Box::leak(Box::new(Route::new())));
        met.entry(route.into()).or_default()[method] = Some(found);
        found
    })
}

/// How long the requests of all routes took, and how many were answered with a status of 5xx.
pub fn totals() -> (Counts, u64) {
    let routes = ROUTES.lock().clone();
    let mut times = Counts::default();
    for route in routes.values() {
        for (all, one) in times.iter_mut().zip(route.times.counts()) {
            *all += one;
        }
    }
    (times, routes.values().map(|route| route.statuses[CLASSES.len() - 1].get()).sum())
}

/// Writes everything in Prometheus' text format.
pub fn write(page: &mut String) -> fmt::Result {
    let routes = ROUTES.lock().clone();
    let labels = |(route, method): &(String, usize)| {
        let route = route.replace('\\', "\\\\").replace('"', "\\\"");
        format!("method=\"{}\",route=\"{route}\"", METHODS[*method])
    };
    let name = "cubby_requests_total";
    head(page, name, "counter", "Requests by route and class of status.")?;
    for (key, route) in &routes {
        for (class, counter) in CLASSES.iter().zip(&route.statuses) {
            writeln!(page, "{name}{{{},status=\"{class}\"}} {}", labels(key), counter.get())?;
        }
    }
    let name = "cubby_request_duration_seconds";
    head(page, name, "histogram", "From a request's header to its answer's, by route.")?;
    routes.iter().try_for_each(|(key, route)| route.times.write(page, name, &labels(key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_counted_in_one_place_from_every_thread() {
        let here: *const Route = route("GET", Some("/a test's"));
        let there = std::thread::spawn(|| std::ptr::from_ref(route("GET", Some("/a test's"))).addr()).join().unwrap();
        assert_eq!(here.addr(), there);
        assert_ne!(here.addr(), std::ptr::from_ref(route("POST", Some("/a test's"))).addr());
        let other: *const Route = route("BREW", None);
        assert_eq!(other.addr(), std::ptr::from_ref(route("PROPFIND", None)).addr());
    }
}
