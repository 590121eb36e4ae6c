//! Writers of what other people's tools read.
//!
//! They see plain results only, never live state.

mod json;
