"""Messages as JSON: each survives the round trip, and invalid JSON is rejected with its location."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as some

from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.variables.codec import encode_canonical
from workers.gateway.errors import MalformedError
from workers.gateway.http.transcoding import message_from_json, message_to_json, parse_texts


def _utf8(value: Any) -> bool:
    try:
        encode_canonical(value)
    except UnicodeEncodeError:
        return False
    return True


JSON = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats(allow_nan=False, allow_infinity=False) | some.text(),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = some.text(some.characters(exclude_categories=["Cs"]), max_size=20)
CHANGES = some.builds(
    lambda name, value, kind, constraints: pb.Change(
        name=name, value_json=encode_canonical(value), type=kind, constraints_json=encode_canonical(constraints)
    ),
    NAMES,
    JSON.filter(_utf8),
    some.sampled_from(pb.VariableType.values()),
    some.just({"max": 2}),
)


@given(some.lists(CHANGES, max_size=3), NAMES, some.booleans())
def test_a_request_survives_the_round_trip_through_json(changes: list[pb.Change], session: str, replace: bool) -> None:
    request = pb.PublishRequest(session=session, changes=changes, replace=replace)
    assert message_from_json(pb.PublishRequest, message_to_json(request)) == request


def test_a_map_is_an_object() -> None:
    program = pb.Program(name="qa", version=2, labels=["prod"], label_versions={"prod": 2, "old": 1})
    described = message_to_json(program)
    assert described["label_versions"] == {"prod": 2, "old": 1}
    assert message_from_json(pb.Program, described) == program
    with pytest.raises(MalformedError, match=r"body\.label_versions\.prod"):
        message_from_json(pb.Program, {"label_versions": {"prod": "2"}})


def test_fields_have_inlined_json_lowercase_enums_and_rfc_3339_times() -> None:
    moment = Timestamp()
    moment.FromJsonString("2026-01-02T03:04:05Z")
    variable = pb.Variable(name="a", type=pb.VARIABLE_TYPE_FLOAT, value_json=b'"NaN"', constraints_json=b'{"max":2}')
    snapshot = pb.Snapshot(session="s", token="1.2", variables=[variable], confirmed_at=moment, staleness_s=0.5)
    assert message_to_json(snapshot) == {
        "session": "s", "token": "1.2", "authority": "", "staleness_s": 0.5, "confirmed_at": "2026-01-02T03:04:05Z",
        "variables": [{"name": "a", "type": "float", "value": "NaN", "constraints": {"max": 2}}],
        "staged": [],
    }  # fmt: skip


def test_absent_fields_are_omitted_and_a_set_oneof_is_not() -> None:
    assert message_to_json(pb.Prediction(id="x", state=pb.PREDICTION_STATE_QUEUED)) == {"id": "x", "state": "queued"}
    submitted = message_to_json(pb.SubmitBatchResponse(submitted=[pb.Submitted(error=pb.Error(kind="K"))]))
    assert submitted == {"submitted": [{"error": {"kind": "K", "message": ""}}]}


WRONG: dict[str, Any] = {
    "body": {"changes": [], "colour": 1},
    "body.session": {"changes": [], "session": 5},
    "body.changes": {"changes": {}},
    "body.changes[0]": {"changes": [{"value": 1}]},
    "body.changes[1]": {"changes": [{"name": "a"}, 7]},
    "body.changes[0].type": {"changes": [{"name": "a", "type": "VARIABLE_TYPE_FLOAT"}]},
    "body.changes[0].delete": {"changes": [{"name": "a", "value": 1, "delete": True}]},
    "body.replace": {"changes": [], "replace": 1},
}


@pytest.mark.parametrize("where", WRONG)
def test_json_that_fits_no_field_is_rejected_with_its_location(where: str) -> None:
    with pytest.raises(MalformedError) as refused:
        message_from_json(pb.PublishRequest, WRONG[where])
    assert refused.value.where == where


@pytest.mark.parametrize("value", [-1, 2**32, 1.5, True, "1", None, [1]])
def test_a_number_out_of_a_fields_range_is_rejected(value: Any) -> None:
    with pytest.raises(MalformedError):
        message_from_json(pb.HistoryRequest, {"limit": value})


def test_null_is_a_value_in_an_inlined_json_field() -> None:
    assert (
        message_from_json(pb.PublishRequest, {"changes": [{"name": "a", "value": None}]}).changes[0].value_json
        == b"null"
    )


def test_query_texts_are_parsed_to_the_types_of_their_fields() -> None:
    texts = [("session", "5"), ("names", "1"), ("names", "b"), ("wait_s", "1.5")]
    request = message_from_json(pb.GetVariablesRequest, parse_texts(pb.GetVariablesRequest, texts))
    assert request == pb.GetVariablesRequest(session="5", names=["1", "b"], wait_s=1.5)
    for wrong in ([("wait_s", "x")], [("wait_s", "1"), ("wait_s", "2")], [("z", "1")], [("wait_s", "Infinity")]):
        with pytest.raises(MalformedError):
            message_from_json(pb.GetVariablesRequest, parse_texts(pb.GetVariablesRequest, wrong))


def test_an_enum_in_a_query_is_the_name_that_answers_have() -> None:
    request = message_from_json(pb.ListJobsRequest, parse_texts(pb.ListJobsRequest, [("kind", "evaluation")]))
    assert request == pb.ListJobsRequest(kind=pb.JOB_KIND_EVALUATION)
    for wrong in ("1", "EVALUATION", "nothing"):
        with pytest.raises(MalformedError, match="kind"):
            message_from_json(pb.ListJobsRequest, parse_texts(pb.ListJobsRequest, [("kind", wrong)]))
