//! Which loaded file an address belongs to, and where its unwind tables are.
//!
//! Asked inside the allocator, so the loader's lock is out of bounds:
//! `dl_iterate_phdr` would wait for a thread that is inside `dlopen` and, in
//! there, for us. glibc 2.35 has the answer: `_dl_find_object` takes no lock
//! and no memory, may be called from a signal handler, and always knows what is
//! loaded now. What it says cannot become stale under us: the address is a
//! return address of the calling thread, and code to which a thread will return
//! must not be unloaded.
//!
//! Where it is missing, [`list`] has what was loaded when it was last asked.

mod disk;
mod list;
mod loaded;
mod mapped;

pub(crate) use disk::{PROGRAM, is_where_it_was, program_at_the_start, running};
pub(crate) use mapped::{Mapped, files, mapped, mapped_in_two, note_files};

use core::ffi::{c_int, c_void};
use core::sync::atomic::AtomicUsize;

use crate::sync::{AtomicU64, Ordering};

/// What is known of a loaded file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Module {
    /// Where its memory begins; its ELF header is here.
    pub(crate) start: u64,
    /// Where its memory ends.
    pub(crate) end: u64,
    /// Its `.eh_frame_hdr`.
    pub(crate) eh_frame_hdr: u64,
}

/// `struct dl_find_object` of `<dlfcn.h>` on x86-64.
#[repr(C)]
struct FoundObject {
    flags: u64,
    map_start: *mut c_void,
    map_end: *mut c_void,
    link_map: *mut c_void,
    eh_frame: *mut c_void,
    reserved: [u64; 7],
}

type FindObject = unsafe extern "C" fn(*mut c_void, *mut FoundObject) -> c_int;

/// The address of `_dl_find_object`, or 0.
static FIND_OBJECT: AtomicUsize = AtomicUsize::new(0);
/// The loader's counts of added and removed files when it was last asked.
static ADDED: AtomicU64 = AtomicU64::new(0);
static REMOVED: AtomicU64 = AtomicU64::new(0);
/// Where the program's own memory begins and ends; 0 before the first look.
static PROGRAM_START: AtomicU64 = AtomicU64::new(0);
static PROGRAM_END: AtomicU64 = AtomicU64::new(0);

/// What changed since the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Nothing,
    /// Files came, none went.
    Added,
    /// Files went: an address may now mean something else.
    Removed,
}

/// Looks what is loaded. From a normal context: takes the loader's lock.
pub(crate) fn refresh() -> Change {
    if FIND_OBJECT.load(Ordering::Relaxed) == 0 {
        // SAFETY: the name is a C string, and the default handle asks for no file.
        let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"_dl_find_object".as_ptr()) };
        FIND_OBJECT.store(found.addr(), Ordering::Release);
    }
    let (added, removed, program) = list::first();
    if let Some(program) = program {
        PROGRAM_START.store(program.start, Ordering::Relaxed);
        PROGRAM_END.store(program.end, Ordering::Relaxed);
    }
    let had_added = ADDED.swap(added, Ordering::Relaxed);
    let had_removed = REMOVED.swap(removed, Ordering::Relaxed);
    let change = if had_removed != removed {
        Change::Removed
    } else if had_added != added {
        Change::Added
    } else {
        Change::Nothing
    };
    if FIND_OBJECT.load(Ordering::Relaxed) == 0 && change != Change::Nothing {
        list::renew();
    }
    change
}

/// The file that `address` belongs to. Safe inside the allocator.
pub(crate) fn find(address: u64) -> Option<Module> {
    let find_object = FIND_OBJECT.load(Ordering::Acquire);
    if find_object == 0 {
        return list::find(address);
    }
    // SAFETY: not zero, so it is what the loader gave for this name, whose type this is.
    let find_object: FindObject = unsafe { core::mem::transmute(find_object) };
    let mut found = FoundObject {
        flags: 0,
        map_start: core::ptr::null_mut(),
        map_end: core::ptr::null_mut(),
        link_map: core::ptr::null_mut(),
        eh_frame: core::ptr::null_mut(),
        reserved: [0; 7],
    };
    let asked = core::ptr::with_exposed_provenance_mut(usize::try_from(address).ok()?);
    // SAFETY: the address is only compared; `found` has the size and layout that glibc fills in.
    let missing = unsafe { find_object(asked, &raw mut found) };
    (missing == 0 && !found.eh_frame.is_null()).then(|| {
        let part = (found.map_start.addr() as u64, found.map_end.addr() as u64);
        let (start, end) = whole(part);
        Module {
            start,
            end,
            eh_frame_hdr: found.eh_frame.addr() as u64,
        }
    })
}

/// The whole file that a part of memory is of. Between the segments of the program itself,
/// which the kernel has mapped, there may be gaps (by chance, in one of some 250 programs, or
/// where they are linked for large pages); then the loader gives the segment that an address is in.
fn whole(part: (u64, u64)) -> (u64, u64) {
    let start = PROGRAM_START.load(Ordering::Relaxed);
    let end = PROGRAM_END.load(Ordering::Relaxed);
    if start <= part.0 && part.1 <= end {
        (start, end)
    } else {
        part
    }
}

#[cfg(test)]
mod tests {
    use super::{Change, Module, find, list, refresh};

    /// Bug prevented: a module list of our own that disagrees with the loader's.
    #[test]
    fn the_loader_and_the_list_name_the_same_module() {
        refresh();
        list::renew();
        for address in [
            refresh as fn() -> Change as usize as u64,
            libc::malloc as *const () as usize as u64,
        ] {
            let found = find(address).expect("loaded");
            assert!(found.start <= address && address < found.end);
            let listed = list::find(address).expect("listed");
            assert_eq!(found.eh_frame_hdr, listed.eh_frame_hdr);
            assert_eq!(found.start, listed.start);
        }
    }

    #[test]
    fn an_address_of_no_module_is_not_found() {
        refresh();
        list::renew();
        let on_the_heap = Box::new(0u64);
        let address = (&raw const *on_the_heap).addr() as u64;
        assert_eq!(find(address), None::<Module>);
        assert_eq!(list::find(address), None);
        assert_eq!((find(0), find(u64::MAX)), (None, None));
    }
}
