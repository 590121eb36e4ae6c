//! A list of what is loaded, for systems whose loader cannot be asked on the
//! allocation path.
//!
//! It is as fresh as the last [`renew`]: code that was loaded since is unknown,
//! and a stack ends there, flagged. Code that was unloaded since and replaced,
//! at the same address, would be looked up in tables that may be gone; so who
//! unloads libraries while recording wants a newer glibc.

use core::ffi::{c_int, c_void};

use super::Module;
use crate::sync::{AtomicPtr, Ordering};

/// Null, or a leaked list sorted by address. An old list is never freed, since
/// somebody may be reading it: it is small, and replaced only when something
/// was loaded.
static LIST: AtomicPtr<Vec<Module>> = AtomicPtr::new(core::ptr::null_mut());

/// How many files were ever added to the process, and removed from it.
pub(super) fn counts() -> (u64, u64) {
    unsafe extern "C" fn first(
        info: *mut libc::dl_phdr_info,
        size: libc::size_t,
        data: *mut c_void,
    ) -> c_int {
        if size >= size_of::<libc::dl_phdr_info>() {
            // SAFETY: the loader passes its own record, and it is long enough for these fields.
            let info = unsafe { &*info };
            let counts: (u64, u64) = (info.dlpi_adds, info.dlpi_subs);
            // SAFETY: `data` is the pair below, which no one else uses now.
            unsafe { data.cast::<(u64, u64)>().write(counts) };
        }
        1
    }
    let mut counts = (0u64, 0u64);
    // SAFETY: the callback matches its type, and `counts` lives through the call.
    unsafe { libc::dl_iterate_phdr(Some(first), (&raw mut counts).cast()) };
    counts
}

/// Makes a new list. From a normal context: takes the loader's lock and memory.
pub(super) fn renew() {
    unsafe extern "C" fn each(
        info: *mut libc::dl_phdr_info,
        _size: libc::size_t,
        data: *mut c_void,
    ) -> c_int {
        // SAFETY: the loader passes its own record.
        let info = unsafe { &*info };
        // SAFETY: `data` is the list below, which no one else uses now.
        let list = unsafe { &mut *data.cast::<Vec<Module>>() };
        if info.dlpi_phdr.is_null() {
            return 0;
        }
        // SAFETY: the loader keeps that many headers there.
        let headers =
            unsafe { core::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
        list.extend(module(info.dlpi_addr, headers));
        0
    }
    let mut list: Vec<Module> = Vec::new();
    // SAFETY: the callback matches its type, and `list` lives through the call.
    unsafe { libc::dl_iterate_phdr(Some(each), (&raw mut list).cast()) };
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
