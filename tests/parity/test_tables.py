import pytest
import torch

from ganvas.convert.tables import Rule, Table, convert, load, shape_of
from ganvas.errors import GanvasError

TABLE = Table(
    "Toy release",
    (
        Rule(r"fc\.weight", "up.weight", lambda w: w[:2]),
        Rule(r"fc\.weight", "down.weight", lambda w: w[2:]),
        Rule(r"bn(\d)\.(weight|bias|running_mean|running_var|num_batches_tracked)", r"norm.\1.\2"),
        Rule(r"unused\..*", None),
    ),
)


def ours():
    return {
        "up.weight": torch.zeros(2, 3),
        "down.weight": torch.zeros(1, 3),
        "norm.1.weight": torch.zeros(4),
        "norm.1.num_batches_tracked": torch.tensor(5),
    }


def official(**changes):
    state = {
        "fc.weight": torch.arange(9.0).view(3, 3),
        "bn1.weight": torch.ones(4),
        "unused.x": torch.ones(1),
    }
    state.update({key.replace("__", "."): value for key, value in changes.items()})
    return {key: value for key, value in state.items() if value is not None}


def test_one_tensor_may_become_several_and_some_are_left_out():
    converted = convert(TABLE, official(), ours())
    assert converted.keys() == ours().keys()
    assert converted["up.weight"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert converted["down.weight"].tolist() == [[6, 7, 8]]
    assert converted["norm.1.weight"].tolist() == [1, 1, 1, 1]


def test_counters_that_old_files_lack_start_at_zero():
    assert convert(TABLE, official(), ours())["norm.1.num_batches_tracked"] == 0
    kept = convert(TABLE, official(bn1__num_batches_tracked=torch.tensor(7)), ours())
    assert kept["norm.1.num_batches_tracked"] == 7


def test_the_prefix_of_a_wrapped_module_is_dropped():
    state = {f"module.{key}": value for key, value in official().items()}
    assert convert(TABLE, state, ours()).keys() == ours().keys()
    assert shape_of(TABLE, state, "fc.weight", 2) == (3, 3)


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        (official(fc__weight=None), "'up.weight' is missing (and 1 more)"),
        (official(bn1__weight=None), "'norm.1.weight' is missing"),
        (official(extra=torch.ones(1)), "'extra' is no key of this release"),
        (official(bn2__weight=torch.ones(4)), "'bn2.weight' has no place in a model of these settings"),
        (official(bn1__weight=torch.ones(5)), "'bn1.weight' has the shape (5,); 'norm.1.weight' needs (4,)"),
        (official(fc__weight=torch.tensor(1.0)), "'fc.weight' has the shape (), which is none of its"),
        (official(bn1__weight=[1.0]), "'bn1.weight' holds a list, not a tensor"),
        (official(module__bn1__weight=torch.ones(4)), "both give 'norm.1.weight'"),
    ],
)
def test_a_wrong_key_or_shape_is_named_in_one_line(state, problem):
    with pytest.raises(GanvasError) as caught:
        convert(TABLE, state, ours())
    assert str(caught.value).startswith("Toy release: ") and problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_widths_are_read_from_a_tensor_or_its_absence_is_named():
    assert shape_of(TABLE, official(), "fc.weight", 2) == (3, 3)
    with pytest.raises(GanvasError, match=r"Toy release: 'fc\.bias' is missing"):
        shape_of(TABLE, official(), "fc.bias", 1)
    with pytest.raises(GanvasError, match="it needs 1 dimension"):
        shape_of(TABLE, official(), "fc.weight", 1)


def test_loading_fills_a_module():
    table = Table("Toy release", (Rule(r"fc\.(\w+)", r"\1"),))
    module = torch.nn.Linear(3, 2)
    load(table, {"fc.weight": torch.ones(2, 3), "fc.bias": torch.full((2,), 4.0)}, module)
    assert module(torch.zeros(3)).tolist() == [4, 4]
