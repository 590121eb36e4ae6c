//! Folded stacks, one on a line, as flame-graph programs read them.

use std::collections::HashMap;
use std::io::{self, Write};

use crate::export::hand_over;
use crate::export::sites::Sites;
use crate::profile::{HeapProfile, Value};

impl HeapProfile {
    /// Writes folded stacks: on each line the functions of a stack from the
    /// outermost to the innermost, with `;` between, a space, and the value.
    ///
    /// `flamegraph.pl`, whose own comments describe the format, speedscope and many
    /// others draw them. Names are looked up if [`symbolize`](Self::symbolize) has
    /// not. Stacks with the same functions are one line with the sum, zeros are left
    /// out, and lines are in the order of the names. A `;` inside of a name becomes
    /// `,`, and a line break a space.
    ///
    /// # Errors
    ///
    /// What `w` answers.
    ///
    /// ```
    /// # fn main() -> std::io::Result<()> {
    /// use heapledger::profile::Value;
    ///
    /// # use heapledger::profile::{Amount, Frame, Mode, Names, Origin, StackProfile};
    /// # let frame = |name| vec![Frame::synthetic(name, None, None, Origin::User, false)];
    /// # let names = Names::new([(1, frame("app::insert")), (2, frame("app::main"))].into());
    /// # let mut profile = heapledger::__private::profile::empty(Mode::EveryAllocation, Some(names));
    /// # let mut stack = StackProfile::default();
    /// # (stack.addresses, stack.live) = (vec![1, 2], Amount::exact(3, 300));
    /// # profile.stacks.push(stack);
    /// let mut lines = Vec::new();
    /// profile.write_folded(&mut lines, Value::LiveBytes)?;
    /// assert_eq!(lines, b"app::main;app::insert 300\n");
    /// # Ok(())
    /// # }
    /// ```
    pub fn write_folded<W: Write>(&self, w: W, value: Value) -> io::Result<()> {
        hand_over(w, || Lines::new(self, value).lay_out())
    }
}

struct Lines {
    /// Every name once, sorted.
    names: Vec<String>,
    /// Places in `names`, outermost first, and the value; sorted.
    stacks: Vec<(Vec<usize>, u64)>,
}

impl Lines {
    fn new(profile: &HeapProfile, value: Value) -> Self {
        let sites = Sites::new(profile);
        let each: Vec<String> = sites.frames.iter().map(|f| one_name(f.name())).collect();
        let mut names = each.clone();
        names.sort_unstable();
        names.dedup();
        let places: Vec<usize> = each
            .iter()
            .map(|name| names.binary_search(name).unwrap_or(0))
            .collect();

        let mut sums: HashMap<Vec<usize>, u64> = HashMap::new();
        for site in &sites.list {
            let value = value.among(&site.live, &site.peak, &site.total);
            if value == 0 {
                continue;
            }
            let place = |&id: &u32| places.get(usize::try_from(id).ok()?).copied();
            let stack = site.stack.iter().rev().filter_map(place).collect();
            let sum = sums.entry(stack).or_insert(0);
            *sum = sum.saturating_add(value);
        }
        let mut stacks: Vec<_> = sums.into_iter().collect();
        stacks.sort_unstable();
        Self { names, stacks }
    }

    fn lay_out(&self) -> io::Result<Vec<u8>> {
        let mut w = Vec::new();
        for (stack, value) in &self.stacks {
            for (depth, &name) in stack.iter().enumerate() {
                if depth > 0 {
                    w.write_all(b";")?;
                }
                let name = self.names.get(name).map_or("", String::as_str);
                w.write_all(name.as_bytes())?;
            }
            writeln!(w, " {value}")?;
        }
        Ok(w)
    }
}

/// The name without what would end it.
fn one_name(name: &str) -> String {
    name.chars()
        .map(|c| match c {
            ';' => ',',
            c if c.is_control() || c == '\u{2028}' || c == '\u{2029}' => ' ',
            c => c,
        })
        .collect()
}
