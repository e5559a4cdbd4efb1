"""New words in each family: their gradient, their files, and what diffusers makes of these."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import chainrule
from chainrule import UserError
from chainrule.methods import Effect, Task
from chainrule.models import Model
from chainrule.models.embedding_files import save_word, teach_file
from chainrule.models.tokens import read_groups, read_ids
from tiny import FAMILIES, family, load_once, save_family

READERS = [name for name in FAMILIES if not name.startswith(("DiT", "Pixels"))]
KINDS = [
    "Stable Diffusion 1.x",
    "Stable Diffusion XL",
    "Stable Diffusion 3",
    "Stable Diffusion 3 without T5",
    "Flux.1 dev",
    "PixArt-alpha",
]
"""One family of each kind of text encoders."""
KEYS = dict(
    zip(
        KINDS,
        (
            {"<x>"},
            {"clip_l", "clip_g"},
            {"clip_l", "clip_g", "t5xxl"},
            {"clip_l", "clip_g"},
            {"clip_l", "t5xxl"},
            {"t5xxl"},
        ),
        strict=True,
    )
)
SUFFIXES = ("", "_2", "_3")
PROMPT = "a red <x> on a blue circle"


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Callable[[str], Path]:
    """Each family's folder, written once."""
    return cache(lambda name: save_family(name, tmp_path_factory.mktemp("folder") / "pipeline"))


def vectors(model: Model, n: int, seed: int = 0) -> Tensor:
    """A word at random."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, sum(model.text.widths), generator=generator)


def columns(model: Model, word: Tensor) -> tuple[Tensor, ...]:
    return word.split(model.text.widths, dim=1)


def encoders(pipeline: Any) -> list[tuple[Any, Any]]:
    """The tokenizer and the text encoder of each that there is."""
    pairs = [
        (getattr(pipeline, f"tokenizer{suffix}", None), getattr(pipeline, f"text_encoder{suffix}"))
        for suffix in SUFFIXES
        if getattr(pipeline, f"text_encoder{suffix}", None) is not None
    ]
    assert pairs
    return pairs


def told(pipeline: Any, prompt: str) -> dict[str, Tensor]:
    """What diffusers makes of a prompt, as its pipeline takes it."""
    name, options = type(pipeline).__name__, {"device": "cpu", "num_images_per_prompt": 1}
    if name.startswith("Flux"):
        text, pooled, _ = pipeline.encode_prompt(prompt, None, **options)
        return {"prompt_embeds": text, "pooled_prompt_embeds": pooled}
    found = pipeline.encode_prompt(
        prompt=prompt,
        do_classifier_free_guidance=False,
        **options,
        **({"prompt_2": None, "prompt_3": None} if name.startswith("StableDiffusion3") else {}),
    )
    return as_arguments(pipeline, found[:2] if "PixArt" in name else found[::2])


def as_arguments(pipeline: Any, conditioning: Any) -> dict[str, Tensor]:
    """A conditioning as the family's pipeline takes it."""
    second = (
        "prompt_attention_mask" if "PixArt" in type(pipeline).__name__ else "pooled_prompt_embeds"
    )
    return dict(zip(("prompt_embeds", second), conditioning, strict=False))


def draw(pipeline: Any, **prompt: Any) -> Tensor:
    """The latents of two steps of diffusers' pipeline."""
    options: dict[str, Any] = {"guidance_scale": 1.0, "output_type": "latent"}
    if "PixArt" in type(pipeline).__name__:
        options |= {"use_resolution_binning": False, "clean_caption": False}
        options |= {"negative_prompt": None} if "prompt_embeds" in prompt else {}
    found: Tensor = pipeline(
        **prompt,
        **options,
        height=16,
        width=16,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
    ).images
    return found


