# grpc.health.v1.Health on port 5005: "" and "good" serve, "bad" does not.
import concurrent.futures

import grpc


def check(request, context):
    service = request[2:].decode() if request else ""
    if service not in ("", "good", "bad"):
        context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
    return bytes([8, 2 if service == "bad" else 1])


server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
method = grpc.unary_unary_rpc_method_handler(check)
server.add_generic_rpc_handlers(
    (grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": method}),)
)
server.add_insecure_port("0.0.0.0:5005")
server.start()
server.wait_for_termination()
