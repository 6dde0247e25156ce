//! What a consumer gets to see, and what of others it does not.
//!
//! Invariant: every question is asked as over HTTP, with a key.

use std::time::Duration;

use http::Request;
use keyhaven_daemon::tasks::Tasks;
use keyhaven_protocol::hex::Hex;
use keyhaven_protocol::id::AccountId;
use keyhaven_protocol::id::AgentId;
use keyhaven_protocol::id::ApiKeyId;
use keyhaven_protocol::money::Ppm;
use keyhaven_protocol::price::Zone;
use keyhaven_protocol::provider::Provider;
use keyhaven_protocol::settle::Shares;

use super::*;
use crate::api_key::NewApiKey;
use crate::key_policy::Budgets;
use crate::key_policy::KeyPolicy;
use crate::keys::HubKeys;
use crate::keys::OfflineFiles;
use crate::settlement::BookKeys;
use crate::settlement::BookRules;
use crate::settlement::CallOutcome;
use crate::settlement::CallRecord;
use crate::settlement::Metering;
use crate::settlement::Others;
use crate::settlement::Sale;
use crate::settlement::deposit;
use crate::store::Store;
use crate::store::accounts::Account;
use crate::store::accounts::DEFAULT_ACCOUNT;
use crate::store::accounts::Deposit;
use crate::store::api_keys::ApiKey;

#[tokio::test]
async fn a_call_is_seen_by_the_keys_of_its_account_once_it_is_over() {
    let scene = Scene::build().await;
    let call = CallId([5; 16]);
    let path = format!("calls/{call}");
    let payer = scene.api.directory.authenticate(&scene.mine).await.unwrap();
    let mut hold = scene.api.books.hold(call, &payer, NanoUsd(900), unix_ms_now()).await.unwrap();
    hold.dispatched(sale(call));

    let (running, problem) = scene.get(&scene.mine, &path).await;
    assert_eq!((running, problem["code"].as_str()), (425, Some("KH-E2050")));
    assert_eq!(scene.get(&scene.others, &path).await.0, 404);
    scene.api.books.settle(hold, record(call));

    let (status, json) = scene.get(&scene.mine, &path).await;
    assert_eq!(status, 200, "{json}");
    assert_eq!(json["id"], call.to_string());
    assert_eq!((&json["outcome"], &json["agreement"]), (&json!("complete"), &json!("open")));
    assert_eq!(
        (&json["list_nano_usd"], &json["cost_nano_usd"], &json["held_nano_usd"]),
        (&json!(400), &json!(460), &json!(900))
    );
    assert_eq!((&json["cost"], &json["agent_metered"]), (&json!("$0.00000046"), &Value::Null));
    assert_eq!(json["hub_metered"]["list_nano_usd"], 400);
    assert!(!json.to_string().contains(&AGENT.to_string()), "the owner is nobody's business: {json}");
    assert_eq!(scene.get(&scene.others, &path).await.0, 404);
    scene.until_written().await;
    assert_eq!(scene.get(&scene.mine, &path).await, (200, json));
    assert_eq!(scene.get(&scene.others, &path).await.0, 404);

    let (_, usage) = scene.get(&scene.mine, "usage?since_unix_ms=0").await;
    assert_eq!((&usage["calls"], &usage["cost_nano_usd"]), (&json!(1), &json!(460)));
    assert_eq!(usage["usage"][0]["model"], "gpt-4o");
    assert_eq!(scene.get(&scene.others, "usage").await.1["calls"], 0);
    let (_, balance) = scene.get(&scene.mine, "balance").await;
    assert_eq!(balance["balance_nano_usd"], 1_000_000 - 460);
    assert_eq!(balance["key"]["spent_nano_usd"], json!({ "day": 460, "month": 460, "total": 460 }));
    assert_eq!(balance["key"]["budgets_nano_usd"], json!({ "day": 7000, "month": null, "total": null }));
}

#[tokio::test]
async fn what_cannot_be_answered_is_a_problem_with_a_code() {
    let scene = Scene::build().await;
    let unknown = CallId([9; 16]);
    let rows = [
        ("nothing", 404, "KH-E2003"),
        ("calls/7", 404, "KH-E2049"),
        (&format!("calls/{unknown}"), 404, "KH-E2049"),
        ("usage?since_unix_ms=yesterday", 400, "KH-E2006"),
        ("usage?a=b", 400, "KH-E2006"),
        ("prices", 503, "KH-E2048"),
    ];
    for (path, status, code) in rows {
        let (found, problem) = scene.get(&scene.mine, path).await;
        assert_eq!((found, problem["code"].as_str()), (status, Some(code)), "{path}");
    }

    let posted = scene.ask(Method::POST, &scene.mine, "balance").await;
    assert_eq!((posted.status().as_u16(), &posted.headers()["allow"]), (405, &HeaderValue::from_static("GET")));
    assert_eq!(scene.get("kh_sk_unknown", "balance").await.0, 401);
    assert_eq!(scene.get(&scene.expired, "balance").await.1["code"], "KH-E2045");
    let problem = scene.ask(Method::GET, &scene.mine, "calls/7").await;
    assert_eq!(problem.headers()["content-type"], "application/problem+json");
    scene.store.set_account(DEFAULT_ACCOUNT, Zone::Premium, Some(5)).await.unwrap();
    scene.api.directory.refresh().await;
    assert_eq!(scene.get(&scene.mine, "balance").await.1["blocked"], true);
}

