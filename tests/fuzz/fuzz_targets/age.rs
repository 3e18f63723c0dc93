//! An age file: its header is read or refused, whatever the pieces it comes in, and what is read is written again as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use litestream::age::decryptor::Decryptor;
use litestream::age::header::AgeHeader;
use litestream::age::identity::Identity;

fuzz_target!(|data: &[u8]| {
    let Some((piece, file)) = data.split_first() else { return };
    let identity: Identity =
        "AGE-SECRET-KEY-1EGTZVFFV20835NWYV6270LXYVK2VKNX2MMDKWYKLMGR48UAWX40Q2P2LM0".parse().expect("a key");
    let identities = [identity];
    let read = |piece: usize| {
        let (mut decryptor, mut plain) = (Decryptor::new(), Vec::new());
        let pushed = file.chunks(piece).try_for_each(|bytes| decryptor.push(bytes, &identities, &mut plain));
        (pushed.and_then(|()| decryptor.finish(&identities, &mut plain)), plain)
    };
    let (whole, plain) = read(file.len().max(1));
    let (again, in_pieces) = read(usize::from(*piece).max(1));
    assert_eq!(whole, again);
    assert_eq!(plain, in_pieces);
    if let Ok(Some((header, used))) = AgeHeader::parse(file) {
        assert!(used <= file.len() && header.recipients() <= header.stanzas().len());
    }
});
