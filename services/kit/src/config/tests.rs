//! Specifications of the configuration: what wins, and what each mistake is answered with.

use super::*;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde::Deserialize;

const DEFAULTS: &str = "\
logging:
  level: INFO          # how much is said
  max_file_size_mb: 100
leases:
  timeout: 10s
  shares: [1, 2]
name: standard
port: 7001
nothing: null
";

#[derive(Debug, Deserialize, PartialEq)]
struct Example {
    logging: Section,
    leases: Leases,
    name: String,
    port: u16,
    nothing: Option<String>,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Section {
    level: String,
    max_file_size_mb: u64,
}

#[derive(Debug, Deserialize, PartialEq)]
struct Leases {
    timeout: HumaneDuration,
    shares: Vec<u32>,
}

/// Loads the example with one file of this content over its defaults.
fn load_with(file: &str) -> Result<Example, String> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("example.yaml");
    std::fs::write(&path, file).expect("written");
    let sources = Sources {
        defaults: DEFAULTS,
        files: vec![path],
        ..Sources::default()
    };
    let prefix = format!("{}/", directory.path().display());
    load(&sources)
        .map(|loaded| loaded.value)
        .map_err(|error| error.to_string().replace(&prefix, ""))
}

#[test]
fn the_defaults_alone_are_a_configuration() {
    let loaded: Loaded<Example> = load(&Sources {
        defaults: DEFAULTS,
        ..Sources::default()
    })
    .expect("valid");
    assert_eq!(*loaded.value.leases.timeout, Duration::from_secs(10));
    assert_eq!(loaded.value.nothing, None);
}

#[test]
fn a_file_lies_over_the_defaults_key_by_key_and_lists_replace() {
    let example = load_with("logging: {level: DEBUG}\nleases: {shares: [9]}\n").expect("valid");
    assert_eq!(example.logging.level, "DEBUG");
    assert_eq!(example.logging.max_file_size_mb, 100);
    assert_eq!(example.leases.shares, [9]);
}

#[test]
fn an_empty_file_and_an_empty_section_change_nothing() {
    for file in ["", "# nothing\n", "logging:\n", "---\n"] {
        assert_eq!(load_with(file).expect(file).logging.level, "INFO", "{file}");
    }
}

#[test]
fn variables_win_over_the_file_and_flags_over_all() {
    let variables = vec![
        ("X_PORT".into(), "8001".into()),
        ("X_LOGGING__LEVEL".into(), "WARNING".into()),
    ];
    let sources = Sources {
        defaults: DEFAULTS,
        variable_prefix: "X_",
        variables,
        ..Sources::default()
    };
    let example: Example = load(&sources).expect("valid").value;
    assert_eq!(
        (example.port, example.logging.level.as_str()),
        (8001, "WARNING")
    );

    let overrides = vec![
        ("port".into(), "9001".into()),
        ("name".into(), "007".into()),
    ];
    let example: Example = load(&Sources {
        overrides,
        ..sources
    })
    .expect("valid")
    .value;
    assert_eq!(example.port, 9001);
    assert_eq!(
        example.name, "007",
        "text stays as it was typed where text is expected"
    );
}

#[test]
fn a_list_and_a_duration_can_be_given_as_a_variable() {
    let variables = vec![
        ("X_LEASES__SHARES".into(), "[3, 4]".into()),
        ("X_LEASES__TIMEOUT".into(), "250ms".into()),
    ];
    let sources = Sources {
        defaults: DEFAULTS,
        variable_prefix: "X_",
        variables,
        ..Sources::default()
    };
    let example: Example = load(&sources).expect("valid").value;
    assert_eq!(example.leases.shares, [3, 4]);
    assert_eq!(*example.leases.timeout, Duration::from_millis(250));
}

