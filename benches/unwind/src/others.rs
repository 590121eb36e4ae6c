//! framehop as it comes, for comparison: no rule cache in front, no kept stack.

use std::arch::asm;
use std::cell::UnsafeCell;
use std::ffi::{c_int, c_void};

use framehop::x86_64::{CacheX86_64, UnwindRegsX86_64, UnwinderX86_64};
use framehop::{ExplicitModuleSectionInfo, Module, MustNotAllocateDuringUnwind, Unwinder};

type Hop = UnwinderX86_64<&'static [u8], MustNotAllocateDuringUnwind>;

struct Tools {
    unwinder: Hop,
    cache: CacheX86_64<MustNotAllocateDuringUnwind>,
    end: u64,
}

struct OneThread(UnsafeCell<Option<Tools>>);

// SAFETY: used on the one thread that there is.
unsafe impl Sync for OneThread {}

static TOOLS: OneThread = OneThread(UnsafeCell::new(None));

unsafe extern "C" fn each(info: *mut libc::dl_phdr_info, _: usize, data: *mut c_void) -> c_int {
    // SAFETY: the loader's record, and the unwinder that `prime` passes.
    let (info, unwinder) = unsafe { (&*info, &mut *data.cast::<Hop>()) };
    // SAFETY: that many headers are there.
    let headers =
        unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    let Some(tables) = headers.iter().find(|h| h.p_type == libc::PT_GNU_EH_FRAME) else {
        return 0;
    };
    let loads = || headers.iter().filter(|h| h.p_type == libc::PT_LOAD);
    let Some(segment) =
        loads().find(|h| (h.p_vaddr..h.p_vaddr + h.p_memsz).contains(&tables.p_vaddr))
    else {
        return 0;
    };
    let slice = |from: u64, to: u64| {
        // SAFETY: inside a read-only segment of a file that is never unloaded here.
        unsafe {
            std::slice::from_raw_parts((info.dlpi_addr + from) as *const u8, (to - from) as usize)
        }
    };
    let header = slice(tables.p_vaddr, tables.p_vaddr + tables.p_memsz);
    let relative = i32::from_le_bytes(header[4..8].try_into().unwrap());
    let eh_frame = (tables.p_vaddr + 4).wrapping_add_signed(i64::from(relative));
    let segment_end = segment.p_vaddr + segment.p_memsz;
    let start = loads().map(|h| h.p_vaddr).min().unwrap();
    let end = loads().map(|h| h.p_vaddr + h.p_memsz).max().unwrap();
    unwinder.add_module(Module::new(
        String::new(),
        info.dlpi_addr + start..info.dlpi_addr + end,
        info.dlpi_addr,
        ExplicitModuleSectionInfo {
            base_svma: 0,
            eh_frame_svma: Some(eh_frame..segment_end),
            eh_frame: Some(slice(eh_frame, segment_end)),
            eh_frame_hdr_svma: Some(tables.p_vaddr..tables.p_vaddr + tables.p_memsz),
            eh_frame_hdr: Some(header),
            ..Default::default()
        },
    ));
    0
}

pub fn prime() {
    let mut unwinder = Hop::new();
    // SAFETY: the callback matches, and the unwinder lives through the call.
    unsafe { libc::dl_iterate_phdr(Some(each), (&raw mut unwinder).cast()) };
    // SAFETY: the loader's variable is a pointer.
    let end =
        unsafe { *libc::dlsym(libc::RTLD_DEFAULT, c"__libc_stack_end".as_ptr()).cast::<u64>() };
    let tools = Tools {
        unwinder,
        cache: CacheX86_64::new_in(),
        end,
    };
    // SAFETY: there is one thread.
    unsafe { *TOOLS.0.get() = Some(tools) };
}

#[inline(never)]
pub fn framehop(mut each: impl FnMut(u64)) -> u64 {
    // SAFETY: one thread, and no capture inside a capture.
    let Some(tools) = (unsafe { &mut *TOOLS.0.get() }) else {
        return 0;
    };
    let (ip, sp, bp): (u64, u64, u64);
    // SAFETY: reads three registers.
    unsafe {
        asm!("lea {}, [rip]", "mov {}, rsp", "mov {}, rbp", out(reg) ip, out(reg) sp, out(reg) bp);
    }
    let end = tools.end;
    let mut read = |address: u64| {
        if (sp..end).contains(&address) {
            // SAFETY: on this thread's stack.
            Ok(unsafe { (address as *const u64).read_volatile() })
        } else {
            Err(())
        }
    };
    let regs = UnwindRegsX86_64::new(ip, sp, bp);
    let mut frames = tools
        .unwinder
        .iter_frames(ip, regs, &mut tools.cache, &mut read);
    let mut count = 0;
    while let Ok(Some(frame)) = frames.next() {
        each(frame.address());
        count += 1;
    }
    count
}
