"""/openapi.json: a valid document, and a server that does what it says whatever it is sent."""
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import KEY, ROOT, offline
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

# (checks, seed) of the fuzzer: a short form for CI, and one to look for more.
SHORT, LONG = (60, 1), (900, None)


@pytest.mark.parametrize('flags', [[], ['--api-key', KEY]], ids=['open', 'with keys'])
def test_document_is_valid(serve, tmp_path, flags):
    document = json.loads(serve('--data', tmp_path, *flags).get('/openapi.json'))
    validate(document, cls=OpenAPIV31SpecValidator)
    assert len(document['paths']) > 15
    # A client that is generated of it has a name for each of these.
    assert {'CompletionRequest', 'Completion', 'ChatCompletionRequest', 'ChatCompletion', 'File', 'Batch', 'BatchRequest', 'Error'} <= document['components']['schemas'].keys()


def test_answers_are_as_described(serve, tmp_path, request):
    """No status of 500, none that is not described, each answer as its schema says; what fits no schema is refused."""
    server = serve('--api-key', KEY, '--data', tmp_path / 'data', '--max-tokens', 8)
    seconds, seed = LONG if request.config.getoption('long') else SHORT
    report = tmp_path / 'report.json'
    command = [Path(sys.executable).with_name('schemathesis'), '--config-file', Path(__file__).with_name('schemathesis.toml'), 'run', f'{server.url}/openapi.json', '--no-color']
    command += ['--header', f'Authorization: Bearer {KEY}', '--max-time', seconds, '--max-examples', 40, '--generation-database', 'none', '--report', 'json', '--report-json-path', report]
    command += [] if seed is None else ['--seed', seed]
    found = subprocess.run([*map(str, command)], cwd=tmp_path, env=offline(), capture_output=True, text=True, timeout=2 * seconds + 300)
    assert found.returncode == 0, found.stdout[-20000:] + found.stderr[-2000:]
    [cases] = re.findall(r'(\d+) generated', found.stdout)
    tested = re.findall(r'Tested: (\d+)', found.stdout)
    print(f'\n{cases} requests to {tested} operations')
    assert int(cases) > 500
    assert json.loads(server.get('/health')) == {'status': 'ok'}
