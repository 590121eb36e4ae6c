//! What the variable says.

use crate::environment::names::Name;
use crate::profile::{DEFAULT_INTERVAL, Format, Value};

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Nothing,
    Profile(Wanted),
    Leaks(LeaksWanted),
}

/// A profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Mean bytes between samples; 1 is every allocation.
    pub(super) every: u64,
    pub(super) reports: Vec<Report>,
    /// Whether names are looked up; only pprof's files do without.
    pub(super) names: bool,
    pub(super) at_exit: bool,
    pub(super) signal: Option<Signal>,
}

/// A file to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) name: Name,
    pub(super) format: Format,
}

/// A leak check of the whole program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LeaksWanted {
    pub(super) suppressions: Vec<String>,
    /// The exit code of a program that leaks; its own when there is none.
    pub(super) exit_code: Option<u8>,
    /// Where the report goes; standard error when there is none.
    pub(super) file: Option<Name>,
}

/// A signal that a program can do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    Hup,
    Usr1,
    Usr2,
}

const FORMATS: &str = "html, text, dhat, pprof and folded";

/// Reads the variable's value; the error says what is wrong and what is accepted.
pub(super) fn parse(value: &str) -> Result<Order, String> {
    let mut parts = value.split(',').map(str::trim);
    let first = parts.next().unwrap_or("");
    let mut parts = parts.filter(|part| !part.is_empty()).peekable();
    let rest = parts.peek().copied();
    let settings = parts.map(pair).collect::<Result<Vec<_>, _>>();
    match first {
        "" if rest.is_none() => Ok(Order::Nothing),
        "off" => match rest {
            None => Ok(Order::Nothing),
            Some(setting) => Err(format!("off has no settings, and here is {setting:?}")),
        },
        "profile" => profile(&settings?).map(Order::Profile),
        "leaks" => leaks(&settings?).map(Order::Leaks),
        other => Err(format!(
            "it begins with {other:?}; accepted are profile, leaks and off, \
             and settings after a comma"
        )),
    }
}

fn pair(part: &str) -> Result<(&str, &str), String> {
    let (key, value) = part
        .split_once('=')
        .ok_or_else(|| format!("{part:?} is no setting; a setting is name=value"))?;
    Ok((key.trim(), value.trim()))
}

fn profile(settings: &[(&str, &str)]) -> Result<Wanted, String> {
    let mut every = None;
    let (mut names, mut formats) = (Vec::new(), Vec::new());
    let (mut value_shown, mut has_names) = (None, None);
    let (mut at, mut signal) = (None, None);
    for &(key, value) in settings {
        match key {
            "every" => once(&mut every, key, bytes(value)?)?,
            "file" => names.push(Name::new(value)?),
            "format" => formats.push(format(value)?),
            "value" => once(&mut value_shown, key, value_of(value)?)?,
            "names" => once(&mut has_names, key, yes_or_no(value)?)?,
            "at" => once(&mut at, key, moment(value)?)?,
            "signal" => once(&mut signal, key, signal_of(value)?)?,
            other => {
                return Err(format!(
                    "profile has no setting {other:?}; it has every, file, format, value, names, \
                     at and signal"
                ));
            }
        }
    }
    let at_exit = at.unwrap_or(true);
    if !at_exit && signal.is_none() {
        return Err(String::from(
            "at=signal needs a signal: signal=HUP, USR1 or USR2",
        ));
    }
    let mut reports = reports(&names, &formats, signal.is_some())?;
    if let Some(value) = value_shown {
        show(&mut reports, value)?;
    }
    let has_names = has_names.unwrap_or(true);
    if !has_names && reports.iter().any(|report| report.format != Format::Pprof) {
        return Err(String::from(
            "names=no is accepted for pprof only, whose files tell where to look names up later: \
             format=pprof, or only files that end with .pb.gz or .pb",
        ));
    }
    Ok(Wanted {
        every: every.unwrap_or(DEFAULT_INTERVAL),
        reports,
        names: has_names,
        at_exit,
        signal,
    })
}

fn leaks(settings: &[(&str, &str)]) -> Result<LeaksWanted, String> {
    let mut wanted = LeaksWanted::default();
    for &(key, value) in settings {
        match key {
            "suppress" if value.is_empty() => {
                return Err(String::from("suppress= has no part of a name"));
            }
            "suppress" => wanted.suppressions.push(String::from(value)),
            "exit" => {
                let code = value
                    .parse::<u8>()
                    .map_err(|_| format!("exit={value} is no exit code; accepted are 0 to 255"))?;
                once(&mut wanted.exit_code, key, code)?;
            }
            "file" => once(&mut wanted.file, key, Name::new(value)?)?,
            other => {
                return Err(format!(
                    "leaks has no setting {other:?}; it has suppress, exit and file"
                ));
            }
        }
    }
    Ok(wanted)
}

