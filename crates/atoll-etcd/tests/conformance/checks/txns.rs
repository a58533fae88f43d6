//! Transactions: one revision, one branch, all or nothing.

use atoll_store::kv::{
    Compare, CompareTarget, Error, Op, OpResult, PutRequest, RangeRequest, Relation, Txn,
    UpdateRequest,
};

use crate::world::{
    World, bytes, compare, delete, everything, found, get, ops, prefix, put, put_leased, shown,
    single,
};

super::checks!(
    one_branch_is_taken_at_one_revision,
    every_compare_means_what_it_says,
    one_that_only_compares_sees_every_acknowledged_write,
    a_missing_key_compares_as_zeros_and_has_no_value,
    a_compare_of_a_range_holds_for_all_its_keys,
    inner_transactions_share_the_revision_and_decide_from_before,
    reads_inside_see_earlier_writes_of_the_same,
    writes_say_what_they_replaced,
    a_key_may_be_put_once,
    what_fails_inside_leaves_nothing_behind,
    too_much_at_once_is_refused,
    an_update_keeps_what_is_not_given,
    compare_and_swap_lets_one_of_many_win,
);

async fn one_branch_is_taken_at_one_revision(world: World) {
    let base = world.revision().await;
    let create = |value: &str| Txn {
        compare: vec![compare("a", Relation::Equal, CompareTarget::ModRevision(0))],
        success: vec![put("a", value), put("b", value)],
        failure: vec![get(single("a"))],
    };
    let first = world.txn(create("1")).await.unwrap();
    assert_eq!((first.succeeded, first.revision), (true, base + 1));
    let second = world.txn(create("2")).await.unwrap();
    assert_eq!((second.succeeded, second.revision), (false, base + 1));
    assert_eq!(shown(found(&second.responses[0])), ["a=1"]);
}

/// An etcd of several members answers it from what one of them has; nobody has asked for that.
async fn one_that_only_compares_sees_every_acknowledged_write(world: World) {
    for number in 0..30 {
        let value = number.to_string();
        world.put("a", &value).await;
        let newest = compare("a", Relation::Equal, CompareTarget::Value(bytes(&value)));
        let txn = Txn { compare: vec![newest], ..Txn::default() };
        assert!(world.txn(txn).await.unwrap().succeeded, "at {number}");
    }
}

async fn every_compare_means_what_it_says(world: World) {
    let (lease, _) = world.kv.lease_grant(0, 60).await.unwrap();
    let created = world.write(put("a", "l")).await.revision;
    let changed = world.write(put_leased("a", "m", lease)).await.revision;
    type Target = fn(i64) -> CompareTarget;
    let targets: [(i64, Target); 4] = [
        (created, CompareTarget::CreateRevision),
        (changed, CompareTarget::ModRevision),
        (2, CompareTarget::Version),
        (lease, CompareTarget::Lease),
    ];
    for (actual, target) in targets {
        for wanted in [actual - 1, actual, actual + 1] {
            for (relation, holds) in [
                (Relation::Equal, actual == wanted),
                (Relation::NotEqual, actual != wanted),
                (Relation::Greater, actual > wanted),
                (Relation::Less, actual < wanted),
            ] {
                let one = compare("a", relation, target(wanted));
                let txn = Txn { compare: vec![one.clone()], ..Txn::default() };
                assert_eq!(world.txn(txn).await.unwrap().succeeded, holds, "{one:?}");
            }
        }
    }
    for (wanted, relation) in
        [("m", Relation::Equal), ("l", Relation::Greater), ("mm", Relation::Less)]
    {
        let one = compare("a", relation, CompareTarget::Value(bytes(wanted)));
        let txn = Txn { compare: vec![one], ..Txn::default() };
        assert!(world.txn(txn).await.unwrap().succeeded, "{wanted}");
    }
}

async fn a_missing_key_compares_as_zeros_and_has_no_value(world: World) {
    let holds = |target: CompareTarget, relation: Relation| {
        let world = &world;
        async move {
            let compare = vec![compare("missing", relation, target)];
            world.txn(Txn { compare, ..Txn::default() }).await.unwrap().succeeded
        }
    };
    for target in [
        CompareTarget::CreateRevision(0),
        CompareTarget::ModRevision(0),
        CompareTarget::Version(0),
        CompareTarget::Lease(0),
    ] {
        assert!(holds(target.clone(), Relation::Equal).await, "{target:?}");
        assert!(!holds(target.clone(), Relation::Greater).await, "{target:?}");
    }
    for relation in [Relation::Equal, Relation::NotEqual, Relation::Less, Relation::Greater] {
        assert!(!holds(CompareTarget::Value(bytes("")), relation).await, "{relation:?}");
    }
}

