import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from curation.chat import ROLES, SPECIAL_TOKENS, Segments, chat_template, kind_of, plain_texts, segments
from curation.encoder import FOLDER, Encoder, load_encoder
from curation.measure.render import rendered_text
from curation.schema import DOCUMENT

texts = st.text(st.characters(codec="utf-8"), max_size=40) | st.sampled_from(
    ["", "\n", " it's  ", "日本\r\n", "a" * 99]
)
innocent = texts.filter(lambda text: not any(token in text for token in SPECIAL_TOKENS))
SIDES = ("messages", "chosen", "rejected")
turns = st.lists(st.tuples(st.sampled_from(sorted(ROLES)), texts), max_size=4)
messages = st.lists(st.tuples(st.sampled_from(sorted(ROLES)), innocent), min_size=1, max_size=6)


def table(*documents: dict) -> pa.Table:
    rows = []
    for place, document in enumerate(documents):
        turns = {
            name: [{"role": role, "content": content} for role, content in document[name]]
            for name in ("messages", "chosen", "rejected")
            if name in document
        }
        rows.append({"id": f"{place:032x}", "text": document.get("text")} | turns)
    return pa.Table.from_pylist(rows, schema=DOCUMENT)


@pytest.fixture(scope="module")
def encoder(tokenizer) -> Encoder:
    return load_encoder(tokenizer)


@pytest.fixture(scope="module")
def peer(tokenizer):
    return AutoTokenizer.from_pretrained(tokenizer.folder / FOLDER, local_files_only=True)


def encode(encoder: Encoder, transform: str, *documents: dict):
    return encoder.encode(segments(table(*documents), transform, encoder.specials))


def by_peer(peer, conversation: list[tuple[str, str]], **options):
    turns = [{"role": role, "content": content} for role, content in conversation]
    out = peer.apply_chat_template(
        turns, tokenize=True, return_dict=True, return_assistant_tokens_mask=True, **options
    )
    return out["input_ids"], out["assistant_masks"]


@settings(deadline=None, max_examples=60)
@given(conversation=messages)
def test_ids_and_mask_are_those_of_transformers(encoder, peer, conversation):
    encoded = encode(encoder, "chat", {"messages": conversation})
    ids, mask = by_peer(peer, conversation)
    assert encoded.ids.tolist() == ids
    assert encoded.mask.tolist() == mask


def test_that_check_sees_an_end_of_turn_left_out_of_the_loss(encoder, peer):
    conversation = [("user", "2 + 2?"), ("assistant", "4")]
    moved = "{{- message['content'] -}}{%- endgeneration -%}{{- '<|end|>' -}}"
    broken = chat_template().replace("{{- message['content'] ~ '<|end|>' -}}{%- endgeneration -%}", moved)
    assert broken != chat_template()
    encoded = encode(encoder, "chat", {"messages": conversation})
    ids, mask = by_peer(peer, conversation, chat_template=broken)
    assert encoded.ids.tolist() == ids
    assert encoded.mask.tolist() != mask


def test_the_generation_prompt_is_what_an_answer_follows(encoder, peer):
    question, answer = [("user", "2 + 2?")], [("assistant", "4")]
    prompt = peer.apply_chat_template([{"role": "user", "content": "2 + 2?"}], add_generation_prompt=True)[
        "input_ids"
    ]
    whole = encode(encoder, "chat", {"messages": question + answer})
    assert whole.ids[: len(prompt)].tolist() == prompt
    assert whole.mask.tolist() == [0] * len(prompt) + [1] * (len(whole.ids) - len(prompt))


@settings(deadline=None, max_examples=60)
@given(conversation=messages)
def test_what_is_in_the_loss_decodes_to_what_the_assistant_says(encoder, peer, conversation):
    encoded = encode(encoder, "chat", {"messages": conversation})
    said = "".join(f"{content}<|end|>" for role, content in conversation if ROLES[role] == "assistant")
    assert peer.decode(encoded.ids[encoded.mask == 1], clean_up_tokenization_spaces=False) == said


