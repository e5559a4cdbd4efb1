"""Words that people bring: every format, their names, and why one does not fit."""

from __future__ import annotations

import math
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

import chainrule
from chainrule import UserError
from chainrule.models import Model, parse_embedding
from chainrule.models._extras import add_extras
from chainrule.runs import Checkpoint, execute, parse_spec
from chainrule.runs.events import Loaded, Warned
from tiny import FAMILIES, family

REAL = Path("/work/shared/files/embeddings")
D = 16
"""The width of the tiny text encoders."""
ONE, TWO = "Stable Diffusion 1.x", "Stable Diffusion XL"
THREE, FLUX = "Stable Diffusion 3", "Flux.1 dev"


def vectors(n: int, width: int = D) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(n))


FLUX_FILE = {"clip_l": vectors(2), "t5xxl": vectors(2, 32)}
SD3_FILE = {**FLUX_FILE, "clip_g": vectors(3)[:2].clone()}


def a1111(n: int, name: str | None) -> dict[str, Any]:
    named = {} if name is None else {"name": name}
    return {"string_to_token": {"*": 265}, "string_to_param": {"*": vectors(n)}, **named}


def original(n: int) -> dict[str, Any]:
    """As the first public code pickled it, with its modules."""
    found = nn.ParameterDict({"*": nn.Parameter(vectors(n))})
    return {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": found}


FORMATS: dict[str, tuple[str, Any, str]] = {
    "diffusers": ("a.safetensors", {"<birb>": vectors(1)}, "<birb>"),
    "diffusers, one vector": ("a.bin", {"<birb>": vectors(1)[0]}, "<birb>"),
    "diffusers, several": ("a.bin", {"<birb>": vectors(3)}, "<birb>"),
    "EasyNegative": ("EasyBad.safetensors", {"emb_params": vectors(3)}, "EasyBad"),
    "A1111": ("EasyBad.pt", a1111(3, "EasyBad"), "EasyBad"),
    "A1111, nameless": ("EasyBad.pt", a1111(2, None), "EasyBad"),
    "A1111, nameless in another way": ("EasyBad.pt", a1111(2, ""), "EasyBad"),
    "the original's": ("gs-500.pt", original(2), "gs-500"),
    "a tensor": ("EasyBad.pt", vectors(2), "EasyBad"),
    "half precision": ("EasyBad.safetensors", {"emb_params": vectors(2).half()}, "EasyBad"),
}


def write(path: Path, content: Any) -> Path:
    save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)
    return path


