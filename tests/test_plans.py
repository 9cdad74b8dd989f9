"""plans.py: label and split from names alone, or from a manifest beside them."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catdog import plans
from catdog.errors import BadDataset
from catdog.plans import OTHER_PICTURES, Labelling, Plan, plan, survey

CATS = [f"cat.{number}.jpg" for number in range(6)]
DOGS = [f"dog.{number}.jpg" for number in range(6)]


def folders(*names: str) -> list[str]:
    return [f"{name}/{number}.jpg" for name in names for number in range(6)]


def planned(names: list[str], read: Callable[[str], bytes] | None = None, **options: Any) -> Plan:
    return plan(names, Labelling(**options), read)


def labels_of(names: list[str], **options: Any) -> dict[str, str]:
    return {picture.name: picture.label for picture in planned(names, **options).pictures}


def refusal(names: list[str], read: Callable[[str], bytes] | None = None, **options: Any) -> BadDataset:
    with pytest.raises(BadDataset) as caught:
        planned(names, read, **options)
    assert "Expected" in caught.value.message and "Received: " in caught.value.message
    return caught.value


def test_the_workshops_layout() -> None:
    names = [f"subset/{split}/{name}" for split in ("train", "validation", "TEST") for name in (*CATS, *DOGS)]
    pictures = plan(names).pictures
    assert {(picture.split, picture.label) for picture in pictures} == {(s, x) for s in ("train", "val", "test") for x in ("cat", "dog")}
    assert all(picture.label in picture.name.rpartition("/")[2] for picture in pictures)
    assert sorted(picture.name for picture in pictures) == sorted(names)


def test_two_label_folders_win_over_names() -> None:
    assert labels_of(["pets/tabby/dog.1.jpg", *folders("pets/tabby", "pets/siamese")])["pets/tabby/dog.1.jpg"] == "tabby"


def test_label_folders_below_split_folders() -> None:
    pictures = plan(folders("train/a", "train/b", "val/a", "val/b", "test/a/deep", "test/b")).pictures
    assert {(picture.split, picture.label) for picture in pictures} == {(s, x) for s in ("train", "val", "test") for x in ("a", "b")}


def test_spellings_of_one_folder_are_one_label() -> None:
    assert set(labels_of(folders("train/Cat", "train/dog", "val/cat", "val/dog")).values()) == {"Cat", "dog"}


def test_folders_count_only_if_they_are_among_the_labels_asked_for() -> None:
    names = [f"batch{number % 2}/{name}" for number, name in enumerate((*CATS, *DOGS))]
    assert set(labels_of(names, labels=["cat", "dog"]).values()) == {"cat", "dog"}
    assert "bird" in refusal(folders("cat", "dog", "bird"), labels=["cat", "dog"]).offenders[0]


def test_a_folder_of_one_label_is_no_root() -> None:
    assert "all of cat" in refusal(folders("cat"), rule="folder").message


def test_the_filename_rule_does_not_look_at_folders() -> None:
    assert labels_of([f"dog/{name}" for name in CATS] + [f"cat/{name}" for name in DOGS], rule="filename")["dog/cat.0.jpg"] == "cat"


def test_litter_is_ignored_and_other_files_are_listed() -> None:
    names = [*CATS, *DOGS, "README.txt", "__MACOSX/._cat.1.jpg", ".DS_Store", "Thumbs.db", "a/.hidden/cat.jpg", "sub/"]
    found = plan(names)
    assert len(found.pictures) == 12 and found.ignored == 4
    assert [(one.name, one.kind) for one in found.refused] == [("README.txt", "not_a_picture")]


def test_ambiguous_and_unlabelled_names_are_listed_together_up_to_twenty() -> None:
    error = refusal([*CATS, *DOGS, "catdog.jpg", *(f"dog_cat.{number}.jpg" for number in range(30))])
    assert "30 ambiguous" in error.message and "1 unlabelled (catdog.jpg)" in error.message
    assert len(error.offenders) == 20 and "catdog.jpg" in error.offenders


@pytest.mark.parametrize(
    ("names", "options", "said"),
    [
        ([], {}, "no files"),
        (["notes.txt"], {}, "none among 1 files"),
        (CATS, {}, "all of cat"),
        ([*CATS, *DOGS], {"labels": ["cat", "dog", "bird"]}, "none of bird"),
        ([*CATS, *DOGS], {"labels": ["cat"]}, "1 (cat)"),
        ([*CATS, *DOGS], {"labels": ["cat", "CAT"]}, "2 (cat, CAT)"),
        ([*CATS, *DOGS], {"labels": ["cat", "do\ng"]}, "'do\\ng'"),
        ([*CATS, "dog.1.jpg"], {}, "of 1"),
        ([*(f"train/{name}" for name in (*CATS, *DOGS)), "cat.9.jpg"], {}, "1 outside (cat.9.jpg)"),
        ([f"{split}/{name}" for split in ("val", "test") for name in (*CATS, *DOGS)], {}, "0 in train"),
        ([*folders("cat", "dog"), "stray.jpg"], {}, "1 unlabelled (stray.jpg)"),
        ([*folders("cat", "dog"), "cat/train/1.jpg"], {}, "1 pictures in one elsewhere (cat/train/1.jpg)"),
        ([*CATS, *DOGS, "brid.1.jpg"], {"labels": ["cat", "dog", "bird"]}, "1 unlabelled (brid.1.jpg)"),
    ],
)
def test_what_makes_no_data_set(names: list[str], options: dict[str, Any], said: str) -> None:
    assert said in refusal(names, **options).message


def test_folders_with_the_names_of_splits_may_be_labels() -> None:
    names = folders("test", "dev", "bird")
    assert "6 outside" in refusal(names).message
    found = planned(names, labels=["test", "dev", "bird"])
    assert {(picture.label, picture.split) for picture in found.pictures} == {("test", None), ("dev", None), ("bird", None)}


def test_folders_that_contradict_the_file_names_are_not_decided_by_us() -> None:
    """A camera's folders, and the names that somebody gave to the files in them."""
    names = [f"DCIM/{folder}/{name}" for folder, files in (("100APPLE", [*CATS, *DOGS[:3]]), ("101APPLE", DOGS[3:])) for name in files]
    error = refusal(names)
    assert "DCIM/100APPLE/cat.0.jpg would be 100APPLE by its folder and cat by its name" in error.message
    assert "rule=filename" in error.remedy and sorted(error.offenders) == sorted(names)
    assert set(labels_of(names, rule="filename").values()) == {"cat", "dog"}
    assert set(labels_of([*names, *folders("DCIM/101APPLE")], rule="folder").values()) == {"100APPLE", "101APPLE"}
    assert set(labels_of(names, labels=("cat", "dog")).values()) == {"cat", "dog"}


