"""Instruction and preference formats: what each reader makes of a record, and what it refuses."""

from __future__ import annotations

import gzip
import json

import pytest

from curation.read.record import Document, Limits, Problem, RawFile, Skipped
from curation.read.registry import READERS


@pytest.fixture
def read(tmp_path):
    """Read literal records with a reader: (name, records or bytes, file name, options) -> items."""

    def run(reader: str, data, name: str = "data.jsonl", **options):
        if not isinstance(data, bytes):
            rows = [json.dumps(row).encode() for row in data]
            data = b"[" + b",".join(rows) + b"]" if name.endswith(".json") else b"\n".join(rows)
        path = tmp_path / name
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        entry = READERS[reader]
        return list(entry.read(RawFile(path, name, ""), Limits(), entry.options.model_validate(options)))

    return run


def turns(messages) -> list[tuple[str, str]]:
    return [(turn["role"], turn["content"]) for turn in messages]


def pair(item) -> tuple:
    return turns(item.messages), turns(item.chosen), turns(item.rejected)


def test_text_records_keep_short_fields_as_metadata(read):
    row = {"page": {"body": "text"}, "title": "t", "date": "2020-01-02", "n": 3, "long": "x" * 2000, "list": [1]}
    (item,) = read("records", [row], text_key="page.body", created_key="date")
    assert (item.text, item.created, item.place, item.offset) == ("text", "2020-01-02", "0", 0)
    assert item.metadata == {"title": "t", "date": "2020-01-02", "n": 3}


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ({"txt": "a"}, "'text' is missing; the record has: txt"),
        ({"text": 5}, "'text' is a number, expected a string"),
        ({"text": None}, "'text' is null"),
        ({"text": ["a"]}, "'text' is a list"),
        ("text", "the record is a string, expected an object"),
    ],
)
def test_a_wrong_record_is_a_problem_that_says_what_was_found(read, row, error):
    (item,) = read("records", [row])
    assert isinstance(item, Problem)
    assert error in item.error


@pytest.mark.parametrize(
    ("reader", "row", "options", "expected"),
    [
        ("alpaca", {"instruction": "i", "input": "", "output": "o"}, {}, [("user", "i"), ("assistant", "o")]),
        (
            "alpaca",
            {"instruction": "i", "input": "x", "response": "o"},
            {"output_key": "response"},
            [("user", "i\n\nx"), ("assistant", "o")],
        ),
        ("question_answer", {"question": "q", "answer": "a"}, {}, [("user", "q"), ("assistant", "a")]),
        (
            "question_answer",
            {"prompt": "q", "completion": "a<|endoftext|>"},
            {"question_key": "prompt", "answer_key": "completion", "strip_suffix": "<|endoftext|>"},
            [("user", "q"), ("assistant", "a")],
        ),
        (
            "messages",
            {"messages": [{"role": "system", "content": "s"}, {"role": "assistant", "content": "a"}]},
            {},
            [("system", "s"), ("assistant", "a")],
        ),
        (
            "sharegpt",
            {
                "tools": "[t]",
                "conversations": [
                    {"from": "human", "value": "q"},
                    {"from": "function_call", "value": "f"},
                    {"from": "observation", "value": "r"},
                    {"from": "gpt", "value": "a"},
                ],
            },
            {},
            [("system", "[t]"), ("user", "q"), ("assistant", "f"), ("tool", "r"), ("assistant", "a")],
        ),
        (
            "sharegpt",
            {"items": [{"role": "prompter", "text": "q"}, {"role": "chatgpt", "text": "a"}]},
            {"conversations_key": "items", "role_key": "role", "content_key": "text"},
            [("user", "q"), ("assistant", "a")],
        ),
        (
            "messages",
            {
                "messages": [
                    {"role": "developer", "content": "s"},
                    {"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "text", "text": "!"}]},
                    {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]},
                    {"role": "tool", "content": "1"},
                    {"role": "assistant", "content": "a"},
                ]
            },
            {},
            [("system", "s"), ("user", "q!"), ("assistant", '[{"name":"f"}]'), ("tool", "1"), ("assistant", "a")],
        ),
        (
            "question_answer",
            {
                "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}],
                "completion": [{"role": "assistant", "content": "a"}],
            },
            {"question_key": "prompt", "answer_key": "completion"},
            [("system", "s"), ("user", "q"), ("assistant", "a")],
        ),
        (
            "self_instruct",
            {"instruction": "i", "instances": [{"input": "x", "output": "o"}]},
            {},
            [("user", "i\n\nx"), ("assistant", "o")],
        ),
        (
            "story_questions",
            {"document": "d", "questions": [{"question_text": "q", "responses": [{"response_text": "a"}, {}]}]},
            {},
            [("user", "d\n\nq"), ("assistant", "a")],
        ),
    ],
)
def test_conversations(read, reader, row, options, expected):
    for name in ("data.jsonl", "data.json", "data.json.gz"):
        (item,) = read(reader, [row] if not name.endswith(".gz") else json.dumps([row]).encode(), name, **options)
        assert turns(item.messages) == expected


