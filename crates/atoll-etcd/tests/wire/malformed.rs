//! Messages that no client makes, and those of the other services: one by one, refused in the
//! same words.

use atoll_etcd::proto::etcdserverpb::compare::TargetUnion;
use atoll_etcd::proto::etcdserverpb::request_op::Request;
use atoll_etcd::proto::etcdserverpb::*;
use bytes::Bytes;

use crate::etcd::Release;
use crate::plan::Step;
use crate::random::Pair;

fn put(key: &'static str, value: impl Into<Bytes>) -> PutRequest {
    PutRequest { key: key.into(), value: value.into(), ..PutRequest::default() }
}

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn put_op(key: &'static str) -> RequestOp {
    op(Request::RequestPut(put(key, "1")))
}

fn delete_op(key: &'static str, end: &'static str) -> RequestOp {
    let delete = DeleteRangeRequest { key: key.into(), range_end: end.into(), prev_kv: true };
    op(Request::RequestDeleteRange(delete))
}

fn range_op(range: RangeRequest) -> RequestOp {
    op(Request::RequestRange(range))
}

fn success(success: Vec<RequestOp>) -> TxnRequest {
    TxnRequest { success, ..TxnRequest::default() }
}

fn inner(txn: TxnRequest) -> RequestOp {
    op(Request::RequestTxn(txn))
}

fn range(key: &'static str, end: &'static str) -> RangeRequest {
    RangeRequest { key: key.into(), range_end: end.into(), ..RangeRequest::default() }
}

fn compare(key: &'static str, target_union: Option<TargetUnion>, target: i32) -> Compare {
    Compare { result: 0, target, key: key.into(), range_end: Bytes::new(), target_union }
}

fn ranges() -> Vec<Step> {
    let all = || range("\0", "\0");
    vec![
        Step::Range(range("", "")),
        Step::Range(range("", "\0")),
        Step::Range(range("b", "a")),
        Step::Range(range("a", "a")),
        Step::Range(RangeRequest { limit: -5, ..all() }),
        Step::Range(RangeRequest { limit: i64::MAX, ..all() }),
        Step::Range(RangeRequest { revision: -7, ..all() }),
        Step::Range(RangeRequest { revision: i64::MAX, ..all() }),
        Step::Range(RangeRequest { count_only: true, limit: 1, ..all() }),
        Step::Range(RangeRequest { count_only: true, keys_only: true, ..all() }),
        Step::Range(RangeRequest { min_mod_revision: -1, max_mod_revision: -1, ..all() }),
        Step::Range(RangeRequest { min_create_revision: i64::MAX, limit: 1, ..all() }),
        Step::Range(RangeRequest { sort_target: 4, sort_order: 2, keys_only: true, ..all() }),
    ]
}

fn writes() -> Vec<Step> {
    let near = 1_572_864;
    let sized = |bytes: usize| Step::Put(put("large", vec![b'x'; bytes]));
    vec![
        Step::Put(put("", "1")),
        Step::Put(PutRequest { ignore_value: true, ..put("a", "1") }),
        Step::Put(PutRequest { ignore_lease: true, lease: 5, ..put("a", "1") }),
        Step::Put(PutRequest { ignore_value: true, ..put("missing", "") }),
        Step::Put(PutRequest { ignore_lease: true, ..put("missing", "1") }),
        Step::Put(PutRequest { lease: 404, ..put("a", "1") }),
        Step::Put(PutRequest { lease: -1, ..put("a", "1") }),
        sized(near - 60),
        sized(near - 20),
        sized(near),
        sized(near + (512 << 10) - 40),
        sized(near + (512 << 10)),
        sized(3 << 20),
        Step::Delete(DeleteRangeRequest::default()),
        Step::Delete(DeleteRangeRequest { range_end: "\0".into(), ..Default::default() }),
        Step::Delete(DeleteRangeRequest { key: "large".into(), ..Default::default() }),
        // One at 0 is taken by an etcd, once, and does nothing; here it is refused as those below.
        Step::Compact(CompactionRequest { revision: -1, physical: true }),
        Step::Compact(CompactionRequest { revision: i64::MAX, physical: false }),
        Step::HashKv(i64::MAX),
    ]
}