def test_folders_that_agree_with_the_file_names_or_say_more_are_taken() -> None:
    assert set(labels_of([f"Cats/{name}" for name in CATS] + [f"hotdogs/{name}" for name in DOGS]).values()) == {"Cats", "hotdogs"}
    one_word = [f"{folder}/cat.{number}.jpg" for folder in ("tabby", "siamese") for number in range(6)]
    assert set(labels_of(one_word).values()) == {"tabby", "siamese"}


@pytest.mark.parametrize("suffix", OTHER_PICTURES)
def test_pictures_that_are_not_read_are_listed_as_such(suffix: str) -> None:
    (refused,) = plan([*CATS, *DOGS, f"IMG_1{suffix.upper()}"]).refused
    assert (refused.name, refused.kind) == (f"IMG_1{suffix.upper()}", "unsupported") and ".jpg" in refused.reason


def test_a_survey_says_what_a_plan_refuses() -> None:
    names = [*CATS, *DOGS, "catdog.jpg"]
    found = survey(names)
    assert len(found.pictures) == 12 and [one.name for one in found.refused] == ["catdog.jpg"]
    assert [problem.message for problem in found.problems] == [refusal(names).message]
    assert survey(names, Labelling(unlabelled="skip")).problems == [] == plan([*CATS, *DOGS]).problems
    assert len(survey([*CATS, "dog.1.jpg"]).pictures) == 7  # too few of dog is for the census to say
    for names in ([], CATS, ["1.jpg", "2.jpg"]):  # what makes no plan at all
        with pytest.raises(BadDataset):
            survey(names)