def teach(name: str, *embeddings) -> tuple[Model, tuple[str, ...], list[str]]:
    """A model with words, the notes, and the warnings."""
    pipeline = family(name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        notes = add_extras(pipeline, embeddings, ())
    said = [str(each.message) for each in caught if "word" in str(each.message)]
    return chainrule.load(pipeline, size=(16, 16)), notes, said


def read_by_hand(name: str, around: tuple[str, str], rows: tuple[Tensor, ...]) -> Tensor:
    """The embeddings of a prompt in which some vectors stand between two words."""
    pipeline, found = family(name), []
    suffixes = ("",) if len(rows) == 1 else ("", "_2")
    for suffix, own in zip(suffixes, rows, strict=True):
        tokenizer = getattr(pipeline, f"tokenizer{suffix}")
        encoder = getattr(pipeline, f"text_encoder{suffix}")
        before, after = (tokenizer(text, add_special_tokens=False).input_ids for text in around)
        ids = [tokenizer.bos_token_id, *before, *[0] * len(own), *after, tokenizer.eos_token_id]
        ids += [tokenizer.pad_token_id] * (tokenizer.model_max_length - len(ids))
        embed, at = encoder.get_input_embeddings(), 1 + len(before)
        plain = embed(torch.tensor([ids]))
        with_rows = torch.cat([plain[:, :at], own[None].float(), plain[:, at + len(own) :]], dim=1)
        embed.forward = lambda _, found=with_rows: found
        output = encoder(torch.tensor([ids]), output_hidden_states=True)
        found.append(output[0] if len(rows) == 1 else output.hidden_states[-2])
    return torch.cat(found, dim=-1)


@pytest.mark.parametrize("form", FORMATS)
def test_a_word_reads_as_the_vectors_of_its_file(tmp_path: Path, form: str) -> None:
    name, content, word = FORMATS[form]
    path = write(tmp_path / name, content)
    model, (note,), said = teach(ONE, path)
    if isinstance(content, dict):
        (content,) = dict(content.get("string_to_param", content)).values()
    rows = content.detach().reshape(-1, D)
    with torch.no_grad():
        expected = read_by_hand(ONE, ("a red", "on a blue circle"), (rows,))
        for typed in (word, word.upper()):
            (found,) = model.text([f"a red {typed} on a blue circle"])
            torch.testing.assert_close(found, expected)
        assert not torch.equal(model.text(["a red circle"])[0], expected)
    count = "1 vector" if len(rows) == 1 else f"{len(rows)} vectors"
    assert note == f"taught: {word} ({count}) from {path}"
    assert model.words == (word,)
    assert not said
    shown = model.text.tokens(f"a red {word} on")
    small = [word, *(f"{word}_{i}" for i in range(1, len(rows)))]
    assert [token.lower() for token in shown[3 : 3 + len(rows)]] == [each.lower() for each in small]
    assert shown[3 + len(rows)] == "on"


def test_xl_learns_for_both_text_encoders(tmp_path: Path) -> None:
    rows = (vectors(2), vectors(3)[:2])
    path = write(tmp_path / "Style.safetensors", dict(zip(("clip_l", "clip_g"), rows, strict=True)))
    model, notes, _ = teach(TWO, path)
    assert notes == (f"taught: Style (2 vectors) from {path}",)
    with torch.no_grad():
        found, _ = model.text(["a red style on a blue circle"])
        torch.testing.assert_close(found, read_by_hand(TWO, ("a red", "on a blue circle"), rows))


def test_the_pooled_output_is_that_of_the_end_whatever_was_taught(tmp_path: Path) -> None:
    """Old configurations look for the end at the greatest number, which a taught word's is."""
    pipeline = family(TWO)
    ids = pipeline.tokenizer_2("a red circle", return_tensors="pt").input_ids
    rows = pipeline.text_encoder_2.get_input_embeddings().weight[ids[0, 2:3]].detach().clone()
    path = write(tmp_path / "word.safetensors", {"clip_l": rows, "clip_g": rows.clone()})
    for module in pipeline.text_encoder_2.modules():
        if hasattr(module, "eos_token_id"):
            module.eos_token_id = 2
    add_extras(pipeline, [f"scarlet={path}"], ())
    model = chainrule.load(pipeline)
    with torch.no_grad():
        torch.testing.assert_close(
            model.text(["a scarlet circle"])[1], model.text(["a red circle"])[1]
        )


@pytest.mark.parametrize("typed", ["a scarlet, x", "(scarlet)", "x scarlet", "scarlet scarlet"])
def test_a_word_is_found_anywhere_but_within_others(tmp_path: Path, typed: str) -> None:
    path = write(tmp_path / "scarlet.pt", vectors(3))
    model, *_ = teach(ONE, path)
    tokens = model.text.tokens(typed)
    assert tokens.count("scarlet") == tokens.count("scarlet_2") == typed.count("scarlet")
    for other in ("scarlets", "scarlety", "xscarlet"):
        assert model.text.tokens(other) == chainrule.load(family(ONE)).text.tokens(other)


def test_one_word_may_begin_like_another(tmp_path: Path) -> None:
    short, long = write(tmp_path / "cat.pt", vectors(3)), write(tmp_path / "cat-toy.pt", vectors(2))
    model, *_ = teach(ONE, short, long)
    assert model.text.tokens("a cat-toy a cat")[1:8] == [
        *("a", "cat-toy", "cat-toy_1", "a", "cat", "cat_1", "cat_2")
    ]


@pytest.mark.parametrize("given", ["mine={}", ("mine", "{}")])
def test_the_word_can_be_chosen(tmp_path: Path, given) -> None:
    path = write(tmp_path / "a.safetensors", {"<birb>": vectors(2)})
    named = given.format(path) if isinstance(given, str) else (given[0], given[1].format(path))
    model, (note,), _ = teach(ONE, named)
    assert model.words == ("mine",)
    assert note.startswith("taught: mine (2 vectors)")
    mapped = chainrule.models._extras.list_embeddings({"mine": path})
    assert mapped == [parse_embedding(named)] == [("mine", path)]


def test_a_word_that_is_not_the_files_name_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "renamed.pt", a1111(1, "first-name"))
    model, _, (said,) = teach(ONE, path)
    assert model.words == ("first-name",)
    assert said == f"{path} calls its word 'first-name', not 'renamed'"


