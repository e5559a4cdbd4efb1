"""The loop of methods that train: against torch's own optimisers, and one that is stopped and goes on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from chainrule import UserError
from chainrule.methods.training import Training, train
from chainrule.optimise import Adam, Momentum, Optimiser


def trained(optimiser: Optimiser, iterations: int, state: Training | None = None) -> list[Training]:
    parameters = {"a": torch.tensor([1.0, -2.0, 3.0]), "b": torch.tensor([[0.5]])}
    parameters = {name: value.requires_grad_() for name, value in parameters.items()}

    def objective(k: int) -> Iterator[Tensor]:
        a, b = parameters.values()
        for share in (0.25, 0.75):  # in two parts, whose sum it is
            bowl = (a.square() * torch.tensor([1.0, 10.0, 0.1])).sum() * (1 + 0.1 * k)
            yield share * torch.stack([bowl, (b.sin() + a[0]).sum()])

    return list(
        train(parameters, objective, optimiser, iterations, state or Training.begin(parameters, 2))
    )


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Adam(rate=0.1), lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.9, 0.99), eps=1e-12)),
        (
            Adam(rate=0.05, beta2=0.999, decay=0.1),
            lambda p: torch.optim.AdamW(
                p, lr=0.05, betas=(0.9, 0.999), eps=1e-12, weight_decay=0.1
            ),
        ),
        (Momentum(rate=0.01, clip=None), lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9)),
    ],
    ids=["adam", "adamw", "momentum"],
)
def test_equals_torch(ours: Optimiser, theirs) -> None:
    a, b = (
        torch.tensor([1.0, -2.0, 3.0], requires_grad=True),
        torch.tensor([[0.5]], requires_grad=True),
    )
    optimiser = theirs([a, b])
    for k in range(7):
        optimiser.zero_grad()
        bowl = (a.square() * torch.tensor([1.0, 10.0, 0.1])).sum() * (1 + 0.1 * k)
        (bowl + (b.sin() + a[0]).sum()).backward()
        optimiser.step()
    last = trained(ours, 7)[-1]
    torch.testing.assert_close(last.values, {"a": a.detach(), "b": b.detach()})
    assert last.losses.shape == (7, 2)


def test_one_that_was_stopped_ends_the_same() -> None:
    optimiser = Adam(rate=0.1, decay=0.01)
    whole = trained(optimiser, 9)
    again = Training.from_tensors(
        {name: value.clone() for name, value in whole[3].tensors().items()}
    )
    resumed = trained(optimiser, 9, again)
    assert [state.iteration for state in resumed] == [5, 6, 7, 8, 9]
    for name, value in whole[-1].tensors().items():
        assert torch.equal(resumed[-1].tensors()[name], value)


def test_states_are_not_written_to_afterwards() -> None:
    first, *_, last = trained(Adam(rate=0.1), 5)
    assert not torch.equal(first.values["a"], last.values["a"])


def test_a_loss_that_is_not_finite_stops_it() -> None:
    value = torch.ones(1, requires_grad=True)
    with pytest.raises(UserError, match="not finite in iteration 0: lower the rate"):
        list(
            train(
                {"x": value},
                lambda k: [(value - 1).log()],
                Adam(),
                3,
                Training.begin({"x": value}, 1),
            )
        )


def test_the_state_of_something_else_is_refused() -> None:
    with pytest.raises(UserError, match="not the state of a training"):
        Training.from_tensors({"x_T": torch.zeros(1)})