def test_each_label_has_one_spelling() -> None:
    """That which was asked for, else the first in natural order."""
    names = [f"img_{label}-{number}.jpg" for number in range(6) for label in ("Tabby", "siamese")]
    names += [f"img_{label}-{number}.jpg" for number in range(10, 16) for label in ("TABBY", "Siamese")]
    pattern = {"rule": "pattern", "pattern": r"img_(?P<label>\w+)-"}
    assert set(labels_of(names, **pattern).values()) == {"siamese", "Tabby"}
    assert set(labels_of(names, **pattern, labels=("tabby", "SIAMESE")).values()) == {"tabby", "SIAMESE"}
    spellings = ("caf\u00e9", "dog", "Cafe\u0301", "DOG")
    table = "path,label\n" + "".join(f"{name},{spellings[number % 4]}\n" for number, name in enumerate(LISTED))
    found = planned([*LISTED, "manifest.csv"], lambda _: table.encode())
    assert found.labels == ["caf\u00e9", "dog"] and len(found.pictures) == 12


@given(st.permutations([*CATS, *DOGS, "x/readme.md"]))
def test_the_order_of_names_does_not_matter(names: list[str]) -> None:
    assert plan(names) == plan(sorted(names))


def test_many_labels_are_not_looked_for_in_names() -> None:
    """Each would be looked for in each of 100,000 names, in the service, before the uploader has an answer."""
    labels = [f"label{number}" for number in range(1000)]
    with pytest.raises(BadDataset, match="at most 50 labels in file names"):
        plan([f"{label}.jpg" for label in labels], Labelling(labels=tuple(labels), rule="filename"))


def test_what_cannot_be_told_is_left_out_by_choice_and_listed_with_its_reason() -> None:
    found = planned([*CATS, *DOGS, "cat_dog.jpg", "1.jpg"], unlabelled="skip")
    assert len(found.pictures) == 12
    assert [(one.name, one.kind) for one in found.refused] == [("1.jpg", "unlabelled"), ("cat_dog.jpg", "ambiguous")]
    assert "cat and dog" in found.refused[1].reason
    assert [one.name for one in planned([*folders("a", "b"), "stray.jpg"], unlabelled="skip").refused] == ["stray.jpg"]


def test_the_labels_are_in_the_order_that_was_asked_for() -> None:
    assert planned([*CATS, *DOGS], labels=("dog", "cat")).labels == ["dog", "cat"]
    assert planned([*CATS, *DOGS]).labels == ["cat", "dog"]


def test_a_pattern_finds_labels_anywhere_in_a_name() -> None:
    names = [f"shoot{number % 2}/img_{label}-{number}.jpg" for label in ("tabby", "siamese") for number in range(6)]
    assert set(labels_of(names, rule="pattern", pattern=r"img_(?P<label>[a-z]+)-").values()) == {"tabby", "siamese"}
    assert "1 unlabelled (other.jpg)" in refusal([*names, "other.jpg"], rule="pattern", pattern=r"img_(?P<label>[a-z]+)-").message
    with_case = [name.replace("tabby", "TABBY") for name in names]
    found = labels_of(with_case, rule="pattern", pattern=r"img_(?P<label>\w+)-", labels=("tabby", "siamese"))
    assert set(found.values()) == {"tabby", "siamese"}


@pytest.mark.parametrize(("pattern", "said"), [
    (None, "a group named label"), ("(cat|dog)", "a group named label"), ("(?P<label>", "regular expression"),
    (r"(?P<label>a)\1", "regular expression"),  # a backreference: no linear time
    ("(?P<label>" + "(a{500}){500}" + ")", "regular expression"),
])
def test_a_pattern_that_does_not_do_is_refused(pattern: str | None, said: str) -> None:
    assert said in refusal([*CATS, *DOGS], rule="pattern", pattern=pattern).message


