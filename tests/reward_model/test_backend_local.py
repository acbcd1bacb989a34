"""The local backend against the stock processor and plain teacher forcing, on a tiny real Qwen3-VL."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from reward_model.backends import BackendError
from reward_model.backends.answer_start import begin_answer, question, verdict_tokens
from reward_model.backends.local import LocalBackend
from reward_model.conversation import Message, Sampling
from reward_model.minis.model import build_judge
from reward_model.parsing import forced_prefix
from reward_model.prompts import load_prompts
from reward_model.turns import VerdictPrefix
from reward_model.world import make_video
from tests.campaigns import slow_but


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("judge")
    model, processor = build_judge("tiny")
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def backend(folder):
    return LocalBackend(folder, device="cpu")


@pytest.fixture(scope="module")
def conversations():
    """Three prompts of different length, so that padding matters."""
    prompts = load_prompts("compact")
    return [prompts.scan(make_video(seed)[0][:length]) for seed, length in ((0, 5), (1, 3), (2, 7))]


def stock_inputs(backend, conversation, suffix=""):
    chat = [m.to_chat() for m in conversation]
    text = backend.processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False) + suffix
    images = [Image.fromarray(p) for m in conversation for p in m.content if isinstance(p, np.ndarray)]
    return backend.processor(text=[text], images=images or None, return_tensors="pt")


def test_inputs_equal_the_stock_processor(backend, conversations):
    stock = stock_inputs(backend, conversations[0], "abc")
    own = backend._inputs(conversations[:1], ["abc"])
    for name in ("input_ids", "attention_mask", "image_grid_thw"):
        assert torch.equal(own[name], stock[name]), name
    assert torch.equal(own["mm_token_type_ids"].long(), stock["mm_token_type_ids"].long())


def test_scores_equal_teacher_forcing_one_by_one(backend, conversations):
    prefixes = [forced_prefix(""), forced_prefix("Frame 0: hello"), forced_prefix('a "quoted" word')]
    for conversation, prefix, score in zip(
        conversations, prefixes, backend.score(conversations, prefixes), strict=True
    ):
        start = stock_inputs(backend, conversation, prefix)["input_ids"].shape[1]
        for word, value in (("normal", score.log_p_normal), ("abnormal", score.log_p_abnormal)):
            inputs = stock_inputs(backend, conversation, prefix + word)
            with torch.no_grad():
                log_p = backend.model(**inputs).logits.double().log_softmax(-1)[0]
            ids = inputs["input_ids"][0]
            assert len(ids) - start == (1 if word == "normal" else 2)
            expected = sum(log_p[k - 1, ids[k]].item() for k in range(start, len(ids)))
            assert value == pytest.approx(expected, abs=1e-5)


def test_each_prefix_is_scored_with_its_own_spelling_of_the_words(backend, conversations):
    pairs = [("NORMAL", "ABNORMAL"), ("normal", "abnormal"), (" Normal", " Abnormal")]
    prefixes = [VerdictPrefix(forced_prefix("x"), words) for words in pairs]
    for conversation, prefix, score in zip(
        conversations, prefixes, backend.score(conversations, prefixes), strict=True
    ):
        start = stock_inputs(backend, conversation, prefix)["input_ids"].shape[1]
        for word, value in zip(prefix.words, (score.log_p_normal, score.log_p_abnormal), strict=True):
            inputs = stock_inputs(backend, conversation, prefix + word)
            with torch.no_grad():
                log_p = backend.model(**inputs).logits.double().log_softmax(-1)[0]
            ids = inputs["input_ids"][0]
            assert value == pytest.approx(sum(log_p[k - 1, ids[k]].item() for k in range(start, len(ids))), abs=1e-5)


def test_a_thought_that_the_template_opens_is_closed_before_a_forced_beginning(backend, conversations, monkeypatch):
    monkeypatch.setattr(
        backend.processor, "chat_template", backend.processor.chat_template.rstrip() + "{{ '<think>\n' }}"
    )

    def asked(suffix):
        return backend.processor.tokenizer.decode(backend._inputs(conversations[:1], [suffix])["input_ids"][0])

    assert asked("").rstrip().endswith("<think>")  # the model thinks as its template wants
    assert asked(forced_prefix()).endswith("<think>\n\n</think>\n\n" + forced_prefix())
    own = 'a cup</think>{"COT": "", "status": "'
    assert asked(own).endswith("<think>\n" + own)


def test_batched_answers_equal_stock_answers_one_by_one(backend, conversations):
    answers = backend.generate(conversations, Sampling(12))
    for conversation, answer in zip(conversations, answers, strict=True):
        inputs = stock_inputs(backend, conversation)
        ids = backend.model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert answer.text == backend.processor.tokenizer.decode(ids, skip_special_tokens=True)
        assert answer.num_tokens <= 12


def test_vision_tower_runs_once_for_an_answer_and_its_readouts(backend, conversations):
    calls = []
    hook = backend.model.model.visual.register_forward_hook(lambda *_: calls.append(1))
    backend._cached = None
    backend.generate(conversations, Sampling(2))
    backend.score(conversations, [forced_prefix("")] * 3)
    backend.score(conversations, [forced_prefix("x")] * 3)
    assert len(calls) == 1
    backend.score(conversations[:2], [forced_prefix("")] * 2)
    hook.remove()
    assert len(calls) == 2, "another batch has other features"


def test_sampling_follows_its_seed(backend, conversations):
    draw = [backend.generate(conversations, Sampling(8, temperature=1.5, seed=s)) for s in (1, 1, 2)]
    texts = [[a.text for a in answers] for answers in draw]
    assert texts[0] == texts[1] != texts[2]


def test_prefix_must_end_at_the_verdict(backend, conversations):
    with pytest.raises(ValueError, match="must end in"):
        backend.score(conversations[:1], ['{"COT": "x'])


def test_folder_without_processor_says_what_is_missing(folder, tmp_path):
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(BackendError, match=r"preprocessor_config\.json"):
        LocalBackend(tmp_path, device="cpu")


def test_folder_without_model_says_so(tmp_path):
    with pytest.raises(BackendError, match=r"config\.json"):
        LocalBackend(tmp_path, device="cpu")


def test_folder_without_weights_says_so(folder, tmp_path):
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(BackendError, match="cannot load the model"):
        LocalBackend(tmp_path, device="cpu")


def test_tokenizer_that_swallows_the_quote_is_refused():
    def greedy(text, **_):
        return {"input_ids": [1, 2] if text.endswith("normal") else [1, 3]}

    with pytest.raises(BackendError, match="merges"):
        verdict_tokens(greedy)


def test_description_is_json_and_names_the_model(backend, folder):
    assert json.loads(json.dumps(backend.describe()))["model"] == str(folder)


def test_a_text_only_message_needs_no_frames_of_its_own(backend, conversations):
    longer = (*conversations[0], Message("assistant", ("ok",)), Message("user", ("again",)))
    assert len(backend.generate([longer], Sampling(2))) == 1


def test_a_question_without_pictures_is_answered(backend):
    """A judge of reports reads text only; the vision tower must not be asked for features of nothing."""
    from reward_model.conversation import Message, Sampling

    asked = [(Message("user", ("Is this consistent?",)),), (Message("user", ("Yes or no, in one word?",)),)]
    both = backend.generate(asked, Sampling(max_new_tokens=4))
    assert [c.error for c in both] == [None, None]
    assert both[0].text == backend.generate(asked[:1], Sampling(max_new_tokens=4))[0].text


def test_questions_of_text_alone_are_scored_as_one_by_one(folder, conversations):
    """Neither the padding of a batch nor the pictures that were seen before may move their positions."""
    asked = [(Message("user", ("Is this consistent, from the first to the last word?",)),), (Message("user", ("Y?",)),)]
    prefixes = [forced_prefix(""), forced_prefix("Frame 0: a word")]
    fresh = LocalBackend(folder, device="cpu")
    first = fresh.score(asked, prefixes)
    for conversation, prefix, score in zip(asked, prefixes, first, strict=True):
        start = stock_inputs(fresh, conversation, prefix)["input_ids"].shape[1]
        for word, value in (("normal", score.log_p_normal), ("abnormal", score.log_p_abnormal)):
            inputs = stock_inputs(fresh, conversation, prefix + word)
            with torch.no_grad():
                log_p = fresh.model(**inputs).logits.double().log_softmax(-1)[0]
            ids = inputs["input_ids"][0]
            expected = sum(log_p[k - 1, ids[k]].item() for k in range(start, len(ids)))
            assert value == pytest.approx(expected, abs=1e-5)
    fresh.score(conversations[:2], prefixes)
    assert [s.log_p_abnormal for s in fresh.score(asked, prefixes)] == pytest.approx(
        [s.log_p_abnormal for s in first], abs=1e-9
    )


def test_frames_edited_in_place_are_seen_anew(backend):
    frames = make_video(3)[0][:4].copy()
    question = load_prompts("compact").scan(frames)
    before = backend.score([question], [forced_prefix("")])
    for part in question[-1].content:
        if isinstance(part, np.ndarray):
            part[:] = 255 - part
    assert backend.score([question], [forced_prefix("")]) != before


class Short:
    """Memory that holds so many videos at once: the vision tower or the language model fails beyond, as torch does."""

    def __init__(self, backend, module, most, error):
        self.seen, self.most, self.error, self.backend = [], most, error, backend
        self.handle = module.register_forward_pre_hook(self.check, with_kwargs=True)

    def check(self, module, args, kwargs):
        ids = kwargs.get("input_ids")
        size = len(ids) if ids is not None else len(kwargs["grid_thw"] if "grid_thw" in kwargs else args[1]) // 4
        self.seen.append(size)
        if size > self.most:
            raise self.error


CPU_ERROR = RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: 9 bytes")


@pytest.mark.parametrize(
    ("part", "error"),
    [
        pytest.param("vision", CPU_ERROR, marks=pytest.mark.slow),
        ("language", torch.OutOfMemoryError("CUDA out of memory.")),
        pytest.param("vision", MemoryError(), marks=pytest.mark.slow),
    ],
)
def test_a_batch_that_does_not_fit_is_halved_and_answers_stay(folder, part, error):
    prompts = load_prompts("compact")
    asked = [prompts.scan(make_video(seed)[0][:4]) for seed in range(3)]
    prefixes = [forced_prefix("")] * 3
    backend = LocalBackend(folder, device="cpu")
    alone = [backend.generate([c], Sampling(4))[0].text for c in asked]
    scores = [backend.score([c], prefixes[:1])[0].log_odds for c in asked]
    module = backend.model.model.visual if part == "vision" else backend.model
    memory = Short(backend, module, 1, error)
    assert [a.text for a in backend.generate(asked, Sampling(4))] == alone
    assert [s.log_odds for s in backend.score(asked, prefixes)] == pytest.approx(scores, abs=1e-5)
    assert memory.seen.count(3) == 1, "what was too much once is not tried again"
    memory.most = 0
    assert all(
        "out of memory on this video alone (4 frames of" in a.error for a in backend.generate(asked, Sampling(4))
    )
    assert all("out of memory" in s.fault for s in backend.score(asked, prefixes))
    memory.handle.remove()
    assert [a.text for a in backend.generate(asked, Sampling(4))] == alone, "it recovers"


def test_an_item_that_the_processor_refuses_spoils_no_other(backend, conversations):
    prompts = load_prompts("compact")
    thin = prompts.scan(np.zeros((4, 2, 900, 3), np.uint8))
    asked = [conversations[0], thin, conversations[1]]
    expected = [backend.generate([c], Sampling(4))[0].text for c in (conversations[0], conversations[1])]
    answers = backend.generate(asked, Sampling(4))
    assert [a.text for a in answers if not a.error] == expected
    assert "4 frames of 2x900" in answers[1].error and "aspect ratio" in answers[1].error
    scores = backend.score(asked, [forced_prefix("")] * 3)
    assert [s.fault is None for s in scores] == [True, False, True]


@pytest.mark.parametrize(
    "extra",
    slow_but(
        [
            {"repetition_penalty": 1.4},
            {"no_repeat_ngram_size": 2},
            {"do_sample": True, "temperature": 0.7, "top_k": 20},
        ],
        {"repetition_penalty": 1.4},
    ),
)
def test_greedy_is_greedy_whatever_the_checkpoint_asks_for(folder, tmp_path, backend, conversations, extra):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    settings = json.loads((folder / "generation_config.json").read_text())
    (tmp_path / "generation_config.json").write_text(json.dumps({**settings, **extra}))
    other = LocalBackend(tmp_path, device="cpu")
    ask = [a.text for a in backend.generate(conversations, Sampling(24))]
    assert [a.text for a in other.generate(conversations, Sampling(24))] == ask
    assert other.model.generation_config.eos_token_id == settings["eos_token_id"]


def reference_signs(backend, conversation):
    """Both statistics from the stock processor and the hidden states that transformers itself reports."""
    inputs = stock_inputs(backend, conversation)
    with torch.no_grad():
        features = backend.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True)
        states = backend.model(**inputs, output_hidden_states=True).hidden_states
    tokens = torch.cat(list(features.pooler_output))
    half = (len(states) - 1) // 2
    looks = torch.cat([tokens.mean(0), tokens.var(0, correction=0).sqrt()])
    return looks.numpy(), states[max(half, 1)][0, -1].numpy()


@pytest.fixture(scope="module")
def expected_signs(backend, conversations):
    return [reference_signs(backend, conversation) for conversation in conversations]


@pytest.mark.parametrize(
    ("size", "way"),
    slow_but(
        [(size, way) for size in (1, 3) for way in ("generate", "score", "long prefix", "both", "observe")],
        *((1, "observe"), (3, "generate"), (3, "long prefix")),
    ),
)
def test_signs_are_the_same_whichever_way_the_prefill_ran(backend, conversations, expected_signs, way, size):
    backend = LocalBackend.of(backend.model, backend.processor)
    backend.watch = True
    looked = []
    backend._look = lambda part, look=backend._look: looked.append(part) or look(part)
    found = []
    for start in range(0, len(conversations), size):
        part = conversations[start : start + size]
        if way in ("generate", "both"):
            backend.generate(part, Sampling(5))
        if way in ("score", "both"):
            backend.score(part, [forced_prefix("")] * len(part))
        if way == "long prefix":
            backend.score(part, [forced_prefix("Frame 0: a word. " * (k + 1)) for k in range(len(part))])
        found += backend.observe(part)
    assert bool(looked) == (way == "observe"), "a prefill that was there is used"
    for (looks, state), signs in zip(expected_signs, found, strict=True):
        assert signs.appearance == pytest.approx(looks, abs=1e-5)
        assert signs.state == pytest.approx(state, abs=1e-5)


def test_signs_of_a_batch_that_had_to_be_halved(folder, conversations):
    backend = LocalBackend(folder, device="cpu")
    backend.watch = True
    expected = [backend.observe([c])[0] for c in conversations]
    forward = backend.model.forward

    def short(*args, **kwargs):
        if kwargs["input_ids"].shape[0] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(*args, **kwargs)

    backend.model.forward = short
    backend.score(conversations, [forced_prefix("")] * 3)
    backend._look = None  # every conversation was seen
    for signs, alone in zip(backend.observe(conversations), expected, strict=True):
        assert signs.state == pytest.approx(alone.state, abs=1e-5)
        assert signs.appearance == pytest.approx(alone.appearance, abs=1e-5)


def test_nothing_is_watched_unless_the_checkpoint_has_a_domain(folder, conversations, tmp_path):
    backend = LocalBackend(folder, device="cpu")
    backend.score(conversations[:1], [forced_prefix("")])
    assert backend.domain is None and backend._signs.find(conversations[0]) is None
    # Asked for, they come from a prefill of their own; a question without a picture has none.
    signs = backend.observe([conversations[0], (Message("user", ("Hello",)),)])
    assert signs[0] is not None and signs[1] is None


def test_a_thought_that_the_template_opens_does_not_move_the_question(backend):
    prompt = "<|im_start|>assistant\n<think>\n"
    asked = question(prompt)
    assert begin_answer(prompt, "").startswith(asked) and begin_answer(prompt, '{"COT": "').startswith(asked)
