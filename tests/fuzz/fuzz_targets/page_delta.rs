//! The steps of a page: read as one page or refused. What is read can be applied, written again and composed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use litestream::format::page_delta::{Form, PageDelta};

const PAGE: usize = 512;

fuzz_target!(|data: &[u8]| {
    let Some((form, rest)) = data.split_first() else { return };
    let form = [Form::Whole, Form::InPlace, Form::Moved][usize::payload_offset(*form) % 3];
    let (steps, literals) = rest.split_at(rest.len() / 3);
    let (mut more, mut left) = (steps, literals);
    let Ok(delta) = PageDelta::read(form, PAGE as u32, &mut more, &mut left) else { return };
    let mut page = [0; PAGE];
    delta.apply(&[1; PAGE], &mut page).expect("a function of one page");
    let twice = delta.then(&delta).expect("functions of pages of one size");
    let mut again = [0; PAGE];
    delta.apply(&page, &mut again).expect("the same function");
    let mut at_once = [0; PAGE];
    twice.apply(&[1; PAGE], &mut at_once).expect("both at once");
    assert_eq!(again, at_once);
    let (mut steps, mut literals) = (Vec::new(), Vec::new());
    let form = delta.write_output(&mut steps, &mut literals);
    let read = PageDelta::read(form, PAGE as u32, &mut steps.as_slice(), &mut literals.as_slice());
    assert_eq!(read.ok(), Some(delta));
});
