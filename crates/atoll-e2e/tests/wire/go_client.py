"""client-go, through kubernetes-mcp-server, asks for metrics and through a node's proxy.

The first that does not hold ends it.
"""

import json
import os
import subprocess
import sys
import time

ANSWER_SECONDS = 120


class Server:
    def __init__(self, binary):
        arguments = [binary, "--toolsets", "core", "--log-file", "stderr"]
        self.process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sys.stderr, text=True
        )
        self.number = 0
        about = {"name": "test", "version": "1"}
        self.ask("initialize", protocolVersion="2025-03-26", capabilities={}, clientInfo=about)
        self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def send(self, message):
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def ask(self, method, **parameters):
        self.number += 1
        self.send({"jsonrpc": "2.0", "id": self.number, "method": method, "params": parameters})
        for line in self.process.stdout:
            message = json.loads(line)
            if message.get("id") == self.number and "method" not in message:
                assert "error" not in message, message
                return message["result"]
        raise AssertionError("the server ended")

    def call(self, tool, **arguments):
        """The text that a tool answers, and whether it is an error."""
        result = self.ask("tools/call", name=tool, arguments=arguments)
        text = "\n".join(part.get("text", "") for part in result["content"])
        return text, bool(result.get("isError"))


def until(what, holds):
    end = time.monotonic() + ANSWER_SECONDS
    shown = None
    while time.monotonic() < end:
        shown, good = holds()
        if good:
            return shown
        time.sleep(1)
    raise AssertionError(f"never: {what}: {shown}")


def main():
    server = Server(os.environ["CLIENTS_MCP"])
    pod = os.environ["CLIENTS_POD"]

    def top(tool, name, **arguments):
        text, failed = server.call(tool, **arguments)
        return text, not failed and name in text and "m " in text

    print(until("nodes_top", lambda: top("nodes_top", "node-1")))
    print(until("pods_top", lambda: top("pods_top", pod, namespace="default")))
    # The summary comes through nodes/proxy.
    text, failed = server.call("nodes_stats_summary", name="node-1")
    assert not failed and "usageNanoCores" in text and pod in text, text
    print("everything held")


main()
