//! A report for people: one page in one file.
//!
//! ```text
//!   page.html   the frame, with {{..}} where something is put in
//!     {{css}}    page.css
//!     {{data}}   the profile as compact JSON (data.rs), which model.js reads
//!     {{js}}     model.js  flame.js  table.js  charts.js  main.js
//! ```
//!
//! The page must open from a disk years later, so it loads nothing: its own
//! policy forbids it. A profile's names are anybody's text, so none may end the
//! script that carries them ([`json`](crate::export::json) sees to that) and
//! the scripts set them as text only, never as markup. Comments in the scripts
//! are `/* */`, so that a test can look for addresses by their two slashes.

mod data;

use std::io::{self, Write};

use crate::export::hand_over;
use crate::export::html::data::Data;
use crate::profile::HeapProfile;

const PAGE: &str = include_str!("html/page.html");
const STYLE: &str = include_str!("html/page.css");

/// In the order in which they use each other.
const SCRIPTS: [&str; 5] = [
    include_str!("html/model.js"),
    include_str!("html/flame.js"),
    include_str!("html/table.js"),
    include_str!("html/charts.js"),
    include_str!("html/main.js"),
];

impl HeapProfile {
    /// Writes a report for a browser: one file that loads nothing and needs no
    /// server.
    ///
    /// It shows a flame graph that can be searched and zoomed, the sites in a
    /// table that sorts and filters, the live bytes over time, the sizes of
    /// blocks, the threads, the counters of the process, and what is missing.
    /// It opens on what is alive; where that is less than a hundredth of the peak, as at
    /// the end of a program, on what was alive at the peak.
    /// Names are looked up if [`symbolize`](Self::symbolize) has not. Stacks
    /// that look the same once they are trimmed are one, as in the other
    /// formats for people. Estimates stand with their standard errors.
    ///
    /// The file has the paths of sources and of mapped files in it, and the
    /// names of threads.
    ///
    /// # Errors
    ///
    /// What `w` answers.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use heapledger::profile::Mode;
    ///
    /// # let profile = heapledger::__private::profile::empty(Mode::EveryAllocation, None);
    /// let mut page = Vec::new();
    /// profile.write_html(&mut page)?;
    /// assert!(page.starts_with(b"<!doctype html>"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn write_html<W: Write>(&self, w: W) -> io::Result<()> {
        hand_over(w, || lay_out(self))
    }
}

fn lay_out(profile: &HeapProfile) -> io::Result<Vec<u8>> {
    let data = Data::new(profile);
    let mut page = Vec::new();
    let mut parts = PAGE.split("{{");
    page.write_all(parts.next().unwrap_or("").as_bytes())?;
    for part in parts {
        let (name, rest) = part.split_once("}}").unwrap_or((part, ""));
        match name {
            "css" => page.write_all(STYLE.as_bytes())?,
            "js" => {
                for script in SCRIPTS {
                    page.write_all(script.as_bytes())?;
                }
            }
            "data" => data.write(&mut page)?,
            _ => page.write_all(env!("CARGO_PKG_VERSION").as_bytes())?,
        }
        page.write_all(rest.as_bytes())?;
    }
    Ok(page)
}