def test_a_file_of_several_words_teaches_each(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", {"<s1>": vectors(1), "<s2>": vectors(2)})
    model, notes, _ = teach(ONE, path)
    assert model.words == ("<s1>", "<s2>")
    assert len(notes) == 2
    with pytest.raises(UserError, match=r"has 2 words .*: omit the name before its file"):
        teach(ONE, f"word={path}")


REFUSED: dict[str, tuple[str, str, Any, str]] = {
    "another width": (ONE, "a.pt", vectors(2, 1024), "has vectors of 1024 numbers, and this model's one text encoder reads 16"),
    "SD 1 on XL": (TWO, "a.pt", vectors(2), "is for one text encoder, of 16 numbers, and this model has two"),
    "XL on SD 1": (ONE, "a.safetensors", {"clip_l": vectors(2), "clip_g": vectors(2)}, "for Stable Diffusion XL's two text encoders"),
    "XL of other widths": (TWO, "a.safetensors", {"clip_l": vectors(2), "clip_g": vectors(2, 20)}, "of 16 and 20 numbers, and this model's two text encoders read 16 and 16"),
    "half of XL": (TWO, "a.safetensors", {"clip_l": vectors(2)}, "has no vectors for clip_g, which is one of this model's two text encoders"),
    "XL on SD 3": (THREE, "a.safetensors", {"clip_l": vectors(2), "clip_g": vectors(2)}, "has no vectors for t5xxl, which is one of this model's three"),
    "SD 3 on XL": (TWO, "a.safetensors", SD3_FILE, "for Stable Diffusion 3's three text encoders, and this model has clip_l and clip_g"),
    "SD 3 on Flux": (FLUX, "a.safetensors", SD3_FILE, "for Stable Diffusion 3's three text encoders, and this model has clip_l and t5xxl"),
    "Flux on SD 1": (ONE, "a.safetensors", FLUX_FILE, "for Flux's two text encoders, and this model has clip_l"),
    "Flux on PixArt": ("PixArt-alpha", "a.safetensors", FLUX_FILE, "for Flux's two text encoders, and this model has t5xxl"),
    "PixArt on SD 1": (ONE, "a.safetensors", {"t5xxl": vectors(2)}, "for a T5, and this model has clip_l"),
    "SD 1 on Flux": (FLUX, "a.pt", vectors(2), "is for one text encoder, of 16 numbers, and this model has two"),
    "another T5": (FLUX, "a.safetensors", {"clip_l": vectors(2), "t5xxl": vectors(2, 64)}, "of 16 and 64 numbers, and this model's two text encoders read 16 and 32"),
    "SD 3 of other widths": (THREE, "a.safetensors", {**SD3_FILE, "clip_g": vectors(2)[:, :8].clone()}, "this model's three text encoders read 16 and 16 and 32"),
    "SD 1's on PixArt": ("PixArt-alpha", "a.pt", vectors(2), "has vectors of 16 numbers, and this model's one text encoder reads 32"),
    "uneven XL": (TWO, "a.safetensors", {"clip_l": vectors(2), "clip_g": vectors(3)}, "not have as many vectors"),
    "a word of the model": (ONE, "red.pt", vectors(1), "would teach 'red', but the model knows 'red' already: choose another word, as in my-word=red.pt"),
    "a part of words": (ONE, "backgr.pt", vectors(1), "knows 'backgr' already"),
    "its marks": (ONE, "a.bin", {"<|endoftext|>": vectors(1)}, "knows .* already"),
    "spaces": (ONE, "my style.pt", vectors(1), "'my style' cannot be a word"),
    "brackets": (ONE, "style(v2).pt", vectors(1), "cannot be a word"),
    "a LoRA": (ONE, "a.safetensors", {"lora_unet_x.lora_up.weight": vectors(2)}, "is a LoRA, not a textual inversion: name it as a LoRA"),
    "other tensors": (ONE, "a.safetensors", {"w": torch.ones(2, 3, 4)}, r"holds a tensor of \[2, 3, 4\]"),
    "no tensors": (ONE, "a.pt", {"step": 3}, "cannot be loaded as a textual inversion: it holds step"),
    "not a number": (ONE, "a.pt", torch.full((1, D), math.nan), "infinite or not numbers"),
    "whole numbers": (ONE, "a.pt", torch.ones(1, D, dtype=torch.int64), "it holds a tensor"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_each_cause_has_its_own_sentence(tmp_path: Path, kind: str) -> None:
    name, file, content, message = REFUSED[kind]
    with pytest.raises(UserError, match=message) as refusal:
        teach(name, write(tmp_path / file, content))
    assert refusal.value.field == "embeddings"


def test_a_word_is_taught_once(tmp_path: Path) -> None:
    one, two = write(tmp_path / "a.pt", a1111(2, "thing")), write(tmp_path / "thing.pt", vectors(1))
    with pytest.raises(UserError, match="would teach 'thing', but the model knows 'thing' already"):
        teach(ONE, one, two)
    with pytest.raises(UserError, match="knows 'thing_1' already"):
        teach(ONE, one, f"thing_1={two}")
    with pytest.raises(UserError, match="knows 'thing_1' already"):
        teach(ONE, f"thing_1={two}", one)
    with pytest.raises(UserError, match="knows 'thing_1' already"):
        teach(ONE, f"thing_1={two}", two)  # it would be read as the second vector
    teach(ONE, one, f"other={two}")


OTHERS = [name for name in FAMILIES if name.startswith(("DiT", "Pixels"))]


@pytest.mark.parametrize("name", OTHERS)
def test_families_that_read_no_text_are_named(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "a.pt", vectors(1))
    with pytest.raises(UserError, match=r"a \w+Pipeline reads no text"):
        teach(name, path)


def test_a_text_encoder_of_another_kind_is_named(tmp_path: Path) -> None:
    pipeline = family(ONE)
    pipeline.text_encoder = nn.Linear(1, 1)
    path = write(tmp_path / "a.pt", vectors(1))
    with pytest.raises(UserError, match=r"does not take .* \(it reads prompts with a Linear\)"):
        add_extras(pipeline, [path], ())
    pipeline = family(ONE)
    pipeline.tokenizer = None
    with pytest.raises(UserError, match="was loaded without a tokenizer"):
        add_extras(pipeline, [path], ())


def test_a_word_of_sd_3_is_read_where_its_t5_is_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", SD3_FILE)
    model, *_ = teach(f"{THREE} without T5", f"<y>={path}")
    with torch.no_grad():
        text = chainrule.load(family(f"{THREE} without T5")).text
        word = torch.cat([SD3_FILE["clip_l"], SD3_FILE["clip_g"]], dim=1)
        said = text.with_token("<y>", word)(["a red <y>"])
        for mine, theirs in zip(model.text(["a red <y>"]), said, strict=True):
            torch.testing.assert_close(mine, theirs)


def test_a_word_of_one_t5_may_be_called_anything(tmp_path: Path) -> None:
    named, plain = (
        write(tmp_path / "a.safetensors", {"t5xxl": vectors(2, 32)}),
        write(tmp_path / "b.safetensors", {"<y>": vectors(2, 32)}),
    )
    said = [
        teach("PixArt-alpha", f"<y>={path}")[0].text(["a red <y>"])[0] for path in (named, plain)
    ]
    assert torch.equal(*said)


class _Harmful:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (Path("harmed"),)


@pytest.mark.parametrize("inside", [{"*": _Harmful()}, {"string_to_param": _Harmful()}])
def test_no_code_of_a_file_runs(tmp_path: Path, monkeypatch, inside) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / "torch.pt", tmp_path / "plain.pt"):
        if path.stem == "torch":
            torch.save(inside, path)
        else:
            path.write_bytes(pickle.dumps(inside, protocol=2))
        with pytest.raises(UserError) as refusal:
            teach(ONE, path)
        assert "weights_only" not in str(refusal.value)
        assert not (tmp_path / "harmed").exists()
        assert "could run code" in str(refusal.value)


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=200), st.sampled_from(["a.pt", "a.bin", "a.safetensors"]))
def test_any_bytes_are_refused_in_a_sentence(tmp_path_factory, content: bytes, name: str) -> None:
    path = tmp_path_factory.mktemp("bytes") / name
    path.write_bytes(content)
    with pytest.raises(UserError):
        chainrule.models.embedding_files._read_words(path, None)


