//! Finds the page function from one page to another: what stayed, what moved, and the bytes that are new.
//!
//! SQLite keeps cells in the order of their keys by an array of two-byte pointers, and moves the array's tail at each insert. A
//! copy from another place says that in three bytes; a comparison in place would store every pointer.

use super::page_delta::PageDelta;
use super::varint;

/// A run of equal bytes that is shorter costs more as a step than as literals.
const MIN_IN_PLACE: usize = 5;
/// The bytes that a place is known by.
const KEY_BYTES: usize = 6;
/// If a comparison in place leaves fewer literals than this, moved bytes are not looked for.
const MIN_LITERALS: usize = 16;
const HASH_BITS: u32 = 13;
/// No place in the page.
const NONE: u32 = u32::MAX;

/// Buffers of the search, kept from page to page.
pub struct PageDiffer {
    /// By hash of [`KEY_BYTES`]: the last place of the old page that has it.
    places: Vec<u32>,
    in_place: PageDelta,
    moved: PageDelta,
}

impl Default for PageDiffer {
    fn default() -> PageDiffer {
        PageDiffer { places: vec![NONE; 1 << HASH_BITS], in_place: PageDelta::default(), moved: PageDelta::default() }
    }
}

impl PageDiffer {
    /// The function from `old` to `new`, which are pages of one size.
    pub fn diff(&mut self, old: &[u8], new: &[u8]) -> &PageDelta {
        debug_assert_eq!(old.len(), new.len());
        if compare_in_place(old, new, MIN_LITERALS - 1, &mut self.in_place) {
            return &self.in_place;
        }
        self.index(old);
        self.moved.clear();
        compare_moved(old, new, &self.places, &mut self.moved);
        let moved = cost(&self.moved);
        // A page of which much has moved differs in most places: that need not be known to the end.
        let whole = compare_in_place(old, new, moved, &mut self.in_place);
        if !whole || moved < cost(&self.in_place) { &self.moved } else { &self.in_place }
    }

    fn index(&mut self, old: &[u8]) {
        self.places.fill(NONE);
        for at in 0..(old.len() + 1).saturating_sub(KEY_BYTES) {
            if let Some(place) = self.places.get_mut(hash(&old[at..])) {
                *place = at as u32;
            }
        }
    }
}

/// Bytes that the function takes, roughly: literals are deflated, and so are steps.
fn cost(delta: &PageDelta) -> usize {
    delta.literal_len() + delta.step_bytes()
}

/// The first eight bytes, or what there is before zeros. The first byte is the lowest.
#[inline(always)]
fn word(bytes: &[u8]) -> u64 {
    if let Some(word) = bytes.first_chunk() {
        return u64::from_le_bytes(*word);
    }
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// By the first [`KEY_BYTES`].
#[inline(always)]
fn hash(bytes: &[u8]) -> usize {
    let key = word(bytes) << (64 - 8 * KEY_BYTES);
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - HASH_BITS)) as usize
}

