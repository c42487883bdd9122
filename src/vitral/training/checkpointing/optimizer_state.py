"""State of an optimizer as named tensors, "blocks.0.attn.qkv.weight/exp_avg".

By the parameter's name, not its number as in torch's state_dict, so that another
grouping of the parameters finds the same state. Rates follow from the step.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vitral.errors import WeightsError

ADAFACTOR_AXES = {"row_var": -1, "col_var": -2}
"""The axis that each mean of Adafactor's is taken along."""


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """Return the state of every parameter in `names` that has one."""
    tensors = {}
    for name, parameter in names.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            if value is not None:  # SGD's momentum before the first update
                tensors[f"{name}/{key}"] = torch.as_tensor(value)
    return tensors


def restore_optimizer(
    optimizer: torch.optim.Optimizer,
    names: Mapping[str, nn.Parameter],
    tensors: Mapping[str, Tensor],
) -> None:
    """Put `optimizer_tensors` back; state that was there before is dropped.

    Raises:
        WeightsError: a tensor belongs to no parameter of the optimizer, or has
            another shape than its parameter.
    """
    owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
    optimizer.state.clear()
    for full_name, tensor in tensors.items():
        name, _, key = full_name.rpartition("/")
        parameter = names.get(name)
        if parameter is None or id(parameter) not in owned:
            raise WeightsError(
                f"The checkpoint has optimizer state for {name}, which is not trained "
                "now: resume with the config of the run."
            )
        if key == "step":
            # AdamW counts on the CPU, whatever device the parameter is on.
            value = tensor.clone()
        elif tuple(tensor.shape) == _shape(key, parameter):
            value = tensor.to(parameter.device, copy=True)
        else:
            raise WeightsError(
                f"Optimizer state {full_name} has shape {tuple(tensor.shape)} and its "
                f"parameter {tuple(parameter.shape)}: resume with the same model."
            )
        optimizer.state[parameter][key] = value


def _shape(key: str, parameter: nn.Parameter) -> tuple[int, ...]:
    shape = list(parameter.shape)
    if key in ADAFACTOR_AXES and len(shape) > 1:
        shape[ADAFACTOR_AXES[key]] = 1
    return tuple(shape)
