use super::*;

fn config(change: impl Fn(&mut StreamConfig)) -> Result<Vec<String>> {
    let names = ObjectNames::new("b", "");
    let mut config: StreamConfig = serde_json::from_value(stream_config(&names, 1)).unwrap();
    change(&mut config);
    let kind = bucket_kind("b", &config)?;
    check_settings(&names, &config, &kind, Some(Duration::from_secs(86_400)))
}

#[test]
fn the_copy_of_a_bucket_is_read_in_the_subjects_of_its_origin() {
    let kind = |config: Value| bucket_kind("mir", &serde_json::from_value(config).unwrap());
    let copy_of = |name: &str| BucketKind::CopyOf(name.to_string());
    assert_eq!(kind(json!({ "mirror": { "name": "OBJ_b" } })).unwrap(), copy_of("b"));
    assert_eq!(kind(json!({ "sources": [{ "name": "OBJ_b" }], "subjects": [] })).unwrap(), copy_of("b"));
    let moved = json!([{ "src": "$O.b.>", "dest": "$O.mir.>" }]);
    let moved = json!({ "mirror": { "name": "OBJ_b", "subject_transforms": moved } });
    assert_eq!(kind(moved).unwrap(), copy_of("mir"));
    let own = json!({ "subjects": ["$O.mir.C.>", "$O.mir.M.>"], "sources": [{ "name": "OBJ_b" }] });
    assert_eq!(kind(own).unwrap(), BucketKind::Own);
    for (config, expected) in [
        (json!({ "mirror": { "name": "KV_b" } }), "found that of the stream KV_b"),
        (json!({ "sources": [{ "name": "OBJ_a" }, { "name": "OBJ_b" }] }), "found one of 2 streams"),
        (json!({ "subjects": ["x"], "sources": [{ "name": "OBJ_a" }] }), "found another stream"),
        (json!({}), "found another stream"),
    ] {
        let error = kind(config).unwrap_err();
        assert!(error.message().contains(expected), "{error}");
    }
    let error = config(|c| {
        (c.subjects, c.mirror) = (vec![], Some(StreamSource { name: "OBJ_a".into(), ..StreamSource::default() }))
    });
    assert!(error.unwrap_err().message().starts_with("it is a copy of the bucket a"));
}

#[test]
fn a_bucket_that_we_make_is_one_that_we_accept() {
    assert!(config(|_| {}).unwrap().is_empty());
}

#[test]
fn unsuitable_bucket_is_refused_or_warned_about() {
    assert!(config(|c| c.allow_rollup_hdrs = false).unwrap()[0].contains("roll-ups"));
    assert!(config(|c| c.subjects = vec!["x".into()]).is_err());
    assert!(config(|c| c.sealed = true).unwrap()[0].contains("sealed"));
    let limit = |change: &dyn Fn(&mut StreamConfig)| config(change).unwrap_err().message().to_string();
    assert!(limit(&|c| c.max_age = 7_200_000_000_000).ends_with("max_age 2h"));
    assert!(limit(&|c| c.max_age = 15_000_000_000).ends_with("max_age 15s"));
    assert!(config(|c| c.max_age = 90_000_000_000_000_000).unwrap()[0].ends_with("max_age 25000h"));
    assert!(limit(&|c| (c.max_bytes, c.discard) = (7, "old".into())).ends_with("discard old with max_bytes 7"));
    assert!(config(|c| c.deny_purge = true).unwrap()[0].contains("purges"));
    assert!(limit(&|c| (c.max_msgs, c.discard) = (9, "old".into())).ends_with("discard old with max_msgs 9"));
    assert!(config(|c| (c.max_msgs, c.max_bytes) = (9, 9)).unwrap().is_empty(), "it refuses what is too much");
    assert!(config(|c| c.storage = "memory".into()).unwrap()[0].contains("in memory"));
    assert!(config(|c| c.retention = "workqueue".into()).unwrap_err().message().contains("found \"workqueue\""));
    let refused = config(|c| c.max_msgs_per_subject = 1).unwrap_err();
    assert_eq!(refused.message(), "expected max_msgs_per_subject -1, found 1");
    assert!(refused.hint().is_some_and(|hint| hint.contains("nats stream edit OBJ_b")));
    assert!(config(|c| c.max_msgs_per_subject = 0).is_ok());
    assert!(config(|c| c.max_msg_size = 4096).is_ok() && config(|c| c.max_msg_size = 0).is_ok());
    let refused = config(|c| c.max_msg_size = 4095).unwrap_err();
    assert_eq!(refused.message(), "expected max_msg_size of at least 4096, found 4095");
}
