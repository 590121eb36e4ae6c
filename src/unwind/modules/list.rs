//! A list of what is loaded, for systems whose loader cannot be asked on the
//! allocation path.
//!
//! It is as fresh as the last [`renew`]: code that was loaded since is unknown,
//! and a stack ends there, flagged. Code that was unloaded since and replaced,
//! at the same address, would be looked up in tables that may be gone; so who
//! unloads libraries while recording wants a newer glibc.

use core::ops::ControlFlow;

use super::{Module, loaded};
use crate::sync::{AtomicPtr, Ordering};

/// Null, or a leaked list sorted by address. An old list is never freed, since
/// somebody may be reading it: it is small, and replaced only when something
/// was loaded.
static LIST: AtomicPtr<Vec<Module>> = AtomicPtr::new(core::ptr::null_mut());

/// How many files were ever added to the process, and removed from it; and the first,
/// which is the program. From a normal context: takes the loader's lock.
pub(super) fn first() -> (u64, u64, Option<Module>) {
    let mut first = (0, 0, None);
    loaded::each(|file| {
        let (added, removed) = file.counts();
        first = (added, removed, module(file.base(), file.headers()));
        ControlFlow::Break(())
    });
    first
}

/// Makes a new list. From a normal context: takes the loader's lock and memory.
pub(super) fn renew() {
    let mut list = Vec::new();
    loaded::each(|file| {
        list.extend(module(file.base(), file.headers()));
        ControlFlow::Continue(())
    });
    list.sort_unstable_by_key(|module| module.start);
    LIST.store(Box::into_raw(Box::new(list)), Ordering::Release);
}

/// The module of these program headers, if it has unwind tables.
fn module(base: u64, headers: &[libc::Elf64_Phdr]) -> Option<Module> {
    let at = |header: &libc::Elf64_Phdr| base.wrapping_add(header.p_vaddr);
    let loads = || headers.iter().filter(|h| h.p_type == libc::PT_LOAD);
    let tables = headers.iter().find(|h| h.p_type == libc::PT_GNU_EH_FRAME)?;
    Some(Module {
        // The header is at the beginning of a page.
        start: loads().map(at).min()? & !0xFFF,
        end: loads().map(|h| at(h).wrapping_add(h.p_memsz)).max()?,
        eh_frame_hdr: at(tables),
    })
}

/// The file that `address` belonged to when the list was made.
pub(super) fn find(address: u64) -> Option<Module> {
    let list = LIST.load(Ordering::Acquire);
    // SAFETY: null, or a list that was leaked and is never changed.
    let list = unsafe { list.as_ref() }?;
    let after = list.partition_point(|module| module.start <= address);
    let module = list.get(after.checked_sub(1)?)?;
    (address < module.end).then_some(*module)
}
