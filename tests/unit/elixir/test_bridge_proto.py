"""The bridge's proto against the running server's: every number, name and type, and the bytes themselves."""

from __future__ import annotations

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from snakepit_bridge.elixir.generated import snakepit_bridge_pb2 as pb

# Read off the server, message by message: number, name, type.
MESSAGES = """
PingRequest: 1 message string
PingResponse: 1 message string; 2 server_time google.protobuf.Timestamp
InitializeSessionRequest: 1 session_id string; 2 metadata map<string,string>; 3 config SessionConfig
SessionConfig: 1 enable_caching bool; 2 cache_ttl_seconds int32; 3 enable_telemetry bool
InitializeSessionResponse: 1 success bool; 2 error_message string; 3 available_tools map<string,ToolSpec>;
    4 initial_variables map<string,Variable>
CleanupSessionRequest: 1 session_id string; 2 force bool
CleanupSessionResponse: 1 success bool; 2 resources_cleaned int32
Variable: 1 id string; 2 name string; 3 type string; 4 value google.protobuf.Any; 5 constraints_json string;
    6 metadata map<string,string>; 7 source Source; 8 last_updated_at google.protobuf.Timestamp; 9 version int32;
    10 access_control_json string; 11 optimization_status OptimizationStatus; 12 binary_value bytes
OptimizationStatus: 1 optimizing bool; 2 optimizer_id string; 3 started_at google.protobuf.Timestamp
RegisterVariableRequest: 1 session_id string; 2 name string; 3 type string; 4 initial_value google.protobuf.Any;
    5 constraints_json string; 6 metadata map<string,string>; 7 initial_binary_value bytes
RegisterVariableResponse: 1 success bool; 2 variable_id string; 3 error_message string
GetVariableRequest: 1 session_id string; 2 variable_identifier string; 3 bypass_cache bool
GetVariableResponse: 1 variable Variable; 2 from_cache bool
SetVariableRequest: 1 session_id string; 2 variable_identifier string; 3 value google.protobuf.Any;
    4 metadata map<string,string>; 5 expected_version int32; 6 binary_value bytes
SetVariableResponse: 1 success bool; 2 error_message string; 3 new_version int32
BatchGetVariablesRequest: 1 session_id string; 2 variable_identifiers repeated string; 3 include_metadata bool;
    4 bypass_cache bool
BatchGetVariablesResponse: 1 variables map<string,Variable>; 2 missing_variables repeated string
BatchSetVariablesRequest: 1 session_id string; 2 updates map<string,google.protobuf.Any>;
    3 metadata map<string,string>; 4 atomic bool; 5 binary_updates map<string,bytes>
BatchSetVariablesResponse: 1 success bool; 2 errors map<string,string>; 3 new_versions map<string,int32>
ListVariablesRequest: 1 session_id string; 2 pattern string
ListVariablesResponse: 1 variables repeated Variable
DeleteVariableRequest: 1 session_id string; 2 variable_identifier string
DeleteVariableResponse: 1 success bool; 2 error_message string
ToolSpec: 1 name string; 2 description string; 3 parameters repeated ParameterSpec; 4 metadata map<string,string>;
    5 supports_streaming bool; 6 required_variables repeated string
ParameterSpec: 1 name string; 2 type string; 3 description string; 4 required bool;
    5 default_value google.protobuf.Any; 6 validation_json string
ExecuteToolRequest: 1 session_id string; 2 tool_name string; 3 parameters map<string,google.protobuf.Any>;
    4 metadata map<string,string>; 5 stream bool; 6 binary_parameters map<string,bytes>
ExecuteToolResponse: 1 success bool; 2 result google.protobuf.Any; 3 error_message string;
    4 metadata map<string,string>; 5 execution_time_ms int64
ToolChunk: 1 chunk_id string; 2 data bytes; 3 is_final bool; 4 metadata map<string,string>
WatchVariablesRequest: 1 session_id string; 2 variable_identifiers repeated string; 3 include_initial_values bool
VariableUpdate: 1 variable_id string; 2 variable Variable; 3 update_source string;
    4 update_metadata map<string,string>; 5 timestamp google.protobuf.Timestamp; 6 update_type string
AddDependencyRequest: 1 session_id string; 2 from_variable string; 3 to_variable string; 4 dependency_type string
AddDependencyResponse: 1 success bool; 2 error_message string
StartOptimizationRequest: 1 session_id string; 2 variable_identifier string; 3 optimizer_id string;
    4 optimizer_config map<string,string>
StartOptimizationResponse: 1 success bool; 2 error_message string; 3 optimization_id string
StopOptimizationRequest: 1 session_id string; 2 variable_identifier string; 3 force bool
StopOptimizationResponse: 1 success bool; 2 final_value google.protobuf.Any
GetVariableHistoryRequest: 1 session_id string; 2 variable_identifier string; 3 limit int32
GetVariableHistoryResponse: 1 entries repeated VariableHistoryEntry
VariableHistoryEntry: 1 version int32; 2 value google.protobuf.Any; 3 timestamp google.protobuf.Timestamp;
    4 changed_by string; 5 metadata map<string,string>
RollbackVariableRequest: 1 session_id string; 2 variable_identifier string; 3 target_version int32
RollbackVariableResponse: 1 success bool; 2 variable Variable; 3 error_message string
GetSessionRequest: 1 session_id string
GetSessionResponse: 1 session_id string; 2 metadata map<string,string>; 3 created_at google.protobuf.Timestamp;
    4 variable_count int32; 5 tool_count int32
HeartbeatRequest: 1 session_id string; 2 client_time google.protobuf.Timestamp
HeartbeatResponse: 1 server_time google.protobuf.Timestamp; 2 session_valid bool
RegisterToolsRequest: 1 session_id string; 2 tools repeated ToolRegistration; 3 worker_id string
ToolRegistration: 1 name string; 2 description string; 3 parameters repeated ParameterSpec;
    4 metadata map<string,string>; 5 supports_streaming bool
RegisterToolsResponse: 1 success bool; 2 tool_ids map<string,string>; 3 error_message string
GetExposedElixirToolsRequest: 1 session_id string
GetExposedElixirToolsResponse: 1 tools repeated ToolSpec
ExecuteElixirToolRequest: 1 session_id string; 2 tool_name string; 3 parameters map<string,google.protobuf.Any>;
    4 metadata map<string,string>
ExecuteElixirToolResponse: 1 success bool; 2 result google.protobuf.Any; 3 error_message string;
    4 metadata map<string,string>; 5 execution_time_ms int64
"""

