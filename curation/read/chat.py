"""Readers of conversations: the formats in which instruction data is published, as role and content turns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import orjson
import xxhash
from pydantic import Field

from curation.read.record import (
    BadRecordError,
    BrokenFileError,
    Document,
    Item,
    Limits,
    Message,
    Problem,
    RawFile,
    Row,
    Skipped,
    SkipRecord,
    assistant,
    kind_of,
    list_at,
    optional_string,
    scalars,
    string_at,
    user,
    value_at,
    whole_file,
)
from curation.read.rows import json_value
from curation.read.shapes import RowOptions, shape_row, shaped
from curation.read.streams import chunks, plain_name

# "function_call" is what the model writes and "observation" what a tool answers (LLaMA-Factory's ShareGPT).
ROLES = {
    "system": "system",
    "developer": "system",
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
    "function": "tool",
}


def turn(value: Any, role_key: str, content_key: str) -> Message:
    """One turn of a conversation in our roles. Raises BadRecordError for a role that is not known."""
    role = string_at(value, role_key)
    if role not in ROLES:
        raise BadRecordError(f"role '{role}' is not known; expected one of {', '.join(ROLES)}")
    return {"role": ROLES[role], "content": _content(value, content_key)}


def _content(value: dict[str, Any], key: str) -> str:
    """What a turn says: a string; the joined text of a list of parts; calls of tools as JSON if it says nothing.

    Raises BadRecordError for parts that are not text: a model of text would answer what it was not shown.
    """
    said = value.get(key)
    if isinstance(said, list):
        if wrong := [part for part in said if not isinstance(part, dict) or part.get("type", "text") != "text"]:
            what = wrong[0].get("type") if isinstance(wrong[0], dict) else kind_of(wrong[0])
            raise BadRecordError(f"'{key}' has a part that is {what!r}, expected parts of type 'text'")
        said = "".join(string_at(part, "text") for part in said)
    elif said is None and (calls := value.get("tool_calls")):
        said = orjson.dumps(calls).decode()
    return string_at(value if said is None else {key: said}, key)


def turns_of(value: Any, key: str) -> list[Message] | None:
    """The turns of a list of {role, content}; None where the field holds no list."""
    found = value.get(key)
    if not isinstance(found, list):
        return None
    return [turn(one, "role", "content") for one in list_at(value, key)]


def conversation(messages: list[Message], row: dict[str, Any], without: tuple[str, ...]) -> Document:
    if not any(message["role"] == "assistant" and message["content"].strip() for message in messages):
        raise SkipRecord("no answer")
    return Document(messages=messages, metadata=scalars(row, without))


class AlpacaOptions(RowOptions):
    output_key: str = "output"  # GPTeacher: "response"


def instruction_text(row: dict[str, Any]) -> str:
    """Instruction and input of the Alpaca format as one user turn."""
    given = optional_string(row, "input")
    return string_at(row, "instruction") + (f"\n\n{given}" if given.strip() else "")


def alpaca(file: RawFile, limits: Limits, options: AlpacaOptions) -> Iterator[Item]:
    """instruction, input, output."""

    def shape(row, options):
        messages = [user(instruction_text(row)), assistant(string_at(row, options.output_key))]
        return conversation(messages, row, ("instruction", "input", options.output_key))

    return shaped(file, limits, options, shape)


class ShareOptions(RowOptions):
    conversations_key: str = "conversations"
    role_key: str = "from"
    content_key: str = "value"


def sharegpt(file: RawFile, limits: Limits, options: ShareOptions) -> Iterator[Item]:
    """conversations: a list of {from, value}; a field `tools` is given to the model as a system turn."""

    def shape(row, options):
        said = list_at(row, options.conversations_key)
        messages = [turn(value, options.role_key, options.content_key) for value in said]
        system = "\n\n".join(filter(None, (optional_string(row, "system"), optional_string(row, "tools"))))
        if system.strip() and system.strip() != "[]":
            messages.insert(0, {"role": "system", "content": system})
        return conversation(messages, row, ("system", "tools"))

    return shaped(file, limits, options, shape)


class MessagesOptions(RowOptions):
    messages_key: str = "messages"


def messages(file: RawFile, limits: Limits, options: MessagesOptions) -> Iterator[Item]:
    """messages: a list of {role, content}."""

    def shape(row, options):
        turns = [turn(value, "role", "content") for value in list_at(row, options.messages_key)]
        return conversation(turns, row, ())

    return shaped(file, limits, options, shape)


class QuestionOptions(RowOptions):
    question_key: str = "question"
    answer_key: str = "answer"
    strip_suffix: str = ""  # an end mark that is written out in the answers, such as <|endoftext|>


def question_answer(file: RawFile, limits: Limits, options: QuestionOptions) -> Iterator[Item]:
    """Two fields: what is asked, what is answered (GSM8K; prompt and completion). Each a string, or a list of
    {role, content}.
    """

    def shape(row, options):
        asked, answered = options.question_key, options.answer_key
        before = turns_of(row, asked) or [user(string_at(row, asked))]
        after = turns_of(row, answered) or [assistant(string_at(row, answered).removesuffix(options.strip_suffix))]
        return conversation(before + after, row, (asked, answered))

    return shaped(file, limits, options, shape)


def chain_of_thought(file: RawFile, limits: Limits, options: RowOptions) -> Iterator[Item]:
    """The TSV files of FLAN's CoT data: question, answer, rationale, with newlines written as \\n.

    The answer is put after the rationale, as FLAN does.
    """

    def shape(row, options):
        question, answer, rationale = (row[key].replace("\\n", "\n").strip() for key in columns)
        document = conversation([user(question), assistant(f"{rationale}\nThe answer is {answer}.")], {}, ())
        document.metadata |= {
            "answer": answer,
            "example": {"question": question, "rationale": rationale, "answer": answer},
        }
        return document

    columns = ("question", "answer", "rationale")
    return shaped(file, limits, options, shape, columns)


def self_instruct(file: RawFile, limits: Limits, options: RowOptions) -> Iterator[Item]:
    """Seed tasks: an instruction with a list of instances, each with input and output; a document an instance."""

    def shape(row, options):
        made = []
        for instance in list_at(row, "instances"):
            given = instruction_text(
                {"instruction": row.get("instruction"), "input": optional_string(instance, "input")}
            )
            answer = assistant(string_at(instance, "output"))
            made.append(conversation([user(given), answer], row, ("instruction",)))
        return made

    return shaped(file, limits, options, shape)


class ExampleOptions(RowOptions):
    target_key: str = "label"
    input_keys: tuple[str, ...] = ()  # of the plain question; none: every other field that is a string
    labels: tuple[str, ...] = ()  # what a target that is a number stands for


def examples(file: RawFile, limits: Limits, options: ExampleOptions) -> Iterator[Item]:
    """Labelled examples of a task, as data sets hold them: every field, for templates, and a plain question.

    The row is kept in the metadata as `example`, without what JSON cannot hold. The question is its input fields,
    each on a line of its own; the answer is the target, or the label that its number stands for.
    """

    def shape(row, options):
        target = value_at(row, options.target_key)
        if options.labels:
            if isinstance(target, bool) or not isinstance(target, int) or not 0 <= target < len(options.labels):
                last = len(options.labels) - 1
                raise BadRecordError(
                    f"'{options.target_key}' is {target!r}, expected a label's number, 0 to {last}"
                )
            target = options.labels[target]
        elif not isinstance(target, str | int | float):
            raise BadRecordError(f"'{options.target_key}' is {kind_of(target)}, expected a string or a number")
        keys = options.input_keys or [
            key for key, value in row.items() if isinstance(value, str) and key != options.target_key
        ]
        asked = "\n".join(string_at(row, key) for key in keys)
        if not asked.strip():
            raise SkipRecord("no question")
        document = conversation([user(asked), assistant(str(target))], {}, ())
        document.metadata = {"example": {key: value for key, value in row.items() if _is_json(value)}}
        return document

    return shaped(file, limits, options, shape)


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):  # bytes of an image, a date
        return False
    return True


class TaskOptions(RowOptions):
    instances: int = Field(0, ge=0)  # most instances of a task; 0: all


def natural_instructions(file: RawFile, limits: Limits, options: TaskOptions) -> Iterator[Item]:
    """A task file: Definition, then Instances with an input and a list of outputs, the first of which is taken.

    With `instances`, those whose content hashes lowest are kept, so that their order does not matter.
    """
    try:
        raw = whole_file(file, chunks(file.path, limits), limits.document_bytes)
    except BrokenFileError as error:
        yield Problem("0", error.offset, str(error))
        return
    try:
        task = json_value(raw)
        definition = "\n".join(list_at(task, "Definition"))
        instances = list_at(task, "Instances")
    except (BadRecordError, ValueError, TypeError) as error:
        yield Problem("0", 0, f"no task file: {error}", raw)
        return
    chosen = range(len(instances))
    if options.instances:
        keys = [
            xxhash.xxh3_128_digest(orjson.dumps(instance, option=orjson.OPT_SORT_KEYS)) for instance in instances
        ]
        chosen = sorted(sorted(chosen, key=lambda place: (keys[place], place))[: options.instances])
    license_names = task.get("Instance License")
    metadata = {"license": license_names[0]} if isinstance(license_names, list) and license_names else {}
    # The file's name is the task's, in these data and in their papers: of this reader it is content.
    metadata["task"] = plain_name(file.path.name).removesuffix(".json")
    categories = task.get("Categories")
    if isinstance(categories, list) and categories and isinstance(categories[0], str):
        metadata["category"] = categories[0]

    def shape(row, options):
        given = f"{definition}\n\n{string_at(row, 'input')}"
        output = list_at(row, "output")[0]
        if not isinstance(output, str):
            raise BadRecordError(f"'output' begins with {kind_of(output)}, expected a string")
        document = conversation([user(given), assistant(output)], {}, ())
        document.metadata = metadata
        return document

    for place in chosen:
        yield from shape_row(Row(place, 0, instances[place]), shape, options)
    for _ in range(len(instances) - len(chosen)):
        yield Skipped("over the instances of a task")


def questions_about(text: str, asked: list[tuple[str, str]]) -> Document:
    """One conversation of (question, answer) about a text: it stands before the first question, and only there.

    A document a question would repeat the text, and all but one of them would be near-duplicates. Questions with
    a blank answer are left out.
    """
    answered = [(question, answer) for question, answer in asked if answer.strip()]
    turns = [message for question, answer in answered for message in (user(question), assistant(answer))]
    if turns:
        turns[0] = user(f"{text}\n\n{turns[0]['content']}")
    return conversation(turns, {}, ())


def meetings(file: RawFile, limits: Limits, options: RowOptions) -> Iterator[Item]:
    """QMSum: a meeting transcript with queries about it, the general ones first."""

    def shape(row, options):
        said = list_at(row, "meeting_transcripts")
        transcript = "\n".join(f"{string_at(value, 'speaker')}: {string_at(value, 'content')}" for value in said)
        queries = list_at(row, "general_query_list") + list_at(row, "specific_query_list")
        asked = [(string_at(query, "query"), string_at(query, "answer")) for query in queries]
        return questions_about(transcript, asked)

    return shaped(file, limits, options, shape)


def story_questions(file: RawFile, limits: Limits, options: RowOptions) -> Iterator[Item]:
    """SQuALITY: a story with questions and several written answers each, the first of which is taken."""

    def shape(row, options):
        asked = [
            (
                string_at(question, "question_text"),
                string_at(list_at(question, "responses")[0], "response_text"),
            )
            for question in list_at(row, "questions")
        ]
        return questions_about(string_at(row, "document"), asked)

    return shaped(file, limits, options, shape)