#[test]
fn a_variable_that_names_no_key_here_is_told_and_a_bad_value_is_an_error() {
    let variables = vec![
        ("X_FOLDS__SIZE".into(), "1".into()),
        ("OTHER".into(), "1".into()),
    ];
    let sources = Sources {
        defaults: DEFAULTS,
        variable_prefix: "X_",
        variables,
        ..Sources::default()
    };
    let loaded = load::<Example>(&sources).expect("valid");
    let none = "there is no key like it".to_owned();
    assert_eq!(loaded.unknown_variables, [("X_FOLDS__SIZE".into(), none)]);

    let variables = vec![("X_LEASES__TIMOUT".into(), "1s".into())];
    let slip = Sources {
        variables,
        ..sources.clone()
    };
    let loaded = load::<Example>(&slip).expect("valid");
    assert_eq!(
        loaded.unknown_variables[0].1,
        "did you mean X_LEASES__TIMEOUT?"
    );

    let variables = vec![("X_PORT".into(), "many".into())];
    let error = load::<Example>(&Sources {
        variables,
        ..sources
    })
    .expect_err("no number");
    let expected = "environment variable X_PORT: port: invalid type: string \"many\", expected u16";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn an_unknown_key_is_answered_with_its_place_and_the_nearest_right_one() {
    for (file, expected) in [
        (
            "logging:\n  levle: DEBUG\n",
            "example.yaml:2:3: unknown key logging.levle; did you mean logging.level?",
        ),
        (
            "leases:\n  timeot: 1s\n",
            "example.yaml:2:3: unknown key leases.timeot; did you mean leases.timeout?",
        ),
        (
            "prot: 1\n",
            "example.yaml:1:1: unknown key prot; did you mean port?",
        ),
        // Right, but in the wrong place.
        (
            "level: DEBUG\n",
            "example.yaml:1:1: unknown key level; did you mean logging.level?",
        ),
        (
            "logging:\n  zebra: 1\n",
            "example.yaml:2:3: unknown key logging.zebra; \
             the keys here are level, max_file_size_mb",
        ),
    ] {
        assert_eq!(load_with(file).expect_err(file), expected);
    }
}

#[test]
fn a_wrong_value_is_answered_with_its_place_and_what_was_expected() {
    for (file, expected) in [
        (
            "port: many\n",
            "example.yaml:1:7: port: invalid type: string \"many\", expected u16",
        ),
        (
            "port: 70000\n",
            "example.yaml:1:7: port: invalid value: integer `70000`, expected u16",
        ),
        (
            "leases:\n  timeout: soon\n",
            "example.yaml:2:12: leases.timeout: invalid value: string \"soon\", expected a \
             duration such as 250ms, 10s, 5m, 2h or 7d, or a number of seconds",
        ),
        (
            "leases:\n  shares:\n    - 1\n    - -2\n",
            "example.yaml:4:7: leases.shares[1]: invalid value: integer `-2`, expected u32",
        ),
        (
            "logging: loud\n",
            "example.yaml:1:10: logging: invalid type: string \"loud\", expected struct Section",
        ),
        (
            "- a\n",
            "example.yaml:1:1: expected keys and values at the top",
        ),
    ] {
        assert_eq!(load_with(file).expect_err(file), expected);
    }
}

#[test]
fn what_the_service_itself_refuses_has_the_place_of_the_layer_that_won() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("example.yaml");
    std::fs::write(&path, "name: mine\nleases:\n  timeout: 1s\n").expect("written");
    let sources = Sources {
        defaults: DEFAULTS,
        files: vec![path],
        variable_prefix: "X_",
        variables: vec![("X_PORT".into(), "1".into())],
        overrides: vec![("logging.level".into(), "DEBUG".into())],
        ..Sources::default()
    };
    let loaded = load::<Example>(&sources).expect("valid");
    for (key, said) in [
        ("leases.timeout", "example.yaml:3:12: leases.timeout: no"),
        ("leases.shares", "built-in defaults:6:11: leases.shares: no"),
        ("port", "environment variable X_PORT: port: no"),
        ("logging.level", "flag logging.level: no"),
    ] {
        let error = loaded.wrong(key, "no").to_string();
        assert!(error.ends_with(said), "{error}");
    }
}

#[test]
fn what_is_no_yaml_is_answered_with_its_place() {
    let error = load_with("logging:\n  level: [DEBUG\nport: 1\n").expect_err("no YAML");
    assert!(error.starts_with("example.yaml:"), "{error}");
    let error = load_with("port: 1\nport: 2\n").expect_err("twice the same key");
    assert!(error.starts_with("example.yaml:2:1"), "{error}");
}

