//! The language: what CEL's specification says of operators, macros, conversions and errors.

use serde_json::json;

use super::{check_all, check_errors, eval, eval_with};

#[test]
fn literals_and_arithmetic() {
    check_all(&[
        ("1 + 2 * 3 - 4", json!(3)),
        ("-9223372036854775808", json!(i64::MIN)),
        ("--1", json!(1)),
        ("- -1", json!(1)),
        ("0x1F", json!(31)),
        ("0xFu", json!("15u")),
        ("7 / 2", json!(3)),
        ("-7 / 2", json!(-3)),
        ("-7 % 2", json!(-1)),
        ("7.0 / 2.0", json!("3.5d")),
        ("1.5e3", json!("1500.0d")),
        (".5 + .5", json!("1.0d")),
        ("1u + 2u", json!("3u")),
        ("r'a\\nb'", json!("a\\nb")),
        ("'a\\tb\\u00e9\\x41\\101'", json!("a\tb\u{e9}AA")),
        ("'''a\n'b'''", json!("a\n'b")),
        ("b'\\xff' == bytes('a')", json!(false)),
        ("'a' + 'b'", json!("ab")),
        ("[1] + [2, 3]", json!([1, 2, 3])),
        ("{'a': 1}.a", json!(1)),
        ("{1: 'x', 2: 'y'}[2]", json!("y")),
        ("1 // comment\n + 1", json!(2)),
    ]);
}

#[test]
fn comparisons_of_numbers_go_over_types() {
    check_all(&[
        ("dyn(1) == 1.0", json!(true)),
        ("dyn(1) == 1u", json!(true)),
        ("1 < 1.5 && 1u < 2 && 2 > 1u", json!(true)),
        ("dyn('a') == 1", json!(false)),
        ("dyn(null) == 1", json!(false)),
        ("[1, 2] == [1, 2] && {'a': 1} == {'a': 1}", json!(true)),
        ("dyn([1]) == [1u]", json!(true)),
        ("9223372036854775807 == dyn(9223372036854775808.0)", json!(false)),
        ("1 in [1, 2] && 'a' in {'a': 1} && !(3 in [1])", json!(true)),
        ("'a' < 'b' && b'a' < b'b' && false < true", json!(true)),
    ]);
}

#[test]
fn errors_of_arithmetic() {
    check_errors(&[
        ("9223372036854775807 + 1", "integer overflow"),
        ("-9223372036854775808 - 1", "integer overflow"),
        ("0u - 1u", "unsigned integer overflow"),
        ("9223372036854775807 * 2", "integer overflow"),
        ("1 / 0", "division by zero"),
        ("1 % 0", "modulus by zero"),
        ("int('x')", "strconv.ParseInt: parsing \"x\": invalid syntax"),
        ("int(1e30)", "integer overflow"),
        ("uint(-1)", "unsigned integer overflow"),
        ("[1][1]", "index out of bounds: 1"),
        ("{'a': 1}['b']", "no such key: b"),
        ("dyn(1) + dyn('a')", "no such overload"),
        ("dyn(1).foo", "no such key: foo"),
        ("{'a': 1, 'a': 2}", "insert failed: key a already exists"),
    ]);
}

#[test]
fn logic_forgives_errors_that_do_not_decide() {
    check_all(&[
        ("false && 1 / 0 == 1", json!(false)),
        ("1 / 0 == 1 && false", json!(false)),
        ("1 / 0 == 1 || true", json!(true)),
        ("true ? 1 : 1 / 0", json!(1)),
        ("[1, 0].exists(x, 1 / x == 1)", json!(true)),
        ("[0, 1].exists(x, 1 / x == 1)", json!(true)),
        ("[0, 1].all(x, 1 / x == 2)", json!(false)),
    ]);
    check_errors(&[
        ("1 / 0 == 1 && true", "division by zero"),
        ("1 / 0 == 1 || false", "division by zero"),
        ("[0, 2].exists(x, 1 / x == 1)", "division by zero"),
        ("[0].all(x, 1 / x == 1)", "division by zero"),
        ("[0].exists_one(x, 1 / x == 1)", "division by zero"),
    ]);
}

#[test]
fn macros() {
    check_all(&[
        ("[1, 2, 3].all(x, x > 0)", json!(true)),
        ("[1, 2, 3].exists(x, x == 2)", json!(true)),
        ("[1, 2, 2].exists_one(x, x == 1)", json!(true)),
        ("[1, 2, 2].exists_one(x, x == 2)", json!(false)),
        ("[1, 2, 3].map(x, x * 2)", json!([2, 4, 6])),
        ("[1, 2, 3].map(x, x > 1, x * 2)", json!([4, 6])),
        ("[1, 2, 3].filter(x, x != 2)", json!([1, 3])),
        ("{'a': 1}.all(k, k == 'a')", json!(true)),
        ("[[1, 2], [3]].map(x, x.map(y, y + 1))", json!([[2, 3], [4]])),
        ("[1, 2].map(x, [x].map(x, x + 1))", json!([[2], [3]])),
        ("['a', 'b'].all(i, v, i == 0 ? v == 'a' : v == 'b')", json!(true)),
        ("{'a': 1, 'b': 2}.exists(k, v, k == 'b' && v == 2)", json!(true)),
        ("{'a': 1, 'b': 2}.existsOne(k, v, v > 0)", json!(false)),
        ("[4, 5].transformList(i, v, i + v)", json!([4, 6])),
        ("[4, 5].transformList(i, v, i > 0, v)", json!([5])),
        ("{'a': 1, 'b': 2}.transformMap(k, v, v * 10)", json!({"a": 10, "b": 20})),
        ("{'a': 1, 'b': 2}.transformMap(k, v, v > 1, v)", json!({"b": 2})),
        ("{'a': 'x'}.transformMapEntry(k, v, {v: k})", json!({"x": "a"})),
        ("cel.bind(x, 2, cel.bind(y, x * 2, x + y))", json!(6)),
        ("[3, 1, 2].sortBy(x, -x)", json!([3, 2, 1])),
    ]);
}

