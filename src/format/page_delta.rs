//! A page as a function of the page before it: copies from the old page, and literal bytes.
//!
//! Two invariants hold for every [`PageDelta`]: its steps make exactly one page, and none of them copies from beyond the old
//! one. Steps that continue each other are one step, so that equal functions of the bytes are equal values.
//!
//! Functions compose without any page: what the second one copies, the first one had copied or brought along. So a stretch
//! of history can be thinned to one step by a program that has nothing but its deltas.

use crate::error::{Error, Kind, Result};
use crate::format::varint;

/// How the steps of a page are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// The new page, whole: no steps at all.
    Whole,
    /// Pairs: how many bytes stay as they are where they are, how many literal bytes follow.
    InPlace,
    /// Triples: how many literal bytes, then from where a copy comes, against its place, and its length.
    Moved,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum DeltaStep {
    /// `len` bytes of the old page from byte `from` on.
    Copy { from: u32, len: u32 },
    /// The next `len` literal bytes.
    Literal { len: u32 },
}

impl DeltaStep {
    fn len(self) -> u32 {
        match self {
            DeltaStep::Copy { len, .. } | DeltaStep::Literal { len } => len,
        }
    }
}

/// A page function.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PageDelta {
    steps: Vec<DeltaStep>,
    literals: Vec<u8>,
    /// Bytes of the new page that the steps make so far.
    len: u32,
}

impl PageDelta {
    /// The function that gives `page`, whatever was there before.
    pub fn whole(page: &[u8]) -> PageDelta {
        let mut delta = PageDelta::default();
        delta.literal(page);
        delta
    }

    /// The function that changes nothing.
    pub fn identity(page_size: u32) -> PageDelta {
        let mut delta = PageDelta::default();
        delta.copy(0, page_size);
        delta
    }

    /// Whether the old page does not matter.
    pub fn is_whole(&self) -> bool {
        self.steps.iter().all(|step| matches!(step, DeltaStep::Literal { .. }))
    }

    /// Bytes of the page that it makes.
    pub fn page_size(&self) -> u32 {
        self.len
    }

    /// Literal bytes.
    pub fn literal_len(&self) -> usize {
        self.literals.len()
    }

    /// Bytes of memory that it takes beyond its own size.
    pub(super) fn memory(&self) -> usize {
        self.literals.capacity() + self.steps.capacity() * size_of::<DeltaStep>()
    }

    pub(super) fn clear(&mut self) {
        self.steps.clear();
        self.literals.clear();
        self.len = 0;
    }

    pub(super) fn literal(&mut self, bytes: &[u8]) {
        let len = bytes.len() as u32;
        if len == 0 {
            return;
        }
        self.literals.extend_from_slice(bytes);
        self.len += len;
        match self.steps.last_mut() {
            Some(DeltaStep::Literal { len: last }) => *last += len,
            _ => self.steps.push(DeltaStep::Literal { len }),
        }
    }

    pub(super) fn copy(&mut self, from: u32, len: u32) {
        if len == 0 {
            return;
        }
        self.len += len;
        match self.steps.last_mut() {
            Some(DeltaStep::Copy { from: start, len: last }) if *start + *last == from => *last += len,
            _ => self.steps.push(DeltaStep::Copy { from, len }),
        }
    }

    /// Writes the new page into `new`, from the old one.
    ///
    /// Errors: [`Kind::Corrupt`] unless both have the size of a page that this function is for.
    pub fn apply(&self, old: &[u8], new: &mut [u8]) -> Result<()> {
        if old.len() != self.len as usize || new.len() != self.len as usize {
            return Err(corrupt(format!("a delta of a page of {} bytes, for one of {}", self.len, old.len())));
        }
        let (mut literals, mut place) = (self.literals.as_slice(), new);
        for step in &self.steps {
            let (target, rest) = place.split_at_mut(step.len() as usize);
            match step {
                DeltaStep::Copy { from, len } => target.copy_from_slice(&old[*from as usize..(*from + *len) as usize]),
                DeltaStep::Literal { len } => {
                    let (bytes, more) = literals.split_at(*len as usize);
                    target.copy_from_slice(bytes);
                    literals = more;
                }
            }
            place = rest;
        }
        Ok(())
    }

