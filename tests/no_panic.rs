//! The compiled code of the four allocator functions leads to no panic.
//!
//! It is undefined to unwind out of an allocator, and what the source cannot
//! show is what the compiler has put in: an index check, a division, an
//! overflow check of a debug build's habit. So this reads the machine code of a
//! small release build: from `__rust_alloc`, `__rust_dealloc`, `__rust_realloc`
//! and `__rust_alloc_zeroed` on, every direct call and jump is followed inside
//! the binary, and calls through the global offset table where it tells
//! statically where they go. A twin with a planted index check must be found.
//!
//! What this does not see: calls through memory that is filled in at run time
//! (they are counted, and there may be none that are not explained below), and
//! through a register where the code does not lie in the order in which it runs; what libc does, and the system's unwinder; the destructor that gives the slot back,
//! which the thread's end calls and not the allocator.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::process::Command;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};
use object::read::elf::ElfFile64;
use object::{
    Object, ObjectSection, ObjectSymbol, ObjectSymbolTable, RelocationTarget, SymbolKind,
};

/// Where the examination begins.
const ENTRIES: [&str; 4] = [
    "___rust_alloc",
    "___rust_dealloc",
    "___rust_realloc",
    "___rust_alloc_zeroed",
];

/// Parts of the names of what must not be reached.
const FORBIDDEN: [&str; 14] = [
    "panic",
    "unwrap_failed",
    "expect_failed",
    "assert_failed",
    "slice_index",
    "slice_start_index",
    "slice_end_index",
    "handle_alloc_error",
    "alloc_error_handler",
    "capacity_overflow",
    "begin_unwind",
    "resume_unwind",
    "Unwind_Resume",
    "RaiseException",
];

/// Functions of std that may be reached, from whom, and are not looked into.
/// Parts of their names.
///
/// - Registering the destructor that gives a thread's slot back, once for a
///   thread. It hands it to `__cxa_thread_atexit_impl`, which every glibc has.
///   Without that function std would keep a list instead, over `System` and not
///   over us, which aborts when it cannot grow, or when it is entered while it
///   is being changed; the `panic` in there is that abort's message failing to
///   be written.
const EXPLAINED: &[(&str, &str)] = &[("thread_local11destructors10linux_like8register", "claim")];

/// Functions that call what only the running program knows. Parts of their names.
///
/// - The loader's `_dl_find_object`, by the address that it was found at, in
///   `modules::find`.
const EXPLAINED_BLIND: &[&str] = &[
    #[cfg(feature = "profile")]
    "unwind6tables6derive",
];

/// Builds the fixture and gives the folder of its programs.
fn fixture() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/no_panic/Cargo.toml");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("no_panic");
    let mut cargo = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
    cargo
        .args(["build", "--quiet", "--release", "--manifest-path"])
        .arg(manifest)
        .arg("--target-dir")
        .arg(&target);
    if cfg!(feature = "histogram") {
        cargo.args(["--features", "histogram"]);
    }
    if cfg!(feature = "profile") {
        cargo.args(["--features", "profile"]);
    }
    // The code that users get, whatever instrumentation we are built with ourselves.
    for variable in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
        cargo.env_remove(variable);
    }
    let output = cargo.output().expect("cargo");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    target.join("release")
}

/// Where a slot of memory that holds an address leads.
#[derive(Clone, Debug)]
enum Slot {
    /// To a function of another library.
    Outside(String),
    /// To an address of this one.
    Inside(u64),
}

/// The functions of a program, and where its slots lead.
struct Program {
    /// By address: the name, and the code.
    functions: BTreeMap<u64, (String, Vec<u8>)>,
    slots: HashMap<u64, Slot>,
    /// The sections that lead to other libraries.
    stubs: Vec<std::ops::Range<u64>>,
}

impl Program {
    fn read(path: &Path) -> Self {
        let data = std::fs::read(path).expect("the program");
        let file: ElfFile64<'_> = ElfFile64::parse(&*data).expect("an ELF file");
        let mut functions = BTreeMap::new();
        for symbol in file.symbols() {
            if symbol.kind() != SymbolKind::Text || symbol.size() == 0 {
                continue;
            }
            let section = symbol
                .section_index()
                .and_then(|index| file.section_by_index(index).ok());
            let code = section.and_then(|section| {
                section
                    .data_range(symbol.address(), symbol.size())
                    .ok()
                    .flatten()
            });
            if let (Ok(name), Some(code)) = (symbol.name(), code) {
                functions.insert(symbol.address(), (name.to_owned(), code.to_vec()));
            }
        }
        let names = file.dynamic_symbol_table().expect("dynamic symbols");
        let mut slots = HashMap::new();
        for (at, relocation) in file.dynamic_relocations().expect("relocations") {
            let slot = match relocation.target() {
                RelocationTarget::Symbol(index) => names
                    .symbol_by_index(index)
                    .ok()
                    .filter(ObjectSymbol::is_undefined)
                    .and_then(|symbol| symbol.name().ok().map(str::to_owned))
                    .map(Slot::Outside),
                _ => Some(Slot::Inside(relocation.addend().cast_unsigned())),
            };
            slots.extend(slot.map(|slot| (at, slot)));
        }
        let stubs = file
            .sections()
            .filter(|section| section.name().is_ok_and(|name| name.starts_with(".plt")))
            .map(|section| section.address()..section.address() + section.size())
            .collect();
        Self {
            functions,
            slots,
            stubs,
        }
    }

