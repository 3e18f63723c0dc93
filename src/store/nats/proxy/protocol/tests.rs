use super::*;

/// What comes out when the input comes in pieces of `step` bytes: what is passed on, and the link's own lines.
fn run(speaker: Direction, input: &[u8], step: usize) -> Result<(String, Vec<String>)> {
    let (mut forward, mut lines) = (Vec::new(), Vec::new());
    let mut scanner = Parser::new(speaker);
    for piece in input.chunks(step) {
        scanner.scan(piece, &mut |event| {
            match event {
                Event::Forward(bytes) => forward.extend_from_slice(bytes),
                Event::Line(line) => lines.push(String::from_utf8_lossy(line).into_owned()),
                Event::Boundary => {}
            }
            Ok(())
        })?;
    }
    Ok((String::from_utf8_lossy(&forward).into_owned(), lines))
}

#[test]
fn however_it_is_cut_each_side_gets_its_own() {
    let client = b"PING\r\nSUB a.> 1\r\nPUB a r 6\r\nPING\r\n\r\nPONG\r\nHPUB b 2 4\r\nhhpp\r\nPUB _LINK.FLUSH 3\r\nxyz\r\nUNSUB 1\r\n";
    let server = b"INFO {}\r\nMSG a 1 4\r\n+OK\n\r\nPING\r\nHMSG a 1 r 2 3\r\nabc\r\n-ERR 'x'\r\n";
    for step in 1..40 {
        let (forward, lines) = run(Direction::Client, client, step).unwrap();
        assert_eq!(forward, "SUB a.> 1\r\nPUB a r 6\r\nPING\r\n\r\nHPUB b 2 4\r\nhhpp\r\nUNSUB 1\r\n");
        assert_eq!(lines, ["PING", "PONG"]);
        let (forward, lines) = run(Direction::Server, server, step).unwrap();
        assert_eq!(forward, "MSG a 1 4\r\n+OK\n\r\nMSG a 1 r 1\r\nc\r\n");
        assert_eq!(lines, ["INFO {}", "PING", "-ERR 'x'"]);
    }
}

/// What is passed on, with a `|` at each boundary, and after each piece one more if there is none but could be.
fn boundaries(speaker: Direction, input: &[u8], step: usize) -> String {
    let (mut out, mut scanner) = (Vec::new(), Parser::new(speaker));
    for piece in input.chunks(step) {
        let took = scanner.scan(piece, &mut |event| {
            match event {
                Event::Forward(bytes) => out.extend_from_slice(bytes),
                Event::Boundary => out.push(b'|'),
                Event::Line(_) => {}
            }
            Ok(())
        });
        took.unwrap();
        assert_eq!(scanner.is_between(), out.is_empty() || out.ends_with(b"|"), "{input:?} by {step}");
    }
    String::from_utf8(out).unwrap()
}

#[test]
fn boundaries_are_message_ends_however_the_bytes_are_split() {
    let client = b"PING\r\nSUB a.> 1\r\nPUB a r 6\r\nPING\r\n\r\nPUB _LINK.FLUSH 3\r\nxyz\r\nPUB b 0\r\n\r\nHPUB b 2 4\r\nhhpp\r\n";
    let server = b"INFO {}\r\nMSG a 1 4\r\n+OK\n\r\nPING\r\nHMSG a 1 r 12 13\r\nNATS/1.0 503c\r\nMSG a 1 0\r\n\r\n";
    for step in 1..60 {
        let expected = "SUB a.> 1\r\n|PUB a r 6\r\nPING\r\n\r\n|PUB b 0\r\n\r\n|HPUB b 2 4\r\nhhpp\r\n|";
        assert_eq!(boundaries(Direction::Client, client, step), expected);
        let expected = "MSG a 1 4\r\n+OK\n\r\n|HMSG a 1 r 16 17\r\nNATS/1.0 503\r\n\r\nc\r\n|MSG a 1 0\r\n\r\n|";
        assert_eq!(boundaries(Direction::Server, server, step), expected);
    }
}

#[test]
fn an_empty_payload_still_has_its_line_end() {
    let (forward, lines) = run(Direction::Server, b"MSG a 1 0\r\n\r\nPING\r\n", 7).unwrap();
    assert_eq!((forward.as_str(), lines.len()), ("MSG a 1 0\r\n\r\n", 1));
}

#[test]
fn an_info_of_a_large_cluster_never_reaches_the_crate() {
    let info = format!("INFO {{\"connect_urls\":[{}]}}\r\nMSG a 1 0\r\n\r\n", "\"n:4222\",".repeat(2000));
    for step in [1, 4096, 99_999] {
        let (forward, lines) = run(Direction::Server, info.as_bytes(), step).unwrap();
        assert_eq!((forward.as_str(), lines.len()), ("MSG a 1 0\r\n\r\n", 1));
    }
}

#[test]
fn parser_forwards_only_the_status_of_headers() {
    let message = |to: &[u8], header: &[u8]| {
        let sizes = format!(" {} {}\r\n", header.len(), header.len() + 2);
        [b"HMSG ", to, sizes.as_bytes(), header, b"ok\r\nPING\r\n"].concat()
    };
    let long = "x".repeat(4000);
    let table: [(&[u8], &[u8], &str); 9] = [
        (b"a 1", b"NATS/1.0\r\nA: b\r\n\r\n", "MSG a 1 2\r\nok\r\n"),
        (b"a 1 r", b"NATS/1.0\r\nA: \xff\xfe\r\n\r\n", "MSG a 1 r 2\r\nok\r\n"),
        (b"a 1", b"NATS/1.0 404 No \xff\r\nno colon\r\n\r\n", "HMSG a 1 16 18\r\nNATS/1.0 404\r\n\r\nok\r\n"),
        (b"a 1", b"NATS/1.0 4x4\r\n\r\n", "MSG a 1 2\r\nok\r\n"),
        (b"a 1", b"", "MSG a 1 2\r\nok\r\n"),
        (b"a 1", b"\xff", "MSG a 1 2\r\nok\r\n"),
        (b"\xff.\x0b 1 \xc2\xa0", b"?", "MSG _LINK.ODD 1 2\r\nok\r\n"),
        (b"\xe3\x80\x80\x00 1 r", b"?", "MSG _LINK.ODD 1 r 2\r\nok\r\n"),
        (&[long.as_bytes(), b" 1 r"].concat(), b"?", "MSG _LINK.ODD 1 r 2\r\nok\r\n"),
    ];
    for (to, header, expected) in table {
        for step in (1..20).chain([9999]) {
            let (forward, lines) = run(Direction::Server, &message(to, header), step).unwrap();
            assert_eq!((forward.as_str(), lines.len()), (expected, 1), "{header:?}");
        }
    }
    let odd = b"MSG a.\xff 7 r 2\r\nok\r\n";
    assert_eq!(run(Direction::Server, odd, 3).unwrap().0, "MSG _LINK.ODD 7 r 2\r\nok\r\n");
}

#[test]
fn what_is_no_message_ends_the_connection() {
    for garbled in
        ["MSG a 1 many\r\n", "MSG a 1\r\n", "HMSG a 1 9 3\r\n", "HMSG 1 2\r\n", "MSG\r\n", "MSG a b c d 1\r\n"]
    {
        assert!(run(Direction::Server, garbled.as_bytes(), 99).is_err(), "{garbled}");
    }
    let endless = vec![b'x'; MAX_INFO_BYTES + 2];
    assert!(run(Direction::Server, &endless, 65536).is_err());
}
