//! Where the walk begins.

use core::arch::asm;

/// The three registers that a walk needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registers {
    /// Where the code is; one past it, as a return address would be.
    pub(crate) ip: u64,
    /// The stack pointer there.
    pub(crate) sp: u64,
    /// The frame pointer there, or whatever else the code keeps in `rbp`.
    pub(crate) bp: u64,
}

impl Registers {
    /// The registers of the function that this is inlined into.
    ///
    /// They describe its frame for as long as it runs.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "it must read the caller's registers")]
    pub(crate) fn here() -> Self {
        let (ip, sp, bp);
        // SAFETY: three register reads; nothing is written but the three outputs, no memory and
        // no flags are touched. The asm is one unit, so the three values belong together.
        unsafe {
            asm!(
                "lea {ip}, [rip]",
                "mov {sp}, rsp",
                "mov {bp}, rbp",
                ip = out(reg) ip,
                sp = out(reg) sp,
                bp = out(reg) bp,
                options(nomem, nostack, preserves_flags),
            );
        }
        // `lea` gives the address after itself, which is inside this function with the same stack.
        Self { ip, sp, bp }
    }
}
