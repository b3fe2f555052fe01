//! Commands that list: every page of a route, as a table or as one JSON object a line.

use std::io::{BufWriter, ErrorKind, Write};

use serde::{Serialize, de::DeserializeOwned};

use super::target::Target;
use crate::error::{Error, Result};

/// One page of a list.
pub struct Page<T> {
    pub rows: Vec<T>,
    /// The path of the next page.
    pub next: Option<String>,
    /// What a table ends with after its last page.
    pub footer: Option<String>,
}

impl<T> Page<T> {
    /// The only page.
    pub fn only(rows: Vec<T>) -> Self {
        Self { rows, next: None, footer: None }
    }
}

/// Prints a list from the page at `path` on. A reader that closes the pipe early (`| head`) ends it without
/// an error.
pub async fn print<A: DeserializeOwned, T: Serialize>(
    target: &Target,
    path: String,
    json: bool,
    heading: String,
    mut page: impl FnMut(A) -> Page<T>,
    line: impl Fn(&T) -> String,
) -> Result<()> {
    let mut out = BufWriter::new(std::io::stdout());
    let (mut next, mut heading) = (Some(path), Some(heading));
    while let Some(path) = next {
        let found = page(target.get(&path).await?);
        let written = match json {
            true => found.rows.iter().try_for_each(|row| writeln!(out, "{}", serde_json::to_string(row)?)),
            false => print_table(&mut out, heading.take(), &found, &line),
        };
        match written.and_then(|()| out.flush()) {
            Ok(()) => next = found.next,
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(Error::io("standard output", error)),
        }
    }
    Ok(())
}

fn print_table<T>(
    out: &mut impl Write,
    heading: Option<String>,
    page: &Page<T>,
    line: impl Fn(&T) -> String,
) -> std::io::Result<()> {
    heading.map_or(Ok(()), |heading| writeln!(out, "{heading}"))?;
    page.rows.iter().try_for_each(|row| writeln!(out, "{}", line(row)))?;
    match (&page.next, &page.footer) {
        (None, Some(footer)) => writeln!(out, "\n{footer}"),
        _ => Ok(()),
    }
}