async fn a_compare_of_a_range_holds_for_all_its_keys(world: World) {
    world.put("p/a", "1").await;
    world.put("p/b", "2").await;
    world.put("p/b", "2").await;
    let holds = |range, relation, target| {
        let world = &world;
        async move {
            let compare = vec![Compare { range, relation, target }];
            world.txn(Txn { compare, ..Txn::default() }).await.unwrap().succeeded
        }
    };
    assert!(holds(prefix("p/"), Relation::Greater, CompareTarget::Version(0)).await);
    assert!(!holds(prefix("p/"), Relation::Equal, CompareTarget::Version(1)).await);
    assert!(holds(prefix("none/"), Relation::Equal, CompareTarget::CreateRevision(0)).await);
    assert!(!holds(everything(), Relation::Equal, CompareTarget::CreateRevision(0)).await);
}

async fn inner_transactions_share_the_revision_and_decide_from_before(world: World) {
    let base = world.revision().await;
    let inner = Txn {
        compare: vec![compare("a", Relation::Equal, CompareTarget::Version(0))],
        success: vec![put("b", "inner"), Op::Txn(Box::new(ops([put("d", "innermost")])))],
        failure: vec![put("c", "other")],
    };
    let outer = ops([put("a", "outer"), Op::Txn(Box::new(inner)), get(everything())]);
    let result = world.txn(outer).await.unwrap();
    let OpResult::Txn(inner) = &result.responses[1] else { panic!("{result:?}") };
    assert!(inner.succeeded);
    assert_eq!((inner.revision, result.revision), (base + 1, base + 1));
    assert_eq!(shown(found(&result.responses[2])), ["a=outer", "b=inner", "d=innermost"]);
    assert!(found(&result.responses[2]).kvs.iter().all(|kv| kv.mod_revision == base + 1));
}

async fn reads_inside_see_earlier_writes_of_the_same(world: World) {
    let before = world.put("a", "old").await;
    let past = RangeRequest { revision: Some(before), ..RangeRequest::new(single("a")) };
    let txn = ops([
        get(single("a")),
        put("a", "new"),
        get(single("a")),
        Op::Range(past),
        delete(single("a")),
        get(single("a")),
    ]);
    // Putting and deleting one key in one transaction is refused.
    assert_eq!(world.txn(txn.clone()).await, Err(Error::DuplicateKey));
    let mut txn = txn;
    txn.success.truncate(4);
    let result = world.txn(txn).await.unwrap();
    let seen: Vec<_> = [0, 2, 3].map(|at: usize| shown(found(&result.responses[at]))).concat();
    assert_eq!(seen, ["a=old", "a=new", "a=old"]);
    let revisions = [0, 2, 3].map(|at: usize| found(&result.responses[at]).revision - before);
    assert_eq!(revisions, [0, 1, 1]);
}

async fn writes_say_what_they_replaced(world: World) {
    let first = world.write(put("a", "1")).await;
    assert_eq!(first.responses, [OpResult::Put { prev_kv: None }]);
    let second = world.write(put("a", "2")).await;
    let OpResult::Put { prev_kv: Some(replaced) } = &second.responses[0] else {
        panic!("{second:?}")
    };
    assert_eq!((replaced.value.as_ref(), replaced.version), (b"1".as_ref(), 1));
    world.put("b", "3").await;
    let gone = world.write(delete(everything())).await;
    let OpResult::Delete { deleted, prev_kvs } = &gone.responses[0] else { panic!("{gone:?}") };
    let values: Vec<_> = prev_kvs.iter().map(|kv| kv.value.as_ref()).collect();
    assert_eq!((*deleted, values), (2, vec![b"2".as_ref(), b"3".as_ref()]));
    world.put("a", "1").await;
    let quiet =
        Op::Put(PutRequest { key: bytes("a"), value: bytes("2"), lease: 0, prev_kv: false });
    assert_eq!(world.write(quiet).await.responses, [OpResult::Put { prev_kv: None }]);
    let quiet = Op::Delete { range: everything(), prev_kv: false };
    let gone = OpResult::Delete { deleted: 1, prev_kvs: Vec::new() };
    assert_eq!(world.write(quiet).await.responses, [gone]);
}

async fn a_key_may_be_put_once(world: World) {
    let base = world.revision().await;
    let inner = |name: &str| Op::Txn(Box::new(ops([put(name, "1")])));
    for refused in [
        ops([put("a", "1"), put("a", "2")]),
        ops([put("a", "1"), delete(prefix("a"))]),
        ops([put("a", "1"), inner("a")]),
        ops([inner("a"), inner("a")]),
        ops([delete(single("a")), inner("a")]),
    ] {
        assert_eq!(world.txn(refused.clone()).await, Err(Error::DuplicateKey), "{refused:?}");
    }
    assert_eq!(world.revision().await, base);
    // Only one branch of a transaction runs.
    let either = Txn { success: vec![put("a", "1")], failure: vec![put("a", "2")], ..ops([]) };
    world.txn(ops([Op::Txn(Box::new(either))])).await.unwrap();
    world.txn(ops([delete(single("a")), delete(everything())])).await.unwrap();
}

