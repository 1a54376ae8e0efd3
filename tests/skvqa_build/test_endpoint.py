"""The client against a real server process, with the faults of real servers."""

import time
from pathlib import Path

import pytest

from lmms_kvtp.commands.endpoints import spent_so_far
from lmms_kvtp.skvqa_build.ask import ask_all, read_scores
from lmms_kvtp.skvqa_build.chat import BudgetError, ChatError, ChatRequest
from lmms_kvtp.skvqa_build.endpoint import Endpoint, Prices, Spent
from lmms_kvtp.skvqa_build.store import Store

BOUNDS = [(0, 7), (8, 15)]


def endpoint(stub, model="good", **settings):
    return Endpoint(model, stub.url, "key", **{"timeout": 1.0, "retries": 3, **settings})


def requests(count, first=0):
    for number in range(first, first + count):
        text = f"<clips>\n0-7: a cat\n8-15: a dog\n</clips>\n<question>Which {number}?</question>"
        yield ChatRequest("score", text, f"q{number}", max_new_tokens=50)


def score(chat, store, count=3, first=0):
    return ask_all(chat, store, requests(count, first), lambda _, text: read_scores(text, BOUNDS))


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "calls.sqlite")


@pytest.mark.parametrize("model", ["good", "limited", "broken", "slow"])
def test_answers_come_through_rate_limits_server_errors_and_timeouts(start_stub, store, model):
    stub = start_stub()
    found = score(endpoint(stub, model), store)
    assert found.answers == {f"q{number}": (0.0, 5.0) for number in range(3)}
    assert found.failures == ()
    assert len(stub.requests()) == {"good": 3, "limited": 9, "broken": 9, "slow": 6}[model]


def test_a_bad_answer_is_repaired_once(start_stub, store):
    stub = start_stub()
    found = score(endpoint(stub, "chatty"), store)
    assert len(found.answers) == 3
    assert len(stub.requests()) == 6


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("stubborn", "not JSON"),
        ("injected", "not JSON"),
        ("empty", "an answer without a message"),
        ("garbage", ""),
    ],
)
def test_what_stays_unusable_is_a_failure_with_its_reason(start_stub, store, model, reason):
    found = score(endpoint(start_stub(), model), store, count=2)
    assert found.answers == {}
    assert sorted(lost.subject for lost in found.failures) == ["q0", "q1"]
    assert all(lost.step == "score" and reason in lost.reason for lost in found.failures)
    assert not Path("/tmp/injected").exists()


def test_finished_calls_are_not_made_again(start_stub, store):
    stub = start_stub()
    score(endpoint(stub), store, count=4)
    again = score(endpoint(stub), store, count=6)
    assert len(again.answers) == 6
    assert len(stub.requests()) == 6


def test_neither_are_bad_answers_and_their_repairs(start_stub, store):
    stub = start_stub()
    first = score(endpoint(stub, "stubborn"), store)
    again = score(endpoint(stub, "stubborn"), store)
    assert sorted(again.failures, key=str) == sorted(first.failures, key=str)
    assert len(stub.requests()) == 6


def test_another_model_or_text_is_another_call(start_stub, store):
    stub = start_stub()
    score(endpoint(stub), store, count=1)
    score(endpoint(stub, "limited"), store, count=1)
    score(endpoint(stub), store, count=1, first=1)
    assert len(stub.requests()) == 1 + 3 + 1


@pytest.mark.parametrize("concurrency", [1, 4])
def test_no_more_requests_are_in_flight_than_allowed(start_stub, store, concurrency):
    stub = start_stub(delay=0.1)
    score(endpoint(stub, concurrency=concurrency), store, count=12)
    assert max(request["most"] for request in stub.requests()) == concurrency


def test_tokens_are_counted_by_step_and_model(start_stub, store):
    chat = endpoint(start_stub(), prices=Prices(input=2.0, output=5.0))
    score(chat, store)
    [used] = store.usage()
    assert (used.step, used.model, used.calls) == ("score", "good", 3)
    assert (used.input_tokens, used.output_tokens) == (3000, 30)
    assert (chat.spent.input_tokens, chat.spent.output_tokens) == (3000, 30)
    assert chat.prices.cost(3000, 30) == pytest.approx((3000 * 2 + 30 * 5) / 1e6)