def test_all_questions_about_a_text_are_one_conversation_that_holds_it_once(read):
    meeting = {
        "meeting_transcripts": [{"speaker": "A", "content": "hello"}, {"speaker": "B", "content": "bye"}],
        "general_query_list": [{"query": "g", "answer": "1"}],
        "specific_query_list": [{"query": "blank", "answer": " "}, {"query": "s", "answer": "2"}],
    }
    (item,) = read("meetings", [meeting])
    first = "A: hello\nB: bye\n\ng"
    assert turns(item.messages) == [("user", first), ("assistant", "1"), ("user", "s"), ("assistant", "2")]
    questions = [{"question_text": text, "responses": [{"response_text": text.upper()}]} for text in "ab"]
    (item,) = read("story_questions", [{"document": "d", "questions": questions}])
    assert turns(item.messages) == [("user", "d\n\na"), ("assistant", "A"), ("user", "b"), ("assistant", "B")]


def test_chain_of_thought_puts_the_answer_after_the_rationale(read):
    (item,) = read("chain_of_thought", b"q\\nx\tyes\tbecause\n", "a.tsv")
    assert turns(item.messages) == [("user", "q\nx"), ("assistant", "because\nThe answer is yes.")]


def test_a_role_that_is_not_known_and_an_empty_answer(read):
    rows = [
        {"messages": [{"role": "narrator", "content": "x"}]},
        {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": " "}]},
    ]
    problem, skipped = read("messages", rows)
    assert "role 'narrator' is not known" in problem.error
    assert skipped == Skipped("no answer")


def task(outputs: list[str]) -> bytes:
    instances = [{"id": f"t-{text}", "input": text, "output": [text.upper(), "other"]} for text in outputs]
    return json.dumps({"Definition": ["Do it."], "Instances": instances, "Instance License": ["MIT"]}).encode()


def test_task_files_give_a_document_an_instance(read):
    items = read("natural_instructions", task(["a", "b"]), "task.json")
    assert [turns(item.messages)[-1] for item in items] == [("assistant", "A"), ("assistant", "B")]
    assert items[0].messages[0]["content"] == "Do it.\n\na"
    assert items[0].metadata == {"license": "MIT", "task": "task"}


def test_the_choice_of_instances_does_not_depend_on_their_order(read):
    names = [f"instance {number}" for number in range(40)]
    chosen = []
    for order in (names, names[::-1]):
        items = read("natural_instructions", task(order), "task.json", instances=10)
        documents = [item for item in items if isinstance(item, Document)]
        assert len(documents) == 10
        assert len(items) == 40
        chosen.append({item.messages[0]["content"] for item in documents})
    assert chosen[0] == chosen[1]


def test_transcripts_share_the_turns_that_are_equal(read):
    shared = "\n\nHuman: q\n\nAssistant: a\n\nHuman: more"
    rows = [
        {"chosen": shared + "\n\nAssistant: good", "rejected": shared + "\n\nAssistant: bad"},
        {"chosen": shared + "\n\nAssistant: x", "rejected": shared + "\n\nAssistant: x"},
        {"chosen": shared + "\n\nAssistant: ", "rejected": shared + "\n\nAssistant: x"},
        {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: other\n\nAssistant: a"},
        {"chosen": "no transcript", "rejected": "\n\nHuman: q\n\nAssistant: a"},
    ]
    first, *others = read("transcripts", rows)
    assert pair(first) == (
        [("user", "q"), ("assistant", "a"), ("user", "more")],
        [("assistant", "good")],
        [("assistant", "bad")],
    )
    assert [item.reason for item in others[:3]] == [
        "chosen equals rejected",
        "empty response",
        "the transcripts part at a human turn",
    ]
    assert "begins with" in others[3].error


def test_pairs_of_strings_and_of_turns(read):
    (item,) = read("prompt_chosen_rejected", [{"prompt": "p", "chosen": "c", "rejected": "r", "score": 1.5}])
    assert pair(item) == ([("user", "p")], [("assistant", "c")], [("assistant", "r")])
    assert item.metadata == {"score": 1.5}
    row = {
        "conversations": [{"from": "human", "value": "p"}],
        "chosen": {"from": "gpt", "value": "c"},
        "rejected": {"from": "gpt", "value": "r"},
    }
    (item,) = read("sharegpt_pairs", [row])
    assert pair(item) == ([("user", "p")], [("assistant", "c")], [("assistant", "r")])


QUESTION, GOOD, BAD = (
    {"role": role, "content": text} for role, text in (("user", "p"), ("assistant", "c"), ("assistant", "r"))
)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "p", "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": [QUESTION], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": [QUESTION], "chosen": "c", "rejected": "r"},
        {"prompt": "p", "chosen": [QUESTION, GOOD], "rejected": [QUESTION, BAD]},  # UltraFeedback, binarized
        {"chosen": [QUESTION, GOOD], "rejected": [QUESTION, BAD]},
    ],
)
def test_pairs_of_messages(read, row):
    (item,) = read("prompt_chosen_rejected", [row])
    assert pair(item) == ([("user", "p")], [("assistant", "c")], [("assistant", "r")])


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (None, "'content' is null, expected a string"),
        (5, "'content' is a number"),
        ([{"type": "image_url"}], "a part that is 'image_url', expected parts of type 'text'"),
        (["text"], "a part that is 'a string'"),
    ],
)
def test_a_turn_that_says_nothing_a_model_of_text_can_read(read, content, error):
    (item,) = read("messages", [{"messages": [{"role": "user", "content": content}]}])
    assert error in item.error


