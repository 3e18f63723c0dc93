use super::*;

#[test]
fn a_prefix_has_one_subject_from_wherever_it_is_seen() {
    let seen = |prefix: &str, name: &str| {
        LeaseSubjects { bucket: "b".into(), created: "2026".into(), prefix: prefix.into() }.below(name)
    };
    let expected = seen("", "a/b/c");
    assert!(expected.starts_with("litestream.alive.b."));
    for (prefix, name) in [("a", "b/c"), ("a/b", "c"), ("a/b/c", "")] {
        assert_eq!(seen(prefix, name), expected);
    }
    assert_ne!(seen("a/b", "cd"), expected);
    // Of version 0.1: an older replicator is asked there, too.
    assert_eq!(seen("p", ""), "litestream.alive.b.l3NrfsdQ1xBjdkfIxNmz0u");
}

#[test]
fn a_standby_is_heard_and_is_no_writer() {
    let heard: WriterInfo = serde_json::from_slice(STANDBY_LISTENS).unwrap();
    assert_eq!(heard, WriterInfo { listens: true, ..WriterInfo::default() });
    let question: WriterInfo = serde_json::from_slice(&WriterInfo::question("me")).unwrap();
    assert!(!question.listens);
    // A writer's answer stays what it was.
    assert!(!String::from_utf8(WriterInfo::question("me")).unwrap().contains("listens"));
}

#[test]
fn the_one_that_is_refused_learns_who_has_it_and_nothing_more() {
    let other = WriterInfo { host: "b\u{1b}ox".into(), pid: 7, db: "/a.db".into(), ..WriterInfo::default() };
    let error = lease_taken_error("nats://h:1/b", &other, QueryReason::Acquire);
    assert_eq!(error.kind(), Kind::Locked);
    assert_eq!(error.message(), "nats://h:1/b: is already replicated to by process 7 on box from /a.db");
    assert!(
        lease_taken_error("u", &other, QueryReason::Reconnect)
            .message()
            .contains("taken over while this process was disconnected")
    );
}
