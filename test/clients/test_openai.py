"""The openai package: what a program written for OpenAI's interface asks of a server."""
import asyncio
import io
import itertools
import json
import statistics
import threading

import openai
import pytest
from conftest import KEY, until

QUESTION = 'What is the capital of Japan?'
MESSAGES = [{'role': 'user', 'content': QUESTION}]
GREEDY = {'model': 'lamb', 'temperature': 0}
TEXTS = ['Once upon a time', 'The dog', 'A']
# 64 answers to the end of the context: work that is still under way when it is given up.
LONG = {'model': 'lamb', 'prompt': QUESTION, 'max_tokens': 480, 'n': 64, 'extra_body': {'ignore_eos': True}}


def client_of(server, key=KEY, **options):
    return openai.OpenAI(base_url=f'{server.url}/v1', api_key=key, **{'max_retries': 0, 'timeout': 300, **options})


@pytest.fixture(scope='module')
def client(served):
    return client_of(served)


def ids_of(client, text):
    return client.post('/../tokenize', body={'prompt': text, 'add_special_tokens': False}, cast_to=dict)['tokens']


def idle(server):
    until('an idle server', lambda: server.metric('vllm:num_requests_running') + server.metric('vllm:num_requests_waiting') + server.metric('vllm:kv_cache_usage_perc') == 0)


def test_prompts_as_text_texts_ids_and_lists_of_ids(client):
    ids = [ids_of(client, text) for text in TEXTS]
    assert len({len(each) for each in ids}) > 1
    alone = [client.completions.create(**GREEDY, prompt=text, max_tokens=6).choices[0].text for text in TEXTS]
    for prompt, expected in [(TEXTS[0], alone[:1]), (TEXTS, alone), (ids[0], alone[:1]), (ids, alone)]:
        answer = client.completions.create(**GREEDY, prompt=prompt, max_tokens=6)
        assert [(choice.index, choice.text) for choice in answer.choices] == list(enumerate(expected))
    assert answer.usage.prompt_tokens == sum(map(len, ids))
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer._request_id.startswith('req_')


def test_echo_with_logprobs_has_an_entry_for_each_token_and_the_exact_best_one(client):
    prompt = [ids_of(client, text) for text in ['The capital of Japan is Tokyo.', 'A', f'{QUESTION} It is \u00e9 \U0001f600.']]
    answer = client.completions.create(**GREEDY, prompt=prompt, max_tokens=1, logprobs=1, echo=True, seed=1234)
    best = 0
    for i, choice in enumerate(answer.choices):
        found = choice.logprobs
        assert choice.index == i
        assert [len(column) for column in (found.tokens, found.token_logprobs, found.top_logprobs, found.text_offset)] == [len(prompt[i]) + 1] * 4
        assert (found.token_logprobs[0], found.top_logprobs[0]) == (None, None)
        for token, logprob, top in list(zip(found.tokens, found.token_logprobs, found.top_logprobs))[1:]:
            assert top[token] == logprob <= max(top.values())
            best += logprob == max(top.values())
        # The token that greedy decoding took is the best one, with the same digits.
        assert found.token_logprobs[-1] == max(found.top_logprobs[-1].values())
    assert best > len(prompt)


def test_n_and_best_of(client):
    several = client.completions.create(model='lamb', prompt=TEXTS, n=3, seed=5, max_tokens=8, extra_body={'ignore_eos': True})
    assert [choice.index for choice in several.choices] == list(range(9))
    assert len({choice.text for choice in several.choices}) > 6
    asked = {'model': 'lamb', 'prompt': TEXTS[1], 'seed': 5, 'max_tokens': 8, 'logprobs': 0}
    best, every = client.completions.create(**asked, n=2, best_of=8), client.completions.create(**asked, n=8)
    ranked = sorted(every.choices, key=lambda choice: -statistics.fmean(choice.logprobs.token_logprobs))
    assert [choice.text for choice in best.choices] == [choice.text for choice in ranked[:2]]
    assert ranked[0].text != ranked[-1].text
    assert best.usage.completion_tokens == every.usage.completion_tokens


def test_seed_bias_stops_and_penalties(client):
    def text(**options):
        return client.completions.create(**{'model': 'lamb', 'prompt': QUESTION, 'max_tokens': 40, 'extra_body': {'ignore_eos': True}, **options}).choices[0]

    assert text(seed=7).text == text(seed=7).text != text(seed=8).text
    [token] = ids_of(client, 'A')
    assert text(logit_bias={str(token): 100}, max_tokens=5).text == 'AAAAA'
    plain = text(temperature=0)
    named = text(temperature=0, logprobs=0, extra_body={'ignore_eos': True, 'return_tokens_as_token_ids': True}).logprobs.tokens[0]
    assert named.startswith('token_id:')
    assert text(temperature=0, logit_bias={named.removeprefix('token_id:'): -100}).text[:4] != plain.text[:4]
    end = plain.text[10:13]
    stopped = text(temperature=0, stop=['never said', end])
    assert (stopped.text, stopped.finish_reason) == (plain.text[: plain.text.index(end)], 'stop')
    assert (plain.finish_reason, text(temperature=0, stop=end).text) == ('length', stopped.text)
    varied = text(temperature=0, max_tokens=200, frequency_penalty=2, presence_penalty=2).text
    assert len(set(ids_of(client, varied))) > 2 * len(set(ids_of(client, text(temperature=0, max_tokens=200).text)))