struct Scene {
    api: ConsumerApi,
    store: Store,
    mine: String,
    others: String,
    expired: String,
    _dir: tempfile::TempDir,
}

const AGENT: AgentId = AgentId([0xa9; 16]);
const KEY: ApiKeyId = ApiKeyId([1; 16]);

impl Scene {
    async fn build() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).await.unwrap();
        let other = Account {
            id: AccountId([2; 16]),
            name: "other".to_owned(),
            zone: Zone::Standard,
            created_unix_ms: 1,
            blocked_unix_ms: None,
        };
        store.insert_account(&other).await.unwrap();
        let budgets = Budgets { day: Some(NanoUsd(7000)), ..Budgets::default() };
        let mine = add_key(&store, KEY, DEFAULT_ACCOUNT, KeyPolicy { budgets, ..KeyPolicy::default() }).await;
        let others = add_key(&store, ApiKeyId([2; 16]), other.id, KeyPolicy::default()).await;
        let expired = KeyPolicy { expires_unix_ms: Some(1), ..KeyPolicy::default() };
        let expired = add_key(&store, ApiKeyId([3; 16]), DEFAULT_ACCOUNT, expired).await;
        let paid =
            Deposit { reference: "1".to_owned(), account: DEFAULT_ACCOUNT, amount: NanoUsd(1_000_000), at_unix_ms: 1 };
        deposit(&store, &paid).await.unwrap();
        let tasks = Tasks::new();
        let directory = Directory::start(store.clone(), &tasks).await.unwrap();
        let books =
            Books::start(store.clone(), Others::None, BookKeys::samples(), BookRules::default(), &tasks).await.unwrap();
        let house = tempfile::tempdir().unwrap();
        let signer = HubKeys::init(house.path(), OfflineFiles::default()).unwrap().signer().clone();
        let prices = Prices::start(store.clone(), signer, directory.changed(), &tasks).await.unwrap();
        Self { api: ConsumerApi::new(directory, books, prices), store, mine, others, expired, _dir: dir }
    }

    async fn ask(&self, method: Method, key: &str, path: &str) -> Response<Bytes> {
        let request = Request::builder().method(method).uri(format!("{PREFIX}{path}"));
        let (head, ()) = request.header("authorization", format!("Bearer {key}")).body(()).unwrap().into_parts();
        self.api.answer(&head, "127.0.0.1".parse().unwrap()).await
    }

    async fn get(&self, key: &str, path: &str) -> (u16, Value) {
        let response = self.ask(Method::GET, key, path).await;
        (response.status().as_u16(), serde_json::from_slice(response.body()).unwrap())
    }

    async fn until_written(&self) {
        let written = async {
            while self.api.books.balance(DEFAULT_ACCOUNT).await.unwrap() == NanoUsd(1_000_000) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), written).await.unwrap();
    }
}

async fn add_key(store: &Store, id: ApiKeyId, account: AccountId, policy: KeyPolicy) -> String {
    let key = NewApiKey::generate().unwrap();
    let row = ApiKey {
        id,
        name: "web".to_owned(),
        account,
        policy,
        key_hash: key.hash(),
        masked: key.masked(),
        created_unix_ms: 1,
        revoked_unix_ms: None,
        last_used_unix_ms: None,
    };
    store.insert_api_key(&row).await.unwrap();
    key.reveal().to_owned()
}

fn sale(call: CallId) -> Sale {
    Sale {
        call,
        account: DEFAULT_ACCOUNT,
        key: KEY,
        agent: AGENT,
        attempt: 1,
        provider: Provider::OpenAi,
        endpoint: "openai chat completions".to_owned(),
        model: "gpt-4o".to_owned(),
        began_unix_ms: unix_ms_now(),
        price_version: 3,
        price_hash: Hex([1; 32]),
        zone: Zone::Standard,
        shares: Shares { zone: Ppm(1_150_000), tier: Ppm(800_000) },
        held: NanoUsd(900),
    }
}

fn record(call: CallId) -> CallRecord {
    let hub = Metering {
        outcome: CallOutcome::Complete,
        usage: std::collections::BTreeMap::new(),
        heard: std::collections::BTreeMap::new(),
        lines: Vec::new(),
        list_nano_usd: NanoUsd(400),
        tier: keyhaven_protocol::price::ServiceTier::Standard,
        model: Some("gpt-4o-2024-08-06".to_owned()),
        rule: "stated".to_owned(),
        estimated: false,
        doubts: Vec::new(),
        response_bytes: 10,
        elapsed_ms: 0,
    };
    CallRecord::settled(sale(call), 200, unix_ms_now(), hub, None).unwrap()
}
