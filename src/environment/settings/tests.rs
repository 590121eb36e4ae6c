use super::{LeaksWanted, Order, Report, Signal, Wanted, parse};
use crate::environment::names::Name;
use crate::profile::{DEFAULT_INTERVAL, Format, Value};

fn wanted(value: &str) -> Wanted {
    match parse(value) {
        Ok(Order::Profile(wanted)) => wanted,
        other => panic!("{value}: {other:?}"),
    }
}

fn report(name: &str, format: Format) -> Report {
    let name = Name::new(name).expect("a name");
    Report { name, format }
}

#[test]
fn nothing_said_is_a_sampled_report_at_exit() {
    for value in ["profile", "profile,", " profile , "] {
        let expected = Wanted {
            every: DEFAULT_INTERVAL,
            reports: vec![report("heap-{pid}.html", Format::Html)],
            names: true,
            at_exit: true,
            signal: None,
        };
        assert_eq!(wanted(value), expected);
    }
    for value in ["", "off", " off , ", ","] {
        assert_eq!(parse(value), Ok(Order::Nothing), "{value}");
    }
}

#[test]
fn all_that_can_be_said_is_understood() {
    let all = "profile,every=64k,format=pprof,file=/else/where/{n},names=no,at=signal,\
               signal=SIGUSR2";
    let expected = Wanted {
        every: 65_536,
        reports: vec![report("/else/where/{n}", Format::Pprof)],
        names: false,
        at_exit: false,
        signal: Some(Signal::Usr2),
    };
    assert_eq!(wanted(all), expected);
    let intervals = [
        ("1", 1),
        ("allocation", 1),
        ("3000", 3_000),
        ("2M", 2 << 20),
        ("1g", 1 << 30),
    ];
    for (text, every) in intervals {
        assert_eq!(wanted(&format!("profile,every={text}")).every, every);
    }
    for (text, signal) in [("HUP", Signal::Hup), ("USR1", Signal::Usr1)] {
        let wanted = wanted(&format!("profile,signal={text}"));
        assert_eq!((wanted.signal, wanted.at_exit), (Some(signal), true));
    }
}

/// Bug prevented: the ending says one format, and the file has another.
#[test]
fn the_ending_says_the_format_where_nothing_else_does() {
    let live = Format::Folded(Value::LiveBytes);
    let files = "profile,file=a.html,file=a.txt,file=a.json,file=a.pb.gz,file=a.pb,file=a.folded";
    let expected = [
        report("a.html", Format::Html),
        report("a.txt", Format::Text),
        report("a.json", Format::Dhat),
        report("a.pb.gz", Format::Pprof),
        report("a.pb", Format::Pprof),
        report("a.folded", live),
    ];
    assert_eq!(wanted(files).reports, expected);
    let formats = "profile,format=text,format=folded,signal=HUP";
    let expected = [
        report("heap-{pid}-{n}.txt", Format::Text),
        report("heap-{pid}-{n}.folded", live),
    ];
    assert_eq!(wanted(formats).reports, expected);
}

/// Bug prevented: folded stacks at exit have next to nothing in them, as all that the variable
/// can ask for is what is still alive.
#[test]
fn folded_stacks_show_the_figure_that_was_asked_for() {
    let table = [
        ("live", Value::LiveBytes),
        ("peak", Value::PeakBytes),
        ("total", Value::TotalBytes),
        ("live-blocks", Value::LiveBlocks),
        ("peak-blocks", Value::PeakBlocks),
        ("total-blocks", Value::TotalBlocks),
    ];
    for (text, value) in table {
        // The others have all figures, and stay as they are.
        let value_first = format!("profile,value={text},file=a.html,file=a.folded,file=b.folded");
        let expected = [
            report("a.html", Format::Html),
            report("a.folded", Format::Folded(value)),
            report("b.folded", Format::Folded(value)),
        ];
        assert_eq!(wanted(&value_first).reports, expected);
        let by_format = wanted(&format!("profile,format=folded,value={text}"));
        let expected = report("heap-{pid}.folded", Format::Folded(value));
        assert_eq!(by_format.reports, [expected]);
    }
}

