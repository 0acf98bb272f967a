"""The held-out questions of lamb (test/fixtures/lamb) as lm_eval takes them."""


def questions(docs):
    """A seventh of those with one right answer: of each kind of question as many."""
    closed = docs.filter(lambda doc: doc['closed'])
    return closed.select(range(0, len(closed), 7))


def choices(docs):
    """Each with three wrong answers: those of the questions of its kind that come next."""
    closed = [doc for doc in docs if doc['closed']]

    def offered(doc):
        place = [other['id'] for other in closed].index(doc['id'])
        following = closed[place + 1 :] + closed[:place]
        wrong = dict.fromkeys(other['response'] for other in following if other['group'] == doc['group'] and other['response'] != doc['response'])
        found = sorted([doc['response'], *list(wrong)[:3]])
        return {'choices': found, 'answer': found.index(doc['response'])}

    return questions(docs).map(offered)
