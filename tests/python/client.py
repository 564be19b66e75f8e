"""Creates a workspace and waits for it, knowing the API only from the server's reflection."""

import sys
import time

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


def main(address: str, token: str) -> None:
    channel = grpc.insecure_channel(address)
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    service = pool.FindServiceByName("molecule.tenant.v1.WorkspaceService")

    def call(name: str, **fields):
        method = service.FindMethodByName(name)
        request = GetMessageClass(method.input_type)(**fields)
        answer = GetMessageClass(method.output_type)
        stub = channel.unary_unary(
            f"/{service.full_name}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        return stub(request, timeout=20, metadata=[("authorization", f"Bearer {token}")])

    workspace = call("CreateWorkspace", spec={"name": "from-python", "runtime": "demo"}).workspace
    state = workspace.DESCRIPTOR.fields_by_name["state"].enum_type
    for _ in range(300):
        workspace = call("GetWorkspace", workspace_id=workspace.workspace_id).workspace
        name = state.values_by_number[workspace.state].name
        if name == "WORKSPACE_STATE_RUNNING":
            print(name)
            return
        time.sleep(0.1)
    sys.exit(f"it is {name} after 30 seconds: {workspace.message}")


main(*sys.argv[1:])