/// Bug prevented: a report without names where nobody can look them up later.
#[test]
fn only_pprof_does_without_names() {
    for value in [
        "format=pprof",
        "file=a.pb.gz,file=b.pb",
        "file=a,format=pprof",
    ] {
        assert!(!wanted(&format!("profile,names=no,{value}")).names);
        assert!(wanted(&format!("profile,names=yes,{value}")).names);
        assert!(wanted(&format!("profile,{value}")).names);
    }
    for value in [
        "",
        "format=html",
        "file=a.pb.gz,file=a.folded",
        "format=pprof,format=text",
    ] {
        let said = parse(&format!("profile,names=no,{value}")).expect_err(value);
        assert!(
            said.contains("names=no is accepted for pprof only"),
            "{said}"
        );
        assert!(
            said.contains("format=pprof, or only files that end"),
            "{said}"
        );
    }
}

/// Bug prevented: a slip of the pen, and the program runs without a profile
/// and without a word.
#[test]
fn what_is_wrong_is_named_with_what_is_accepted() {
    let table = [
        (
            "1",
            "begins with \"1\"; accepted are profile, leaks and off",
        ),
        ("profiel,every=1", "begins with \"profiel\""),
        (",leaks,exit=23", "begins with \"\"; accepted are profile,"),
        ("off,leaks", "off has no settings, and here is \"leaks\""),
        (
            "off,every=1",
            "off has no settings, and here is \"every=1\"",
        ),
        ("profile,evry=1", "no setting \"evry\"; it has every, file,"),
        (
            "profile,exit",
            "\"exit\" is no setting; a setting is name=value",
        ),
        (
            "profile,every=0",
            "every=0 is no number of bytes; accepted are",
        ),
        ("profile,every=", "every= is no number of bytes"),
        ("profile,every=k", "every=k is no number of bytes"),
        ("profile,every=1é", "every=1é is no number of bytes"),
        ("profile,every=-1", "every=-1 is no number"),
        ("profile,every=99999999999g", "is no number of bytes"),
        ("profile,every=1,every=2", "every= is there twice"),
        (
            "profile,format=xml",
            "format=xml is unknown; accepted are html,",
        ),
        ("profile,file=a.xml", "file=a.xml does not tell its format"),
        ("profile,file=", "file= has no name"),
        ("profile,file={host}.txt", "neither {pid} nor {n}"),
        (
            "profile,file=heap.%p.html",
            "the number of the process is {pid}",
        ),
        ("leaks,file=%p", "the number of the process is {pid}"),
        ("profile,value=all", "accepted are live, peak and total,"),
        (
            "profile,value=peak",
            "value= is accepted for folded stacks only",
        ),
        ("profile,value=peak,format=pprof", "for folded stacks only"),
        ("profile,value=live,value=peak", "value= is there twice"),
        (
            "profile,names=maybe",
            "names=maybe is unknown; accepted are",
        ),
        ("profile,names=no,names=no", "names= is there twice"),
        ("leaks,names=no", "leaks has no setting \"names\""),
        (
            "profile,file=a.txt,file=b,format=text",
            "with one file only",
        ),
        (
            "profile,file=a,format=text,format=dhat",
            "with one file only",
        ),
        ("profile,at=start", "accepted are exit and signal"),
        ("profile,at=signal", "at=signal needs a signal: signal=HUP,"),
        ("profile,signal=KILL", "accepted are HUP, USR1 and USR2"),
        ("leaks,every=1", "leaks has no setting \"every\"; it has"),
        (
            "leaks,exit=256",
            "exit=256 is no exit code; accepted are 0 to",
        ),
        ("leaks,suppress=", "suppress= has no part of a name"),
    ];
    for (value, says) in table {
        let said = parse(value).expect_err(value);
        assert!(said.contains(says), "{value}: {said}");
        assert!(!said.contains('\n'), "{value}: {said}");
    }
}

#[test]
fn a_leak_check_of_the_program_is_understood() {
    let expected = LeaksWanted {
        suppressions: vec![String::from("tokio::"), String::from("log")],
        exit_code: Some(86),
        file: Some(Name::new("leaks-{pid}.txt").expect("a name")),
    };
    let value = "leaks,suppress=tokio::,suppress=log,exit=86,file=leaks-{pid}.txt";
    assert_eq!(parse(value), Ok(Order::Leaks(expected)));
    assert_eq!(parse("leaks"), Ok(Order::Leaks(LeaksWanted::default())));
}