def test_a_pattern_that_would_hang_other_engines_is_answered() -> None:
    names = [f"{'a' * 200}!{number}.jpg" for number in range(6)]
    assert "6 unlabelled" in refusal(names, rule="pattern", pattern=r"^(?P<label>(a+)+)$").message


def test_a_pattern_has_a_time_limit_for_all_names_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "MAX_PATTERN_SECONDS", -1.0)
    error = refusal([*CATS, *DOGS], rule="pattern", pattern="(?P<label>[a-z]+)")
    assert "'(?P<label>[a-z]+)', which took longer for 12 names" in error.message and "repetitions" in error.remedy


def test_what_is_wrong_with_a_pattern_is_said_in_words() -> None:
    error = refusal([*CATS, *DOGS], rule="pattern", pattern="(?P<label>[a-z]+")
    assert "(missing ): (?P<label>[a-z]+)" in error.message and "(?P<label>" in error.remedy and "b'" not in error.message


MANIFEST = "path,label,split\r\n" + "".join(
    f"photos/{label}{number}.jpg,{label},{split}\r\n" for label in ("x", "y") for number, split in enumerate(("train", "val", "TEST") * 2)
)
LISTED = [f"photos/{label}{number}.jpg" for label in ("x", "y") for number in range(6)]


@pytest.mark.parametrize("root", ["", "data/"])
@pytest.mark.parametrize("kind", ["csv", "json"])
def test_a_manifest_says_label_and_split(kind: str, root: str) -> None:
    rows = [dict(zip(("path", "label", "split"), line.split(","), strict=True)) for line in MANIFEST.split()[1:]]
    text = "\ufeff" + MANIFEST if kind == "csv" else json.dumps(rows)
    found = planned([root + name for name in (*LISTED, f"manifest.{kind}")], lambda _: text.encode())
    assert {picture.label for picture in found.pictures} == {"x", "y"} and found.refused == []
    assert [picture.split for picture in found.pictures[:3]] == ["train", "val", "test"]


def test_a_manifest_without_splits_leaves_them_to_us() -> None:
    text = "path,label\n" + "".join(f"{name},{name[7]}\n" for name in LISTED)
    assert {picture.split for picture in planned([*LISTED, "manifest.csv"], lambda _: text.encode()).pictures} == {None}


def test_a_picture_without_a_line_is_unlabelled() -> None:
    error = refusal([*LISTED, "photos/z.jpg", "manifest.csv"], lambda _: MANIFEST.encode())
    assert "1 unlabelled (photos/z.jpg)" in error.message and "no line" in error.message
    found = planned([*LISTED, "photos/z.jpg", "manifest.csv"], lambda _: MANIFEST.encode(), unlabelled="skip")
    assert [one.name for one in found.refused] == ["photos/z.jpg"]


@pytest.mark.parametrize(("text", "said"), [
    ("", "none among 0"), ("path;label\nphotos/x0.jpg;x\n", "columns path, label"),
    (MANIFEST + "photos/none.jpg,x,train\n", "photos/none.jpg"), (MANIFEST + "../../etc/passwd,x,train\n", "../../etc/passwd"),
    (MANIFEST + "photos/x0.jpg,y,train\n", "once each"), (MANIFEST.replace("TEST", "exam"), "'exam'"),
    (MANIFEST.replace(",x,", ",,"), "a path and a label"), (MANIFEST.replace("x0.jpg,x,train", "x0.jpg,x,"), "as there are some"),
    (MANIFEST + 'photos/"x', "a path and a label"), ("path,label\n" + "a" * 5000 + ",x\n", "with commas"),
])
def test_a_manifest_that_does_not_do_is_refused(text: str, said: str) -> None:
    names = [*LISTED, "manifest.csv"]
    if text:
        assert said in refusal(names, lambda _: text.encode(), rule="manifest").message
    else:
        assert "12 unlabelled" in refusal(names, lambda _: b"", rule="manifest").message


