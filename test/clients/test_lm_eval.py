"""lm_eval (the evaluation harness) through the server, on questions that the model was not trained on, without the Hub: its scores are those of the
library, whatever the number of requests at a time and however they come."""
import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Server, offline

# --model_args, --batch_size. The prompts of a list have unequal lengths.
COMPLETIONS = {
    'one at a time': ('num_concurrent=1', 1),
    'sixteen at a time': ('num_concurrent=16', 1),
    'lists of eight': ('num_concurrent=2', 8),
    'as texts': ('num_concurrent=16,tokenized_requests=False', 1),
}
# <|endoftext|>, which texts without a context are said to follow.
END = 0
CHATS = {'one at a time': ('num_concurrent=1', 1), 'sixteen at a time': ('num_concurrent=16', 1)}


@pytest.fixture(scope='module')
def server():
    server = Server()
    yield server
    server.stop()


@pytest.fixture(scope='module')
def run(server, tmp_path_factory):
    """Runs tasks; gives for each one its scores, and its samples in order."""
    home = tmp_path_factory.mktemp('home')

    def run(model, path, tasks, arguments, batch, *more, server=server):
        out = tmp_path_factory.mktemp('out')
        command = [Path(sys.executable).with_name('lm_eval'), 'run', '--model', model, '--tasks', ','.join(tasks), '--include_path', 'test/clients/tasks']
        command += ['--model_args', f'model=lamb,base_url={server.url}{path},max_length=512,custom_prefix_token_id={END},{arguments}', '--batch_size', batch, '--output_path', out, '--log_samples', *more]
        ran = subprocess.run(list(map(str, command)), cwd=ROOT, env=offline(HF_HOME=str(home)), capture_output=True, text=True, timeout=600)
        assert ran.returncode == 0, ran.stdout + ran.stderr[-5000:]
        assert 'Retrying' not in ran.stderr, ran.stderr[-5000:]
        [results] = out.rglob('results_*.json')
        scores = json.loads(results.read_text())['results']
        found = {}
        for task in tasks:
            [samples] = out.rglob(f'samples_{task}_*.jsonl')
            lines = sorted(map(json.loads, samples.read_text().splitlines()), key=lambda sample: sample['doc_id'])
            assert len(lines) == 100
            found[task] = ({name: value for name, value in scores[task].items() if isinstance(value, float)}, lines)
        return found

    return run


@pytest.fixture(scope='module')
def completions(run):
    found = {}
    for name, arguments in COMPLETIONS.items():
        # The token before a text is no text: as such it would be read letter by letter.
        more = [] if name == 'as texts' else ['lamb_perplexity']
        found[name] = run('local-completions', '/v1/completions', ['lamb_choices', 'lamb_continued', *more], *arguments)
    return found


@pytest.fixture(scope='module')
def chats(run):
    return {name: run('local-chat-completions', '/v1/chat/completions', ['lamb_answers'], *arguments, '--apply_chat_template') for name, arguments in CHATS.items()}


@pytest.fixture(scope='module')
def own(completions, chats):
    """What the library answers to the same."""
    def arguments(runs, task):
        return [each for sample in runs['one at a time'][task][1] for each in requests(sample)]

    chat = [[json.loads(messages[0])[0]['content'], options] for messages, options in arguments(chats, 'lamb_answers')]
    texts = [[END, text] for [text] in arguments(completions, 'lamb_perplexity')]
    asked = {'score': arguments(completions, 'lamb_choices'), 'complete': arguments(completions, 'lamb_continued'), 'generate': chat, 'follow': texts}
    ran = subprocess.run(['node', 'test/clients/own.mjs'], cwd=ROOT, input=json.dumps(asked), capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def requests(sample):
    return [list(each.values()) for each in sample['arguments'].values()]


def responses(samples):
    return [response for sample in samples for [response] in sample['resps']]


def test_choices_have_the_log_probabilities_of_the_library(completions, own):
    expected = [[str(sum(one['logprobs'])), str(one['greedy'])] for one in own['score']]
    assert len(expected) == 400
    for name, tasks in completions.items():
        scores, samples = tasks['lamb_choices']
        assert responses(samples) == expected, name
    # Scores from the library's own numbers.
    of_choices = [[sum(one['logprobs']) for one in own['score'][i : i + 4]] for i in range(0, 400, 4)]
    docs = [sample['doc'] for sample in samples]
    right = [max(range(4), key=values.__getitem__) == doc['answer'] for values, doc in zip(of_choices, docs)]
    by_length = [[value / len(choice) for value, choice in zip(values, doc['choices'])] for values, doc in zip(of_choices, docs)]
    right_by_length = [max(range(4), key=values.__getitem__) == doc['answer'] for values, doc in zip(by_length, docs)]
    for name, tasks in completions.items():
        scores = tasks['lamb_choices'][0]
        print(f'\nlamb_choices, {name}: {scores}')
        assert (scores['acc,none'], scores['acc_norm,none']) == (sum(right) / 100, sum(right_by_length) / 100), name
    assert sum(right) > 50  # by chance 25


def test_whole_texts_have_the_log_probabilities_of_the_library(completions, own):
    expected = [str(sum(logprobs)) for logprobs in own['follow']]
    for name in ('one at a time', 'sixteen at a time', 'lists of eight'):
        scores, samples = completions[name]['lamb_perplexity']
        assert responses(samples) == expected, name
        print(f'\nlamb_perplexity, {name}: {scores}')
    assert len(set(expected)) == 100


def test_continued_texts_are_those_of_the_library(completions, own):
    for name, tasks in completions.items():
        scores, samples = tasks['lamb_continued']
        assert responses(samples) == own['complete'], name
        print(f'\nlamb_continued, {name}: {scores}')
        right = sum(text.lstrip() == sample['doc']['response'] for text, sample in zip(own['complete'], samples))
        assert scores['exact_match,trimmed'] == right / 100, name
    assert len(set(own['complete'])) > 50


def test_templates_in_texts_are_read_where_the_server_reads_special_tokens(run, chats):
    server = Server('--parse-special')
    try:
        scores, samples = run('local-completions', '/v1/completions', ['lamb_template'], 'num_concurrent=16,tokenized_requests=False', 1, server=server)['lamb_template']
    finally:
        server.stop()
    assert [text.strip() for text in responses(samples)] == responses(chats['one at a time']['lamb_answers'][1])
    print(f'\nlamb_template: {scores}')
    assert scores['exact_match,trimmed'] > 0.85


def test_chats_are_answered_as_by_the_library(chats, own):
    for name, tasks in chats.items():
        scores, samples = tasks['lamb_answers']
        assert responses(samples) == own['generate'], name
        print(f'\nlamb_answers, {name}: {scores}')
        right = sum(text == sample['doc']['response'] for text, sample in zip(own['generate'], samples))
        assert scores['exact_match,none'] == right / 100, name
    assert right > 85  # models/lamb/README.md: 93.9 of all
