"""/openapi.json: a valid document, and a server that does what it says whatever it is sent."""
import importlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import KEY, offline
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


def test_a_client_generated_of_it_works(serve, tmp_path, monkeypatch):
    server = serve('--data', tmp_path / 'data', '--api-key', KEY)
    tools = Path(sys.executable).parent
    command = [tools / 'openapi-python-client', 'generate', '--url', f'{server.url}/openapi.json', '--meta', 'none', '--output-path', tmp_path / 'generated']
    ran = subprocess.run(list(map(str, command)), env=offline(PATH=f'{tools}:{os.environ["PATH"]}'), capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0 and 'arning' not in ran.stdout + ran.stderr, ran.stdout + ran.stderr
    monkeypatch.syspath_prepend(tmp_path)
    generated, default, models = (importlib.import_module(f'generated{part}') for part in ('', '.api.default', '.models'))
    call = {name: importlib.import_module(f'{default.__name__}.{name}').sync for name in ('post_v1_completions', 'post_v1_chat_completions', 'post_v1_files', 'get_v1_files')}
    client = generated.AuthenticatedClient(server.url, KEY)
    lamb = models.CompletionRequestModel.LAMB
    answer = call['post_v1_completions'](client=client, body=models.CompletionRequest(model=lamb, prompt=['The dog', 'A'], temperature=0, max_tokens=3, logprobs=1))
    assert [(choice.index, len(choice.logprobs.tokens)) for choice in answer.choices] == [(0, 3), (1, 3)]
    asked = {'model': 'lamb', 'messages': [{'role': 'user', 'content': 'What is the capital of Japan?'}], 'temperature': 0}
    chat = call['post_v1_chat_completions'](client=client, body=models.ChatCompletionRequest.from_dict(asked))
    assert 'Tokyo' in chat.choices[0].message.content
    refused = call['post_v1_completions'](client=client, body=models.CompletionRequest(model=lamb, prompt='a', n=0))
    assert (type(refused), refused.error.param) == (models.Error, 'n')
    form = models.FileForm(purpose='batch', file=generated.types.File(payload=io.BytesIO(b'{}'), file_name='in.jsonl'))
    file = call['post_v1_files'](client=client, body=form)
    assert [each.id for each in call['get_v1_files'](client=client, limit=5).data] == [file.id]


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
