"""Config files: whatever is wrong in one is a ConfigError that says where."""

from __future__ import annotations

import pytest

from curation.config import ConfigError, Strict, load_config


class Settings(Strict):
    numbers: tuple[int, ...] = ()
    name: str = ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: a.yaml", "a.yaml: it is a base of itself"),
        ("? [1, 2]\n: 3", "a.yaml:1:3: a key is a word"),
        ("name: x\nnumbers: &a [*a]", "a.yaml:2:10: over 50 levels"),
        ("name: 2026-13-45", "a.yaml:1:7: month must be in"),
        (
            "x0: &x0 [1]\n" + "".join(f"x{n}: &x{n} [{f'*x{n - 1}, ' * 9}]\n" for n in range(1, 9)),
            "200000 values",
        ),
        ("name: !!python/object/apply:os.getcwd []", "name: Input should be a valid string"),
    ],
)
def test_a_file_that_is_wrong_names_its_line(tmp_path, text, message):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(path, Settings)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path, Settings)


@pytest.mark.parametrize("override", ["numbers.x=1", "numbers.7=1", "numbers=[", 'name="open', "name.a=1", "name"])
def test_an_override_that_does_not_fit_names_itself(tmp_path, override):
    path = tmp_path / "a.yaml"
    path.write_text("numbers: [1, 2]\nname: x")
    with pytest.raises(ConfigError, match="--set "):
        load_config(path, Settings, [override])


def test_overrides_and_a_base(tmp_path):
    (tmp_path / "base.yaml").write_text("numbers: [1, 2]\nname: base")
    (tmp_path / "a.yaml").write_text("base: base.yaml\nname: own")
    settings = load_config(tmp_path / "a.yaml", Settings, ["numbers.1=7"])
    assert (settings.numbers, settings.name) == ((1, 7), "own")