# Method, request, response.
METHODS = """
Ping PingRequest PingResponse
InitializeSession InitializeSessionRequest InitializeSessionResponse
CleanupSession CleanupSessionRequest CleanupSessionResponse
GetSession GetSessionRequest GetSessionResponse
Heartbeat HeartbeatRequest HeartbeatResponse
GetVariable GetVariableRequest GetVariableResponse
SetVariable SetVariableRequest SetVariableResponse
GetVariables BatchGetVariablesRequest BatchGetVariablesResponse
SetVariables BatchSetVariablesRequest BatchSetVariablesResponse
RegisterVariable RegisterVariableRequest RegisterVariableResponse
ListVariables ListVariablesRequest ListVariablesResponse
DeleteVariable DeleteVariableRequest DeleteVariableResponse
ExecuteTool ExecuteToolRequest ExecuteToolResponse
ExecuteStreamingTool ExecuteToolRequest stream ToolChunk
RegisterTools RegisterToolsRequest RegisterToolsResponse
GetExposedElixirTools GetExposedElixirToolsRequest GetExposedElixirToolsResponse
ExecuteElixirTool ExecuteElixirToolRequest ExecuteElixirToolResponse
WatchVariables WatchVariablesRequest stream VariableUpdate
AddDependency AddDependencyRequest AddDependencyResponse
StartOptimization StartOptimizationRequest StartOptimizationResponse
StopOptimization StopOptimizationRequest StopOptimizationResponse
GetVariableHistory GetVariableHistoryRequest GetVariableHistoryResponse
RollbackVariable RollbackVariableRequest RollbackVariableResponse
"""

_NAMES = {
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_INT64: "int64",
}


def messages() -> dict[str, str]:
    lines = MESSAGES.replace("\n    ", " ").strip().splitlines()
    named = (line.partition(":") for line in lines)
    return {name: fields for name, _, fields in named}


def spelled(message: Descriptor) -> list[str]:
    return [f"{field.number} {field.name} {kind(field)}" for field in message.fields]


def kind(field: FieldDescriptor) -> str:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = field.message_type.fields
        return f"map<{kind(key)},{kind(value)}>"
    return ("repeated " if field.is_repeated else "") + plain_kind(field)


def plain_kind(field: FieldDescriptor) -> str:
    named = field.message_type or field.enum_type
    if named is None:
        return _NAMES[field.type]
    return named.full_name if named.file.package == "google.protobuf" else named.name


@pytest.mark.parametrize("name", messages())
def test_each_message_has_the_fields_of_the_server(name: str) -> None:
    wanted = [part.strip() for part in messages()[name].split(";") if part.strip()]
    assert spelled(pb.DESCRIPTOR.message_types_by_name[name]) == wanted


def test_there_are_no_other_messages_and_the_package_is_the_servers() -> None:
    assert set(pb.DESCRIPTOR.message_types_by_name) == set(messages())
    assert pb.DESCRIPTOR.package == "snakepit.bridge"


def test_the_service_has_the_methods_of_the_server() -> None:
    service = pb.DESCRIPTOR.services_by_name["BridgeService"]
    found = [
        f"{each.name} {each.input_type.name} {'stream ' if each.server_streaming else ''}{each.output_type.name}"
        for each in service.methods
    ]
    assert found == METHODS.strip().splitlines()
    assert not any(method.client_streaming for method in service.methods)


def test_a_variables_source_has_the_numbers_of_the_server() -> None:
    assert dict(pb.Variable.Source.items()) == {"ELIXIR": 0, "PYTHON": 1}


def test_a_variable_is_written_as_the_server_writes_it() -> None:
    variable = pb.Variable(
        id="var_t_1",
        name="t",
        type="float",
        value=AnyMessage(type_url="type.googleapis.com/snakepit.float", value=b"0.5"),
        constraints_json="{}",
        version=3,
        source=pb.Variable.PYTHON,
    )
    assert variable.SerializeToString() == (
        b"\x0a\x07var_t_1\x12\x01t\x1a\x05float"
        b"\x22\x29\x0a\x22type.googleapis.com/snakepit.float\x12\x030.5"
        b"\x2a\x02{}\x38\x01\x48\x03"
    )
