"""Names of classes: the same ones in other spellings, whose class is whose, and names that name nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from videomae2.errors import UserError
from videomae2.weights import match_classes, read_checkpoint, same_name, save_safetensors
from videomae2.weights.classes import Origin, origin_of
from videomae2.weights.describe import convert

from ..small_networks import TINY, classifier


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("air drumming", "air_drumming", True),
        ("air  drumming ", "Air_Drumming", True),
        ("passing_American_football_(in_game)", "passing American football (in game)", True),
        ("caf\u00e9", "cafe\u0301", True),
        ("airdrumming", "air drumming", False),
        ("high-five", "high five", False),
        ("1", "01", False),
    ],
)
def test_the_same_name_in_another_spelling(first: str, second: str, same: bool) -> None:
    assert same_name(first, second) is same and same_name(second, first) is same


def test_classes_are_matched_by_name_in_any_order() -> None:
    own = ("abseiling", "air drumming", "Zumba", "playing_piano")
    assert match_classes(own, ("playing piano", "air_drumming", "zumba")) == (3, 1, 2)
    assert match_classes(own, own) == (0, 1, 2, 3)
    assert match_classes(own, ()) == ()


def test_numbers_are_names_of_which_some_may_lack() -> None:
    assert match_classes(("0", "1", "2", "10"), ("10", "2")) == (3, 2)


def test_the_nearest_spelling_wins_and_what_is_left_open_is_refused() -> None:
    own = ("a_b", "a b", "A b")
    assert match_classes(own, ("a b", "a_b")) == (1, 0)
    assert match_classes(own, ("A_b",)) == (2,)
    with pytest.raises(UserError, match="the class 'A B' may be 'a_b' or 'a b' or 'A b' of the network"):
        match_classes(own, ("A B",))


def test_an_unknown_class_and_two_that_are_one_are_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"one of the network's 2 classes \(up, down\), got the class 'left'"):
        match_classes(("up", "down"), ("up", "left"))
    with pytest.raises(UserError, match="got 'go_up' and 'Go up', which are both the network's 'go up'"):
        match_classes(("go up",), ("go_up", "Go up"))


@pytest.mark.parametrize(
    ("names", "origin"),
    [
        (("LABEL_0", "LABEL_1"), "generated"),
        (("label_0", "label_1"), "generated"),
        (("class 0", "class 1"), "generated"),
        (("LABEL_5", "LABEL_0"), "generated"),
        (("0", "1"), "given"),
        (("up", "LABEL_1"), "given"),
        ((), "none"),
    ],
)
def test_numbered_names_are_generated(names: tuple[str, ...], origin: Origin) -> None:
    assert origin_of(names) == origin


def test_a_checkpoint_says_where_its_names_came_from(tmp_path: Path) -> None:
    model = classifier(3)
    plain = save_safetensors(tmp_path / "plain.safetensors", model, TINY, "classifier")
    assert read_checkpoint(plain).names_origin == "none"
    convert(plain, tmp_path / "t", "transformers")
    config = json.loads((tmp_path / "t" / "config.json").read_text())
    assert config["id2label"] == {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}
    del config["videomae2"]
    (tmp_path / "t" / "config.json").write_text(json.dumps(config))
    theirs = read_checkpoint(tmp_path / "t")
    assert (theirs.class_names, theirs.names_origin) == (("LABEL_0", "LABEL_1", "LABEL_2"), "generated")
    convert(theirs, tmp_path / "again.safetensors")
    assert read_checkpoint(tmp_path / "again.safetensors").names_origin == "generated"
    named = save_safetensors(
        tmp_path / "named.safetensors", model, TINY, "classifier", class_names=("0", "1", "5")
    )
    assert read_checkpoint(named).names_origin == "given"
    assert read_checkpoint(named, [2, 0]).class_names == ("5", "0")
    folders = ("class 1", "class 2", "class 3")
    for noted, origin in (({"class_names_from": "folder"}, "folder"), ({"class_names_from": 3}, "generated")):
        path = tmp_path / "folders.safetensors"
        save_safetensors(path, model, TINY, "classifier", class_names=folders, extra=noted)
        assert read_checkpoint(path).names_origin == origin
        convert(path, tmp_path / "there.pth", "released")
        assert read_checkpoint(tmp_path / "there.pth").names_origin == origin


def test_the_names_that_mmengine_keeps_are_given(tmp_path: Path) -> None:
    content: dict[str, Any] = {
        "state_dict": classifier(2).state_dict(),
        "meta": {"dataset_meta": {"classes": ["up", "down"]}},
    }
    torch.save(content, tmp_path / "a.pth")
    assert read_checkpoint(tmp_path / "a.pth").class_names == ("up", "down")
    for wrong in (["up"], "ab", [1, 2], None):
        content["meta"]["dataset_meta"]["classes"] = wrong
        torch.save(content, tmp_path / "a.pth")
        assert read_checkpoint(tmp_path / "a.pth").class_names == ()