def add_by_hand(pipeline: Any, parts: tuple[Tensor, ...]) -> None:
    """Teach a plain pipeline <x>, <x>_1, ... with nothing but transformers."""
    names = ["<x>", *(f"<x>_{i}" for i in range(1, len(parts[0])))]
    for (tokenizer, encoder), rows in zip(encoders(pipeline), parts, strict=True):
        tokenizer.add_tokens(names)
        encoder.resize_token_embeddings(len(tokenizer) + 3, mean_resizing=False)
        with torch.no_grad():
            ids = tokenizer.convert_tokens_to_ids(names)
            encoder.get_input_embeddings().weight[ids] = rows


@pytest.mark.parametrize("name", READERS)
def test_each_encoders_gradient_is_that_of_finite_differences_at_every_iteration(name: str) -> None:
    """The view is made once; as in training, its vectors change in place between the calls."""
    model = chainrule.load(family(name).to(torch.float64), size=(16, 16))
    leaf = vectors(model, 2).double().requires_grad_()
    text = model.text.with_token("<x>", leaf)

    def loss() -> Tensor:
        parts = [part for part in text([PROMPT]) if part.is_floating_point()]
        return sum((part * torch.linspace(-1, 2, part.numel()).view_as(part)).sum() for part in parts)  # type: ignore[return-value]  # fmt: skip

    said, kinds = [], [type(each).__name__ for _, each in encoders(model.text.pipeline)]
    for seed in (1, 2):
        (gradient,) = torch.autograd.grad(loss(), leaf)
        direction = vectors(model, 2, seed).double()
        parts = zip(columns(model, gradient), columns(model, direction), strict=True)
        for i, (part, along) in enumerate(parts):
            start, ends = sum(model.text.widths[:i]), []
            # a T5's norms and softmax are computed in float32, whatever it is in
            h, rtol = (1e-3, 2e-3) if kinds[i].startswith("T5") else (1e-5, 1e-5)
            with torch.no_grad():
                own = leaf[:, start : start + along.shape[1]]
                for step in (h, -2 * h):
                    own += step * along
                    ends.append(loss())
                own += h * along
            assert part.abs().min() > 0
            expected = (ends[0] - ends[1]) / (2 * h)
            torch.testing.assert_close((part * along).sum(), expected, rtol=rtol, atol=1e-7)
        with torch.no_grad():
            leaf -= 0.1 * gradient
            said.append(text([PROMPT])[0])
            now = model.text.with_token("<x>", leaf.clone())([PROMPT])
        assert all(torch.equal(*pair) for pair in zip(now, text([PROMPT]), strict=True))
    assert not torch.equal(*said)


@pytest.mark.parametrize("name", KINDS)
def test_neither_the_model_nor_its_pipeline_learns(name: str) -> None:
    pipeline = family(name)
    model = chainrule.load(pipeline, size=(16, 16))
    before = [
        (len(tokenizer), {key: value.clone() for key, value in encoder.state_dict().items()})
        for tokenizer, encoder in encoders(pipeline)
    ]
    with torch.no_grad():
        said = model.text([PROMPT])
        model.text.with_token("<x>", vectors(model, 2))([PROMPT])
        assert all(torch.equal(*pair) for pair in zip(said, model.text([PROMPT]), strict=True))
    for each in (pipeline, model.text.pipeline):
        for (count, weights), (tokenizer, encoder) in zip(before, encoders(each), strict=True):
            assert len(tokenizer) == count
            assert encoder.state_dict().keys() == weights.keys()
            assert all(torch.equal(encoder.state_dict()[key], weights[key]) for key in weights)
    assert model.text.words == ()


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("n", [1, 3])
def test_what_tokens_added_by_hand_say(name: str, n: int) -> None:
    """Plain diffusers, its prompt naming all tokens: the same conditioning, and latents."""
    model, pipeline = chainrule.load(family(name), size=(16, 16)), family(name)
    word = vectors(model, n)
    add_by_hand(pipeline, columns(model, word))
    prompt = PROMPT.replace("<x>", " ".join(["<x>", "<x>_1", "<x>_2"][:n]))
    with torch.no_grad():
        ours = as_arguments(pipeline, model.text.with_token("<x>", word)([PROMPT]))
        if hasattr(pipeline, "maybe_convert_prompt"):  # it names the others by itself
            prompt = PROMPT
        theirs = told(pipeline, prompt)
        assert ours.keys() == theirs.keys()
        for key in ours:
            torch.testing.assert_close(ours[key], theirs[key], rtol=1e-6, atol=1e-6)
        if "PixArt" in name:
            ours |= {f"negative_{key}": value for key, value in ours.items()}
        drawn = draw(family(name), **ours)
        torch.testing.assert_close(drawn, draw(pipeline, prompt=prompt), rtol=0, atol=1e-4)
        assert not torch.allclose(drawn, draw(family(name), prompt="a red on a blue circle"))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("prompt", ["A Red Circle", " a red circle ", "", "red " * 25])