fn txns() -> Vec<Step> {
    let many = |count: usize| vec![range_op(range("a", "")); count];
    let compares = |count: usize| vec![compare("a", Some(TargetUnion::Version(1)), 0); count];
    let both = TxnRequest {
        success: vec![put_op("a")],
        failure: vec![put_op("a")],
        ..TxnRequest::default()
    };
    let future = RangeRequest { revision: i64::MAX, ..range("a", "") };
    let deep = (0..6).fold(success(vec![put_op("deep")]), |txn, _| success(vec![inner(txn)]));
    let txns = vec![
        TxnRequest::default(),
        success(vec![RequestOp::default()]),
        success(vec![range_op(range("", ""))]),
        success(vec![delete_op("", "")]),
        success(vec![op(Request::RequestPut(put("", "1")))]),
        success(vec![put_op("a"), put_op("a")]),
        success(vec![put_op("a"), delete_op("a", "")]),
        success(vec![delete_op("a", "c"), put_op("b")]),
        success(vec![delete_op("a", "c"), delete_op("a", "c")]),
        success(vec![put_op("b"), inner(success(vec![put_op("b")]))]),
        // An etcd does not see that a deletion to the end meets a put; this one it sees.
        success(vec![put_op("b"), inner(success(vec![delete_op("a", "z")]))]),
        success(vec![inner(success(vec![put_op("b")])), inner(success(vec![put_op("b")]))]),
        success(vec![inner(both.clone())]),
        // What the outer one takes is not left for the inner.
        success([many(99), vec![inner(success(many(28)))]].concat()),
        success([many(99), vec![inner(success(many(29)))]].concat()),
        success(
            [many(63), vec![inner(TxnRequest { failure: many(65), ..Default::default() })]]
                .concat(),
        ),
        success(vec![inner(both.clone()), put_op("a")]),
        both,
        deep,
        success(many(128)),
        success(many(129)),
        success(vec![inner(success(many(129)))]),
        TxnRequest { failure: many(129), ..TxnRequest::default() },
        TxnRequest { compare: compares(128), ..TxnRequest::default() },
        TxnRequest { compare: compares(129), ..TxnRequest::default() },
        success(vec![put_op("a"), range_op(future.clone())]),
        success(vec![range_op(future.clone())]),
        TxnRequest { failure: vec![put_op("a"), range_op(future)], ..TxnRequest::default() },
        success(vec![op(Request::RequestPut(PutRequest { lease: 404, ..put("a", "1") }))]),
        success(vec![op(Request::RequestPut(PutRequest {
            ignore_value: true,
            ..put("missing", "")
        }))]),
        success(vec![op(Request::RequestPut(PutRequest { ignore_value: true, ..put("a", "1") }))]),
        TxnRequest { compare: vec![compare("", None, 0)], ..TxnRequest::default() },
        TxnRequest { compare: vec![compare("missing", None, 3)], ..TxnRequest::default() },
        TxnRequest { compare: vec![compare("missing", None, 4)], ..TxnRequest::default() },
        TxnRequest {
            compare: vec![compare("a", Some(TargetUnion::Lease(0)), 3)],
            ..TxnRequest::default()
        },
    ];
    txns.into_iter().map(Step::Txn).collect()
}

fn leases() -> Vec<Step> {
    let grant = |ttl, id| Step::Grant(LeaseGrantRequest { ttl, id });
    vec![
        grant(9_000_000_000, 71),
        grant(9_000_000_001, 72),
        grant(i64::MAX, 72),
        grant(60, 71),
        grant(-5, 73),
        Step::Revoke(73),
        grant(0, -74),
        Step::Revoke(-74),
        Step::KeepAlive(71),
        Step::KeepAlive(0),
        Step::KeepAlive(404),
        Step::Revoke(0),
        Step::Revoke(404),
        Step::TimeToLive(LeaseTimeToLiveRequest { id: 0, keys: true }),
        Step::TimeToLive(LeaseTimeToLiveRequest { id: 404, keys: true }),
        Step::TimeToLive(LeaseTimeToLiveRequest { id: 71, keys: true }),
        Step::Leases,
        Step::Revoke(71),
    ]
}

/// Calls of the other services, each by its name.
macro_rules! asked {
    ($pair:expr, $($service:ident.$call:ident($request:expr)),* $(,)?) => {
        $({
            let request = $request;
            let ask = async |raw: &mut crate::raw::Raw| raw.$service.$call(request.clone()).await;
            let asked = async { ($pair.ours.ask(ask).await, $pair.theirs.ask(ask).await) };
            let asked = tokio::time::timeout(crate::served::PATIENCE, asked).await;
            let (ours, theirs) = asked.unwrap_or_else(|_| panic!("no answer: {request:?}"));
            assert_eq!(ours.text, theirs.text, "ours and theirs: {request:?}");
        })*
    };
}

fn text(word: &str) -> String {
    word.to_owned()
}

async fn other_services(pair: &mut Pair) {
    let urls = |url: &str| vec![text(url)];
    asked!(
        pair,
        cluster.member_add(MemberAddRequest { peer_ur_ls: vec![], is_learner: true }),
        cluster.member_add(MemberAddRequest { peer_ur_ls: urls("nothing"), is_learner: false }),
        cluster.member_add(MemberAddRequest { peer_ur_ls: urls("http://x"), is_learner: true }),
        // One change alone: an etcd that is asked for the next at once may drop it and never answer.
        cluster.member_remove(MemberRemoveRequest { id: 1234 }),
        maintenance.move_leader(MoveLeaderRequest { target_id: 0 }),
        maintenance.move_leader(MoveLeaderRequest { target_id: 1234 }),
        maintenance.alarm(AlarmRequest { action: 0, member_id: 0, alarm: 0 }),
        maintenance.alarm(AlarmRequest { action: 2, member_id: 0, alarm: 0 }),
        maintenance.alarm(AlarmRequest { action: 2, member_id: 9, alarm: 1 }),
        auth.auth_enable(AuthEnableRequest {}),
        auth.auth_disable(AuthDisableRequest {}),
        auth.authenticate(AuthenticateRequest { name: text("root"), password: text("x") }),
        auth.authenticate(AuthenticateRequest::default()),
        auth.user_list(AuthUserListRequest {}),
        auth.user_get(AuthUserGetRequest { name: text("nobody") }),
        auth.role_list(AuthRoleListRequest {}),
        auth.role_get(AuthRoleGetRequest { role: text("nothing") }),
    );
}