@pytest.mark.parametrize("data", [b"\xff\xfe", b"[1, 2]", b"{}", b"[[[", b"[" * 100_000])
def test_a_json_manifest_that_is_none_is_refused(data: bytes) -> None:
    assert "manifest" in refusal([*LISTED, "manifest.json"], lambda _: data).message


def test_a_rule_that_needs_a_manifest_says_so() -> None:
    assert "manifest.csv or manifest.json" in refusal([*CATS, *DOGS], lambda _: b"", rule="manifest").message


def test_two_manifests_are_one_too_many() -> None:
    assert "one manifest" in refusal([*LISTED, "manifest.csv", "manifest.json"], lambda _: MANIFEST.encode()).message


@pytest.mark.parametrize("name", ["Manifest.CSV", "MANIFEST.csv"])
def test_the_case_of_a_manifests_name_does_not_matter(name: str) -> None:
    assert len(planned([*LISTED, name], lambda _: MANIFEST.encode()).pictures) == 12
    text = json.dumps([{"path": name, "label": name[7]} for name in LISTED]).encode()
    assert len(planned([*LISTED, name[:-3] + "JSON"], lambda _: text).pictures) == 12
    assert "one manifest" in refusal([*LISTED, name, "photos/manifest.json"], lambda _: MANIFEST.encode()).message


def test_a_manifest_lies_around_all_pictures_however_deep() -> None:
    inside = MANIFEST.replace("photos/", "")
    names = [f"a/b/{name}" for name in LISTED]
    assert len(planned([*names, "a/b/photos/manifest.csv"], lambda _: inside.encode()).pictures) == 12
    assert len(planned([*names, "a/manifest.csv"], lambda _: MANIFEST.replace("photos/", "b/photos/").encode()).pictures) == 12


@pytest.mark.parametrize("name", ["photos/manifest.csv", "more/manifest.csv"])
def test_a_manifest_beside_some_of_the_pictures_is_refused(name: str) -> None:
    error = refusal([*LISTED, "more/x.jpg", name], lambda _: MANIFEST.encode())
    assert "all pictures lie in" in error.message and error.offenders == [name]
    assert set(labels_of([*CATS, *DOGS, name], rule="filename").values()) == {"cat", "dog"}


def test_a_manifest_without_pictures_is_no_data_set() -> None:
    assert "none among 1 files" in refusal(["manifest.csv"], lambda _: MANIFEST.encode()).message


def test_a_manifest_that_says_no_split_leaves_it_to_the_folders() -> None:
    names = [f"{split}/{number}.jpg" for split in ("train", "dev", "test") for number in range(4)]
    text = "path,label\n" + "".join(f"{name},{'xy'[number % 2]}\n" for number, name in enumerate(names))
    found = planned([*names, "manifest.csv"], lambda _: text.encode())
    assert {picture.name: picture.split for picture in found.pictures} == {
        name: {"dev": "val"}.get(name.partition("/")[0], name.partition("/")[0]) for name in names
    }
    lines = [f"{name},{'xy'[number % 2]},{('train', 'validation', 'test')[number % 3]}" for number, name in enumerate(names)]
    found = planned([*names, "manifest.csv"], lambda _: "\n".join(["path,label,split", *lines]).encode())
    assert {picture.name: picture.split for picture in found.pictures} == dict(zip(names, ["train", "val", "test"] * 4, strict=True))
    assert "1 outside" in refusal([*names, "9.jpg", "manifest.csv"], lambda _: (text + "9.jpg,x\n").encode()).message


def test_a_manifests_text_is_shown_harmlessly() -> None:
    message = refusal([*LISTED, "manifest.csv"], lambda _: (MANIFEST + "\x1b[31m" + "a" * 900 + ",x,train\n").encode()).message
    assert "\x1b" not in message and len(message) < 400
