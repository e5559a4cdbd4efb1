"""A rebuilt step is the step that ran: the same random numbers, the same tensors, all gradients.

Autograd holds a graph to that by itself; whoever rebuilds one has to see to it.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from chainrule.diffusion.gradient.base import Chain
from chainrule.diffusion.solvers.base import State
from chainrule.errors import UserError

HALF = (torch.float16, torch.bfloat16)


class RandomNumbers:
    """Where the global generators (the CPU's, the devices') stood at moments of a walk.

    Dropout draws from them, in a network in training mode. A moment takes 5 kB, and nothing where
    nothing was drawn since the one before.

    Args:
        chain: The walk.
        state: The state that it starts from.
    """

    def __init__(self, chain: Chain, state: State) -> None:
        weights = (weight for network in chain.networks for weight in network.parameters())
        devices = {tensor.device for tensor in (*state, *weights)} | {torch.device("cpu")}
        self.devices = sorted((each for each in devices if each.type != "meta"), key=str)
        self.moments: list[tuple[Tensor, ...]] = []

    def __len__(self) -> int:
        return len(self.moments)

    def remember(self) -> None:
        """Add this moment."""
        now = self._read()
        if self.moments:
            pairs = zip(self.moments[-1], now, strict=True)
            now = tuple(old if torch.equal(old, new) else new for old, new in pairs)
        self.moments.append(now)

    @contextmanager
    def replay(self, i: int) -> Iterator[None]:
        """While this lasts, the generators go on from moment `i`; then, as if nothing had been."""
        now = self._read()
        self._write(self.moments[i])
        try:
            yield
        finally:
            self._write(now)

    def _read(self) -> tuple[Tensor, ...]:
        return tuple(_read_generator(each) for each in self.devices)

    def _write(self, states: Sequence[Tensor]) -> None:
        for device, state in zip(self.devices, states, strict=True):
            _write_generator(device, state)


def _read_generator(device: torch.device) -> Tensor:
    """The state of the generator that a module on `device` draws from."""
    if device.type == "cpu":
        return torch.get_rng_state()
    module: Any = torch.get_device_module(device)
    state: Tensor = module.get_rng_state(*_place(device))
    return state


def _write_generator(device: torch.device, state: Tensor) -> None:
    if device.type == "cpu":
        torch.set_rng_state(state)
    else:
        module: Any = torch.get_device_module(device)
        module.set_rng_state(state, *_place(device))


def _place(device: torch.device) -> tuple[torch.device, ...]:
    """`device` as an argument: of Apple's there is one."""
    return () if device.type == "mps" else (device,)


class Reads:
    """What the steps of a chain read besides their state, as it was when they were made.

    Autograd counts the changes in place of the tensors that it saved; here it is all of them, those
    of the networks and those that want no gradient too. What the walk itself changes (the averages
    of a batch norm in training mode) is left out.

    Args:
        chain: The walk, before it is made.
        state: The state that it starts from.
    """

    def __init__(self, chain: Chain, state: State) -> None:
        self.chain = chain
        self.start = {f"starting latent {i}": tensor for i, tensor in enumerate(state)}
        self.modes = [(each, each.training) for net in chain.networks for each in net.modules()]
        self.tensors = self._find()
        weights = (weight for net in chain.networks for weight in net.parameters())
        self.half = _is_cast({each.device.type for each in state}) or any(
            each.dtype in HALF for each in (*self.tensors.values(), *weights)
        )
        """Whether something is computed in half precision, by the caller's autocast perhaps: to be
        asked at the walk, as backwards it is no longer on."""
        self.prints = {name: _fingerprint(tensor) for name, tensor in self.tensors.items()}
        self.buffers = {id(each) for net in chain.networks for each in net.buffers()}
        self.frozen = {id(each) for each in self.tensors.values() if not each.requires_grad}

    def settle(self) -> None:
        """After the walk: leave out what it changed itself."""
        now = self._find()
        self.tensors = {
            name: tensor
            for name, tensor in self.tensors.items()
            if now.get(name) is tensor and _fingerprint(tensor) == self.prints[name]
        }

    def require_unchanged(self) -> None:
        """Refuse to rebuild steps from other tensors, or in another mode.

        Raises:
            UserError: Something was changed since the walk.
        """
        now = self._find()
        for name, tensor in self.tensors.items():
            if _fingerprint(tensor) != self.prints[name]:
                raise _changed(name, "was changed in place")
            other = now.get(name, tensor)
            if id(tensor) in self.buffers:  # to move a network replaces them
                continue
            if other is not tensor and not _same(other, tensor):
                raise _changed(name, "was replaced")
        for module, training in self.modes:
            if module.training is not training:
                raise _changed(f"a {type(module).__name__}", "was switched by train() or eval()")

    def name(self, tensor: Tensor) -> str:
        """A tensor by its name, or by what it looks like."""
        names = (name for name, each in self.tensors.items() if each is tensor)
        shape = tuple(tensor.shape)
        return next(names, f"a tensor of shape {shape}")

    def _find(self) -> dict[str, Tensor]:
        return {**self.start, **self.chain.reads}


