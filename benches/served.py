"""`recast serve` on a free port for as long as a `with` block lasts; what the benches ask goes through it."""

import http.client
import json
import socket
import subprocess
import tempfile
import time


class Served:
    """The server that `recast serve ARGUMENTS` starts; entered once it is ready."""

    def __init__(self, recast, arguments):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.command = [recast, "serve", *arguments, "--port", str(self.port)]

    def __enter__(self):
        self.said = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(self.command, stderr=self.said)
        try:
            while not self.answers():
                if self.process.poll() is not None:
                    self.said.seek(0)
                    raise SystemExit(f"{' '.join(map(str, self.command))}\nended before it was ready:\n{self.said.read()}")
                time.sleep(0.2)
        except BaseException:
            self.__exit__()
            raise
        return self

    def answers(self):
        try:
            return bool(self.ask("/ready"))
        except (OSError, http.client.HTTPException):
            return False

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:  # it waits for an answer that nobody reads
            self.process.kill()
            self.process.wait()
        self.said.close()

    def ask(self, path, body=None):
        """The answer to a GET, or to a POST with a body, as JSON; any status but 200 ends the program."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        try:
            connection.request("POST" if body else "GET", path, json.dumps(body) if body else None, {"content-type": "application/json"})
            response = connection.getresponse()
            data = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise SystemExit(f"{path}: {response.status} {data.decode(errors='replace')}")
        return json.loads(data)