    /// The function that `address` lies in: where it begins, and its name.
    fn function_at(&self, address: u64) -> Option<(u64, &str)> {
        let (&begin, (name, code)) = self.functions.range(..=address).next_back()?;
        (address < begin + code.len() as u64).then_some((begin, name.as_str()))
    }

    /// The entries, by the ends of their mangled names.
    fn entries(&self) -> Vec<u64> {
        ENTRIES
            .iter()
            .map(|entry| {
                let mut found = self
                    .functions
                    .iter()
                    .filter(|(_, (name, _))| name.ends_with(entry));
                let (&address, _) = found.next().unwrap_or_else(|| panic!("no {entry}"));
                assert!(found.next().is_none(), "two of {entry}");
                address
            })
            .collect()
    }
}

/// What an examination has found.
#[derive(Debug, Default)]
struct Found {
    /// Ways from an entry to something forbidden.
    panics: Vec<String>,
    /// The functions that were read.
    read: BTreeSet<String>,
    /// The functions of other libraries that are called.
    outside: BTreeSet<String>,
    /// The exceptions that were met.
    explained: BTreeSet<String>,
    /// Functions with calls that lead nobody knows where.
    blind: BTreeSet<String>,
}

/// Follows all calls and jumps from the entries on.
fn examine(program: &Program) -> Found {
    let mut found = Found::default();
    let mut from: HashMap<u64, u64> = HashMap::new();
    let mut queue: VecDeque<u64> = program.entries().into();
    let mut seen: BTreeSet<u64> = queue.iter().copied().collect();
    while let Some(begin) = queue.pop_front() {
        let (name, code) = &program.functions[&begin];
        found.read.insert(name.clone());
        let mut targets = Vec::new();
        let mut decoder = Decoder::with_ip(64, code, begin, DecoderOptions::NONE);
        let mut instruction = Instruction::default();
        let mut held = Held::default();
        while decoder.can_decode() {
            decoder.decode_out(&mut instruction);
            assert!(!instruction.is_invalid(), "{name} is not code");
            let leads = match leads_to(program, &instruction) {
                Leads::Anywhere => held.leads_to(&instruction),
                known => known,
            };
            held.note(program, &instruction);
            match leads {
                Leads::On => {}
                Leads::To(address) => targets.push(address),
                Leads::Outside(outside) => {
                    if is_forbidden(&outside) {
                        found.panics.push(way(program, &from, begin, &outside));
                    }
                    found.outside.insert(outside);
                }
                Leads::Anywhere => {
                    found.blind.insert(name.clone());
                }
            }
        }
        for target in targets {
            if program.stubs.iter().any(|stub| stub.contains(&target)) {
                found.outside.insert(format!("stub at {target:#x}"));
                continue;
            }
            let (callee, callee_name) = program
                .function_at(target)
                .unwrap_or_else(|| panic!("{name} leads to {target:#x}, which is no function"));
            let is_explained = EXPLAINED
                .iter()
                .any(|(part, caller)| callee_name.contains(part) && name.contains(caller));
            if is_explained {
                found.explained.insert(callee_name.to_owned());
            }
            if is_explained || callee == begin {
                continue;
            }
            if is_forbidden(callee_name) {
                found.panics.push(way(program, &from, begin, callee_name));
            } else if seen.insert(callee) {
                from.insert(callee, begin);
                queue.push_back(callee);
            }
        }
    }
    found
}

/// What registers hold, by the last instruction that wrote to them, in the
/// order in which the code lies.
#[derive(Default)]
struct Held {
    slots: HashMap<Register, Slot>,
    /// The register that the last instruction has added to, but for moves of
    /// other ones: an address out of the table of a `match`, if it is jumped to
    /// next. That stays inside.
    sum: Option<Register>,
}