async fn what_fails_inside_leaves_nothing_behind(world: World) {
    let base = world.put("a", "1").await;
    let future = RangeRequest { revision: Some(base + 9), ..RangeRequest::new(single("a")) };
    let failed = world.txn(ops([put("b", "1"), Op::Range(future)])).await;
    assert!(matches!(failed, Err(Error::Future { .. })), "{failed:?}");
    let failed = world.txn(ops([put("b", "1"), put_leased("c", "1", 0x77)])).await;
    assert!(matches!(failed, Err(Error::LeaseNotFound { .. })), "{failed:?}");
    // Of several faults that of a write comes first, wherever it stands.
    let future = RangeRequest { revision: Some(base + 9), ..RangeRequest::new(single("a")) };
    let inner = Op::Txn(Box::new(ops([put_leased("c", "1", 0x77)])));
    let failed = world.txn(ops([Op::Range(future), inner])).await;
    assert!(matches!(failed, Err(Error::LeaseNotFound { .. })), "{failed:?}");
    assert_eq!(world.revision().await, base);
    assert_eq!(world.values(everything(), None).await, ["a=1"]);
    world.put("a", "2").await;
    world.kv.compact(base + 1).await.unwrap();
    let past = RangeRequest { revision: Some(base), ..RangeRequest::new(single("a")) };
    let failed = world.txn(ops([put("b", "1"), Op::Range(past)])).await;
    assert!(matches!(failed, Err(Error::Compacted { .. })), "{failed:?}");
    assert_eq!(world.values(everything(), None).await, ["a=2"]);
}

async fn too_much_at_once_is_refused(world: World) {
    let base = world.revision().await;
    let many = ops((0..129).map(|number| put(&format!("k{number}"), "1")));
    let refused = Err(Error::TooManyOperations { operations: 129, limit: 128 });
    assert_eq!(world.txn(many).await, refused);
    let large = "x".repeat(2 << 20);
    let refused = world.txn(ops([put("a", &large)])).await;
    assert!(matches!(refused, Err(Error::TooLarge { .. })), "{refused:?}");
    assert_eq!(world.revision().await, base);
    let enough = ops((0..128).map(|number| put(&format!("k{number}"), "1")));
    assert_eq!(world.txn(enough).await.unwrap().revision, base + 1);
    world.put("a", &"x".repeat(1 << 20)).await;
}

async fn an_update_keeps_what_is_not_given(world: World) {
    let (lease, _) = world.kv.lease_grant(0, 60).await.unwrap();
    let update = |value: Option<&str>, lease: Option<i64>| {
        let (key, value) = (bytes("a"), value.map(bytes));
        ops([Op::Update(UpdateRequest { key, value, lease, prev_kv: true })])
    };
    assert_eq!(world.txn(update(Some("1"), None)).await, Err(Error::KeyNotFound));
    world.write(put_leased("a", "1", lease)).await;
    world.txn(update(Some("2"), None)).await.unwrap();
    let kept = world.range(RangeRequest::new(single("a"))).await.kvs.remove(0);
    assert_eq!((kept.value.as_ref(), kept.lease, kept.version), (b"2".as_ref(), lease, 2));
    world.txn(update(None, Some(0))).await.unwrap();
    let kept = world.range(RangeRequest::new(single("a"))).await.kvs.remove(0);
    assert_eq!((kept.value.as_ref(), kept.lease, kept.version), (b"2".as_ref(), 0, 3));
}

async fn compare_and_swap_lets_one_of_many_win(world: World) {
    world.put("counter", "0").await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let kv = world.kv.clone();
        tasks.spawn(async move {
            let mut won = Vec::new();
            for _ in 0..20 {
                let read = kv.range(RangeRequest::new(single("counter"))).await.unwrap();
                let read = &read.kvs[0];
                let value: u64 = std::str::from_utf8(&read.value).unwrap().parse().unwrap();
                let target = CompareTarget::ModRevision(read.mod_revision);
                let swap = Txn {
                    compare: vec![compare("counter", Relation::Equal, target)],
                    success: vec![put("counter", &(value + 1).to_string())],
                    failure: Vec::new(),
                };
                let swapped = kv.txn(swap).await.unwrap();
                if swapped.succeeded {
                    won.push(swapped.revision);
                }
            }
            won
        });
    }
    let mut won: Vec<_> = tasks.join_all().await.concat();
    let count = won.len();
    won.sort_unstable();
    won.dedup();
    assert_eq!(won.len(), count, "two won at one revision");
    assert_eq!(world.values(single("counter"), None).await, [format!("counter={count}")]);
}