def test_plain_prompts_are_read_as_diffusers_reads_them(name: str, prompt: str) -> None:
    """Bit for bit, as far as the CLIPs read."""
    pipeline = family(name)
    text = chainrule.load(pipeline, size=(16, 16)).text
    if name in KINDS[:2] or "without" in name:  # whose CLIPs alone read no more
        prompt = prompt[:80]
    if name == "Stable Diffusion XL":  # it was trained with zeros for nothing
        prompt = prompt or "a"
    with torch.no_grad():
        ours, theirs = as_arguments(pipeline, text([prompt])), told(pipeline, prompt)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    if name == "PixArt-alpha":
        assert text.tokens("A Red Circle") == text.tokens("a red circle")


@pytest.mark.parametrize("name", KINDS)
def test_a_written_word_is_read_back(tmp_path: Path, folders, name: str) -> None:
    folder, file = folders(name), tmp_path / "learnt.safetensors"
    model = chainrule.load(folder, size=(16, 16))
    word = vectors(model, 2)
    save_word(file, "<x>", word, model.text)
    assert load_file(file).keys() == KEYS[name]
    taught = chainrule.load(folder, size=(16, 16), embeddings=[file])
    other = chainrule.load(folder, size=(16, 16), embeddings={"Style": file})
    assert taught.words == ("<x>",)
    assert other.words == ("Style",)
    with torch.no_grad():
        said = model.text.with_token("<x>", word)([PROMPT])
        for each, typed in ((taught, "<x>"), (taught, "<X>"), (other, "style"), (other, "STYLE")):
            found = each.text([PROMPT.replace("<x>", typed)])
            for mine, theirs in zip(found, said, strict=True):
                torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["Stable Diffusion 1.x", "Stable Diffusion XL", "Flux.1 dev"])
def test_diffusers_reads_the_file(tmp_path: Path, name: str) -> None:
    model, pipeline = load_once(name) if "Flux" not in name else chainrule.load(family(name), size=(16, 16)), family(name)  # fmt: skip
    word, file = vectors(model, 2), tmp_path / "learnt.safetensors"
    save_word(file, "<x>", word, model.text)
    if name == "Stable Diffusion 1.x":
        pipeline.load_textual_inversion(file)
    else:
        found = load_file(file)
        keys = ("clip_l", "clip_g") if "XL" in name else ("clip_l", "t5xxl")
        for key, (tokenizer, encoder) in zip(keys, encoders(pipeline), strict=True):
            pipeline.load_textual_inversion(
                found[key], token="<x>", tokenizer=tokenizer, text_encoder=encoder
            )
    with torch.no_grad():
        ours = as_arguments(pipeline, model.text.with_token("<x>", word)([PROMPT]))
        theirs = told(pipeline, PROMPT)
        assert ours.keys() == theirs.keys()
        for key in ours:
            torch.testing.assert_close(ours[key], theirs[key], rtol=1e-6, atol=1e-6)
        drawn = draw(family(name), **ours)
    torch.testing.assert_close(drawn, draw(pipeline, prompt=PROMPT), rtol=0, atol=1e-4)


