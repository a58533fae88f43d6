//! The libraries of Kubernetes and the extensions that it enables.

use std::cell::RefCell;
use std::rc::Rc;

use serde_json::json;

use super::{Bindings, Env, PER_CALL_COST_MAX, Type, Value, check_all, check_errors};
use crate::cel::authorizer::{Asking, Authorize, Decision, Question};
use crate::cel::library::Opaque;

#[test]
fn strings() {
    check_all(&[
        ("'h\u{e9}llo'.charAt(1) + 'abc'.charAt(3)", json!("\u{e9}")),
        ("'hello mellow'.indexOf('ello')", json!(1)),
        ("'hello mellow'.indexOf('ello', 2)", json!(7)),
        ("'hello mellow'.indexOf('')", json!(0)),
        ("'hello mellow'.lastIndexOf('ello')", json!(7)),
        ("'hello mellow'.lastIndexOf('ello', 6)", json!(1)),
        ("'h\u{e9}l\u{e9}'.lastIndexOf('\u{e9}', 2)", json!(1)),
        ("'hello'.indexOf('jello')", json!(-1)),
        ("'TacoCAT \u{c9}'.lowerAscii()", json!("tacocat \u{c9}")),
        ("'taco'.upperAscii()", json!("TACO")),
        ("'hello hello'.replace('he', 'we', 1)", json!("wello hello")),
        ("'hello hello'.replace('he', 'we')", json!("wello wello")),
        ("'ab'.replace('', '_')", json!("_a_b_")),
        ("'a b c'.split(' ', 2)", json!(["a", "b c"])),
        ("'abc'.split('')", json!(["a", "b", "c"])),
        ("'a b'.split(' ', 0)", json!([])),
        ("'tacocat'.substring(4) + 'tacocat'.substring(0, 4)", json!("cattaco")),
        ("'  \\ttrim\\n '.trim()", json!("trim")),
        ("['a', 'b'].join('-') + ['x'].join()", json!("a-bx")),
        ("strings.quote('a\"\\n')", json!("\"a\\\"\\n\"")),
        (
            "'%s|%d|%.2f|%e|%x|%X|%o|%b|%%'.format([dyn('a'), 5, 1.005, 1234.5, 'hi', 255, 8, 5])",
            json!("a|5|1.00|1.234500e+03|6869|FF|10|101|%"),
        ),
        (
            "'%s %s %s'.format([dyn([dyn(1), 'a']), {'k': true}, null])",
            json!("[1, a] {k: true} null"),
        ),
    ]);
    check_errors(&[
        ("'abc'.charAt(4)", "index out of range: 4"),
        ("'abc'.substring(2, 1)", "invalid substring range. start: 2, end: 1"),
        (
            "'%d'.format(['a'])",
            "error during formatting: decimal clause can only be used on integers, was given string",
        ),
        ("'%s'.format([])", "index 0 out of range"),
        (
            "'%q'.format([1])",
            "could not parse formatting string: unrecognized formatting clause \"q\"",
        ),
    ]);
}

#[test]
fn lists_and_sets() {
    check_all(&[
        ("[1, 2, 2].isSorted() && !['b', 'a'].isSorted()", json!(true)),
        ("[1, 2, 3].sum()", json!(6)),
        ("[1.5, 2.0].sum()", json!("3.5d")),
        ("[duration('1s'), duration('2s')].sum() == duration('3s')", json!(true)),
        ("[3, 1, 2].min() + [3, 1, 2].max()", json!(4)),
        ("['b', 'a'].max()", json!("b")),
        ("[1, 2, 2].indexOf(2) * 10 + [1, 2, 2].lastIndexOf(2)", json!(12)),
        ("[1, 2, 3, 4].slice(1, 3)", json!([2, 3])),
        ("[[1], [2, 3]].flatten()", json!([1, 2, 3])),
        ("[dyn(1), dyn([dyn(2), dyn([3, 4])])].flatten(2)", json!([1, 2, 3, 4])),
        ("lists.range(3)", json!([0, 1, 2])),
        ("[1, 2, 1, 3].distinct()", json!([1, 2, 3])),
        ("[3, 1, 2].sort()", json!([1, 2, 3])),
        ("[1, 2].reverse()", json!([2, 1])),
        ("[1, 2].first().value() + [1, 2].last().value()", json!(3)),
        ("[].first().hasValue()", json!(false)),
        ("sets.contains([1, 2], [2]) && !sets.contains([1], [2])", json!(true)),
        ("sets.equivalent([1, 2], [2, 1, 1]) && sets.intersects([1], [1, 5])", json!(true)),
    ]);
    check_errors(&[
        ("[].min()", "min called on empty list"),
        ("[1].slice(0, 2)", "cannot slice(0, 2), list is length 1"),
    ]);
}