def test_a_later_start_goes_on_with_what_was_spent_at_its_own_endpoints(store):
    for number, (step, model) in enumerate(
        [("score", "paid"), ("refine", "paid"), ("score", "also"), ("score", "free")]
    ):
        store.put(f"key{number}", "5", step, model, 10**number, 2 * 10**number)
    assert spent_so_far(["endpoint:paid", "endpoint:also", "rule", "free"], store) == Spent(111, 222)
    assert spent_so_far(["endpoint:other", "none"], store) == Spent(0, 0)


@pytest.mark.parametrize("concurrency", [1, 8])
def test_a_budget_ends_the_build_with_at_most_the_calls_in_flight_over_it(start_stub, store, concurrency):
    stub = start_stub(delay=0.1)
    prices = Prices(input=1000.0, output=0.0, budget=2.5)  # a dollar a call
    with pytest.raises(BudgetError, match=r"dollars of the budget of 2.5 are spent; finished calls are kept"):
        score(endpoint(stub, concurrency=concurrency, prices=prices), store, count=20)
    [used] = store.usage()
    assert 3 <= used.calls == len(stub.requests()) <= 2 + concurrency  # the last call began at 2 dollars or less


def test_a_later_start_keeps_what_was_paid_for_and_needs_a_larger_budget(start_stub, store):
    stub = start_stub()
    limited, more = Prices(input=1000.0, budget=2.5), Prices(input=1000.0, budget=99.0)
    with pytest.raises(BudgetError, match=r"3.0000 dollars of the budget of 2.5 are spent; finished"):
        score(endpoint(stub, concurrency=1, prices=limited), store, count=20)
    with pytest.raises(BudgetError, match=r"3.0000 dollars"):
        score(endpoint(stub, prices=limited, spent=spent_so_far(["endpoint:good"], store)), store, count=20)
    assert len(stub.requests()) == 3
    chat = endpoint(stub, prices=more, spent=spent_so_far(["endpoint:good"], store))
    assert len(score(chat, store, count=20).answers) == len(stub.requests()) == 20
    assert chat.spent.input_tokens == 20_000


def test_a_server_that_counts_no_tokens_is_refused_with_a_budget(start_stub, store):
    stub = start_stub()
    with pytest.raises(ChatError, match="does not report how many tokens uncounted used, so a budget cannot be kept"):
        score(endpoint(stub, "uncounted", prices=Prices(1.0, 1.0, 99.0)), store, count=9)
    assert len(stub.requests()) <= 8  # those in flight
    assert len(score(endpoint(stub, "uncounted"), store, count=9).answers) == 9


def test_a_budget_without_prices_is_refused():
    with pytest.raises(ValueError, match="needs the prices"):
        Prices(budget=1.0)


def test_a_wrong_key_or_model_ends_the_build_at_once(start_stub, store):
    stub = start_stub()
    with pytest.raises(ChatError, match=r"refuses model 'good': .*wrong key"):
        score(Endpoint("good", stub.url, "wrong"), store, count=50)
    with pytest.raises(ChatError, match=r"refuses model 'nobody': .*no model nobody.*start again"):
        score(endpoint(stub, "nobody"), store, count=50)


def test_a_server_that_is_down_ends_the_build_instead_of_failing_every_question(start_stub, store):
    stub = start_stub()
    with pytest.raises(ChatError, match=r"1\d requests in a row got no answer"):
        score(endpoint(stub, "unusable", retries=0), store, count=500)
    stub.stop()
    with pytest.raises(ChatError, match=r"in a row got no answer from http"):
        score(endpoint(stub, retries=0), store, count=500)


def test_throughput_grows_with_the_limit(start_stub, tmp_path):
    stub, seconds = start_stub(delay=0.3), {}
    score(endpoint(stub), Store(tmp_path / "first.sqlite"), count=1)  # loads the client
    for concurrency in (1, 6):
        start = time.perf_counter()
        score(endpoint(stub, concurrency=concurrency), Store(tmp_path / f"{concurrency}.sqlite"), count=12)
        seconds[concurrency] = time.perf_counter() - start
    assert seconds[6] < 0.6 * seconds[1]