@settings(deadline=None)
@given(st.from_regex(r"[a-z<][a-z0-9<>-]{0,8}", fullmatch=True))
def test_a_chosen_word_comes_back(word: str) -> None:
    assert parse_embedding(f"{word}=b.pt") == (word, Path("b.pt"))
    assert parse_embedding((word, "b.pt")) == (word, Path("b.pt"))
    written = Checkpoint(embedding={word: "b.pt"})
    assert [parse_embedding(each) for each in written.embedding] == [(word, Path("b.pt"))]
    assert Checkpoint.model_validate_json(written.model_dump_json()) == written


def test_a_file_of_the_whole_name_goes_first(tmp_path: Path) -> None:
    path = tmp_path / "word=file.pt"
    path.touch()
    assert parse_embedding(str(path)) == (None, path)
    assert parse_embedding(f"mine={path}") == ("mine", path)


@pytest.mark.parametrize("value", [None, 3, "", "=a", "a=", ("a",), ("", "b"), ("a", 3), ["a"]])
def test_what_names_no_embedding_is_refused(value) -> None:
    with pytest.raises(UserError, match="is not an embedding"):
        parse_embedding(value)


# --- in a run -----------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [True, False])
def test_a_run_tells_what_was_taught_and_what_nobody_says(tmp_path: Path, said: bool) -> None:
    width = chainrule.load().text.pad_embedding.shape[0]
    path = write(tmp_path / "Thing.pt", vectors(2, width))
    spec = parse_spec(
        {
            "checkpoint": {"embedding": str(path)},
            "inputs": {"prompt": "a red circle" + " THING" * said},
            "methods": [{"kind": "plain", "steps": 1}],
        }
    )
    events = list(execute(spec, tmp_path / "run"))
    (loaded,) = (event for event in events if isinstance(event, Loaded))
    assert str(loaded) == f"taught: Thing (2 vectors) from {path}"
    told = [event.message for event in events if isinstance(event, Warned)]
    unused = [message for message in told if message.startswith("no prompt has the taught Thing")]
    assert len(unused) == (0 if said else 1)
    assert not any("does not know" in message for message in told)


# --- real files ---------------------------------------------------------------------------------


@pytest.mark.skipif(not REAL.is_dir(), reason="the real files are not on this machine")
@pytest.mark.parametrize(
    ("name", "word", "count"),
    [
        ("ti_birb.bin", "<birb-style>", 1),
        ("EasyNegativeLike.safetensors", "EasyNegativeLike", 8),
        ("bad_prompt_version2.pt", "bad_prompt_version2", 8),
        ("ldm_embeddings_gs-500.pt", "ldm_embeddings_gs-500", 8),
    ],
)
def test_the_real_ones_are_read(name: str, word: str, count: int) -> None:
    (found,) = chainrule.models.embedding_files._read_words(REAL / name, None)
    assert found.word == word
    assert [rows.shape for rows in found.vectors] == [(count, 768)]