#[test]
fn another_name_of_a_key_is_accepted_but_not_both() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("example.yaml");
    let sources = Sources {
        defaults: DEFAULTS,
        files: vec![path.clone()],
        aliases: &[
            ("logging.max_size_mb", "logging.max_file_size_mb"),
            ("lease", "leases"),
        ],
        ..Sources::default()
    };
    std::fs::write(&path, "logging: {max_size_mb: 7}\nlease: {timeout: 3}\n").expect("written");
    let example: Example = load(&sources).expect("valid").value;
    assert_eq!(example.logging.max_file_size_mb, 7);
    assert_eq!(*example.leases.timeout, Duration::from_secs(3));

    let both = "logging:\n  max_size_mb: 7\n  max_file_size_mb: 8\n";
    std::fs::write(&path, both).expect("written");
    let error = load::<Example>(&sources)
        .expect_err("both names")
        .to_string();
    let expected = ":2:3: logging.max_size_mb: means the same as logging.max_file_size_mb, \
                    which is set too; keep one of them";
    assert!(error.ends_with(expected), "{error}");
}

#[test]
fn keys_without_effect_are_named_only_where_somebody_set_them() {
    let sources = Sources {
        defaults: DEFAULTS,
        not_yet_effective: &["leases.shares", "name"],
        overrides: vec![("name".into(), "mine".into())],
        ..Sources::default()
    };
    let loaded: Loaded<Example> = load(&sources).expect("valid");
    assert_eq!(
        loaded.not_yet_effective,
        [("name".into(), Origin::Flag("name".into()))]
    );
}

#[test]
fn pipes_directories_huge_files_and_bombs_are_refused_at_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let load_file = |path: PathBuf| {
        let sources = Sources {
            defaults: DEFAULTS,
            files: vec![path],
            ..Sources::default()
        };
        let started = Instant::now();
        let error = load::<Example>(&sources).expect_err("refused").to_string();
        // The promise is 100 ms; tenfold, since other tests run beside this one.
        assert!(started.elapsed() < Duration::from_secs(1), "{error}");
        error
    };
    let pipe = directory.path().join("pipe");
    let made = std::process::Command::new("mkfifo")
        .arg(&pipe)
        .status()
        .expect("mkfifo runs");
    assert!(made.success());
    assert!(load_file(pipe).ends_with("it is not a regular file"));
    assert!(load_file(directory.path().into()).ends_with("it is not a regular file"));
    assert!(load_file(directory.path().join("absent")).contains("No such file"));

    let huge = directory.path().join("huge");
    std::fs::File::create(&huge)
        .and_then(|file| file.set_len(2 << 30))
        .expect("sparse");
    assert!(load_file(huge).ends_with("and 1048576 is the most"));

    let bomb = directory.path().join("bomb");
    let mut text = String::from("a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n");
    for level in 1..30 {
        let before = format!("*a{},", level - 1).repeat(10);
        text.push_str(&format!("a{level}: &a{level} [{before}]\n"));
    }
    std::fs::write(&bomb, text).expect("written");
    load_file(bomb);

    let deep = directory.path().join("deep");
    std::fs::write(
        &deep,
        format!("a: {}{}", "[".repeat(10_000), "]".repeat(10_000)),
    )
    .expect("written");
    load_file(deep);

    let binary = directory.path().join("binary");
    std::fs::write(&binary, [0xff, 0xfe, 0x00]).expect("written");
    load_file(binary);
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Kind {
    Plain,
    Number(u8),
    Full { size: ByteCount },
}

#[derive(Debug, Deserialize, PartialEq)]
struct Kinds {
    kinds: Vec<Kind>,
}

#[test]
fn kinds_are_read_by_name_alone_or_with_what_belongs_to_them() {
    let kinds: Kinds = parse(
        "kinds.yaml",
        "kinds:\n  - plain\n  - number: 3\n  - full:\n      size: 2KiB\n",
    )
    .expect("valid");
    assert_eq!(
        kinds.kinds,
        [
            Kind::Plain,
            Kind::Number(3),
            Kind::Full {
                size: ByteCount(2_048)
            }
        ]
    );
    let error = parse::<Kinds>("kinds.yaml", "kinds:\n  - plane\n").expect_err("no such kind");
    assert!(
        error
            .to_string()
            .starts_with("kinds.yaml:2:5: kinds[0]: unknown variant `plane`")
    );
}

proptest! {
    #[test]
    fn no_text_is_a_panic(text in "[a-z:\\- \n\\[\\]{}&*'\"#|>!%@0-9\t.,]{0,200}") {
        let _ = parse::<Example>("any.yaml", &text);
    }
}