def test_chat(client):
    answer = client.chat.completions.create(**GREEDY, messages=[{'role': 'system', 'content': 'Answer.'}, *MESSAGES], logprobs=True, top_logprobs=2)
    [choice] = answer.choices
    assert 'Tokyo' in choice.message.content and choice.finish_reason == 'stop'
    for token in choice.logprobs.content:
        assert len(token.top_logprobs) == 2 and token.logprob == token.top_logprobs[0].logprob
    assert len(choice.logprobs.content) <= answer.usage.completion_tokens
    assert client.chat.completions.create(**GREEDY, messages=MESSAGES, n=2).choices[1].index == 1


def test_streams_are_the_whole_answer_in_pieces_with_its_usage(client):
    asked = {**GREEDY, 'prompt': TEXTS, 'max_tokens': 20, 'logprobs': 1, 'echo': True}
    whole = client.completions.create(**asked)
    texts, logprobs, usage = ['', '', ''], [[], [], []], []
    for event in client.completions.create(**asked, stream=True, stream_options={'include_usage': True}):
        for choice in event.choices:
            texts[choice.index] += choice.text
            logprobs[choice.index] += [] if choice.logprobs is None else choice.logprobs.token_logprobs
        usage += [] if event.usage is None else [event.usage]
    assert texts == [choice.text for choice in whole.choices]
    assert logprobs == [choice.logprobs.token_logprobs for choice in whole.choices]
    assert usage == [whole.usage]

    chat = client.chat.completions.create(**GREEDY, messages=MESSAGES)
    with client.chat.completions.stream(**GREEDY, messages=MESSAGES, stream_options={'include_usage': True}) as stream:
        final = stream.get_final_completion()
    assert (final.choices[0].message.content, final.choices[0].finish_reason) == (chat.choices[0].message.content, 'stop')
    assert final.usage == chat.usage
    assert len(list(client.chat.completions.create(**GREEDY, messages=MESSAGES, stream=True))) > 2


def test_models(client):
    assert [model.id for model in client.models.list()] == ['lamb']
    assert client.models.retrieve('lamb').owned_by == 'ewe'


def test_errors_are_typed(client, served):
    def refusal(kind, work):
        with pytest.raises(kind) as caught:
            work()
        return caught.value

    error = refusal(openai.BadRequestError, lambda: client.completions.create(**GREEDY, prompt='a', n=0))
    assert (error.status_code, error.param, error.type) == (400, 'n', 'invalid_request_error')
    error = refusal(openai.BadRequestError, lambda: client.completions.create(**GREEDY, prompt='a', max_tokens=100_000, stream=True))
    assert error.code == 'context_length_exceeded'
    error = refusal(openai.NotFoundError, lambda: client.chat.completions.create(model='gpt-4', messages=MESSAGES))
    assert (error.code, error.param) == ('model_not_found', 'model')
    refusal(openai.NotFoundError, lambda: client.files.retrieve('file-none'))
    refusal(openai.BadRequestError, lambda: client.chat.completions.create(**GREEDY, messages=MESSAGES, response_format={'type': 'json_object'}))
    refusal(openai.AuthenticationError, lambda: client_of(served, 'sk-wrong').models.list())
    assert client.completions.create(**GREEDY, prompt='a', max_tokens=1).choices


def test_many_at_once_answer_as_each_alone(served, client):
    asked = [{'model': 'lamb', 'prompt': f'Number {i}', 'seed': i, 'max_tokens': 30} for i in range(32)]
    alone = [client.completions.create(**each).choices[0].text for each in asked]

    async def together():
        async with openai.AsyncOpenAI(base_url=f'{served.url}/v1', api_key=KEY, max_retries=0) as many:
            return [answer.choices[0].text for answer in await asyncio.gather(*(many.completions.create(**each) for each in asked))]

    assert asyncio.run(together()) == alone


def test_a_timeout_and_a_stream_that_is_left_free_their_work(served, client):
    left = served.answers(499)
    for leave in (lambda: client.completions.create(**LONG, timeout=0.5), lambda: leave_stream(client)):
        with pytest.raises((openai.APITimeoutError, InterruptedError)):
            leave()
        left += 1
        until('the end of the work', lambda: served.answers(499) == left)
        idle(served)
    assert client.completions.create(**GREEDY, prompt='a', max_tokens=1).choices


def leave_stream(client):
    with client.completions.create(**LONG, stream=True) as stream:
        for _ in stream:
            raise InterruptedError