impl Held {
    fn note(&mut self, program: &Program, instruction: &Instruction) {
        let is_register = instruction.op0_kind() == OpKind::Register;
        let register = instruction.op0_register();
        let is_move = instruction.mnemonic() == Mnemonic::Mov;
        let is_over = is_register
            && self
                .sum
                .is_some_and(|sum| sum.full_register() == register.full_register());
        if !is_move || is_over {
            self.sum = None;
        }
        if !is_register {
            return;
        }
        match instruction.mnemonic() {
            Mnemonic::Mov
                if instruction.op1_kind() == OpKind::Memory
                    && instruction.memory_base() == Register::RIP =>
            {
                let slot = program.slots.get(&instruction.memory_displacement64());
                self.slots.extend(slot.map(|slot| (register, slot.clone())));
            }
            Mnemonic::Add => self.sum = Some(register),
            _ => {}
        }
    }

    /// Where a call or a jump by a register leads.
    fn leads_to(&self, instruction: &Instruction) -> Leads {
        if instruction.op0_kind() != OpKind::Register {
            return Leads::Anywhere;
        }
        let register = instruction.op0_register();
        let is_jump = instruction.flow_control() == FlowControl::IndirectBranch;
        if is_jump && self.sum == Some(register) {
            return Leads::On;
        }
        self.slots
            .get(&register)
            .map_or(Leads::Anywhere, Slot::leads)
    }
}

impl Slot {
    fn leads(&self) -> Leads {
        match self {
            Self::Inside(address) => Leads::To(*address),
            Self::Outside(name) => Leads::Outside(name.clone()),
        }
    }
}

/// Where an instruction may go on besides the next one.
enum Leads {
    On,
    To(u64),
    Outside(String),
    Anywhere,
}

fn leads_to(program: &Program, instruction: &Instruction) -> Leads {
    match instruction.flow_control() {
        FlowControl::Next
        | FlowControl::Return
        | FlowControl::Interrupt
        | FlowControl::Exception
        | FlowControl::XbeginXabortXend => Leads::On,
        FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch | FlowControl::Call => {
            Leads::To(instruction.near_branch_target())
        }
        FlowControl::IndirectBranch | FlowControl::IndirectCall => {
            let fixed = instruction.op0_kind() == OpKind::Memory
                && instruction.memory_base() == Register::RIP;
            let slot = fixed
                .then(|| program.slots.get(&instruction.memory_displacement64()))
                .flatten();
            slot.map_or(Leads::Anywhere, Slot::leads)
        }
    }
}

fn is_forbidden(name: &str) -> bool {
    FORBIDDEN.iter().any(|part| name.contains(part))
}

/// The names on the way from an entry to `last`.
fn way(program: &Program, from: &HashMap<u64, u64>, begin: u64, last: &str) -> String {
    let mut names = vec![last];
    let mut at = Some(begin);
    while let Some(address) = at {
        names.push(&program.functions[&address].0);
        at = from.get(&address).copied();
    }
    names.reverse();
    names.join("\n    -> ")
}

#[test]
fn no_panic_is_reachable_from_the_four_allocator_functions() {
    let program = Program::read(&fixture().join("ours"));
    let found = examine(&program);
    assert!(
        found.panics.is_empty(),
        "a panic is reachable:\n{}",
        found.panics.join("\n")
    );
    // It has really been there: on our cold paths, and at the doors to libc.
    for part in [
        "entered_cold",
        "freed_cold",
        "resized_cold",
        "refused",
        "claim",
    ] {
        assert!(
            found.read.iter().any(|name| name.contains(part)),
            "{part} was not read: {found:#?}"
        );
    }
    for name in ["malloc", "free", "realloc", "calloc"] {
        assert!(found.outside.contains(name), "no {name}: {found:#?}");
    }
    // And in the recorder, which the cold paths end in.
    #[cfg(feature = "profile")]
    for part in [
        "record6blocks9allocated",
        "record6blocks5freed",
        "record6resize6Resize5begin",
        "record6resize6Resize5ended",
        "record5hooks7capture",
        "unwind6tables6derive",
    ] {
        assert!(
            found.read.iter().any(|name| name.contains(part)),
            "{part} was not read: {found:#?}"
        );
    }
    // An exception that is not met any more is to be taken off the list.
    for (part, _) in EXPLAINED {
        assert!(
            found.explained.iter().any(|name| name.contains(part)),
            "{part} was not met: {found:#?}"
        );
    }
    for name in &found.blind {
        assert!(
            EXPLAINED_BLIND.iter().any(|part| name.contains(part)),
            "{name} calls into the blue: {found:#?}"
        );
    }
}

/// Bug prevented: an examination that finds nothing because it sees nothing.
#[test]
fn the_planted_twin_is_found_out() {
    let program = Program::read(&fixture().join("planted"));
    let found = examine(&program);
    assert!(
        found
            .panics
            .iter()
            .any(|way| way.contains("___rust_dealloc") && way.contains("panic_bounds_check")),
        "the planted index check was not found: {found:#?}"
    );
}