fn once<T>(place: &mut Option<T>, key: &str, value: T) -> Result<(), String> {
    if place.replace(value).is_some() {
        return Err(format!("{key}= is there twice"));
    }
    Ok(())
}

fn bytes(value: &str) -> Result<u64, String> {
    if value == "allocation" {
        return Ok(1);
    }
    let (digits, unit) = match value.chars().last() {
        Some('k' | 'K') => (&value[..value.len() - 1], 1 << 10),
        Some('m' | 'M') => (&value[..value.len() - 1], 1 << 20),
        Some('g' | 'G') => (&value[..value.len() - 1], 1 << 30),
        _ => (value, 1_u64),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(unit))
        .filter(|&n| n > 0)
        .ok_or_else(|| {
            format!(
                "every={value} is no number of bytes; accepted are \
                 a number from 1, with k, m or g, and allocation"
            )
        })
}

fn moment(value: &str) -> Result<bool, String> {
    match value {
        "exit" => Ok(true),
        "signal" => Ok(false),
        _ => Err(format!(
            "at={value} is unknown; accepted are exit and signal"
        )),
    }
}

fn signal_of(value: &str) -> Result<Signal, String> {
    match value.strip_prefix("SIG").unwrap_or(value) {
        "HUP" => Ok(Signal::Hup),
        "USR1" => Ok(Signal::Usr1),
        "USR2" => Ok(Signal::Usr2),
        _ => Err(format!(
            "signal={value} is not accepted; accepted are HUP, USR1 and USR2"
        )),
    }
}

fn value_of(value: &str) -> Result<Value, String> {
    match value {
        "live" => Ok(Value::LiveBytes),
        "peak" => Ok(Value::PeakBytes),
        "total" => Ok(Value::TotalBytes),
        "live-blocks" => Ok(Value::LiveBlocks),
        "peak-blocks" => Ok(Value::PeakBlocks),
        "total-blocks" => Ok(Value::TotalBlocks),
        _ => Err(format!(
            "value={value} is unknown; accepted are live, peak and total, which are bytes, \
             and live-blocks, peak-blocks and total-blocks"
        )),
    }
}

/// Has the folded stacks among the reports show this figure.
fn show(reports: &mut [Report], value: Value) -> Result<(), String> {
    let mut is_shown = false;
    for report in reports {
        if let Format::Folded(shown) = &mut report.format {
            (*shown, is_shown) = (value, true);
        }
    }
    is_shown.then_some(()).ok_or_else(|| {
        String::from(
            "value= is accepted for folded stacks only, as the other formats have all figures: \
             format=folded, or a file that ends with .folded",
        )
    })
}

fn yes_or_no(value: &str) -> Result<bool, String> {
    match value {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err(format!("names={value} is unknown; accepted are yes and no")),
    }
}

fn format(value: &str) -> Result<Format, String> {
    match value {
        "html" => Ok(Format::Html),
        "text" => Ok(Format::Text),
        "dhat" => Ok(Format::Dhat),
        "pprof" => Ok(Format::Pprof),
        "folded" => Ok(Format::Folded(Value::LiveBytes)),
        _ => Err(format!("format={value} is unknown; accepted are {FORMATS}")),
    }
}

/// By the ending of a file's name.
fn format_of(name: &Name) -> Result<Format, String> {
    let endings = [
        (".html", Format::Html),
        (".txt", Format::Text),
        (".json", Format::Dhat),
        (".pb.gz", Format::Pprof),
        (".pb", Format::Pprof),
        (".folded", Format::Folded(Value::LiveBytes)),
    ];
    let text = name.text();
    let found = endings.iter().find(|(ending, _)| text.ends_with(ending));
    found.map(|&(_, format)| format).ok_or_else(|| {
        format!(
            "file={text} does not tell its format; accepted are the endings \
             .html, .txt, .json, .pb.gz, .pb and .folded, or a format= beside the one file"
        )
    })
}

fn reports(names: &[Name], formats: &[Format], by_signal: bool) -> Result<Vec<Report>, String> {
    let default = |&format: &Format| {
        let n = if by_signal { "-{n}" } else { "" };
        let name = Name::new(&format!("heap-{{pid}}{n}.{}", format.extension()))?;
        Ok(Report { name, format })
    };
    match (names, formats) {
        ([], []) => Ok(vec![default(&Format::Html)?]),
        ([], formats) => formats.iter().map(default).collect(),
        ([name], &[format]) => Ok(vec![Report {
            name: name.clone(),
            format,
        }]),
        (names, []) => {
            let report = |name: &Name| {
                let (name, format) = (name.clone(), format_of(name)?);
                Ok(Report { name, format })
            };
            names.iter().map(report).collect()
        }
        _ => Err(String::from(
            "format= is accepted with one file only; several are told apart by the endings \
             of their names",
        )),
    }
}

#[cfg(test)]
mod tests;