    /// The function that does what `self` does, and then what `next` does.
    ///
    /// Errors: [`Kind::Corrupt`] if they are for pages of different sizes.
    pub fn then(&self, next: &PageDelta) -> Result<PageDelta> {
        if self.len != next.len {
            return Err(corrupt(format!("deltas of pages of {} and {} bytes", self.len, next.len)));
        }
        let pieces = StepsFrom::of(self);
        let mut both = PageDelta::default();
        let mut literals = next.literals.as_slice();
        for step in &next.steps {
            match step {
                DeltaStep::Copy { from, len } => pieces.copy(*from, *len, &mut both),
                DeltaStep::Literal { len } => {
                    let (bytes, rest) = literals.split_at(*len as usize);
                    both.literal(bytes);
                    literals = rest;
                }
            }
        }
        Ok(both)
    }

    /// Appends the steps to `steps` and the literal bytes to `literals`, in the form that is returned.
    pub fn write(&self, steps: &mut Vec<u8>, literals: &mut Vec<u8>) -> Form {
        literals.extend_from_slice(&self.literals);
        let form = self.form();
        match form {
            Form::Whole => {}
            Form::InPlace => self.write_in_place(steps),
            Form::Moved => self.write_moved(steps),
        }
        form
    }

    /// The form that [`PageDelta::write`] takes.
    pub fn form(&self) -> Form {
        if self.is_whole() {
            return Form::Whole;
        }
        let mut at = 0;
        for step in &self.steps {
            if matches!(step, DeltaStep::Copy { from, .. } if *from != at) {
                return Form::Moved;
            }
            at += step.len();
        }
        Form::InPlace
    }

    /// Bytes of the steps as they are written.
    pub(super) fn step_bytes(&self) -> usize {
        match self.form() {
            Form::Whole => 0,
            Form::InPlace => {
                let first = usize::from(matches!(self.steps.first(), Some(DeltaStep::Literal { .. })));
                first + self.steps.iter().map(|step| varint::len(step.len())).sum::<usize>()
            }
            Form::Moved => self.moved_bytes(),
        }
    }

    fn moved_bytes(&self) -> usize {
        let (mut at, mut bytes, mut after_copy) = (0u32, 0, true);
        for step in &self.steps {
            bytes += match step {
                DeltaStep::Literal { len } => varint::len(*len),
                // Without literals before it there are none to be told.
                DeltaStep::Copy { from, len } => {
                    let shift = varint::zigzag(from.wrapping_sub(at) as i32);
                    usize::from(after_copy) + varint::len(shift) + varint::len(*len)
                }
            };
            after_copy = matches!(step, DeltaStep::Copy { .. });
            at += step.len();
        }
        bytes
    }

    fn write_in_place(&self, out: &mut Vec<u8>) {
        if matches!(self.steps.first(), Some(DeltaStep::Literal { .. })) {
            varint::write(0, out);
        }
        self.steps.iter().for_each(|step| varint::write(step.len(), out));
    }

    fn write_moved(&self, out: &mut Vec<u8>) {
        let (mut at, mut literal) = (0u32, 0);
        for step in &self.steps {
            match step {
                DeltaStep::Literal { len } => literal = *len,
                DeltaStep::Copy { from, len } => {
                    varint::write(literal, out);
                    varint::write(varint::zigzag(from.wrapping_sub(at) as i32), out);
                    varint::write(*len, out);
                    literal = 0;
                }
            }
            at += step.len();
        }
        if literal > 0 {
            varint::write(literal, out);
        }
    }

    /// Takes a function off the fronts of `steps` and `literals`.
    ///
    /// Errors: [`Kind::Corrupt`] for anything that does not make exactly one page of `page_size` bytes out of another.
    /// Nothing is allocated by a length that was not checked.
    pub fn read(form: Form, page_size: u32, steps: &mut &[u8], literals: &mut &[u8]) -> Result<PageDelta> {
        let mut reader = DeltaReader { delta: PageDelta::default(), page_size, literals };
        match form {
            Form::Whole => reader.literal(page_size)?,
            Form::InPlace => reader.in_place(steps)?,
            Form::Moved => reader.moved(steps)?,
        }
        Ok(reader.delta)
    }
}