def _is_cast(devices: Iterable[str]) -> bool:
    """Whether autocast is on for one of some types of devices."""
    return any(torch.is_autocast_enabled(each) for each in devices if each != "meta")


def _fingerprint(tensor: Tensor) -> tuple[object, ...]:
    """What changes with a tensor that is changed in place; moving it to a device changes nothing.

    A memory plan moves weights in `tensor.data`, which is not counted, and the contents are the
    same.
    """
    version = 0 if tensor.is_inference() else tensor._version
    return version, tensor.dtype, tensor.shape


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether a tensor in the place of another one, perhaps on another device, is like it."""
    return one.shape == other.shape and torch.equal(one.to(other), other)


def _changed(name: str, what: str) -> UserError:
    return UserError(
        f"{name} {what} after the chain was walked, so its steps cannot be rebuilt as they were",
        "change it after the backward pass, or use gradient=Backprop()",
    )


def measure_drift(again: State, ran: State) -> Tensor:
    """How far a state that was computed again is from the one that ran: |a - b| / |b|, a scalar."""
    device = ran[0].device
    pairs = [
        (a.detach().to(device), b.detach().to(device)) for a, b in zip(again, ran, strict=True)
    ]
    away = sum((a - b).double().square().sum() for a, b in pairs if b.is_floating_point())
    whole = sum(b.double().square().sum() for _, b in pairs if b.is_floating_point())
    return (torch.as_tensor(away) / torch.as_tensor(whole).clamp(min=1e-30)).sqrt()


def require_same_steps(
    chain: Chain, gradient: str, drifts: Sequence[tuple[int, Tensor]], *, half: bool
) -> None:
    """Refuse the gradient of other steps than those that ran.

    A solver or denoiser that remembers something in `self`, a hook that was removed, a weight that
    was changed behind autograd's back (`.data`): whatever it is, what was computed again differs.

    Args:
        chain: The walk.
        gradient: The name of what computed it again.
        drifts: Of some steps: their number, and how far what was computed again is from what ran.
        half: Whether they were computed in half precision (`Reads.half`), which rounds otherwise
            in another kernel.
    """
    if not drifts:
        return
    rounds = gradient == "Reversible"  # once more, on its way back
    limit = 0.1 if half or rounds else 1e-3
    keep = "keep more states (Reversible(every=10)), " if rounds else ""
    found = torch.stack([drift.cpu() for _, drift in drifts]).tolist()
    for (i, _), drift in zip(drifts, found, strict=True):
        if drift > limit:
            raise UserError(
                f"step {i + 1} of {len(chain)}, computed again, is off by {drift:.2g} from the "
                "step that ran, so the gradient would be wrong",
                f"{keep}let a step depend on its state alone (nothing remembered in `self`, no "
                "hook or weight changed before the backward pass), or use gradient=Backprop()",
                "gradient",
            )


Suspects = list[weakref.ref[Tensor]]
"""Leaves that want a gradient and are not named, as long as they live."""


def find_unnamed(outputs: Iterable[Tensor], named: Iterable[Tensor], reads: Reads) -> Suspects:
    """The leaves of a rebuilt step's graph whose gradients nobody asks for.

    Args:
        outputs: What the step made.
        named: The tensors whose gradients are asked for.
        reads: What the step reads; what wanted no gradient then is not missed.
    """
    named = list(named)
    known = {id(tensor) for tensor in named} | reads.frozen
    ends = {(tensor.grad_fn, tensor.output_nr) for tensor in named if tensor.grad_fn is not None}
    todo = [(tensor.grad_fn, tensor.output_nr) for tensor in outputs]
    seen: set[object] = set()
    found: Suspects = []
    while todo:
        node, output = todo.pop()
        if node is None or node in seen or (node, output) in ends:
            continue
        seen.add(node)
        todo.extend(node.next_functions)
        leaf = None if node.next_functions else getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in known:
            found.append(weakref.ref(leaf))
    return found


def require_named(suspects: Suspects, reads: Reads) -> None:
    """Refuse a gradient that would be dropped. To be called when the step's graph is gone.

    A leaf that a step makes for itself (the x_t of a guidance that differentiates on its own) is
    gone too then, and nobody can miss its gradient.

    Raises:
        UserError: One of the leaves is still there.
    """
    if any(suspect() is not None for suspect in suspects):
        gc.collect()  # some graphs are held by themselves
    for suspect in suspects:
        leaf = suspect()
        if leaf is not None:
            raise UserError(
                f"{reads.name(leaf)} requires a gradient and the denoiser's `inputs` do not name "
                "it, so its gradient would be lost",
                "return it in `inputs`, freeze it by requires_grad_(False), or use "
                "gradient=Backprop()",
            )