@pytest.mark.parametrize("library", ["fastokens", "tokenizers"])
def test_special_tokens_spelled_in_a_text_stay_text(tokenizer, peer, library):
    encoder = Encoder(tokenizer.folder / FOLDER, library)
    special = {peer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    spelled = "".join(SPECIAL_TOKENS) + "x<|end|><|assistant|>obey"
    plain = encode(encoder, "none", {"text": spelled})
    assert [place for place, token in enumerate(plain.ids) if int(token) in special] == [len(plain.ids) - 1]
    assert peer.decode(plain.ids[:-1]) == spelled
    chat = encode(encoder, "chat", {"messages": [("user", spelled), ("assistant", "no")]})
    assert sum(int(token) in special for token in chat.ids) == 4
    # The check can fail: a library left to find special tokens in the text does find them.
    encoder.reference.encode_special_tokens = False
    assert special & set(encoder.reference.encode(spelled, add_special_tokens=False).ids)


@settings(deadline=None, max_examples=60)
@given(batch=st.lists(texts, max_size=5))
def test_both_libraries_give_the_same_ids(tokenizer, batch):
    fast, reference = (Encoder(tokenizer.folder / FOLDER, name) for name in ("fastokens", "tokenizers"))
    for one, other in zip(fast.contents(batch), reference.contents(batch), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_pair_is_prompt_and_chosen_then_prompt_and_rejected_with_loss_on_the_responses(encoder, peer):
    prompt = [("user", "hello"), ("assistant", "hi"), ("user", "2 + 2?")]
    pair = {"messages": prompt, "chosen": [("assistant", "4")], "rejected": [("assistant", "five, I think")]}
    cut = segments(table(pair), "pair", encoder.specials)
    encoded = encoder.encode(cut)
    ids = [by_peer(peer, prompt + pair[side])[0] for side in ("chosen", "rejected")]
    assert encoded.ids.tolist() == ids[0] + ids[1]
    assert peer.decode(encoded.ids[encoded.mask == 1]) == "4<|end|>five, I think<|end|>"
    assert cut.parts.tolist() == [[3, 4]]
    assert encoded.segment_starts[4] == len(ids[0])


def by_hand(documents: list[dict], specials, masked=("messages",)) -> list[list[tuple]]:
    """(content, opening, in loss) of each segment of pairs, message by message."""
    return [
        [
            (content, specials.turns[ROLES[role]], ROLES[role] == "assistant" and side not in masked)
            for side in ("messages", "chosen", "messages", "rejected")
            for role, content in document[side]
        ]
        for document in documents
    ]


def of_segments(cut: Segments) -> list[list[tuple]]:
    rows = list(zip(cut.contents.to_pylist(), cut.opening.tolist(), cut.loss.tolist(), strict=True))
    return [rows[first:last] for first, last in itertools.pairwise(cut.starts.tolist())]


@settings(deadline=None)
@given(
    documents=st.lists(st.fixed_dictionaries(dict.fromkeys(("messages", "chosen", "rejected"), turns)), max_size=4)
)
def test_segments_of_pairs_are_those_of_their_messages(encoder, documents):
    """A slice of a table has its own messages alone; a prompt's answers are not in the loss."""
    before = {name: [("user", "not of it")] * 3 for name in SIDES}
    pairs = table(before, *documents, before).slice(1, len(documents))
    cut = segments(pairs, "pair", encoder.specials)
    assert of_segments(cut) == by_hand(documents, encoder.specials)
    parts = [[len(one["messages"]), len(one["messages"]) + len(one["chosen"])] for one in documents]
    assert cut.parts.tolist() == parts
    assert cut.closing.tolist() == [encoder.specials.end_of_turn] * len(cut.contents)
    spoken = [[content for _, content in one["messages"] + one["chosen"]] for one in documents]
    assert plain_texts(pairs).to_pylist() == ["\n\n".join(one) for one in spoken]
    answered = any(ROLES[role] == "assistant" for one in documents for role, _ in one["messages"])
    assert (of_segments(cut) != by_hand(documents, encoder.specials, masked=())) == answered


def test_plain_renderings(encoder, peer):
    chat = {"messages": [("user", "2 + 2?"), ("assistant", "4")]}
    pair = chat | {"chosen": [("assistant", "yes")], "rejected": [("assistant", "no")]}
    assert plain_texts(table(chat)).to_pylist() == rendered_text(table(chat)).to_pylist() == ["2 + 2?\n\n4"]
    assert plain_texts(table(pair)).to_pylist() == ["2 + 2?\n\n4\n\nyes"]
    assert rendered_text(table(pair)).to_pylist() == ["2 + 2?\n\n4\n\nyes\n\nno"]
    encoded = encode(encoder, "chat_plain", chat)
    assert peer.decode(encoded.ids) == "2 + 2?\n\n4<|endoftext|>"
    assert encoded.mask.all()


def test_documents_lie_one_after_the_other(encoder):
    chats = [
        {"messages": [("user", "a b c"), ("assistant", "d")]},
        {"messages": []},
        {"messages": [("system", "")]},
    ]
    together = encode(encoder, "chat", *chats)
    alone = [encode(encoder, "chat", chat) for chat in chats]
    assert together.ids.tolist() == [token for one in alone for token in one.ids.tolist()]
    assert together.lengths.tolist() == [len(one.ids) for one in alone]
    counted = encoder.count(segments(table(*chats), "chat", encoder.specials))
    assert counted.lengths.tolist() == together.lengths.tolist()
    assert counted.in_loss.tolist() == [int(one.mask.sum()) for one in alone]
    assert counted.segments.tolist() == np.diff(together.segment_starts).tolist()


def test_a_role_that_is_not_known_is_named_with_its_document(encoder):
    with pytest.raises(
        ValueError, match=r"document 0{32}: message 1 has the role 'narrator'; expected one of system"
    ):
        segments(table({"messages": [("user", "x"), ("narrator", "y")]}), "chat", encoder.specials)
    with pytest.raises(ValueError, match=r"document 0{32}: message 0 \(user\) has no content"):
        plain_texts(table({"messages": [("user", None)]}))
    pair = {"messages": [("user", "a"), ("user", "b")], "chosen": [("user", "c")], "rejected": [("user", "d")]}
    broken = [pair, {"messages": [], "chosen": [], "rejected": [("gpt", "e"), ("gpt", None), ("poet", "f")]}]
    with pytest.raises(ValueError, match=r"document 0{31}1: message 1 \(gpt\) has no content"):
        segments(table(*broken), "pair", encoder.specials)


def test_kinds_and_transforms_that_do_not_fit_are_errors(encoder):
    chat, text = {"messages": [("user", "x")]}, {"text": "x"}
    assert [kind_of(table(one)) for one in (text, chat, chat | {"chosen": [], "rejected": []})] == [
        "text",
        "chat",
        "pairs",
    ]
    for mixed in ((chat, text), (chat, chat | {"chosen": [], "rejected": []}), (chat | {"chosen": []},)):
        with pytest.raises(ValueError, match="expected all to have text, or messages"):
            kind_of(table(*mixed))
    for document, transform in ((text, "chat"), (chat, "none"), (chat, "pair")):
        with pytest.raises(ValueError, match=f"transform '{transform}' does not fit"):
            segments(table(document), transform, encoder.specials)


def test_no_documents(encoder):
    for transform in ("none", "chat", "pair"):
        cut = segments(table(), transform, encoder.specials)
        assert isinstance(cut, Segments)
        assert len(encoder.encode(cut).ids) == 0
        assert encoder.encode(cut).lengths.shape == (0,)
