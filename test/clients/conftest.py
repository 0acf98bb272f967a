"""Real servers for real clients: `ewe serve` over the small model, in a process of its own on a free port."""
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KEY = 'sk-clients'


class Server:
    def __init__(self, *flags, port=0):
        command = ['node', 'dist/cli/main.js', 'serve', '--json', '--quiet', '--device', 'cpu', '--model', 'models/lamb', '--port', str(port), *map(str, flags)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        if line == '':
            raise RuntimeError(f'{" ".join(command)} ended with {self.process.wait()} before it served')
        told = json.loads(line)
        self.url, self.port = told['url'], told['port']

    def get(self, path, key=KEY):
        request = urllib.request.Request(self.url + path, headers={'authorization': f'Bearer {key}'})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read().decode()

    def metric(self, name, *labels):
        """The sum of what has this name, and these texts among its labels."""
        lines = [line for line in self.get('/metrics').splitlines() if line.startswith(f'{name}{{')]
        assert lines, f'/metrics has no {name}'
        return sum(float(line.rsplit(' ', 1)[1]) for line in lines if all(label in line for label in labels))

    def answers(self, status, route='/v1/completions'):
        return self.metric('ewe_http_requests_total', f'status="{status}"', f'route="{route}"')

    def ready(self):
        try:
            self.get('/ready')
            return True
        except urllib.error.HTTPError as error:
            assert error.code == 503
            return False

    def ask_to_stop(self):
        self.process.send_signal(signal.SIGTERM)

    def stop(self):
        """It drains, and says how it went."""
        self.ask_to_stop()
        assert self.process.wait(timeout=120) == 0


def until(what, holds):
    late = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < late, f'waited in vain for {what}'
        time.sleep(0.01)


def offline(**more):
    """An environment in which no client asks the Hub, telemetry or a proxy."""
    return {**os.environ, 'HF_HUB_OFFLINE': '1', 'HF_DATASETS_OFFLINE': '1', 'HF_EVALUATE_OFFLINE': '1', 'HF_HUB_DISABLE_TELEMETRY': '1', 'NO_PROXY': '*', **more}


@pytest.fixture
def serve():
    """Starts servers that are gone after the test, whatever became of it."""
    servers = []

    def start(*flags, port=0):
        servers.append(Server(*flags, port=port))
        return servers[-1]

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


@pytest.fixture(scope='module')
def served(tmp_path_factory):
    """A server with a key, and with files and batches, for the tests of a file."""
    server = Server('--api-key', KEY, '--data', tmp_path_factory.mktemp('jobs'))
    yield server
    server.stop()


def pytest_addoption(parser):
    parser.addoption('--long', action='store_true', help='give the fuzzer 15 minutes and another seed each time')