/// One that a client has raised, of a member that there is not, and what it forbids.
async fn alarms(pair: &mut Pair) {
    const NOSPACE: i32 = 1;
    const CORRUPT: i32 = 2;
    let alarm = |action, alarm| AlarmRequest { action, member_id: 123, alarm };
    let (get, raise, lower) = (0, 1, 2);
    let grant = Step::Grant(LeaseGrantRequest { ttl: 600, id: 77 });
    for kind in [NOSPACE, CORRUPT] {
        pair.both(&grant, "before the alarm").await;
        asked!(
            pair,
            maintenance.alarm(alarm(raise, kind)),
            maintenance.alarm(alarm(raise, kind)),
            maintenance.alarm(alarm(get, 0)),
            maintenance.alarm(alarm(get, NOSPACE)),
            maintenance.alarm(alarm(lower, 0)),
        );
        for (number, step) in [
            Step::Put(put("", "1")),
            Step::Put(put("a", "1")),
            Step::Txn(success(vec![put_op("a")])),
            Step::Txn(TxnRequest { failure: vec![put_op("a")], ..TxnRequest::default() }),
            Step::Txn(success(vec![delete_op("b", "")])),
            Step::Txn(success(vec![range_op(range("a", ""))])),
            Step::Range(range("a", "")),
            Step::Delete(DeleteRangeRequest { key: "c".into(), ..Default::default() }),
            Step::Compact(CompactionRequest { revision: 3, physical: false }),
            Step::Revoke(77),
            grant.clone(),
        ]
        .iter()
        .enumerate()
        {
            pair.both(step, &format!("step {number} under the alarm {kind}")).await;
        }
        asked!(
            pair,
            maintenance.alarm(alarm(lower, kind)),
            maintenance.alarm(alarm(lower, kind)),
            maintenance.alarm(alarm(get, 0)),
        );
        pair.both(&Step::Put(put("a", "2")), "after the alarm").await;
        pair.both(&Step::Revoke(77), "after the alarm").await;
    }
}

async fn refused_alike(release: Release) {
    let Some(mut pair) = Pair::start(release).await else { return };
    for (key, value) in [("a", "1"), ("b", "2"), ("c", "3")] {
        pair.both(&Step::Put(put(key, value)), "in the beginning").await;
    }
    let steps = [ranges(), writes(), txns(), leases()].concat();
    for (number, step) in steps.iter().enumerate() {
        pair.both(step, &format!("message {number}")).await;
    }
    other_services(&mut pair).await;
    alarms(&mut pair).await;
    if release == Release::Distro35 {
        // Earlier ones keep an alarm of no kind.
        let nothing = AlarmRequest { action: 1, member_id: 123, alarm: 0 };
        asked!(pair, maintenance.alarm(nothing), maintenance.alarm(AlarmRequest::default()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_messages_are_refused_as_by_etcd_3_5() {
    refused_alike(Release::Distro35).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_messages_are_refused_as_by_etcd_3_4() {
    refused_alike(Release::Debian34).await;
}

/// An etcd takes some of them for another, and panics at others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_of_no_name_are_refused() {
    let served = crate::served::Served::start(1).await;
    let mut raw = crate::raw::Raw::open(served.address(0)).await;
    let refused = |status: tonic::Status| (status.code(), status.message().to_owned());
    let says = |text: &str| (tonic::Code::InvalidArgument, format!("etcdserver: {text}"));
    for range in [
        RangeRequest { sort_order: 9, ..range("a", "") },
        RangeRequest { sort_target: -1, ..range("a", "") },
    ] {
        let status = raw.kv.range(range).await.expect_err("it is refused");
        assert_eq!(refused(status), says("invalid sort option"));
    }
    for compare in [
        Compare { result: 9, ..compare("a", None, 0) },
        Compare { target: 9, ..compare("a", None, 0) },
    ] {
        let txn = TxnRequest { compare: vec![compare], ..TxnRequest::default() };
        let status = raw.kv.txn(txn).await.expect_err("it is refused");
        assert_eq!(refused(status), says("invalid compare in txn request"));
    }
    let alarm = AlarmRequest { action: 9, member_id: 0, alarm: 0 };
    let status = raw.maintenance.alarm(alarm).await.expect_err("it is refused");
    assert_eq!(refused(status), says("invalid action of an alarm request"));
}
