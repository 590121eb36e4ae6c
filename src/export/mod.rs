//! Profiles in the formats that people's tools read.