def test_a_full_queue_is_waited_for_by_the_retries(serve):
    # One answer that takes tens of seconds, and as many requests behind it as may wait.
    server = serve('--max-batch', 1, '--max-queue', 4, '--max-context', 8192, '--threads', 1, '--instruction-set', 'plain')
    client = client_of(server)
    ask = dict(GREEDY, prompt='a', max_tokens=1)
    answers = []
    with begun(client, n=1, max_tokens=8000) as running:
        waiting = [background(lambda: answers.append(client.completions.create(**ask))) for _ in range(4)]
        until('a full queue', lambda: server.metric('vllm:num_requests_waiting') == 4)
        with pytest.raises(openai.RateLimitError) as caught:
            client.completions.create(**ask)
        assert (caught.value.code, caught.value.response.headers['retry-after']) == ('queue_full', '1')
        patient = background(lambda: answers.append(client_of(server, max_retries=5).completions.create(**ask)))
        until('its refusal', lambda: server.answers(429) == 2)
        running.close()
    for thread in [*waiting, patient]:
        thread.join()
    assert len(answers) == 5


def test_a_restart_is_waited_for_by_the_retries(serve):
    server = serve()
    ask = dict(GREEDY, prompt='a', max_tokens=1)
    answers = []
    with begun(client_of(server)) as running:
        server.ask_to_stop()
        until('no new work', lambda: not server.ready())
        with pytest.raises(openai.InternalServerError) as caught:
            client_of(server).completions.create(**ask)
        assert (caught.value.status_code, caught.value.code, caught.value.response.headers['retry-after']) == (503, 'draining', '5')
        patient = background(lambda: answers.append(client_of(server, max_retries=5).completions.create(**ask)))
        until('its refusal', lambda: server.answers(503) == 2)
        next(running)  # what ran goes on
        running.close()
    assert server.process.wait(timeout=60) == 0
    serve(port=server.port)
    patient.join()
    assert len(answers) == 1


def begun(client, **other):
    stream = client.completions.create(**{**LONG, **other}, stream=True)
    next(stream)
    return stream


def background(work):
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_files(client):
    lines = [line(1)]
    file = upload(client, lines)
    assert (client.files.retrieve(file.id).filename, file.purpose, file.bytes) == ('in.jsonl', 'batch', len(json.dumps(lines[0])))
    assert json.loads(client.files.content(file.id).text) == lines[0]
    other = upload(client, [line(2)])
    assert {file.id, other.id} <= {each.id for each in client.files.list(limit=1)}
    for each in (file, other):
        assert client.files.delete(each.id).deleted
    assert not {file.id, other.id} & {each.id for each in client.files.list()}


def test_a_batch_answers_its_lines_as_the_server_does(client):
    lines = [line(1), line(2, n=0), line(3), line(4, prompt=TEXTS)]
    batch = client.batches.create(input_file_id=upload(client, lines).id, endpoint='/v1/completions', completion_window='24h', metadata={'of': 'test'})
    assert batch.metadata == {'of': 'test'}
    done = ended(client, batch)
    assert (done.status, done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == ('completed', 4, 3, 1)
    good = [json.loads(each) for each in client.files.content(done.output_file_id).text.splitlines()]
    assert [each['custom_id'] for each in good] == ['line-1', 'line-3', 'line-4']
    for each, asked in zip(good, [lines[0], lines[2], lines[3]]):
        own = client.completions.create(**asked['body'])
        assert [choice['text'] for choice in each['response']['body']['choices']] == [choice.text for choice in own.choices]
    [bad] = [json.loads(each) for each in client.files.content(done.error_file_id).text.splitlines()]
    assert (bad['custom_id'], bad['response']['status_code'], bad['response']['body']['error']['param']) == ('line-2', 400, 'n')
    assert batch.id in [each.id for each in itertools.islice(client.batches.list(limit=2), 10)]


def test_a_batch_of_chats_and_one_that_is_cancelled(client, served):
    chats = [{'custom_id': f'chat-{i}', 'method': 'POST', 'url': '/v1/chat/completions', 'body': {**GREEDY, 'messages': MESSAGES}} for i in range(3)]
    done = ended(client, client.batches.create(input_file_id=upload(client, chats).id, endpoint='/v1/chat/completions', completion_window='24h'))
    for each in client.files.content(done.output_file_id).text.splitlines():
        assert 'Tokyo' in json.loads(each)['response']['body']['choices'][0]['message']['content']
    lines = [line(i, max_tokens=400, ignore_eos=True) for i in range(300)]
    batch = client.batches.create(input_file_id=upload(client, lines).id, endpoint='/v1/completions', completion_window='24h')
    until('lines that run', lambda: served.metric('vllm:num_requests_running') > 0)
    client.batches.cancel(batch.id)
    assert ended(client, batch).status == 'cancelled'
    idle(served)
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(batch.id)


def line(i, **body):
    return {'custom_id': f'line-{i}', 'method': 'POST', 'url': '/v1/completions', 'body': {**GREEDY, 'prompt': f'Number {i}', 'max_tokens': 3, **body}}


def upload(client, lines):
    text = '\n'.join(map(json.dumps, lines))
    return client.files.create(file=('in.jsonl', io.BytesIO(text.encode())), purpose='batch')


def ended(client, batch):
    until('the end of a batch', lambda: client.batches.retrieve(batch.id).status in ('failed', 'completed', 'cancelled'))
    return client.batches.retrieve(batch.id)
