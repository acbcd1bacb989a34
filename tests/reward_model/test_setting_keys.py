"""Keys inside settings: hidden, handed to whom they are for, and left out of what is written."""

from __future__ import annotations

import copy

import pytest

from reward_model.backends.secret import Secret
from reward_model.engine.settings import changed, read_yaml
from reward_model.setting_keys import blotted, handed_on, hidden_keys, revealed, without_keys

KEY = "sk-very-secret-key"


@pytest.mark.parametrize(
    "name", ["api_key", "API-Key", "apikey", "judge_api_key", "hf_token", "token", "password", "Authorization"]
)
def test_a_key_is_hidden_and_handed_over_whatever_its_name_and_depth(name):
    given = [{"reward": "m:R", "options": {"members": [{"backend_options": {name: f"Bearer {KEY}"}}], "n": 3}}]
    held = hidden_keys(given)
    assert KEY not in repr(held) and KEY in repr(given), "a copy"
    assert revealed(held) == given == revealed(copy.deepcopy(held))
    assert isinstance(revealed(held, bare=False)[0]["options"]["members"][0]["backend_options"][name], Secret)
    assert without_keys(held) == without_keys(given)
    assert KEY not in repr(without_keys(given)) and without_keys(given)[0]["options"]["n"] == 3
    assert hidden_keys(held) == held, "twice is as good as once"


def test_what_only_sounds_like_a_key_stays():
    plain = {"max_new_tokens": 5, "pad_token": "<pad>", "tokens": [1], "key": "a", "keywords": {"token": None}, "x": ()}
    assert hidden_keys(plain) == plain
    assert without_keys(plain) == {**plain, "keywords": {}}


def test_a_variable_stands_for_a_key(monkeypatch):
    settings = hidden_keys({"api_key": "$JUDGE_KEY", "token": "${OTHER}"})
    assert settings == {"api_key": "$JUDGE_KEY", "token": "${OTHER}"} == without_keys(settings)
    assert without_keys(settings, keep_names=False) == {}
    monkeypatch.setenv("JUDGE_KEY", KEY)
    monkeypatch.delenv("OTHER", raising=False)
    with pytest.raises(ValueError, match=r"token: \$\{OTHER\} names a variable that is not set; export OTHER="):
        revealed(settings)
    monkeypatch.setenv("OTHER", "t")
    assert revealed(settings) == {"api_key": KEY, "token": "t"}


def test_a_program_that_is_started_gets_its_keys_by_the_environment(monkeypatch):
    held = hidden_keys([{"api_key": KEY}, {"api_key": 123456789}, {"api_key": "$MINE"}, {"api_key": ""}])
    written, environment = handed_on(held)
    assert written == [{"api_key": k} for k in ("$CAC_ALIGN_KEY_1", "$CAC_ALIGN_KEY_2", "$MINE", "")]
    for name, value in {**environment, "MINE": "mine"}.items():
        monkeypatch.setenv(name, value)
    assert [r["api_key"] for r in revealed(hidden_keys(written))] == [KEY, "123456789", "mine", ""]


def test_addresses_lose_logins_and_queries():
    assert without_keys({"base_url": "http://me:pw@judge:8000/v1?key=1", "note": "//a@b"}) == {
        "base_url": "http://judge:8000/v1",
        "note": "//a@b",
    }


@pytest.mark.parametrize(
    "text",
    [
        f"api_key: {KEY}",
        f"'api_key': '{KEY}",
        f'{{"api_key":"{KEY} ',
        f"a.api_key={KEY}",
        f"--hf_token={KEY}, b: 1",
        f"token: Bearer {KEY}",
    ],
)
def test_pieces_of_files_are_blotted(text):
    assert KEY not in blotted(text) and blotted(text).endswith(("***", "b: 1"))


def test_messages_about_settings_show_no_key(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text(f'rewards:\n  - {{reward: cac, options: {{api_key: "{KEY}}}}}\n')
    calls = [
        lambda: read_yaml(path),
        lambda: changed({}, [f"rewards=[{{api_key: {KEY}"]),
        lambda: changed({}, [f"api_key: {KEY}"]),
        lambda: changed({"rewards": [{"api_key": KEY}]}, ["rewards.0=1"]),
    ]
    for call in calls:
        with pytest.raises(ValueError) as caught:
            call()
        assert KEY not in str(caught.value) and caught.value.__cause__ is None
