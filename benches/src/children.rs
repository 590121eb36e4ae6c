//! Builds the programs of `src/bin` and runs them as child processes.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The programs that were built, by name.
#[derive(Debug)]
pub struct Programs(HashMap<String, PathBuf>);

impl Programs {
    /// Builds all of them in release.
    pub fn build() -> Self {
        Self(build(&["--release", "--bins"]))
    }

    /// Builds those of the package in `directory` in release.
    pub fn build_at(directory: &str) -> Self {
        Self(build_in(directory, &["--release", "--bins"]))
    }

    /// The same by a `cargo` that was told what else there is to it: a toolchain, flags.
    pub fn build_by(cargo: Command, directory: &str) -> Self {
        Self(built_by(cargo, directory, &["--release", "--bins"]))
    }

    /// Adds the program `name` of the package in `directory`, built with `feature`.
    #[must_use]
    pub fn with_feature(mut self, directory: &str, name: &str, feature: &str) -> Self {
        let args = ["--release", "--bin", name, "--features", feature];
        self.0.extend(build_in(directory, &args));
        self
    }

    /// Builds `names` with all optimisation there is, across crates.
    pub fn build_whole(names: &[&str]) -> Self {
        let bins = names.iter().flat_map(|name| ["--bin", name]);
        let args: Vec<&str> = ["--profile", "fat-abort"].into_iter().chain(bins).collect();
        Self(build(&args))
    }

    /// Adds the program `name` of this package with `feature`, as `name_feature`.
    #[must_use]
    pub fn with_variant(mut self, name: &str, feature: &str) -> Self {
        let built = build(&["--release", "--bin", name, "--features", feature]);
        let variant = format!("{name}_{feature}");
        let renamed = self.path(name).with_file_name(&variant);
        std::fs::copy(&built[name], &renamed).expect("a copy of the program");
        self.0.insert(variant, renamed);
        // The next build puts the plain one back in its place.
        self.0.extend(build(&["--release", "--bin", name]));
        self
    }

    /// Where the program `name` is.
    pub fn path(&self, name: &str) -> &PathBuf {
        &self.0[name]
    }

    /// Runs `name` with `args` and gives the numbers that it prints.
    pub fn run(&self, name: &str, args: &[&str]) -> Vec<f64> {
        self.run_with(name, args, &[])
    }

    /// The same with these variables in its environment.
    pub fn run_with(&self, name: &str, args: &[&str], variables: &[(&str, &str)]) -> Vec<f64> {
        let output = Command::new(self.path(name))
            .args(args)
            .envs(variables.iter().copied())
            .stderr(Stdio::inherit())
            .output()
            .expect("the program starts");
        assert!(output.status.success(), "{name} {args:?} failed");
        let text = String::from_utf8(output.stdout).expect("numbers");
        let number = |word: &str| word.parse().expect("a number");
        text.split_whitespace().map(number).collect()
    }
}

/// Lets cargo build binaries of this package; gives where they are.
fn build(which: &[&str]) -> HashMap<String, PathBuf> {
    build_in(env!("CARGO_MANIFEST_DIR"), which)
}

/// The same of the package in `directory`.
fn build_in(directory: &str, which: &[&str]) -> HashMap<String, PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    built_by(Command::new(cargo), directory, which)
}

/// The same by this `cargo`.
fn built_by(mut cargo: Command, directory: &str, which: &[&str]) -> HashMap<String, PathBuf> {
    let output = cargo
        .current_dir(directory)
        .args(["build", "--quiet"])
        .arg("--message-format=json-render-diagnostics")
        .args(which)
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "cargo build failed");
    let text = String::from_utf8(output.stdout).expect("JSON");
    text.lines().filter_map(executable).collect()
}

/// The name and the path of the binary that this message of cargo's is about.
fn executable(message: &str) -> Option<(String, PathBuf)> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let path = message.get("executable")?.as_str()?;
    let name = message.get("target")?.get("name")?.as_str()?;
    Some((name.to_owned(), PathBuf::from(path)))
}