/// How many bytes are equal from the beginnings on. It is called for nearly each byte of a page that differs, so it goes word
/// by word, and without iterators: those are function calls where the compiler optimises for size.
#[inline(always)]
fn common(one: &[u8], other: &[u8]) -> usize {
    let len = one.len().min(other.len());
    let mut at = 0;
    while at < len {
        let differ = word(&one[at..]) ^ word(&other[at..]);
        if differ != 0 {
            return len.min(at + differ.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    len
}

/// False if there are more literals than `most`; then what is in `out` is of no use.
fn compare_in_place(old: &[u8], new: &[u8], most: usize, out: &mut PageDelta) -> bool {
    out.clear();
    let (mut at, mut literal) = (0, 0);
    while at < new.len() {
        let run = common(&old[at..], &new[at..]);
        let worth = run >= MIN_IN_PLACE || at + run == new.len() && literal == at;
        if worth {
            out.literal(&new[literal..at]);
            out.copy(at as u32, run as u32);
            literal = at + run;
        }
        at += run.max(1);
        if out.literal_len() + (at - literal) > most {
            return false;
        }
    }
    out.literal(&new[literal..]);
    true
}

/// At each place: what stands in the old page at the same place, then as far away as the last copy came from, then
/// wherever its first bytes stand.
fn compare_moved(old: &[u8], new: &[u8], places: &[u32], out: &mut PageDelta) {
    let (mut at, mut literal, mut shift) = (0usize, 0usize, 0i64);
    while at < new.len() {
        match find(old, new, at, shift, places) {
            Some((from, len)) => {
                let back = backwards(old, new, from, at, literal);
                let (from, begin, len) = (from - back, at - back, len + back);
                out.literal(&new[literal..begin]);
                out.copy(from as u32, len as u32);
                shift = from as i64 - begin as i64;
                at = begin + len;
                literal = at;
            }
            None => at += 1,
        }
    }
    out.literal(&new[literal..]);
}

/// The best copy that begins at `at`, if any is worth its step: from where, and how long.
fn find(old: &[u8], new: &[u8], at: usize, shift: i64, places: &[u32]) -> Option<(usize, usize)> {
    let rest = &new[at..];
    let matched = |from: usize| common(&old[from..], rest);
    let mut best = (at, matched(at));
    let mut consider = |from: usize, margin: usize| {
        let len = matched(from);
        if len > best.1 + margin {
            best = (from, len);
        }
    };
    if let Some(from) = usize::try_from(at as i64 + shift).ok().filter(|from| *from < old.len() && *from != at) {
        consider(from, 0);
    }
    if rest.len() >= KEY_BYTES {
        let place = places.get(hash(rest)).copied().unwrap_or(NONE);
        if place != NONE {
            consider(place as usize, 2);
        }
    }
    let (from, len) = best;
    let least =
        MIN_IN_PLACE.max(1 + varint::len(varint::zigzag((from as i64 - at as i64) as i32)) + varint::len(len as u32));
    (len >= least).then_some(best)
}

/// By how many bytes a copy can begin earlier.
fn backwards(old: &[u8], new: &[u8], from: usize, at: usize, literal: usize) -> usize {
    let old = old[..from].iter().rev();
    let new = new[literal..at].iter().rev();
    old.zip(new).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::format::fixtures::Random;
    use crate::format::page_delta::Form;

    fn noise(random: &mut Random, len: usize) -> Vec<u8> {
        (0..len).map(|_| random.below(256) as u8).collect()
    }

    /// A page like the one before, but for changes of the kinds that SQLite makes.
    fn changed(random: &mut Random, page: &[u8]) -> Vec<u8> {
        let mut new = page.to_vec();
        for _ in 0..random.below(6) {
            let len = random.below(60) as usize % new.len();
            let at = random.below((new.len() - len) as u64) as usize;
            match random.below(4) {
                0 => new[at..at + len].iter_mut().for_each(|byte| *byte = 0),
                1 => {
                    let to = random.below((new.len() - len) as u64) as usize;
                    new.copy_within(at..at + len, to);
                }
                2 => {
                    let bytes = noise(random, len);
                    new[at..at + len].copy_from_slice(&bytes);
                }
                _ => {
                    new.copy_within(at..page.len() - len, at + len);
                }
            }
        }
        new
    }

    fn pages(random: &mut Random, count: usize) -> Vec<Vec<u8>> {
        let size = [512, 1024, 4096, 65_536][random.below(4) as usize];
        let mut pages = vec![if random.below(4) == 0 { vec![0; size] } else { noise(random, size) }];
        while pages.len() < count {
            let next = match random.below(10) {
                0 => noise(random, size),
                1 => vec![0; size],
                2 => pages[0].clone(),
                _ => changed(random, &pages[pages.len() - 1]),
            };
            pages.push(next);
        }
        pages
    }

    fn applied(delta: &PageDelta, old: &[u8]) -> Vec<u8> {
        let mut new = vec![0xaa; old.len()];
        delta.apply(old, &mut new).unwrap();
        new
    }

    fn read_back(delta: &PageDelta) -> PageDelta {
        let (mut steps, mut literals) = (Vec::new(), Vec::new());
        let form = delta.write(&mut steps, &mut literals);
        assert_eq!(delta.step_bytes(), steps.len());
        steps.push(77);
        literals.push(88);
        let (mut more_steps, mut more_literals) = (steps.as_slice(), literals.as_slice());
        let read = PageDelta::read(form, delta.page_size(), &mut more_steps, &mut more_literals).unwrap();
        assert_eq!((more_steps, more_literals), (&[77][..], &[88][..]));
        read
    }

    #[test]
    fn a_delta_of_any_two_pages_gives_the_new_one_and_is_read_back() {
        let mut differ = PageDiffer::default();
        for seed in 0..300 {
            let mut random = Random(seed);
            let pages = pages(&mut random, 2);
            let delta = differ.diff(&pages[0], &pages[1]).clone();
            assert_eq!(applied(&delta, &pages[0]), pages[1], "{seed}");
            assert_eq!(read_back(&delta), delta, "{seed}");
        }
    }

    #[test]
    fn composition_equals_applying_in_turn_and_is_associative() {
        let mut differ = PageDiffer::default();
        for seed in 0..150 {
            let pages = pages(&mut Random(seed), 4);
            let mut step = |n: usize| differ.diff(&pages[n], &pages[n + 1]).clone();
            let (a, b, c) = (step(0), step(1), step(2));
            let left = a.then(&b).unwrap().then(&c).unwrap();
            let right = a.then(&b.then(&c).unwrap()).unwrap();
            assert_eq!(left, right, "{seed}");
            assert_eq!(applied(&left, &pages[0]), pages[3], "{seed}");
            assert_eq!(read_back(&left), left, "{seed}");
        }
    }

    #[test]
    fn whole_page_ignores_the_old_one_and_identity_keeps_it() {
        let pages = pages(&mut Random(5), 3);
        let size = pages[0].len() as u32;
        let delta = PageDiffer::default().diff(&pages[0], &pages[1]).clone();
        let whole = PageDelta::whole(&pages[2]);
        assert_eq!(delta.then(&whole).unwrap(), whole);
        assert_eq!(PageDelta::whole(&pages[0]).then(&delta).unwrap(), PageDelta::whole(&pages[1]));
        assert_eq!(PageDelta::identity(size).then(&delta).unwrap(), delta);
        assert_eq!(delta.then(&PageDelta::identity(size)).unwrap(), delta);
        assert!(whole.is_whole() && whole.form() == Form::Whole && !PageDelta::identity(size).is_whole());
    }

    #[test]
    fn a_shifted_array_costs_a_few_bytes() {
        let old = noise(&mut Random(1), 4096);
        let mut new = old.clone();
        new.copy_within(100..300, 102);
        new[100..102].copy_from_slice(&[1, 2]);
        let mut differ = PageDiffer::default();
        let delta = differ.diff(&old, &new);
        assert_eq!(delta.form(), Form::Moved);
        assert!(cost(delta) < 24, "{} bytes: {delta:?}", cost(delta));
    }

    #[test]
    fn equal_pages_are_one_step() {
        let page = noise(&mut Random(2), 1024);
        assert_eq!(PageDiffer::default().diff(&page, &page), &PageDelta::identity(1024));
    }

    #[test]
    fn steps_that_do_not_make_a_page_are_refused() {
        let read = |form, steps: &[u8], literals: &[u8]| {
            PageDelta::read(form, 512, &mut &*steps, &mut &*literals).map_err(|error| error.kind())
        };
        let whole = [7; 512];
        assert!(read(Form::Whole, &[], &whole).is_ok());
        let mut far = Vec::new();
        varint::write(u32::MAX, &mut far);
        let table: [(Form, &[u8], &[u8]); 9] = [
            (Form::Whole, &[], &whole[1..]),
            (Form::InPlace, &[], &whole),
            (Form::InPlace, &[0, 0], &whole),
            (Form::InPlace, &[1, 0], &whole),
            (Form::InPlace, &far, &whole),
            (Form::Moved, &[0, 1, 5], &whole),
            (Form::Moved, &[0, 0, 0], &whole),
            (Form::Moved, &[0, 0xfe, 7, 100], &whole),
            (Form::Moved, &far, &whole),
        ];
        for (form, steps, literals) in table {
            assert_eq!(read(form, steps, literals), Err(Kind::Corrupt), "{form:?} {steps:?}");
        }
        let delta = PageDelta::identity(512);
        assert_eq!(delta.apply(&[0; 1024], &mut [0; 1024]).unwrap_err().kind(), Kind::Corrupt);
        assert_eq!(delta.then(&PageDelta::identity(1024)).unwrap_err().kind(), Kind::Corrupt);
    }

    #[test]
    fn random_steps_are_read_as_a_page_or_refused() {
        for seed in 0..20_000 {
            let mut random = Random(seed);
            let form = [Form::Whole, Form::InPlace, Form::Moved][random.below(3) as usize];
            let (steps, literals) = (random.below(40) as usize, random.below(600) as usize);
            let (steps, literals) = (noise(&mut random, steps), noise(&mut random, literals));
            if let Ok(delta) = PageDelta::read(form, 512, &mut steps.as_slice(), &mut literals.as_slice()) {
                assert_eq!(delta.page_size(), 512);
                applied(&delta, &[0; 512]);
            }
        }
    }
}
