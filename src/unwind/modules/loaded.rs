//! The files that are loaded, as the loader shows them.

use core::ffi::{CStr, c_int, c_void};
use core::ops::ControlFlow;

/// A loaded file, for as long as the loader shows it.
pub(super) struct File<'a> {
    info: &'a libc::dl_phdr_info,
}

impl<'a> File<'a> {
    /// What to add to the addresses in its headers.
    pub(super) fn base(&self) -> u64 {
        self.info.dlpi_addr
    }

    /// Its program headers.
    pub(super) fn headers(&self) -> &'a [libc::Elf64_Phdr] {
        if self.info.dlpi_phdr.is_null() {
            return &[];
        }
        let count = usize::from(self.info.dlpi_phnum);
        // SAFETY: the loader keeps that many headers there, as long as it shows the file.
        unsafe { core::slice::from_raw_parts(self.info.dlpi_phdr, count) }
    }

    /// Its path; empty for the program itself.
    pub(super) fn name(&self) -> &'a CStr {
        if self.info.dlpi_name.is_null() {
            return c"";
        }
        // SAFETY: the loader's name of the file is a C string, as long as it shows the file.
        unsafe { CStr::from_ptr(self.info.dlpi_name) }
    }

    /// How many files were ever added to the process, and removed from it.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.info.dlpi_adds, self.info.dlpi_subs)
    }
}

/// Calls `visit` with each file, the program first, until it breaks. From a
/// normal context: takes the loader's lock, and holds it while `visit` runs.
pub(super) fn each<F: FnMut(&File<'_>) -> ControlFlow<()>>(mut visit: F) {
    unsafe extern "C" fn show<F: FnMut(&File<'_>) -> ControlFlow<()>>(
        info: *mut libc::dl_phdr_info,
        size: libc::size_t,
        visit: *mut c_void,
    ) -> c_int {
        // A loader of long ago, the record of which ends earlier, has nothing to tell us.
        if size < size_of::<libc::dl_phdr_info>() {
            return 1;
        }
        // SAFETY: the loader passes its own record, which is long enough, for the time of this call.
        let info = unsafe { &*info };
        // SAFETY: the closure below, of this type, which no one else uses now.
        let visit = unsafe { &mut *visit.cast::<F>() };
        c_int::from(visit(&File { info }).is_break())
    }
    // SAFETY: the callback matches its type, and `visit`, which is of the type that it takes it
    // for, lives through the call. It cannot unwind into the loader: it is `extern "C"`.
    unsafe { libc::dl_iterate_phdr(Some(show::<F>), (&raw mut visit).cast()) };
}