/// The steps of a function, each with the byte of the new page at which it begins.
struct StepsFrom<'a> {
    delta: &'a PageDelta,
    /// By step: where it begins in the page, and its literals in `literals`.
    starts: Vec<(u32, u32)>,
}

impl StepsFrom<'_> {
    fn of(delta: &PageDelta) -> StepsFrom<'_> {
        let (mut at, mut literal) = (0, 0);
        let starts = delta.steps.iter().map(|step| {
            let start = (at, literal);
            at += step.len();
            literal += if let DeltaStep::Literal { len } = step { *len } else { 0 };
            start
        });
        StepsFrom { delta, starts: starts.collect() }
    }

    /// Appends what makes bytes `from` to `from + len` of the page.
    fn copy(&self, from: u32, len: u32, out: &mut PageDelta) {
        let end = from + len;
        let first = self.starts.partition_point(|(start, _)| *start <= from).saturating_sub(1);
        for (step, (start, literal)) in self.delta.steps.iter().zip(&self.starts).skip(first) {
            let (begin, stop) = (from.max(*start), end.min(start + step.len()));
            if begin >= stop {
                return;
            }
            match step {
                DeltaStep::Copy { from, .. } => out.copy(from + (begin - start), stop - begin),
                DeltaStep::Literal { .. } => {
                    let at = (literal + (begin - start)) as usize;
                    out.literal(&self.delta.literals[at..at + (stop - begin) as usize]);
                }
            }
        }
    }
}

/// A function that is being read. Every length is checked against what is left of the page.
struct DeltaReader<'a, 'b> {
    delta: PageDelta,
    page_size: u32,
    literals: &'a mut &'b [u8],
}

impl DeltaReader<'_, '_> {
    fn left(&self) -> u32 {
        self.page_size - self.delta.len
    }

    fn check(&self, len: u32) -> Result<()> {
        if len > self.left() {
            return Err(corrupt(format!("expected at most {} more bytes of the page, found {len}", self.left())));
        }
        Ok(())
    }

    fn literal(&mut self, len: u32) -> Result<()> {
        self.check(len)?;
        let (bytes, rest) = self
            .literals
            .split_at_checked(len as usize)
            .ok_or_else(|| corrupt(format!("expected {len} literal bytes, found {}", self.literals.len())))?;
        self.delta.literal(bytes);
        *self.literals = rest;
        Ok(())
    }

    fn copy(&mut self, from: u32, len: u32) -> Result<()> {
        self.check(len)?;
        if from.checked_add(len).is_none_or(|end| end > self.page_size) {
            return Err(corrupt(format!("a copy of {len} bytes from {from} leaves the page")));
        }
        self.delta.copy(from, len);
        Ok(())
    }

    fn in_place(&mut self, steps: &mut &[u8]) -> Result<()> {
        let mut copies = true;
        while self.left() > 0 {
            let len = varint::read(steps)?;
            if len == 0 && (!copies || self.delta.len > 0) {
                return Err(corrupt("a step of no bytes".to_string()));
            }
            match copies {
                true => self.copy(self.delta.len, len)?,
                false => self.literal(len)?,
            }
            copies = !copies;
        }
        Ok(())
    }

    fn moved(&mut self, steps: &mut &[u8]) -> Result<()> {
        while self.left() > 0 {
            self.literal(varint::read(steps)?)?;
            if self.left() == 0 {
                break;
            }
            let shift = i64::from(varint::unzigzag(varint::read(steps)?));
            let from = u32::try_from(i64::from(self.delta.len) + shift);
            let len = varint::read(steps)?;
            if len == 0 {
                return Err(corrupt("a copy of no bytes".to_string()));
            }
            self.copy(from.map_err(|_| corrupt(format!("a copy from {shift} bytes away leaves the page")))?, len)?;
        }
        Ok(())
    }
}

fn corrupt(what: String) -> Error {
    Error::new(Kind::Corrupt, what)
}
