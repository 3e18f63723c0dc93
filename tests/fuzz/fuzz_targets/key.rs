//! FieldNames of objects, positions and moments.
#![no_main]

use libfuzzer_sys::fuzz_target;
use litestream::format::key::Key;
use litestream::format::position::Position;
use litestream::format::time::Timestamp;

fuzz_target!(|text: &str| {
    if let Some(key) = Key::parse(text) {
        assert_eq!(key.to_string(), text, "a name has one spelling");
    }
    if let Ok(position) = text.parse::<Position>() {
        assert_eq!(position.to_string().parse::<Position>().expect("our own text"), position);
    }
    let _ = (Timestamp::parse(text), Timestamp::from_key(text));
});