#[test]
fn regular_expressions() {
    check_all(&[
        ("'abc123'.matches('[a-z]+[0-9]+')", json!(true)),
        ("matches('abc', '^b')", json!(false)),
        ("'abc 123'.find('[0-9]+')", json!("123")),
        ("'abc'.find('[0-9]+')", json!("")),
        ("'1 22 333'.findAll('[0-9]+')", json!(["1", "22", "333"])),
        ("'1 22 333'.findAll('[0-9]+', 2)", json!(["1", "22"])),
    ]);
}

#[test]
fn urls() {
    check_all(&[
        ("url('https://user@ex.com:80/a%20b/c?q=1&q=2&r=x+y').getScheme()", json!("https")),
        ("url('https://user@ex.com:80/a').getHost()", json!("ex.com:80")),
        ("url('https://ex.com:80/a').getHostname()", json!("ex.com")),
        (
            "url('https://[::1]:80/').getHostname() + url('https://[::1]:80/').getHost()",
            json!("::1[::1]:80"),
        ),
        ("url('https://ex.com:80/a').getPort() + url('https://ex.com/').getPort()", json!("80")),
        ("url('https://ex.com/a b/%20').getEscapedPath()", json!("/a%20b/%20")),
        ("url('https://ex.com/?q=1&q=2&r=x+y').getQuery()", json!({"q": ["1", "2"], "r": ["x y"]})),
        (
            "isURL('/absolute/path') && isURL('https://a.b:80/') && !isURL('../relative') && !isURL('https://a:port/')",
            json!(true),
        ),
        ("url('https://a/') == url('https://a/')", json!(true)),
    ]);
}

#[test]
fn addresses() {
    check_all(&[
        ("ip('127.0.0.1').isLoopback() && ip('::1').family() == 6", json!(true)),
        (
            "isIP('10.0.0.1') && !isIP('10.0.0.256') && !isIP('::ffff:1.2.3.4') && !isIP('fe80::1%eth0')",
            json!(true),
        ),
        ("ip.isCanonical('2001:db8::1') && !ip.isCanonical('2001:DB8::1')", json!(true)),
        ("ip('0.0.0.0').isUnspecified() && ip('224.0.0.1').isLinkLocalMulticast()", json!(true)),
        (
            "ip('169.254.1.1').isLinkLocalUnicast() && ip('10.0.0.1').isGlobalUnicast() && !ip('255.255.255.255').isGlobalUnicast()",
            json!(true),
        ),
        ("string(ip('2001:db8:0:0::1'))", json!("2001:db8::1")),
        (
            "cidr('192.168.0.0/24').containsIP('192.168.0.7') && !cidr('192.168.0.0/24').containsIP(ip('192.168.1.7'))",
            json!(true),
        ),
        (
            "cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16') && !cidr('10.1.0.0/16').containsCIDR(cidr('10.0.0.0/8'))",
            json!(true),
        ),
        ("cidr('0.0.0.0/0').containsIP('1.2.3.4') && cidr('::/0').containsIP('::1')", json!(true)),
        (
            "string(cidr('192.168.1.7/24').masked()) + string(cidr('2001:db8::1/32').masked())",
            json!("192.168.1.0/242001:db8::/32"),
        ),
        ("cidr('10.0.0.1/8').prefixLength() + cidr('10.0.0.1/8').ip().family()", json!(12)),
        ("isCIDR('10.0.0.0/8') && !isCIDR('10.0.0.0/33') && !isCIDR('10.0.0.0')", json!(true)),
    ]);
}

