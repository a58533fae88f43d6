//! What holds for all values.

use proptest::prelude::*;
use serde_json::{Map, Value as Json, json};

use super::{Env, eval_with};

fn any_json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        "[a-z\u{e9}~/]{0,6}".prop_map(Json::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
            prop::collection::btree_map("[a-c]", inner, 0..4)
                .prop_map(|map| Json::Object(map.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

proptest! {
    #[test]
    fn a_value_is_itself(value in any_json()) {
        let object = json!({"v": value, "w": value});
        prop_assert_eq!(eval_with("object.v == object.w", &object), Ok(json!(true)));
        prop_assert_eq!(eval_with("object.v", &object), Ok(value));
    }

    #[test]
    fn equality_goes_both_ways(one in any_json(), other in any_json()) {
        let object = json!({"a": one, "b": other});
        let there = eval_with("object.a == object.b", &object);
        prop_assert_eq!(&there, &eval_with("object.b == object.a", &object));
        prop_assert_eq!(there, eval_with("!(object.a != object.b)", &object));
    }

    #[test]
    fn sums_are_exact_or_refused(one in any::<i64>(), other in any::<i64>()) {
        let object = json!({"a": one, "b": other});
        let found = eval_with("object.a + object.b", &object);
        match one.checked_add(other) {
            Some(sum) => prop_assert_eq!(found, Ok(json!(sum))),
            None => prop_assert_eq!(found, Err("integer overflow".to_owned())),
        }
    }

    #[test]
    fn quantifiers_agree_with_each_other(items in prop::collection::vec(-5i64..5, 0..8)) {
        let object = json!({"l": items});
        let all = eval_with("object.l.all(x, x > 0)", &object);
        prop_assert_eq!(&all, &eval_with("!object.l.exists(x, !(x > 0))", &object));
        prop_assert_eq!(all, eval_with("size(object.l.filter(x, x > 0)) == size(object.l)", &object));
        let mut sorted = items;
        sorted.sort_unstable();
        let found = eval_with("object.l.map(x, int(x)).sort()", &object);
        prop_assert_eq!(found, Ok(json!(sorted)));
    }

    #[test]
    fn pieces_make_the_whole(text in "[ab\u{e9},]{0,12}") {
        let object = json!({"t": text});
        prop_assert_eq!(eval_with("object.t.split(',').join(',')", &object), Ok(json!(text)));
        prop_assert_eq!(
            eval_with("object.t.substring(0, size(object.t) / 2) + object.t.substring(size(object.t) / 2)", &object),
            Ok(json!(text))
        );
    }

    #[test]
    fn nothing_that_is_written_panics(source in "[a-c0-9.,()\\[\\]{}?:+*/<>=&|!'\" ]{0,40}") {
        // Either a program or faults with places.
        if let Err(error) = Env::new().compile(&source) {
            prop_assert!(!error.issues.is_empty());
        }
    }
}