@pytest.mark.parametrize(
    ("preference", "expected"),
    [(1, ("a", "b")), (2.0, ("b", "a")), (0, "tie"), (1.5, "tie"), (None, "no preference"), (True, "a Boolean")],
)
def test_judged_outputs(read, preference, expected):
    row = {"instruction": "i", "output_1": "a", "output_2": "b", "preference": preference}
    (item,) = read("judged_outputs", [row])
    if isinstance(item, Document):
        assert (item.chosen[0]["content"], item.rejected[0]["content"]) == expected
    else:
        assert expected in (item.reason if isinstance(item, Skipped) else item.error)


@pytest.mark.parametrize(
    ("votes", "expected"),
    [((1, 1, 2), "a"), ((2, 2, 2), "b"), ((0, 0, 1), "tie"), ((0, 1, 2), "tie"), ((1, 5, 1), "5")],
)
def test_the_majority_of_annotators_decides(read, votes, expected):
    row = {"instruction": "i", "response1": "a", "response2": "b"}
    row |= {f"annotator{number + 1}": vote for number, vote in enumerate(votes)}
    (item,) = read("annotated_responses", [row])
    if isinstance(item, Document):
        assert item.chosen[0]["content"] == expected
    else:
        assert expected in (item.reason if isinstance(item, Skipped) else item.error)


def test_a_boolean_where_a_string_belongs(read):
    row = {
        "instruction": "i",
        "response1": True,
        "response2": "b",
        "annotator1": 1,
        "annotator2": 1,
        "annotator3": 1,
    }
    (item,) = read("annotated_responses", [row])
    assert "'response1' is a Boolean, expected a string" in item.error


def test_arguments_take_debate_and_position_from_the_file_name(read):
    data = b"#id\tlabel\ta1\ta2\n1_2\ta2\tone\ttwo <br/> lines\n3_4\tboth\tx\ty\n"
    first, second = read("arguments", data, "tea-or-coffee_-tea-.csv.gz")
    assert first.messages[0]["content"].startswith("Debate: tea or coffee\nPosition: tea\n")
    assert (first.chosen[0]["content"], first.rejected[0]["content"]) == ("two\nlines", "one")
    assert "expected a1 or a2" in second.error


SCORES = {"a": 3.0, "b": 5, "c": 1, "d": 5}
COMPLETIONS = [{"response": text, "overall_score": score} for text, score in SCORES.items()]
RATED = {"responses_key": "completions", "rating_key": "overall_score", "prompt_key": "instruction"}


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, [("b", "c", 5, 1)]),
        ({"take": "best_others"}, [("b", "a", 5, 3.0), ("b", "c", 5, 1)]),
        (
            {"take": "all"},
            [(good, bad, 5, rating) for good in "bd" for bad, rating in (("a", 3.0), ("c", 1))]
            + [("a", "c", 3.0, 1)],
        ),
        ({"lowest_best": True}, [("c", "d", 1, 5)]),
    ],
)
def test_rated_answers_become_pairs(read, options, wanted):
    row = {"instruction": "p", "source": "x", "completions": COMPLETIONS}
    items = read("rated_responses", [row], **RATED, **options)
    assert [pair(item) for item in items] == [
        ([("user", "p")], [("assistant", one)], [("assistant", other)]) for one, other, _, _ in wanted
    ]
    ratings = [(item.metadata["rating_chosen"], item.metadata["rating_rejected"]) for item in items]
    assert ratings == [(one, other) for _, _, one, other in wanted]
    assert {item.metadata["source"] for item in items} == {"x"}


def test_answers_of_one_rating_are_no_pair(read):
    tied = {"instruction": "p", "completions": [COMPLETIONS[1], COMPLETIONS[3]]}
    alone = {"instruction": "p", "completions": [COMPLETIONS[1], {"response": "x", "overall_score": None}]}
    wrong = {"instruction": "p", "completions": [{"response": "x", "overall_score": "5"}]}
    items = read("rated_responses", [tied, alone, wrong], **RATED)
    assert [item.reason for item in items[:2]] == ["tie", "fewer than two ratings"]
    assert items[2].error == "'overall_score' is '5', expected a number"