#[test]
fn optionals() {
    check_all(&[
        ("{'a': 1}.?a.orValue(0)", json!(1)),
        ("{'a': 1}.?b.orValue(0)", json!(0)),
        ("{'a': {'b': 1}}.?x.b.orValue(5)", json!(5)),
        ("{'a': {'b': 1}}.?a.b.orValue(5)", json!(1)),
        ("[1, 2][?5].hasValue()", json!(false)),
        ("[1, 2][?1].value()", json!(2)),
        ("[?optional.none(), ?optional.of(1), 2]", json!([1, 2])),
        ("{?'a': optional.none(), 'b': 1}", json!({"b": 1})),
        ("optional.ofNonZeroValue(0).or(optional.of(3)).value()", json!(3)),
        ("optional.of(2).optMap(x, x * 2).orValue(0)", json!(4)),
        ("optional.of(2).optFlatMap(x, optional.of(x + 1)).value()", json!(3)),
        ("optional.none().optMap(x, x + 1).hasValue()", json!(false)),
        ("[optional.of(1), optional.none()].unwrapOpt()", json!([1])),
        ("optional.of(1) == optional.of(1)", json!(true)),
    ]);
    check_errors(&[("optional.none().value()", "optional.none() dereference")]);
}

#[test]
fn conversions_and_types() {
    check_all(&[
        ("string(1.0) + string(1u) + string(true)", json!("11true")),
        ("string(1e300)", json!("1e+300")),
        ("string(duration('90m'))", json!("5400s")),
        ("string(duration('1.5s'))", json!("1.5s")),
        ("string(timestamp('2024-02-29T12:00:00.5+01:00'))", json!("2024-02-29T11:00:00.5Z")),
        ("int('-5') + int(2.9) + int(timestamp('1970-01-01T00:01:00Z'))", json!(57)),
        ("double('1.5') + double(1)", json!("2.5d")),
        ("bytes('a') == b'a' && string(b'a') == 'a'", json!(true)),
        ("bool('true') && !bool('0')", json!(true)),
        ("type(1)", json!("<int>")),
        ("type(1) == int && type(type(1)) == type", json!(true)),
        ("type('') == string && type([]) == list && type(null) == null_type", json!(true)),
        ("size('h\u{e9}llo') + size(b'\\xff') + [1].size() + {'a': 1}.size()", json!(8)),
    ]);
}

#[test]
fn times() {
    check_all(&[
        (
            "timestamp('2024-01-31T00:00:00Z') + duration('24h') == timestamp('2024-02-01T00:00:00Z')",
            json!(true),
        ),
        (
            "timestamp('2024-01-02T00:00:00Z') - timestamp('2024-01-01T00:00:00Z') == duration('24h')",
            json!(true),
        ),
        ("timestamp('2024-12-31T23:04:05.678Z').getFullYear()", json!(2024)),
        ("timestamp('2024-12-31T23:04:05.678Z').getMonth()", json!(11)),
        ("timestamp('2024-12-31T23:04:05.678Z').getDate()", json!(31)),
        ("timestamp('2024-12-31T23:04:05.678Z').getDayOfMonth()", json!(30)),
        ("timestamp('2024-12-31T23:04:05.678Z').getDayOfYear()", json!(365)),
        ("timestamp('2024-12-31T23:04:05.678Z').getDayOfWeek()", json!(2)),
        ("timestamp('2024-12-31T23:04:05.678Z').getHours('+02:00')", json!(1)),
        ("timestamp('2024-12-31T23:04:05.678Z').getMilliseconds()", json!(678)),
        ("duration('3730s').getHours() + duration('3730s').getMinutes()", json!(63)),
        ("duration('-1h30m') < duration('0s')", json!(true)),
    ]);
    check_errors(&[
        ("timestamp('9999-12-30T00:00:00Z') + duration('48h')", "timestamp overflow"),
        ("duration(string(1))", "time: missing unit in duration \"1\""),
    ]);
    assert!(
        eval("timestamp('yesterday')")
            .is_err_and(|text| text.contains("invalid timestamp argument"))
    );
    assert!(eval("duration('x')").is_err_and(|text| text.contains("invalid duration argument")));
}

#[test]
fn objects_are_read_where_they_lie() {
    let object = json!({
        "spec": {"replicas": 3, "ratio": 0.5, "big": u64::MAX, "none": null, "a-b": 1},
        "list": [{"name": "x"}, {"name": "y"}],
    });
    let check = |source: &str| eval_with(source, &object).unwrap();
    assert_eq!(check("object.spec.replicas + 1"), json!(4));
    assert_eq!(check("object.spec['a-b']"), json!(1));
    assert_eq!(check("has(object.spec.none) && object.spec.none == null"), json!(true));
    assert_eq!(check("has(object.spec.other)"), json!(false));
    assert_eq!(check("has(object.other) && has(object.other.more)"), json!(false));
    assert_eq!(check("object.list.map(x, x.name).join(',')"), json!("x,y"));
    assert_eq!(check("object.list.exists(x, x.name == 'y')"), json!(true));
    assert_eq!(check("object.?a.?b.orValue('z')"), json!("z"));
    assert_eq!(check("object.spec.big > 1u"), json!(true));
    assert_eq!(eval_with("object.spec.other", &object), Err("no such key: other".into()));
    assert_eq!(eval_with("object.spec.none.x", &object), Err("no such key: x".into()));
}