def test_a_file_for_one_clip_is_its_word_and_no_more(tmp_path: Path) -> None:
    model = load_once("Stable Diffusion 1.x")
    word = vectors(model, 2)
    save_word(tmp_path / "a.safetensors", "<x>", word, model.text)
    save_file({"<x>": word}, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    two = load_once("Stable Diffusion XL")
    save_word(tmp_path / "c.safetensors", "<x>", vectors(two, 2), two.text)
    with safe_open(tmp_path / "c.safetensors", framework="pt") as opened:
        assert opened.metadata() == {"word": "<x>"}


@pytest.mark.parametrize("name", KINDS)
def test_what_an_effect_writes_is_read_back(tmp_path: Path, folders, name: str) -> None:
    folder, file = folders(name), tmp_path / "word.safetensors"
    model = chainrule.load(folder, size=(16, 16))
    method, pictures = Effect(word="<x>", iterations=1, steps=2), (torch.rand(3, 16, 16),) * 2
    asked = Task(model, model.denoiser("a red"), (0,), prompts=("a red circle",), pictures=pictures)
    asked = method.prepare(asked)
    *_, last = method.run(asked)
    method.artefacts(asked, last)["embedding.safetensors"](file)
    taught = chainrule.load(folder, size=(16, 16), embeddings=[file])
    with torch.no_grad():
        said = model.text.with_token("<x>", last.best["vectors"])([PROMPT])
        for mine, theirs in zip(taught.text([PROMPT]), said, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["Stable Diffusion XL", "Stable Diffusion 3", "Flux.1 dev"])
def test_what_is_pooled_is_that_of_the_end(name: str) -> None:
    """Old configurations look for the end at the greatest number, which a new word's is."""
    plain, old = family(name), family(name)
    for _, encoder in encoders(old):
        for module in encoder.modules():
            if hasattr(module, "eos_token_id"):
                module.eos_token_id = 2
    first, second = (chainrule.load(each, size=(16, 16)) for each in (plain, old))
    word = vectors(first, 2)
    with torch.no_grad():
        pooled, found = (m.text.with_token("<x>", word)([PROMPT])[1] for m in (first, second))
    assert torch.equal(pooled, found)


@pytest.mark.parametrize("name", KINDS)
def test_a_known_word_starts_a_new_one(name: str) -> None:
    """Its embedding is the mean over its tokens, of each text encoder."""
    model = load_once(name) if "Flux" not in name else chainrule.load(family(name), size=(16, 16))
    text, expected = model.text, []
    for tokenizer, encoder in encoders(text.pipeline):
        ids = tokenizer("red", add_special_tokens=False).input_ids
        expected.append(encoder.get_input_embeddings().weight[ids].mean(dim=0))
    word = text.word_embedding("red")
    assert torch.equal(word, torch.cat(expected))
    assert not word.requires_grad
    assert [len(part) for part in expected] == list(text.widths)
    padding = [
        encoder.get_input_embeddings().weight[tokenizer.pad_token_id]
        for tokenizer, encoder in encoders(text.pipeline)
    ]
    assert torch.equal(text.pad_embedding, torch.cat(padding))
    twice = text.with_token("<x>", word[None]).with_token("<y>", vectors(model, 1))
    torch.testing.assert_close(twice.word_embedding("<x>"), word)
    assert torch.equal(twice.pad_embedding, text.pad_embedding)
    if "T5" in name or "XL" in name or "1.x" in name:  # where red is one token for all
        with torch.no_grad():
            for mine, theirs in zip(twice(["a <x>"]), text(["a red"]), strict=True):
                torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("name", KINDS)
def test_what_is_no_word_starts_none(name: str) -> None:
    text = load_once(name).text if "Flux" not in name else chainrule.load(family(name)).text
    for word in ("", "  ", *(["7"] if name in ("Stable Diffusion 3", "PixArt-alpha") else [])):
        with pytest.raises(UserError, match="the model does not know the word") as refusal:
            text.word_embedding(word)
        assert refusal.value.field == "word"


@pytest.mark.parametrize("name", KINDS)
def test_vectors_of_other_widths_are_refused(tmp_path: Path, name: str) -> None:
    text = load_once(name).text if "Flux" not in name else chainrule.load(family(name)).text
    width = sum(text.widths)
    for shape in ((width,), (0, width), (2, width + 1), (2, text.widths[0] - 1), (1, 2, width)):
        with pytest.raises(UserError, match=rf"are not a word of this model: give \(n, {width}\)"):
            text.with_token("<x>", torch.zeros(shape))
        with pytest.raises(UserError, match=rf"are not a word of this model: give \(n, {width}\)"):
            save_word(tmp_path / "a.safetensors", "<x>", torch.zeros(shape), text)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in READERS])