#[test]
fn quantities_and_versions() {
    check_all(&[
        ("quantity('200M').compareTo(quantity('0.2G'))", json!(0)),
        (
            "quantity('50Mi').isGreaterThan(quantity('50M')) && quantity('1').isLessThan(quantity('1k'))",
            json!(true),
        ),
        (
            "quantity('50k').add(quantity('20k')) == quantity('70k') && quantity('50k').sub(20000) == quantity('30k')",
            json!(true),
        ),
        ("quantity('50k').asInteger()", json!(50000)),
        ("quantity('50m').isInteger()", json!(false)),
        ("quantity('50.7k').asApproximateFloat()", json!("50700.0d")),
        ("sign(quantity('-5')) + quantity('5').sign()", json!(0)),
        ("isQuantity('1.3Gi') && !isQuantity('1.3GiB')", json!(true)),
        (
            "semver('1.2.3').major() * 100 + semver('1.2.3').minor() * 10 + semver('1.2.3').patch()",
            json!(123),
        ),
        (
            "semver('1.0.0-alpha').isLessThan(semver('1.0.0')) && semver('1.0.0-2').isLessThan(semver('1.0.0-11'))",
            json!(true),
        ),
        ("semver('1.2.3').compareTo(semver('0.1.2'))", json!(1)),
        (
            "isSemver('1.0.0') && !isSemver('v1.0') && isSemver('v1.0', true) && !isSemver('01.0.0') && isSemver('01.01.01', true)",
            json!(true),
        ),
        ("semver('v01.1', true) == semver('1.1.0')", json!(true)),
    ]);
    check_errors(&[("quantity('1.5').asInteger()", "cannot convert value to integer")]);
}

#[test]
fn formats() {
    check_all(&[
        ("format.dns1123Label().validate('my-label').hasValue()", json!(false)),
        (
            "format.dns1123Label().validate('My').value()[0].startsWith('a lowercase RFC 1123 label')",
            json!(true),
        ),
        ("format.dns1123LabelPrefix().validate('my-').hasValue()", json!(false)),
        (
            "format.named('uuid').value().validate('123e4567-e89b-12d3-a456-426614174000')",
            json!("<none>"),
        ),
        ("format.named('nope').hasValue()", json!(false)),
        ("format.date().validate('2021-13-01').value()", json!(["invalid date"])),
        ("format.datetime().validate('2021-01-01T00:00:00Z').hasValue()", json!(false)),
        (
            "format.byte().validate('aGVsbG8=').hasValue() || format.uri().validate('http://x').hasValue()",
            json!(false),
        ),
        (
            "format.qualifiedName().validate('a.io/b').hasValue() || format.labelValue().validate('').hasValue()",
            json!(false),
        ),
    ]);
}

/// Allows one verb and remembers what it was asked.
struct Answers(RefCell<Vec<Question>>);

impl Authorize for Answers {
    fn authorize(&self, question: &Question) -> Decision {
        self.0.borrow_mut().push(question.clone());
        Decision { allowed: question.verb == "get", reason: "r".into(), error: String::new() }
    }
}

#[test]
fn the_authorizer_is_asked_what_the_expression_says() {
    let answers = Rc::new(Answers(RefCell::default()));
    let ty = Type::Opaque("kubernetes.authorization.Authorizer");
    let env = Env::new().variable("authorizer", ty);
    let source = "authorizer.group('apps').resource('deployments').subresource('scale')\
                  .namespace('n').name('x').check('get').allowed() && \
                  !authorizer.path('/healthz').check('post').allowed() && \
                  authorizer.serviceAccount('n', 'sa').group('').resource('pods').check('get').reason() == 'r'";
    let program = env.compile(source).unwrap();
    let mut bindings = Bindings::default();
    let asking = Rc::new(Asking::new(answers.clone()));
    bindings.set("authorizer", Value::Opaque(Opaque::Asking(asking)));
    let done = program.evaluate(&bindings, 2 * PER_CALL_COST_MAX);
    assert_eq!(done.result.unwrap().as_bool(), Some(true));
    // Each check has the price of a third of what one expression may cost.
    assert!(done.cost > 1_050_000, "{}", done.cost);
    let asked = answers.0.borrow();
    assert_eq!((asked[0].subresource.as_str(), asked[0].namespace.as_str()), ("scale", "n"));
    assert_eq!(asked[1].path.as_deref(), Some("/healthz"));
    assert_eq!(asked[2].account, Some(("n".to_owned(), "sa".to_owned())));
    drop(asked);
    let done = program.evaluate(&bindings, PER_CALL_COST_MAX);
    assert_eq!(
        done.result.unwrap_err().to_string(),
        "operation cancelled: actual cost limit exceeded"
    );
}