def test_families_that_read_no_text_learn_no_word(tmp_path: Path, name: str) -> None:
    text = chainrule.load(family(name)).text
    assert text.widths == ()
    with pytest.raises(UserError, match="cannot be taught a word: choose one that reads"):
        text.with_token("<x>", torch.zeros(1, 0))
    with pytest.raises(UserError, match="cannot be taught a word"):
        _ = text.pad_embedding
    with pytest.raises(UserError, match="cannot be taught a word"):
        text.word_embedding("red")
    with pytest.raises(UserError, match="cannot be taught a word"):
        save_word(tmp_path / "a.safetensors", "<x>", torch.zeros(1, 0), text)


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(deadline=None, max_examples=40)
@given(st.text(alphabet="ab red<>_\u00e9\U0001f600XY1 \n", max_size=60), st.integers(5, 24))
def test_prompts_are_read_as_the_tokenizer_does(suffix: str, prompt: str, length: int) -> None:
    """Of longer prompts the beginning, padded, and which tokens are there."""
    tokenizer = getattr(load_once("Stable Diffusion 3").text.pipeline, f"tokenizer{suffix}")
    ids, there = read_ids(tokenizer, [prompt, "a"], length)
    options = {"padding": "max_length", "max_length": length, "truncation": True}
    theirs = tokenizer([prompt, "a"], return_tensors="pt", **options)
    assert torch.equal(ids, theirs.input_ids)
    assert torch.equal(there, theirs.attention_mask)


def test_a_word_stays_what_it_is_where_capital_letters_differ(tmp_path: Path) -> None:
    """A T5 reads Cat otherwise than cat; what is taught is found as typed, and within no other."""
    pipeline = family("Stable Diffusion 3")
    tokenizer = pipeline.tokenizer_3
    before = tokenizer("xcatx a cats", add_special_tokens=False).input_ids
    rows = {"clip_l": torch.ones(2, 16), "clip_g": torch.ones(2, 16), "t5xxl": torch.ones(2, 32)}
    save_file(rows, tmp_path / "Cat.safetensors")
    assert teach_file(pipeline, tmp_path / "Cat.safetensors", None) == ["Cat (2 vectors)"]
    plain = [number for group in read_groups(tokenizer, "xcatx a cats") for number in group]
    assert plain == before
    for typed in ("a cat b", "a CAT b", "a Cat, b"):
        assert [len(group) for group in read_groups(tokenizer, typed)].count(2) == 1


def test_a_t5_keeps_the_rows_that_it_has(tmp_path: Path) -> None:
    """Public ones have more rows than tokens, which other files count on."""
    pipeline = family("PixArt-alpha")
    save_file({"t5xxl": torch.ones(1, 32)}, tmp_path / "thing.safetensors")
    assert len(pipeline.tokenizer) < 32
    teach_file(pipeline, tmp_path / "thing.safetensors", None)
    assert pipeline.text_encoder.get_input_embeddings().weight.shape[0] == 32
